"""What happens is told once: a dotted event with plain fields, to every subscriber.

Logging, metrics and tracing are all subscribers; logging is the one that is there from the start.
"""

import contextlib
import inspect
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

logger = logging.getLogger("deadline")


class Event(NamedTuple):
    """Something that happened.

    Attributes:
        name: Dotted, thing first: `deadline.exceeded`, `aws.retry_refused`.
        level: How much it matters, as a `logging` level.
        fields: Plain values (str, int, float, bool, None); times are seconds.
    """

    name: str
    level: int
    fields: Mapping[str, Any]

    def __str__(self) -> str:
        fields = self.fields.items()
        line = " ".join(
            [self.name, *(f"{key}={_short(value)}" for key, value in fields if not _is_block(key, value))]
        )
        return "\n".join([line, *(value for key, value in fields if _is_block(key, value))])


Subscriber: TypeAlias = Callable[[Event], object]


_BLOCKS: Final = frozenset({"report", "stack", "traceback"})


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else repr(value)


def _is_block(key: str, value: object) -> bool:
    """Whether it is a text of several lines, which goes below the line. Others come from users, names say."""
    return key in _BLOCKS and isinstance(value, str) and "\n" in value


def log_event(event: Event) -> None:
    """Write an event to the logger `deadline`; its fields stand in the record's `deadline` attribute.

    Texts of several lines (a report, a traceback) stand in the message alone.
    """
    if logger.isEnabledFor(event.level):
        plain = {key: value for key, value in event.fields.items() if not _is_block(key, value)}
        logger.log(event.level, "%s", event, extra={"deadline": {"event": event.name, **plain}})


_subscribers: tuple[Subscriber, ...] = (log_event,)


def subscribe(subscriber: Subscriber) -> Callable[[], None]:
    """Have every event from now on told to `subscriber`, in any task or thread of this process.

    It is called in the thread where the event happens, between two lines of the work: be brief and do
    not block. What it raises is logged and goes no further.

    Returns:
        A function that ends the subscription. Calling it twice does nothing.
    """
    global _subscribers  # noqa: PLW0603  # one hook for the whole process is the point
    if not callable(subscriber) or inspect.iscoroutinefunction(subscriber):
        raise TypeError(
            f"subscriber: expected a function taking one Event, got {type(subscriber).__name__}; "
            "write subscribe(lambda event: ...)"
        )
    subscription = partial(subscriber)  # one of its own: a function may subscribe twice
    _subscribers = (*_subscribers, subscription)

    def unsubscribe() -> None:
        global _subscribers  # noqa: PLW0603
        _subscribers = tuple(known for known in _subscribers if known is not subscription)

    return unsubscribe


def emit(name: str, level: int, /, **fields: Any) -> None:
    """Tell every subscriber; raises nothing but SystemExit and KeyboardInterrupt."""
    if len(_subscribers) == 1 and not logger.isEnabledFor(level):
        return  # there is the log alone, and it does not want it
    event = Event(name, level, fields)
    for subscriber in _subscribers:
        try:
            subscriber(event)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:  # a callback may be telling
            with contextlib.suppress(Exception):  # a handler of the user's may be what fails
                logger.exception("a subscriber failed on the event %s", name)


def shown(value: object) -> str:
    """The `repr` of an object; the name of its class if that raises."""
    try:
        return str.__str__(repr(value))
    except Exception:  # noqa: BLE001  # it is anybody's code
        return f"<{type(value).__name__}, whose repr raises>"

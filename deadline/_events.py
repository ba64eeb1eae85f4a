"""What happens is told once: a dotted event with plain fields, to every subscriber.

Logging, metrics and tracing are all subscribers; logging is the one that is there from the start.
"""

import contextlib
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from deadline._text import LONGEST, LONGEST_FIELD, printable, shortened

logger = logging.getLogger("deadline")


class Event(NamedTuple):
    """Something that happened.

    Attributes:
        name: Dotted, thing first: `deadline.exceeded`, `aws.retry_refused`.
        level: How much it matters, as a `logging` level.
        fields: Plain values (str, int, float, bool, None); times are seconds. A name or a path has at most
            200 characters, any other text 1,000, and a text of several lines (a report) any number.
    """

    name: str
    level: int
    fields: Mapping[str, Any]

    def __str__(self) -> str:
        fields = self.fields.items()
        line = " ".join(
            [self.name, *(f"{key}={_short(value)}" for key, value in fields if not _is_block(key, value))]
        )
        return "\n".join([line, *(printable(value) for key, value in fields if _is_block(key, value))])


Subscriber: TypeAlias = Callable[[Event], object]


_BLOCKS: Final = frozenset({"report", "stack", "traceback"})

_NAMES: Final = frozenset(
    {"breaker", "call", "deadline", "function", "method", "path", "request_id", "section", "step", "value"}
)

REQUEST: Final = "request"
"""What the deadline of a web application's request is called."""
REQUEST_GRACE: Final = "request grace"
"""And the one of its answer when the time was up."""

_BY_STRANGERS: Final = frozenset({"asgi.exceeded", "asgi.mitigation_failed", "deadline.travel_ignored"})
"""Events that a client of a web application can cause as often as it likes, beside those of `REQUEST`."""

_OF_REQUESTS: Final = (REQUEST, REQUEST_GRACE)

LOG_EVERY: Final = 1.0
"""Seconds from one log line of such a kind to the next."""

_logged: dict[str, tuple[float, int]] = {}
"""When a kind was last logged, on the monotonic clock, and how often it was left out since then."""


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else repr(value)


def _is_block(key: str, value: object) -> bool:
    """Whether it is a text of several lines, which goes below the line. Others come from users, names say."""
    return key in _BLOCKS and isinstance(value, str) and "\n" in value


def log_event(event: Event) -> None:
    """Write an event to the logger `deadline`; its fields stand in the record's `deadline` attribute.

    Texts of several lines (a report, a traceback) stand in the message alone. Of what strangers can cause,
    one line a second is written at most; the next one tells by `left_out` how many were left out before it.
    """
    if logger.isEnabledFor(event.level):
        if event.name in _BY_STRANGERS or event.fields.get("deadline") in _OF_REQUESTS:
            left_out = _left_out(event.name, time.monotonic())
            if left_out is None:
                return
            if left_out:
                event = event._replace(fields={**event.fields, "left_out": left_out})
        plain = {key: value for key, value in event.fields.items() if not _is_block(key, value)}
        logger.log(event.level, "%s", event, extra={"deadline": {"event": event.name, **plain}})


def _left_out(kind: str, now: float) -> int | None:
    """How many lines of a kind were left out before the one that may be written now; `None`: not now."""
    last, left_out = _logged.get(kind, (-LOG_EVERY, 0))
    if now - last < LOG_EVERY:
        _logged[kind] = last, left_out + 1
        return None
    _logged[kind] = now, 0
    return left_out


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
    event = Event(name, level, {key: _bounded(key, value) for key, value in fields.items()})
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


def _bounded(key: str, value: Any) -> Any:
    if not isinstance(value, str) or key in _BLOCKS:
        return value
    return shortened(str.__str__(value), LONGEST if key in _NAMES else LONGEST_FIELD)

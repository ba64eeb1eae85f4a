"""Where time comes from: a Lambda context, seconds, a timedelta or an aware datetime.

Reading is split in two. `checked` looks at the argument when `deadline()` is called, so that a mistake
shows at its own line; `hard_end` samples time on entry.
"""

from __future__ import annotations

import math
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias, cast

from deadline._core.margin import OF_CALLER, for_caller

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from typing import TypeGuard

    from deadline._core.timer import Clock, PlainClock


class LambdaContext(Protocol):
    """The part of Lambda's context object that is needed: the milliseconds that are left."""

    def get_remaining_time_in_millis(self) -> int: ...


class DurableContext(Protocol):
    """A durable execution's context, which keeps Lambda's own inside."""

    @property
    def lambda_context(self) -> LambdaContext: ...


class Instant(NamedTuple):
    """A point on a loop's clock."""

    at: float


class Moment(NamedTuple):
    """A point on the wall clock, in seconds since the epoch."""

    timestamp: float


# Made once: a union in place would be made on every entry.
_NO_CONTEXTS: Final = (float, Instant, Moment)


Source: TypeAlias = "LambdaContext | DurableContext | float | timedelta | datetime | None"
Checked: TypeAlias = "LambdaContext | float | Instant | Moment"


class DefaultMargin(NamedTuple):
    """The margin where none was given. Lambda kills at its timeout; other sources have nobody who does.

    Attributes:
        most: Seconds.
        share: Upper limit, as a share of what is left.
        anywhere: Whether for every source, and not for a Lambda context alone.
    """

    most: float
    share: float
    anywhere: bool = False

    def of(self, source: Checked, left: float) -> float:
        """The margin for a source that ends in `left` seconds."""
        if isinstance(source, _NO_CONTEXTS) and not self.anywhere:
            return 0.0
        return max(0.0, min(self.most, left * self.share))


DEFAULT_MARGIN: Final = DefaultMargin(1.0, 1 / 2)
"""The second that handlers in the field keep (T. Sallai, "How to handle timeouts in Lambda functions", 2020,
races `remaining - 1000`)."""

ANSWER_MARGIN: Final = DefaultMargin(0.5, 1 / 4, anywhere=True)
"""For what answers a request: smaller than a scope's, so that an inner `deadline(context)` comes first and is
the one that acts."""


class AskedMargin(NamedTuple):
    """The margin that the code of a handler asks for, unless the timeout is too short for it.

    One that leaves the body no time cannot be meant: every invocation would fail. Half of the time is kept
    then, as of `DEADLINE_MARGIN`.
    """

    seconds: float

    def of(self, source: Checked, left: float) -> float:  # noqa: ARG002  # as of the others
        """The margin for a source that ends in `left` seconds."""
        return self.seconds if self.seconds < left else max(0.0, left / 2)


class CallerMargin(NamedTuple):
    """The margin of a deadline whose source outlives somebody who waits for the answer.

    Attributes:
        margin: As it would be without.
        limit: Seconds from entry until the caller gives up.
    """

    margin: float | DefaultMargin | AskedMargin
    limit: float

    def of(self, source: Checked, left: float) -> float:
        """The margin for a source that ends in `left` seconds."""
        if left == math.inf:  # a context that never ends: Lambda has none
            return 0.0
        margin, of_caller = (
            (self.margin, self.margin)
            if isinstance(self.margin, float)
            else (self.margin.of(source, left), self.margin.of(source, self.limit))
        )
        return for_caller(margin, left, self.limit, of_caller)


Margin: TypeAlias = "float | DefaultMargin | AskedMargin | CallerMargin"


def bounded(
    source: Checked, margin: float | DefaultMargin | AskedMargin, limit: float
) -> tuple[Checked, Margin]:
    """A source and a margin with which the answer also comes before the caller gives up, in `limit` seconds.

    Without a hard end the caller's is taken for it.
    """
    if limit == math.inf:
        return source, margin
    if source == math.inf:
        if isinstance(margin, AskedMargin):
            margin = margin.seconds
        return limit, min(margin, limit * OF_CALLER) if isinstance(margin, float) else margin
    return source, CallerMargin(margin, limit)


def checked_caller_limit(value: float | timedelta) -> float:
    """Check seconds that a caller waits, counted from entry."""
    if value == "auto":
        raise ValueError(
            'caller_limit: "auto" needs the event, which aws.handler has; write '
            "deadline(context, caller_limit=aws.caller_left(event))"
        )
    return seconds(value, "caller_limit")


# Two readings of one context differ by the milliseconds' rounding and by whatever the machine did in
# between; a reading further off than this is another invocation, or a clock that was set.
_SAME_INVOCATION: Final = 0.1

_EXPECTED: Final = (
    "expected a Lambda context, seconds, a timedelta, an aware datetime or None; write deadline(context), "
    "deadline(2.5) or deadline(timedelta(seconds=2.5))"
)


def seconds(value: float | timedelta, argument: str) -> float:
    """Check a duration.

    Returns:
        Float seconds, 0 or more, possibly `inf`.

    Raises:
        TypeError: Not a number or a timedelta, or a bool.
        ValueError: Negative or NaN.
    """
    if type(value) is float and value >= 0.0:
        return value  # what nearly everybody gives
    if not isinstance(value, float | int):
        value = _from_timedelta(value)
    if not _is_number(value):
        raise TypeError(
            f"{argument}: expected seconds, got {value!r} ({type(value).__name__}); "
            "write a number such as 2.5, or a timedelta"
        )
    try:
        value = float(value)
    except OverflowError:
        raise ValueError(f"{argument}: more seconds than a float can hold; for no limit write None") from None
    if math.isnan(value):
        raise ValueError(
            f"{argument}: NaN is no number of seconds; {_fix(argument, 'for no limit write None')}"
        )
    if value < 0:
        raise ValueError(
            f"{argument}: {value!r} is negative; "
            + _fix(argument, "clamp what you computed with max(0.0, source): zero means that nothing is left")
        )
    return value


def _fix(argument: str, of_source: str) -> str:
    return of_source if argument == "source" else "write the seconds as a positive number, 0.5 say"


# Imported below and not above: a tenth of what importing the package costs, and a handler under a Lambda
# context never needs them.


def _from_timedelta(value: object) -> Any:
    from datetime import timedelta  # noqa: PLC0415

    return value.total_seconds() if isinstance(value, timedelta) else value


def _is_number(value: object) -> TypeGuard[float]:
    if isinstance(value, float | int):
        return not isinstance(value, bool)
    from numbers import Real  # noqa: PLC0415

    return isinstance(value, Real)


def checked_margin(
    margin: float | timedelta | None, argument: str = "margin", default: DefaultMargin = DEFAULT_MARGIN
) -> float | DefaultMargin:
    """Check a margin: seconds, not negative, finite. `None` is `default`: the source decides on entry."""
    if margin is None:
        return default
    value = seconds(margin, argument)
    if value == math.inf:
        raise ValueError(
            f"{argument}: inf leaves no time to work in; write the seconds to keep back, 1.0 say"
        )
    return value


def checked(source: Source) -> Checked:
    """Look at a source without reading any time.

    Raises:
        TypeError: It is none of the kinds there are.
        ValueError: Seconds that are negative or NaN, or a datetime without a time zone.
    """
    if source is None:
        return math.inf
    if isinstance(source, float | int):
        return seconds(source, "source")
    for context in (source, getattr(source, "lambda_context", None)):
        if callable(getattr(context, "get_remaining_time_in_millis", None)):
            return cast("LambdaContext", context)
    from datetime import datetime, timedelta  # noqa: PLC0415

    if isinstance(source, timedelta) or _is_number(source):
        return seconds(source, "source")
    if isinstance(source, datetime):
        if source.utcoffset() is None:
            raise ValueError(
                f"source: {source!r} has no time zone, so it names no instant; "
                "write datetime.now(timezone.utc) + timedelta(...), or .replace(tzinfo=...)"
            )
        return Moment(source.timestamp())
    raise TypeError(f"source: {_EXPECTED}; got {source!r} ({type(source).__name__})")


def hard_end(source: Checked, clock: Clock | PlainClock, now: float) -> float:
    """The instant at which the source ends us, on `clock`; `inf` if it never does.

    Args:
        source: As `checked` returned it.
        clock: The loop's, or the plain one.
        now: Its reading, taken before this call.
    """
    if isinstance(source, float):
        return now + source
    if isinstance(source, Instant):
        return source.at
    if isinstance(source, Moment):
        return now + (source.timestamp - time.time())
    return _anchored(source, clock, now + _context_seconds(source))


def seconds_left(source: Source) -> float:
    """Seconds until a source ends, for whoever has no deadline of it and needs none.

    Raises:
        TypeError, ValueError: It is no source.
    """
    known = checked(source)
    if isinstance(known, Instant):
        return math.inf  # on a loop's clock, which nobody knows here
    if isinstance(known, float):
        return known
    return known.timestamp - time.time() if isinstance(known, Moment) else _context_seconds(known)


def _context_seconds(context: LambdaContext) -> float:
    """What a context says is left.

    The runtime client floors the *current* time to milliseconds before it subtracts, so its answer is
    up to 1 ms too large (awslambdaric, lambda_context.py): take one off.
    """
    try:
        left_ms: Any = context.get_remaining_time_in_millis()
    except Exception as error:
        raise TypeError(
            f"source: {_name(context)}.get_remaining_time_in_millis() raised {type(error).__name__}: "
            f"{error}; pass the context that Lambda gave the handler, or plain seconds"
        ) from error
    if not _is_number(left_ms) or math.isnan(left_ms):
        if hasattr(left_ms, "close"):  # an `async def` fake: close it, or it warns that nobody awaited it
            left_ms.close()
        raise TypeError(
            f"source: {_name(context)}.get_remaining_time_in_millis() returned {left_ms!r}, expected "
            "milliseconds as a number; set its return value, or pass plain seconds"
        )
    return max(0.0, (float(left_ms) - 1) / 1000)


def _name(context: object) -> str:
    return type(context).__name__


# One context is read once per invocation: a second reading would give another instant, and nested scopes
# on the same context would toss a coin for who expires first (in 44 to 50 % of runs the inner one did).
_anchors: weakref.WeakKeyDictionary[Any, tuple[Clock | PlainClock, float]] = weakref.WeakKeyDictionary()


def _anchored(context: LambdaContext, clock: Clock | PlainClock, reading: float) -> float:
    try:
        known = _anchors.get(context)
        if known is not None and known[0] is clock and abs(known[1] - reading) <= _SAME_INVOCATION:
            return known[1]
        _anchors[context] = (clock, reading)
    except TypeError:  # not weakly referable or not hashable: the rule for ties still holds
        pass
    return reading

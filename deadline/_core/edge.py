"""What leaves the edge of a block: which errors a cut explains, and the words and the class of its own.

Who owns the expiry is for `_core.scope` to say; nothing here asks a clock.
"""

from __future__ import annotations

from asyncio import CancelledError
from typing import TYPE_CHECKING

from deadline._core.errors import DeadlineExceeded, InsufficientTime, ends_by_refused_retry, says_time_is_up
from deadline._interrupt.interrupted import Interrupted
from deadline._text import quoted

if TYPE_CHECKING:
    from deadline._core.scope import Deadline


def check_name_and_error(name: str | None, error: type[DeadlineExceeded]) -> None:
    """Refuse a name that is no string and an error that is not ours, by `TypeError`."""
    if name is not None and not isinstance(name, str):
        raise TypeError(
            f"name: expected a string, got {name!r} ({type(name).__name__}); write name='checkout'"
        )
    if error is not DeadlineExceeded and not (
        isinstance(error, type) and issubclass(error, DeadlineExceeded)
    ):
        raise TypeError(
            f"error: expected a subclass of DeadlineExceeded, got {error!r}; "
            "write `class CheckoutTimeout(DeadlineExceeded): ...` and error=CheckoutTimeout"
        )


def is_unwinding(exc: BaseException, dl: Deadline) -> bool:
    """Whether nothing but cancellation leaves, and refusals of `dl` that it met in a group's children."""

    def expected(error: BaseException) -> bool:
        refused = isinstance(error, InsufficientTime) and error.deadline is dl
        return isinstance(error, CancelledError | Interrupted | BaseExceptionGroup) or refused

    if isinstance(exc, BaseExceptionGroup):
        return exc.subgroup(lambda error: not expected(error)) is None
    return isinstance(exc, CancelledError | Interrupted)


def is_expiry(exc: BaseException | None, hard: float, *, cut: bool) -> bool:
    """Whether what leaves is the expiry of a deadline whose block nobody else ends.

    After the cut that is any error. Before it that is the error of a call without time for another attempt.
    An error that says by itself that this time is up stays what it is, and so does one that ends the process.

    Args:
        exc: What leaves.
        hard: The earliest hard end that counts as that of the deadline.
        cut: Whether the block was cut or interrupted.
    """

    def says_so(exceeded: DeadlineExceeded) -> bool:
        return exceeded.deadline is not None and exceeded.deadline.hard >= hard

    if not isinstance(exc, Exception | CancelledError | Interrupted | BaseExceptionGroup):
        return False
    if says_time_is_up(exc, says_so) is not None:
        return False
    return cut or ends_by_refused_retry(exc, hard)


def holds_interrupt(exc: BaseException) -> bool:
    """Whether it is an interrupt, or has one among its members."""
    return isinstance(exc, Interrupted) or (
        isinstance(exc, BaseExceptionGroup) and exc.subgroup(Interrupted) is not None
    )


def said(
    name: str | None,
    *,
    entered: float,
    soft: float,
    hard: float,
    answer_by: float,
    margin: float,
    where: str | None,
) -> str:
    """What the error says.

    Args:
        name: The deadline's.
        entered: When the block began, on the deadline's clock, as all instants here.
        soft: When it was cut.
        hard: When the source ends.
        answer_by: When whoever waits gives up.
        margin: Seconds that were kept back.
        where: What was cut, in words that follow a text; `None`: the block did not begin.
    """
    called = f"deadline {quoted(name)}" if name else "deadline"
    kept = f" with a margin of {margin:.3f} s" if margin else ""
    if answer_by < hard:
        kept = f" for a caller that waits {answer_by - entered:.3f} s"
    if where is None:
        left = max(0.0, hard - entered)
        return f"{called} exceeded before it began: {left:.3f} s left{kept}, so the body did not run"
    return f"{called} exceeded: {soft - entered:.3f} s allowed{kept}{where}"


def built(cls: type[DeadlineExceeded], message: str) -> DeadlineExceeded:
    """An error of a user's class, made from the message alone.

    Raises:
        Exception: It cannot be made so.
    """
    error: object = cls(message)
    if not isinstance(error, DeadlineExceeded):
        raise TypeError(f"it made a {type(error).__name__}")
    return error

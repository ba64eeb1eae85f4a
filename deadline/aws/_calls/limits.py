"""`limits(...)`: for those who know better than the planner."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deadline._core.source import seconds
from deadline.aws._calls.hedging import checked_hedge
from deadline.aws._calls.planner import Limits

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_limits: ContextVar[Limits | None] = ContextVar("deadline_aws_limits", default=None)


def current_limits() -> Limits | None:
    """The limits in force, `None` outside of any `limits` block."""
    return _limits.get()


@contextmanager
def limits(
    *,
    attempts: int | None = None,
    per_attempt: float | None = None,
    min_attempt: float | None = None,
    hedge: bool | Collection[str] | None = None,
) -> Iterator[None]:
    """Say how AWS calls made in the block are tried: `with aws.limits(attempts=1): ...`.

    It holds for installed clients, with a deadline or without, in the block and the tasks started in it. What
    is left out stays as it was around the block.

    Args:
        attempts: How many attempts at most, the first included; 1 switches retrying off. It can only
            lower what the client is configured for.
        per_attempt: Seconds that each attempt may take (connect, TLS, send, response, and the body of
            operations that do not stream), the last included. By default the planner decides for each
            attempt but the last, by what the operation has taken so far.
        min_attempt: Seconds under which an attempt is not worth sending. Default 0.02. With 0 everything is
            sent, also behind a shield in a block that was cut.
        hedge: Whether a second request may be sent beside one that stays silent, as for `install`; it takes
            a deadline.

    Raises:
        TypeError, ValueError: On entry; an argument is wrong, and the message names it.
    """
    changes: dict[str, Any] = {}
    if attempts is not None:
        changes["attempts"] = _checked_attempts(attempts)
    if per_attempt is not None:
        changes["per_attempt"] = seconds(per_attempt, "per_attempt")
        if not changes["per_attempt"]:
            raise ValueError("per_attempt: 0 lets no attempt succeed; write the seconds that one may take")
    if min_attempt is not None:
        changes["min_attempt"] = seconds(min_attempt, "min_attempt")
    if hedge is not None:
        changes["hedge"] = checked_hedge(hedge)
    token = _limits.set(replace(_limits.get() or Limits(), **changes))
    try:
        yield
    finally:
        _limits.reset(token)


def _checked_attempts(attempts: int) -> int:
    if isinstance(attempts, bool) or not isinstance(attempts, int):
        raise TypeError(f"attempts: expected a whole number, got {attempts!r}; 1 switches retrying off")
    if attempts < 1:
        raise ValueError(f"attempts: {attempts} would send nothing; 1 is one attempt and no retry")
    return attempts

"""How an AWS call's time is split into attempts: decisions, as pure functions of numbers.

The rule is simple and honest rather than clever. The whole call ends at the deadline's soft instant,
because the scope cuts it. An attempt that may be followed by another gets half of what is left, so that one
dead connection costs half of the budget and not all of it; the last attempt gets the rest and no limit of
its own. With 2 s left: 1 s, at most 0.25 s of backoff, 0.375 s, at most 0.1 s, then what remains. A healthy
call never notices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

MIN_ATTEMPT: Final = 0.020
"""Seconds under which an attempt is not worth sending: about S3's first byte on a warm connection. A cold
connection takes several times that; `limits(min_attempt=...)` sets your own."""

MIN_LIMIT: Final = 0.200
"""Seconds under which an attempt is not limited: it would cut one that is merely slow, to gain little."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a caller says about the attempts of its calls.

    Attributes:
        attempts: How many at the most, the first included; `None`: as the client is configured.
        per_attempt: Seconds that each may take, the last included; `None`: the rule above.
        min_attempt: Seconds under which none is sent.
    """

    attempts: int | None = None
    per_attempt: float | None = None
    min_attempt: float = MIN_ATTEMPT


def attempt_limit(left: float, further: int, limits: Limits) -> float:
    """How long the attempt that is about to be sent may take.

    Args:
        left: Seconds until the call is cut; `inf` without a deadline.
        further: How many attempts could follow this one.
        limits: The caller's.

    Returns:
        Seconds; `inf` for no limit of its own.
    """
    if limits.per_attempt is not None:
        return limits.per_attempt
    half = left / 2
    return half if further > 0 and half >= max(MIN_LIMIT, limits.min_attempt) else math.inf


def backoff(delay: float, left: float, *, given_up: bool) -> float:
    """How long to wait before a retry that the SDK would wait `delay` seconds for.

    A service that answers with an error gets the pause that the SDK wants. An attempt that *we* gave up
    says nothing of the sort, and a backoff of seconds would throw away the time it was given up for: that
    one waits a quarter of what is left at the most.

    Args:
        delay: Seconds.
        left: Seconds until the call is cut; `inf` without a deadline.
        given_up: Whether the attempt ended at our limit.
    """
    return min(delay, left / 4) if given_up else delay


def fits(left: float, limits: Limits, delay: float = 0.0) -> bool:
    """Whether an attempt is worth sending `delay` seconds from now.

    Args:
        left: Seconds until the call is cut; `inf` without a deadline.
        limits: The caller's.
        delay: Seconds of backoff before it.
    """
    return delay + limits.min_attempt <= left


def polls(left: float, delay: float, limits: Limits) -> float:
    """How many polls `delay` seconds apart fit, the first one at once; `inf` without a deadline."""
    if left == math.inf or delay <= 0:
        return math.inf
    return 1 + max(0.0, (left - limits.min_attempt) // delay)


def attempts_left(attempt: int, configured: int, limits: Limits) -> int:
    """How many attempts could follow number `attempt` (from 1), as the client and the caller have it."""
    most = configured if limits.attempts is None else min(configured, limits.attempts)
    return max(0, most - attempt)

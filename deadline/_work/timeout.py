"""The time limit of one call of any client."""

from __future__ import annotations

import math

from deadline._core.scope import current


def timeout(most: float) -> float:
    """Seconds that a call may take now: what is left of the deadline in force, and no more than `most`.

    Use it where a client wants a number. `remaining()` is `inf` without a deadline and 0.0 at its end: many
    clients fail on the first and take the second for no limit. The answer is always finite and above 0.
    Time is counted from this call to the soft instant, on the event loop's clock.

    Args:
        most: Seconds, finite and above 0. The answer without a deadline, and in one without a limit.

    Raises:
        InsufficientTime: Nothing is left. The deadline counts it as a refusal of its own.
        TypeError, ValueError: `most` is no such number.
    """
    seconds = _checked(most)
    dl = current()
    if dl is None:
        return seconds
    left = dl.remaining()
    if left <= 0:
        raise dl.refusal("the call was not made")
    return min(seconds, left)


def _checked(most: float) -> float:
    wanted = f"most: expected a finite number of seconds above 0, such as 5.0, got {most!r:.60}"
    if isinstance(most, bool) or not isinstance(most, int | float):
        raise TypeError(wanted)
    try:
        seconds = float(most)
    except OverflowError:
        raise ValueError(wanted) from None
    if not 0 < seconds < math.inf:
        raise ValueError(wanted)
    return seconds

"""Who gets which share of the margin.

    soft                                                                hard
      |----------------------------- margin -----------------------------|
      |-- unwinding --|                                                  |  the first quarter
      |-- until the helper acts ------|                                  |  half, if nobody else has
      |--- an open critical section --|                                   |  half
      |------------------------- its undo ---------------|               |  up to three quarters
      |------------------------ mitigation --------------------|         |  all but the last share
      |                                                        |-response|  a twentieth, at least 20 ms

The shares overlap on purpose: each says how long its owner may go on at the most. What the owner
leaves goes to the next.
"""

import math
from typing import NamedTuple

UNWINDING = 1 / 4
HELPER = 1 / 2
SECTION = 1 / 2
UNDO = 3 / 4
RESPONSE = 1 / 20
RESPONSE_AT_LEAST = 0.020


class Shares(NamedTuple):
    """Instants on the clock of `soft` and `hard`, in order: none is after the next."""

    unwinding: float
    section: float
    undo: float
    mitigation: float


def shares(soft: float, hard: float) -> Shares:
    """Divide the time from `soft` to `hard`.

    Args:
        soft: When the work is cut, in seconds on any clock.
        hard: When the platform ends us, on the same clock. Not before `soft`.

    Returns:
        Until when unwinding, an open critical section, its undo and mitigation may last. Without a hard end
        (`inf`) none of them ends. A margin shorter than the response's share goes to the response.
    """
    if hard < soft:
        raise ValueError(f"hard: {hard} is before soft, {soft}")
    margin = hard - soft
    if margin == math.inf:
        return Shares(hard, hard, hard, hard)
    mitigation = max(soft, hard - max(margin * RESPONSE, RESPONSE_AT_LEAST))
    return Shares(
        unwinding=min(soft + margin * UNWINDING, mitigation),
        section=min(soft + margin * SECTION, mitigation),
        undo=min(soft + margin * UNDO, mitigation),
        mitigation=mitigation,
    )


def helper_acts_at(soft: float, hard: float) -> float:
    """When the helper process acts, if nobody has; `inf` without a hard end.

    It is asked in the way of every invocation, as nothing of `shares` is.
    """
    return hard if hard == math.inf else soft + (hard - soft) * HELPER

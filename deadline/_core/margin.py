"""Who gets which share of the margin.

    soft                                                                hard
      |----------------------------- margin -----------------------------|
      |-- unwinding --|                                                  |  the first quarter
      |-- until the helper acts ------|                                  |  half, if nobody else has
      |--- an open critical section --|                                   |  half
      |------------------------- its undo ---------------|               |  up to three quarters
      |------------------------ mitigation --------------------|         |  all but the last share
      |                                                        |-response|  a twentieth, at least 20 ms

The shares overlap on purpose: each says how long its owner may go on at most. What the owner
leaves goes to the next.

Somebody may wait for the answer who gives up before the hard end. Then there are two such divisions of the
same rule, one of the time until that caller goes and one of the time until the hard end. Whatever the answer
has to wait for goes by the first: unwinding, an open section, mitigation, the response. What needs nobody to
be there goes by the second: undoing, notices, the helper.
"""

import math
from typing import NamedTuple

UNWINDING = 1 / 4
HELPER = 1 / 2
SECTION = 1 / 2
UNDO = 3 / 4
RESPONSE = 1 / 20
RESPONSE_AT_LEAST = 0.020

OF_CALLER = 1 / 2
"""The most of a caller's time that a margin may take, however long it is."""

CALLER_AT_LEAST = 0.25
"""Seconds that a caller's clock leaves at the least: one that says less is more likely to be wrong."""


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


def for_caller(margin: float, left: float, limit: float, margin_of_caller: float) -> float:
    """The margin before the hard end that also ends in time for a caller.

    Args:
        margin: Seconds to keep before the hard end.
        left: Seconds until the hard end, finite.
        limit: Seconds until the caller gives up.
        margin_of_caller: Seconds to keep before that.

    Returns:
        Seconds from soft to hard, `margin` or more.
    """
    return max(margin, left - limit + min(margin_of_caller, limit * OF_CALLER))

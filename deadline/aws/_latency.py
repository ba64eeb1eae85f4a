"""What an operation of an endpoint has taken in this process: a small estimate that forgets.

It is a histogram of the last hundred answers or so, on a logarithmic scale. An attempt that was given up is
no answer: it tells that the answer takes longer than that (a censored value), and belongs into the estimate
as such, by Kaplan and Meier's product (1958). Left out, a slow service looks fast for ever; counted as an
answer, a dead connection looks like a slow service.

Where too few attempts got to tell, the chance of an answer is thought to fall off by a third from bucket to
bucket. Without that a cut would keep itself where it is: nobody would learn what comes after it.

A service that changes is noticed by the odds, after Shiryaev and Roberts, that what comes in now is better
explained by a service of which nothing is known than by the one that was learnt. While they rise, the two are
mixed; when it is more likely than not, what was learnt is forgotten.
"""

from __future__ import annotations

import functools
import math
from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_PER_OCTAVE: Final = 3
_FIRST: Final = 0.002
"""Seconds: the lower edge of the first bucket. Whatever is faster is as good."""

BUCKETS: Final = 42
"""Up to 33 s."""

EDGES: Final = tuple(_FIRST * 2 ** ((at + 1) / _PER_OCTAVE) for at in range(BUCKETS))
"""The upper edges, in seconds."""

# Chosen with benchmarks/goodput.py; a third more or less of each makes little difference there.
_MEMORY: Final = 128
"""Attempts after which one counts e times less."""

_CHANGE: Final = 0.001
"""How probable it is, before an attempt is seen, that the service has changed since the last one."""

_FORGET: Final = 200.0
"""How much less what was learnt counts, once the service has changed."""

_OPINION: Final = 1.0
"""How many attempts weigh as much as what is thought of a service that was not asked yet."""

_FALL: Final = 0.7
_LUCK: Final = 0.9
_LUCK_STEP: Final = 0.2

_AT_ONCE: Final = 32
"""Answers that are learnt from together, at the latest. One by one, between calls, they cost several times as
much, because nothing of this is in the processor's caches then."""

_HEAVY: Final = 1e12
_EVERY: Final = 16

_MIDDLES: Final = tuple(edge * 2 ** (-0.5 / _PER_OCTAVE) for edge in EDGES)


def _unknown(middle: float, spread: float, alive: float) -> tuple[float, ...]:
    """The shares of answers in each bucket: log-normal, around `middle` seconds."""
    shares = [math.exp(-((math.log(seconds / middle) / spread) ** 2) / 2) for seconds in _MIDDLES]
    return tuple(alive * share / sum(shares) for share in shares)


# A service of which nothing is known: two in three answers within 16 ms to 0.22 s, one in twenty never.
_UNKNOWN: Final = _unknown(0.06, 1.3, 0.95)
_UNKNOWN_WITHIN: Final = tuple(accumulate(_UNKNOWN))
_UNKNOWN_CHANCE: Final = tuple(
    share / (1.0 - within + share) for share, within in zip(_UNKNOWN, _UNKNOWN_WITHIN, strict=True)
)


def _bucket(seconds: float) -> int:
    return min(int(_PER_OCTAVE * math.log2(seconds / _FIRST)), BUCKETS - 1) if seconds > _FIRST else 0


class Latency:
    """The estimate.

    Attributes:
        known: Whether it was ever answered.
        luck: How often another attempt was faster than the one that it was made for. Where a request is slow
            by itself, whoever sends it, that is seldom, and giving up makes no sense.
    """

    __slots__ = (
        "_answered",
        "_given_up",
        "_odds",
        "_pending",
        "_seen",
        "_spent",
        "_weight",
        "_within",
        "known",
        "luck",
    )

    def __init__(self) -> None:
        self._answered = array("f", bytes(4 * BUCKETS))
        self._given_up = array("f", bytes(4 * BUCKETS))
        self._weight = 1.0  # of the next: older ones weigh less because newer ones weigh more
        self._odds = 0.0
        self._seen = 0
        self._pending = array("d")
        self.known = False
        self.luck = _LUCK
        self._within: Sequence[float] = ()
        self._spent: Sequence[float] = ()
        self._reckon()

    @property
    def within(self) -> Sequence[float]:
        """How probable it is that an attempt is answered within each of `EDGES`."""
        self._learn()
        return self._within

    @property
    def spent(self) -> Sequence[float]:
        """The seconds that these answers take, times their probability."""
        self._learn()
        return self._spent

    def answered(self, seconds: float) -> None:
        """An attempt was answered after so long."""
        self.known = True
        self._pending.append(seconds)
        if len(self._pending) >= _AT_ONCE:
            self._learn()

    def _learn(self) -> None:
        """Learn from the answers that have come in."""
        if self._pending:
            pending, self._pending = self._pending, array("d")
            for seconds in pending:
                self._learn_from(seconds)

    def _learn_from(self, seconds: float) -> None:
        at = _bucket(seconds)
        low, high = max(at - 2, 0), min(at + 1, BUCKETS - 1)  # its neighbours too: what was learnt is ragged
        known = self._within[high] - self._within[low]
        surprising = self._weigh(_UNKNOWN_WITHIN[high] - _UNKNOWN_WITHIN[low], known)
        self._count(self._answered, at, surprising=surprising)

    def given_up(self, seconds: float) -> None:
        """An attempt was not answered within so long."""
        self._learn()
        at = _bucket(seconds)
        if at:
            self._weigh(1.0 - _UNKNOWN_WITHIN[at - 1], 1.0 - self._within[at - 1])
        self._count(self._given_up, at, surprising=True)

    def tried_again(self, *, faster: bool) -> None:
        """An attempt that was made because another took too long was faster than that, or was not."""
        self.luck += (faster - self.luck) * _LUCK_STEP

    def _weigh(self, if_new: float, if_known: float) -> bool:
        """Weigh whether the service has changed by something as probable as this, if it has and if not."""
        before = self._odds
        self._odds = (before + _CHANGE) * if_new / max(if_known, 1e-9)
        if self._odds > 1.0:
            self._weight *= _FORGET
            self._odds = 0.0
            return True
        return max(before, self._odds) > 0.1

    def _count(self, values: array[float], at: int, *, surprising: bool) -> None:
        values[at] += self._weight
        self._weight *= 1.0 + 1.0 / _MEMORY
        self._seen += 1
        if self._weight > _HEAVY:
            for array_ in (self._answered, self._given_up):
                for each in range(BUCKETS):
                    array_[each] /= self._weight
            self._weight = 1.0
        if surprising or self._seen < 2 * _EVERY or self._seen % _EVERY == 0:
            self._reckon()

    def _reckon(self) -> None:
        opinion = _OPINION * self._weight
        at_risk = sum(self._answered) + sum(self._given_up)
        new = self._odds / (1.0 + self._odds)
        surviving, chance, within, spent = 1.0 - new, 0.0, 0.0, 0.0
        withins, spents = array("f"), array("f")
        for answered, given_up, unknown, unknown_chance, middle in zip(
            self._answered, self._given_up, _UNKNOWN, _UNKNOWN_CHANCE, _MIDDLES, strict=True
        ):
            at_risk -= given_up
            chance = (answered + opinion * max(unknown_chance, _FALL * chance)) / (at_risk + opinion)
            share = surviving * chance
            surviving -= share
            at_risk -= answered
            share += new * unknown
            within += share
            spent += share * middle
            withins.append(within)
            spents.append(spent)
        self._within, self._spent = withins, spents


@functools.lru_cache(maxsize=256)
def latency_of(endpoint: str, operation: str, size: int) -> Latency:  # noqa: ARG001  # the cache's key
    """The one of this process for an operation of an endpoint and requests of this size, a power of four."""
    return Latency()

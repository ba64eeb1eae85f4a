"""What an operation of an endpoint has taken in this process: a small estimate that forgets.

It is a histogram of the last attempts, on a logarithmic scale. An attempt that was given up is no answer: it
tells that the answer takes longer than that (a censored value), and belongs into the estimate as such, by
Kaplan and Meier's product (1958). Left out, a slow service looks fast for ever; counted as an answer, a dead
connection looks like a slow service.

Where too few attempts got to tell, the chance of an answer is thought to fall off by a third from bucket to
bucket. Without that a cut would keep itself where it is: nobody would learn what comes after it.

A service that changes is noticed by the odds, after Shiryaev and Roberts, that what comes in now is better
explained by a service of which nothing is known than by the one that was learnt. While they rise, the two are
mixed; when it is more likely than not, what was learnt is forgotten. An attempt that stays silent while
others are answered is no such sign: its connection is dead, and not the service slow.
"""

from __future__ import annotations

import functools
import math
from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from deadline.aws._runtime.snapshot import after_restore

if TYPE_CHECKING:
    from collections.abc import Sequence

_PER_OCTAVE: Final = 3
_FIRST: Final = 0.002
"""Seconds: the lower edge of the first bucket. Whatever is faster is as good."""

BUCKETS: Final = 42
"""Up to 33 s."""

EDGES: Final = tuple(_FIRST * 2 ** ((at + 1) / _PER_OCTAVE) for at in range(BUCKETS))
"""The upper edges, in seconds."""

# Chosen with benchmarks/goodput.py --tuning, which plays none of the runs that its tables report. Delicate is
# `_FALL`: more helps calls of a service that is slow, less those of one that is slow and loses requests, too.
_MEMORY: Final = 160
"""Attempts that are remembered."""

_CHANGE: Final = 0.005
"""How probable it is, before an attempt is seen, that the service has changed since the last one."""

_MEANWHILE: Final = 1 / 3
"""How much less probable each answer that came while an attempt was silent makes it that it is the service
that has changed: as likely, about, as such an answer is from one of which nothing is known."""

_OPINION: Final = 1.7
"""How many attempts weigh as much as what is thought of a service that was not asked yet."""

_FALL: Final = 0.7
_LUCK: Final = 0.9
_LUCK_STEP: Final = 0.2

_AT_ONCE: Final = 32
"""Answers that are learnt from together, at the latest. One by one, between calls, they cost several times as
much, because nothing of this is in the processor's caches then."""

_EVERY: Final = 16
_GIVEN_UP: Final = 64
"""Added to the bucket of an attempt that was given up."""

_MIDDLES: Final = tuple(edge * 2 ** (-0.5 / _PER_OCTAVE) for edge in EDGES)


def _unknown(middle: float, spread: float, alive: float) -> tuple[float, ...]:
    """The shares of answers in each bucket: log-normal, around `middle` seconds."""
    shares = [math.exp(-((math.log(seconds / middle) / spread) ** 2) / 2) for seconds in _MIDDLES]
    return tuple(alive * share / sum(shares) for share in shares)


# A service of which nothing is known: two in three answers within 14 ms to 0.15 s, one in twenty never.
_UNKNOWN: Final = _unknown(0.045, 1.2, 0.95)
_UNKNOWN_WITHIN: Final = tuple(accumulate(_UNKNOWN))
_UNKNOWN_CHANCE: Final = tuple(
    share / (1.0 - within + share) for share, within in zip(_UNKNOWN, _UNKNOWN_WITHIN, strict=True)
)


def _bucket(seconds: float) -> int:
    return min(int(_PER_OCTAVE * math.log2(seconds / _FIRST)), BUCKETS - 1) if seconds > _FIRST else 0


class Latency:
    """The estimate.

    Attributes:
        answers: How many there were, ever.
        luck: How often another attempt was faster than the one that it was made for. Where a request is slow
            by itself, whoever sends it, that is seldom, and giving up makes no sense.
    """

    __slots__ = ("_attempts", "_learnt", "_odds", "_spent", "_within", "answers", "luck")

    def __init__(self) -> None:
        self._attempts = bytearray()
        self._learnt = 0  # how many of these
        self._odds = 0.0
        self.answers = 0
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
        self.answers += 1
        self._attempts.append(_bucket(seconds))
        if len(self._attempts) - self._learnt >= _AT_ONCE:
            self._learn()

    def given_up(self, seconds: float, meanwhile: int = 0) -> None:
        """An attempt was not answered within so long, while so many others were."""
        at = _bucket(seconds)
        if not at:
            return  # that tells nothing
        self._learn()
        self._attempts.append(at + _GIVEN_UP)
        if_new = (1.0 - _UNKNOWN_WITHIN[at - 1]) * _MEANWHILE**meanwhile
        self._weigh(if_new, 1.0 - self._within[at - 1], surprising=True)

    def tried_again(self, *, faster: bool) -> None:
        """An attempt that was made because another took too long was faster than that, or was not."""
        self.luck += (faster - self.luck) * _LUCK_STEP

    def _learn(self) -> None:
        """Learn from the answers that have come in."""
        while self._learnt < len(self._attempts):
            at = self._attempts[self._learnt]
            low, high = (
                max(at - 2, 0),
                min(at + 1, BUCKETS - 1),
            )  # its neighbours too: what was learnt is ragged
            self._weigh(_UNKNOWN_WITHIN[high] - _UNKNOWN_WITHIN[low], self._within[high] - self._within[low])

    def _weigh(self, if_new: float, if_known: float, *, surprising: bool = False) -> None:
        """Learn an attempt; weigh whether the service has changed by something as probable as this."""
        self._learnt += 1
        before = self._odds
        self._odds = (before + _CHANGE) * if_new / max(if_known, 1e-9)
        if self._odds > 1.0:
            del self._attempts[: self._learnt - 1]
            self._learnt = 1
            self._odds = 0.0
        elif self._learnt >= _MEMORY + _EVERY:
            del self._attempts[:_EVERY]
            self._learnt -= _EVERY
        if (
            surprising
            or max(before, self._odds) > 0.1
            or self._learnt < 2 * _EVERY
            or self._learnt % _EVERY == 0
        ):
            self._reckon()

    def _reckon(self) -> None:
        counts = [0] * (_GIVEN_UP + BUCKETS)
        for at in self._attempts[: self._learnt]:
            counts[at] += 1
        at_risk = self._learnt
        new = self._odds / (1.0 + self._odds)
        surviving, chance, within, spent = 1.0 - new, 0.0, 0.0, 0.0
        withins, spents = [], []
        for answered, given_up, unknown, unknown_chance, middle in zip(
            counts, counts[_GIVEN_UP:], _UNKNOWN, _UNKNOWN_CHANCE, _MIDDLES, strict=False
        ):
            at_risk -= given_up
            chance = (answered + _OPINION * max(unknown_chance, _FALL * chance)) / (at_risk + _OPINION)
            share = surviving * chance
            surviving -= share
            at_risk -= answered
            share += new * unknown
            within += share
            spent += share * middle
            withins.append(within)
            spents.append(spent)
        self._within, self._spent = array("f", withins), array("f", spents)


@functools.lru_cache(maxsize=256)
def latency_of(endpoint: str, operation: str, size: int) -> Latency:  # noqa: ARG001  # the cache's key
    """The one of this process for an operation of an endpoint and requests of this size, a power of four."""
    return Latency()


after_restore(latency_of.cache_clear)

"""What the goodput benchmark does to a service: the columns of its table, and the fate of each request.

A *process* is a warm execution environment: it keeps what it has learnt over `INVOCATIONS` invocations. Every
other one has served `INVOCATIONS` healthy ones before, which do not count; the rest meet the fault cold.
The fate of a request follows from the number of its process, its invocation, call and attempt, so that every
policy meets the same ones, and the simulator the same as the real clients.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, NamedTuple

INVOCATIONS: Final = 20
REFUSAL: Final = 0.005
"""Seconds in which a throttled request is answered."""

PERIOD: Final = 1.0
"""Seconds from the start of a throttling burst to the next one's."""

TUNING: Final = range(10_000)
"""The processes with which the planner's constants were chosen. None of them is among those reported."""

REPORTED: Final = range(1_000_000, 2_000_000)
"""The processes that make up the tables, from the first one on."""


class Kind(Enum):
    """What becomes of a request."""

    ANSWER = "answer"
    SILENCE = "silence"
    DRIP = "drip"
    RESET = "reset"
    THROTTLE = "throttle"


class Fate(NamedTuple):
    """What becomes of a request, and after how many seconds; silence and a dripping body never end."""

    kind: Kind
    seconds: float


class Place(NamedTuple):
    """Which request it is, but for its attempt. Invocations below zero are those before the fault."""

    process: int
    invocation: int
    call: int


@functools.lru_cache(maxsize=1 << 15)
def _chance(place: Place, attempt: int) -> tuple[float, float]:
    """A normal and a uniform number, the same for every policy and fault."""
    chance = random.Random(f"{place.process} {place.invocation} {place.call} {attempt}")
    return chance.gauss(0.0, 1.0), chance.random()


@dataclass(frozen=True)
class Column:
    """A fault: shares are of all requests, seconds of a healthy answer are log-normal."""

    name: str
    median: float = 0.020
    sigma: float = 0.4
    hang: float = 0.0
    drip: float = 0.0
    reset: float = 0.0
    straggle: float = 0.0
    heavy: float = 0.0
    """Of calls, not of requests: these are slow by themselves, whoever sends them, as often as they do."""
    factor: float = 40.0
    """How much slower those two are."""
    burst: float = 0.0
    """Seconds of throttling at the start of each `PERIOD`."""
    dead_address: bool = False
    """Whether every second new connection is to an address that accepts and stays silent."""
    degraded: float = 1.0
    """How much slower the service is in the middle half of a process's invocations."""

    def fate(self, place: Place, attempt: int, since: float) -> Fate:
        """What becomes of an attempt (from 1) that is sent so many seconds after its invocation's start."""
        deviation, drawn = _chance(place, attempt)
        seconds = self.median * math.exp(self.sigma * deviation)
        if place.invocation < 0:
            return Fate(Kind.ANSWER, seconds)
        if self.burst and (since + PERIOD * _chance(place._replace(call=-1), 0)[1]) % PERIOD < self.burst:
            return Fate(Kind.THROTTLE, REFUSAL)
        if INVOCATIONS // 4 <= place.invocation < INVOCATIONS * 3 // 4:
            seconds *= self.degraded
        if self.heavy and _chance(place, 0)[1] < self.heavy:
            seconds *= self.factor
        for share, fate in (
            (self.hang, Fate(Kind.SILENCE, math.inf)),
            (self.drip, Fate(Kind.DRIP, math.inf)),
            (self.reset, Fate(Kind.RESET, seconds / 2)),
            (self.straggle, Fate(Kind.ANSWER, seconds * self.factor)),
        ):
            if drawn < share:
                return fate
            drawn -= share
        return Fate(Kind.ANSWER, seconds)

    @staticmethod
    def first_address(process: int, invocation: int) -> int:
        """To which of two addresses an invocation connects first; the second one is dead."""
        return round(_chance(Place(process, invocation, -2), 0)[1])

    def before(self) -> Column:
        """The service before the fault."""
        return replace(HEALTHY, median=self.median if self.name == DRAWN else HEALTHY.median)


DRAWN: Final = "drawn"
HEALTHY: Final = Column("healthy")
HEAVY: Final = Column("5 % of calls heavy", heavy=0.05)
COLUMNS: Final = (
    Column("3 % hang", hang=0.03),
    Column("10 % hang", hang=0.10),
    Column("slow", median=0.25),
    Column("slow, 3 % hang", median=0.25, hang=0.03),
    Column("5 % 40 x slower", straggle=0.05),
    HEALTHY,
    Column("throttling", burst=0.3),
    Column("10 % reset", reset=0.10),
    Column("5 % drip", drip=0.05),
    Column("dead address", dead_address=True),
    Column("degrades", degraded=12.5),
)


def drawn(seed: int) -> Column:
    """A column from the space of all: each fault is there or not, and then as strong as it comes."""
    chance = random.Random(seed)

    def some(most: float) -> float:
        return chance.choice((0.0, chance.uniform(0.0, most)))

    return Column(
        DRAWN,
        median=math.exp(chance.uniform(math.log(0.005), math.log(0.3))),
        sigma=chance.uniform(0.2, 0.8),
        hang=some(0.12),
        drip=some(0.06),
        reset=some(0.12),
        straggle=some(0.10),
        factor=chance.uniform(5.0, 50.0),
    )

"""The goodput benchmark without a network: the same fates, the same planner, a clock that jumps."""

from __future__ import annotations

import heapq
import math
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from _goodput_model import INVOCATIONS, Column, Fate, Kind, Place
from _harness import quantile

from deadline.aws._calls.hedging import Budget
from deadline.aws._calls.latency import Latency
from deadline.aws._calls.planner import (
    Limits,
    attempt_limit,
    attempts_left,
    backoff,
    first_look,
    fits,
    hedge_after,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    Call = Generator[float, None, bool]
    """One call: gives the instants at which it goes on, and whether it was answered."""

OVERHEAD: Final = 0.003
"""Seconds that the SDK and the loop add to an answer."""

LEGACY_ATTEMPTS: Final = 10
"""Of a DynamoDB client."""

_TICK: Final = 1e-6


@dataclass
class World:
    """The network of one invocation."""

    column: Column
    process: int
    invocation: int
    requests: int = 0
    idle: int = 0
    _address: int = field(init=False)

    def __post_init__(self) -> None:
        self._address = self.column.first_address(self.process, self.invocation)

    def send(self, call: int, attempt: int, now: float) -> Fate:
        """Send a request: what becomes of it, at which instant."""
        self.requests += 1
        kind, seconds = self.column.fate(Place(self.process, self.invocation, call), attempt, now)
        if self.column.dead_address and self.invocation >= 0:
            if self.idle:
                self.idle -= 1
            else:
                self._address ^= 1
                if not self._address:
                    return Fate(Kind.SILENCE, math.inf)
        return Fate(kind, now + seconds + OVERHEAD)

    def ended(self, kind: Kind) -> None:
        """A request has ended: its connection may be used again."""
        self.idle += kind is Kind.ANSWER or kind is Kind.THROTTLE


def legacy(retry: int, chance: random.Random) -> float:
    """Seconds of backoff before a DynamoDB client's retry in legacy mode: botocore/data/_retry.json."""
    return 0.05 * 2.0 ** (retry - 1)


def standard(retry: int, chance: random.Random) -> float:
    """The same in standard mode: botocore/retries/standard.py."""
    return min(20.0, chance.random() * 2.0 ** (retry - 1))


class Policy(ABC):
    """How a call is tried, in one process."""

    @abstractmethod
    def call(self, world: World, number: int, now: float, end: float, chance: random.Random) -> Call:
        """Make a call."""


@dataclass
class Fixed(Policy):
    """Timeouts of the socket that stay the same: what a client's configuration can say."""

    read: float = 60.0
    attempts: int = LEGACY_ATTEMPTS
    delay: Callable[[int, random.Random], float] = legacy

    def call(self, world: World, number: int, now: float, end: float, chance: random.Random) -> Call:
        """Make a call."""
        for attempt in count(1):
            kind, at = world.send(number, attempt, now)
            if kind is not Kind.DRIP:  # each byte that drips starts the read timeout anew
                at = min(at, now + self.read)
            if at >= end:
                return False
            yield at
            if kind is Kind.ANSWER and at < now + self.read:
                world.ended(kind)
                return True
            if kind is Kind.THROTTLE:
                world.ended(kind)
            now = at + self.delay(attempt, chance)
            if attempt >= self.attempts or now >= end:
                return False
            yield now
        raise AssertionError


@dataclass
class Planned(Policy):
    """Ours: what `deadline.aws` does with a DynamoDB client of the default configuration."""

    hedge: bool = False
    latency: Latency = field(default_factory=Latency)
    budget: Budget = field(default_factory=Budget)

    def call(  # noqa: C901, PLR0912, PLR0915  # the retries of the SDK and the race in one
        self, world: World, number: int, now: float, end: float, chance: random.Random
    ) -> Call:
        """Make a call, as `_clients` and `_sending` do."""
        limits, latency, attempt, given_up_after = Limits(), self.latency, 1, 0.0
        if self.hedge:
            self.budget.earn()
        for retry in count(1):
            if not fits(end - now, limits):
                return False
            flights = [(now, latency.answers, world.send(number, attempt, now))]
            further = attempts_left(attempt, LEGACY_ATTEMPTS, limits)
            look = 0.0 if self.hedge else first_look("dynamodb.GetItem", further, limits, latency)
            latest, beside, limit = now, self.hedge, math.inf
            failure: float | None = None
            while flights:
                decide = hedge_after if beside and attempt < LEGACY_ATTEMPTS else attempt_limit
                further = attempts_left(attempt, LEGACY_ATTEMPTS, limits)
                limit = (
                    look if now < latest + look - _TICK else decide(end - latest, further, limits, latency)
                )
                due = latest + limit
                if due > now + _TICK:
                    flight = min(flights, key=lambda flight: flight[2].seconds)
                    sent, _, (kind, at) = flight
                    now = min(at, due)
                    if now >= end:
                        yield end
                        self._lost(flights, end)
                        return False
                    yield now
                    if now < at:
                        continue  # and decide again: other calls may have told what they saw
                    flights.remove(flight)
                    world.ended(kind)
                    if kind is Kind.ANSWER:
                        self._lost(flights, now)
                        latency.answered(now - sent)
                        if given_up_after:
                            latency.tried_again(faster=now - sent <= given_up_after)
                        return True
                    if kind is Kind.THROTTLE:
                        self.budget.throttled()
                    beside = False
                elif decide is hedge_after:
                    beside = self.budget.spend()
                    if beside:
                        attempt += 1
                        given_up_after = max(given_up_after, now - latest)
                        flights.append((now, latency.answers, world.send(number, attempt, now)))
                        latest = now
                else:
                    if given_up_after:
                        latency.tried_again(faster=False)
                    self._lost(flights, now)
                    given_up_after, failure = max(given_up_after, limit), limit
                    flights.clear()
            if attempt >= LEGACY_ATTEMPTS:
                return False
            pause = backoff(legacy(retry, chance), end - now, failure)
            if not fits(end - now, limits, pause):
                return False
            attempt += 1
            now += pause
            yield now
        raise AssertionError

    def _lost(self, flights: list[tuple[float, int, Fate]], now: float) -> None:
        for sent, answers, _ in flights:
            self.latency.given_up(now - sent, self.latency.answers - answers)


@dataclass
class Sketch(Policy):
    """A rough learned rule: a quantile of the last hundred times, cut ones counted as answers."""

    hedge: bool = False
    seen: list[float] = field(default_factory=list)

    def call(self, world: World, number: int, now: float, end: float, chance: random.Random) -> Call:
        """Make a call: the next attempt instead of the last one, or beside it."""
        share, factor, growth, most = (0.95, 1.5, 1.6, 5) if self.hedge else (0.99, 1.0, 1.3, 6)
        gap = factor * quantile(self.seen, share) if len(self.seen) >= 5 else 0.5
        attempt, flights = 1, [(now, world.send(number, 1, now))]
        following = now + gap
        while flights or attempt < most:
            at = min((fate.seconds for _, fate in flights), default=math.inf)
            now = min(at, following)
            if now >= end:
                return False
            yield now
            if now < at:
                if not self.hedge:
                    self.seen.append(gap)
                    flights.clear()
                attempt += 1
                flights.append((now, world.send(number, attempt, now)))
                gap *= growth
                following = now + gap if attempt < most else math.inf
                continue
            flight = min(flights, key=lambda flight: flight[1].seconds)
            flights.remove(flight)
            world.ended(flight[1].kind)
            if flight[1].kind is Kind.ANSWER:
                self.seen += [now - sent for sent, _ in (flight, *flights)]
                del self.seen[:-100]
                return True
            if attempt < most:
                following = now + legacy(attempt, chance)
        return False


POLICIES: Final[dict[str, Callable[[], Policy]]] = {
    "SDK default, promise race": Fixed,
    "client timeout 1 s x 2": lambda: Fixed(1.0, 2),
    "0.5 s x 3": lambda: Fixed(0.5, 3),
    "1 s x 3": lambda: Fixed(1.0, 3),
    "standard retries": lambda: Fixed(60.0, 3, standard),
    "sketch: cut at p99": Sketch,
    "sketch: hedge at p95": lambda: Sketch(hedge=True),
    "deadline": Planned,
    "deadline, hedged": lambda: Planned(hedge=True),
}
"""How to make each for a new process."""

HEDGED: Final = ("sketch: hedge at p95", "deadline, hedged")

Load = Literal["5 in a row", "20 at once"]
LOADS: Final[dict[Load, tuple[int, float]]] = {"5 in a row": (5, 2.0), "20 at once": (20, 1.0)}
"""How many calls an invocation makes, and in how many seconds."""


class Figures(NamedTuple):
    """What came of one policy under one fault.

    Attributes:
        calls: How many a run makes.
        runs: How many were played.
        made: How many of them made all of their calls in time.
        requests: How many went out, of all runs.
        p50: Half of those that made it took longer, in seconds.
        p99: One in a hundred did.
    """

    calls: int
    runs: int
    made: int
    requests: int
    p50: float
    p99: float

    @property
    def success(self) -> float:
        """The share of runs that made it."""
        return self.made / self.runs

    @property
    def error(self) -> float:
        """Half of the 95 % interval of the success (Wilson)."""
        z, p, n = 1.96, self.success, self.runs
        return z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))

    @property
    def per_success(self) -> float:
        """Requests per call of the runs that made it."""
        return self.requests / (self.calls * self.made) if self.made else math.inf


@dataclass
class Cell:
    """Runs of one policy under one fault, and how many seconds those took that made it."""

    calls: int
    seconds: list[float] = field(default_factory=list)
    runs: int = 0
    requests: int = 0

    def add(self, seconds: float | None, requests: int) -> None:
        """Count a run; `None` is one that did not make it."""
        self.runs += 1
        self.requests += requests
        if seconds is not None:
            self.seconds.append(seconds)

    def take(self, other: Cell) -> None:
        """Count the runs of another one, too."""
        self.runs += other.runs
        self.requests += other.requests
        self.seconds += other.seconds

    @property
    def figures(self) -> Figures:
        """What came of them."""
        p50, p99 = (quantile(self.seconds, share) if self.seconds else math.inf for share in (0.5, 0.99))
        return Figures(self.calls, self.runs, len(self.seconds), self.requests, p50, p99)


def invocation(policy: Policy, world: World, load: Load, chance: random.Random) -> float | None:
    """One run: when its last call was answered, or `None`."""
    calls, budget = LOADS[load]
    if load == "5 in a row":
        now = 0.0
        for number in range(calls):
            call = policy.call(world, number, now, budget, chance)
            try:
                while True:
                    now = next(call)
            except StopIteration as stop:
                if not stop.value:
                    return None
        return now
    now, answered = 0.0, True
    waiting = [(0.0, number, policy.call(world, number, 0.0, budget, chance)) for number in range(calls)]
    while waiting:
        now, number, call = heapq.heappop(waiting)
        try:
            heapq.heappush(waiting, (next(call), number, call))
        except StopIteration as stop:
            answered = answered and stop.value
    return now if answered else None


def simulated(make: Callable[[], Policy], column: Column, load: Load, processes: Iterable[int]) -> Cell:
    """Play one cell of the table."""
    cell = Cell(LOADS[load][0])
    for process in processes:
        policy, chance = make(), random.Random(f"backoff {process}")
        for number in range(-INVOCATIONS if process % 2 else 0, INVOCATIONS):
            world = World(column if number >= 0 else column.before(), process, number)
            seconds = invocation(policy, world, load, chance)
            if number >= 0:
                cell.add(seconds, world.requests)
    return cell

"""Which request meets which fault, and when. No sockets here."""

import math
import random
import threading
import time
from collections.abc import Callable
from typing import TypeAlias, final

from deadline.testing._proxy.faults import Fault
from deadline.testing._proxy.request import Request

Where: TypeAlias = Callable[[Request], object]


@final
class Rule:
    """A fault in force, and for which requests. Made by `FaultProxy.add`.

    Attributes:
        fault: The fault.
        left: How many more requests it will be played on; None means no limit.
    """

    def __init__(
        self,
        rules: "Rules",
        fault: Fault,
        where: Where | None,
        times: int | None,
        *,
        after: int,
        probability: float,
        seed: int,
        window: tuple[float, float],
    ) -> None:
        self._rules = rules
        self._where = where
        self._to_pass = after
        self._probability = probability
        self._random = random.Random(seed)  # noqa: S311  # chance that can be repeated is the point
        self._from, self._until = window
        self.fault = fault
        self.left = times

    def matches(self, request: Request, now: float) -> bool:
        """Tell whether the rule is meant for `request`. Raises what its `where` raises."""
        if not self._from <= now < self._until:
            return False
        return self._where is None or bool(self._where(request))

    def fires(self) -> bool:
        """Tell whether the fault is played on a request that matches, and count it."""
        if self._to_pass:
            self._to_pass -= 1
            return False
        if self._probability < 1 and self._random.random() >= self._probability:
            return False
        if self.left is not None:
            self.left -= 1
        return True

    def remove(self) -> None:
        """Take the rule out of force. Exchanges it has already met go on; twice is allowed."""
        self._rules.remove(self)


@final
class Rules:
    """The rules in force, in the order they were added. For any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._added = 0

    def add(
        self,
        fault: Fault,
        where: Where | None = None,
        times: int | None = None,
        *,
        after: int = 0,
        probability: float = 1.0,
        seed: int | None = None,
        between: tuple[float, float] | None = None,
    ) -> Rule:
        """Put a fault in force."""
        if not isinstance(fault, Fault):
            raise TypeError(f"fault must be a fault, such as Stall() or Delay(0.5), not {fault!r}")
        if where is not None and not callable(where):
            raise TypeError(
                f'where must take a Request, such as lambda r: r.method == "DELETE", not {where!r}'
            )
        if times is not None and (not _is_whole(times) or times < 1):
            raise ValueError(f"times must be None or a whole number from one, such as times=1, not {times!r}")
        if not _is_whole(after) or after < 0:
            raise ValueError(f"after must be a whole number from zero, such as after=2, not {after!r}")
        if not _is_number(probability) or not 0 < probability <= 1:
            raise ValueError(
                f"probability must be above 0 and at most 1, such as probability=0.1, not {probability!r}"
            )
        if seed is not None and not _is_whole(seed):
            raise TypeError(f"seed must be None or a whole number, such as seed=7, not {seed!r}")
        start, end = _checked_window(between)
        with self._lock:
            now = self._clock()
            rule = Rule(
                self,
                fault,
                where,
                times,
                after=after,
                probability=probability,
                seed=self._added if seed is None else seed,
                window=(now + start, now + end),
            )
            self._added += 1
            self._rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """Take one rule out of force, if it is in force."""
        with self._lock:
            if rule in self._rules:
                self._rules.remove(rule)

    def clear(self) -> None:
        """Take every rule out of force."""
        with self._lock:
            self._rules.clear()

    def take(self, request: Request) -> Fault | None:
        """Return the fault of the first rule that matches and fires, and count the rule down."""
        now = self._clock()
        with self._lock:
            rules = tuple(self._rules)
        for rule in rules:  # outside the lock: a `where` may use the proxy
            if rule.matches(request, now) and self._use(rule):
                return rule.fault
        return None

    def _use(self, rule: Rule) -> bool:
        with self._lock:
            if rule not in self._rules:
                return False
            fires = rule.fires()
            if rule.left == 0:
                self._rules.remove(rule)
            return fires


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _checked_window(between: object) -> tuple[float, float]:
    if between is None:
        return -math.inf, math.inf
    match between:
        case (int() | float() as start, int() | float() as end) if 0 <= start < end and start < math.inf:
            return start, end
    raise ValueError(
        f"between must be two numbers of seconds, start before end, such as between=(0, 2.5), not {between!r}"
    )

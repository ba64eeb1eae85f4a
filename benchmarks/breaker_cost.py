"""What a breaker costs a call that passes, and `fallback` one that answers in time.

CPU of awaiting a function that returns at once, bare, inside of `with breaker:`, below `@breaker`, and
through `fallback` with a limit, inside of a deadline; and of a call that an open breaker refuses, for
scale. In batches inside of one task, as in `scope_cost.py`.
"""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from _harness import (
    Criterion,
    Result,
    added,
    bars,
    costs,
    measured,
)

from deadline import Breaker, BreakerOpen, LastGood, deadline, fallback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SECONDS = 30.0
TIMES = 500
BATCHES = 10
"""Per block and entrant."""

BREAKER = 3.0
FALLBACK = 10.0
"""Microseconds over the bare call."""

breaker = Breaker("passing")
shut = Breaker("shut", failures=1, recovery=1e9)
kept = LastGood()


async def call() -> int:
    """What is asked."""
    return 1


guarded = breaker(call)


async def _bare() -> None:
    for _ in range(TIMES):
        await call()


async def _with() -> None:
    for _ in range(TIMES):
        with breaker:
            await call()


async def _decorated() -> None:
    for _ in range(TIMES):
        await guarded()


async def _refused() -> None:
    for _ in range(TIMES):
        with suppress(BreakerOpen), shut:
            await call()


async def _fallback() -> None:
    for _ in range(TIMES):
        await fallback(call, default=None, within=1.0)


async def _kept() -> None:
    for _ in range(TIMES):
        await fallback(call, key="one", cache=kept, default=None, within="30%")


BODIES: dict[str, Callable[[], Awaitable[None]]] = {
    "bare": _bare,
    "with breaker": _with,
    "@breaker": _decorated,
    "refused": _refused,
    "fallback": _fallback,
    "fallback, cache, share": _kept,
}
CRITERIA = {
    "with breaker": BREAKER,
    "@breaker": BREAKER,
    "fallback": FALLBACK,
    "fallback, cache, share": FALLBACK,
}


async def _cpu(name: str) -> float:
    """Microseconds for one."""
    gc.collect()
    async with deadline(SECONDS):
        started = time.process_time_ns()
        await BODIES[name]()
        return (time.process_time_ns() - started) / TIMES / 1e3


def main() -> None:
    """Measure."""
    with suppress(RuntimeError), shut:
        raise RuntimeError
    samples = measured(_cpu, list(BODIES), BATCHES)
    result = Result("breaker_cost", "µs", ("anyio",))
    result.tables.append(costs("CPU of a call", samples))
    for name, limit in CRITERIA.items():
        over = added(samples[name], samples["bare"])
        result.criteria.append(Criterion(f"{name} over the bare call, µs", over, limit))

    result.publish(bars(samples))


if __name__ == "__main__":
    main()

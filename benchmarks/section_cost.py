"""What a critical section costs that is left well, and what `each` adds to an item.

CPU of `async with critical("move"): pass`, alone and inside of a deadline with a margin, and with one step,
beside `async with deadline(30, margin=10): pass`; and of `each` with a function that returns at once, an
item. In batches inside of one task, as in `scope_cost.py`.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

from _harness import (
    OURS,
    Criterion,
    Result,
    bars,
    costs,
    measured,
    quantile,
    ratios,
)

from deadline import critical, deadline, each

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SECONDS = 30.0
MARGIN = 10.0
TIMES = 500
BATCHES = 10
"""Per block and entrant."""

PER_ITEM = 20.0
"""Microseconds."""


async def _deadline() -> None:
    for _ in range(TIMES):
        async with deadline(SECONDS, margin=MARGIN):
            pass


async def _section() -> None:
    for _ in range(TIMES):
        async with critical("move"):
            pass


def _undo() -> None:
    raise AssertionError("nothing failed")


async def _step() -> None:
    for _ in range(TIMES):
        async with critical("move") as section, section.step("copy", undo=_undo):
            pass


async def _item(item: int) -> int:
    return item


async def _each() -> None:
    await each(_item, range(TIMES))


async def _each_ten() -> None:
    await each(_item, range(TIMES), 10)


BODIES: dict[str, Callable[[], Awaitable[None]]] = {
    OURS: _deadline,
    "section, no deadline": _section,
    "section": _section,
    "section, one step": _step,
    "each, an item": _each,
    "each, ten at once": _each_ten,
}
INSIDE = ("section", "section, one step", "each, an item", "each, ten at once")


async def _cpu(name: str) -> float:
    """Microseconds for one."""
    gc.collect()
    if name not in INSIDE:
        return await _timed(BODIES[name])
    async with deadline(SECONDS, margin=MARGIN):
        return await _timed(BODIES[name])


async def _timed(body: Callable[[], Awaitable[None]]) -> float:
    started = time.process_time_ns()
    await body()
    return (time.process_time_ns() - started) / TIMES / 1e3


def main() -> None:
    """Measure."""
    samples = measured(_cpu, list(BODIES), BATCHES)
    result = Result("section_cost", "µs", ("anyio",))
    result.tables.append(costs("CPU, entry and exit or one item", samples))
    for name in ("section", "section, no deadline"):
        result.criteria.append(Criterion(f"{name} / deadline", ratios(samples[name], samples[OURS]), 3.0))
    for name in ("each, an item", "each, ten at once"):
        values = [quantile(block, 0.5) for block in samples[name]]
        result.criteria.append(Criterion(f"{name}, µs", values, PER_ITEM))

    result.publish(bars(samples))


if __name__ == "__main__":
    main()

"""What a scope costs that is left in time: CPU for entry and exit, and memory while it is open.

CPU: `async with scope(30): pass`, or `with` where it is that, alone and nested five deep, in batches inside
of one task. CPU time rather than the clock's, because nothing here waits and other processes should not
count. `asyncio.wait_for` has no block: it gets a coroutine that returns at once.

Memory: what a thousand tasks with one open scope each hold, beyond a thousand tasks without, by
`tracemalloc`; for scopes on asyncio.
"""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import anyio
import trio
from _harness import (
    OURS,
    Blocks,
    Criterion,
    Result,
    Table,
    colour,
    empty,
    joined,
    quantile,
    ratios,
    spread,
    turns,
)
from _scopes import DISTRIBUTIONS, SCOPES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Batch = Callable[[], Coroutine[Any, Any, float]]
    Scope = Callable[[float], Any]

SECONDS = 30.0
TIMES = 500
BATCHES = 10
"""Per block and entrant."""

TASKS = 1000


async def _alone(scope: Scope) -> None:
    if hasattr(scope(SECONDS), "__aenter__"):
        for _ in range(TIMES):
            async with scope(SECONDS):
                pass
    else:
        for _ in range(TIMES):
            with scope(SECONDS):
                pass


async def _nested(scope: Scope) -> None:
    s = SECONDS
    if hasattr(scope(s), "__aenter__"):
        for _ in range(TIMES):
            async with scope(s), scope(s), scope(s), scope(s), scope(s):
                pass
    else:
        for _ in range(TIMES):
            with scope(s), scope(s), scope(s), scope(s), scope(s):
                pass


async def _nothing() -> None:
    pass


async def _wait_for(*, depth: int) -> None:
    async def inside(depth: int) -> None:
        await asyncio.wait_for(inside(depth - 1) if depth > 1 else _nothing(), SECONDS)

    for _ in range(TIMES):
        await inside(depth)


def _cpu(body: Callable[..., Awaitable[None]], *args: Any, **kwargs: Any) -> Batch:
    async def batch() -> float:
        gc.collect()
        started = time.process_time_ns()
        await body(*args, **kwargs)
        return (time.process_time_ns() - started) / TIMES

    return batch


ON_ASYNCIO = {**SCOPES, "anyio.move_on_after": anyio.move_on_after}
NAMES = [*ON_ASYNCIO, "wait_for", "trio.fail_after"]


def _batch(name: str, *, nested: bool) -> Batch:
    if name == "wait_for":
        return _cpu(_wait_for, depth=5 if nested else 1)
    return _cpu(_nested if nested else _alone, ON_ASYNCIO.get(name, trio.fail_after))


def _measured(*, nested: bool) -> dict[str, Blocks]:
    samples = empty(NAMES)
    with asyncio.Runner() as runner:
        for block, _, name in turns(NAMES, BATCHES):
            batch = _batch(name, nested=nested)
            cost = trio.run(batch) if name.startswith("trio") else runner.run(batch())
            samples[name][block].append(cost)
    return samples


async def _held(scope: Scope | None, wake: asyncio.Event) -> None:
    if scope is None:
        await wake.wait()
    elif hasattr(limit := scope(SECONDS), "__aenter__"):
        async with limit:
            await wake.wait()
    else:
        with limit:
            await wake.wait()


async def _memory(scope: Scope | None) -> int:
    """Bytes that a thousand tasks hold, each with one open scope or with none."""
    wake = asyncio.Event()
    gc.collect()
    tracemalloc.start()
    async with asyncio.TaskGroup() as group:
        for _ in range(TASKS):
            group.create_task(_held(scope, wake))
        await asyncio.sleep(0)  # each has had its first turn after this
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        wake.set()
    return size


def _bytes_each(scope: Scope) -> float:
    asyncio.run(_memory(scope))  # caches
    return (asyncio.run(_memory(scope)) - asyncio.run(_memory(None))) / TASKS


def main() -> None:
    """Measure alone, nested, and open."""
    alone, nested = _measured(nested=False), _measured(nested=True)
    result = Result("scope_cost", "ns", DISTRIBUTIONS)
    rows = [
        [
            name,
            f"{quantile(joined(alone[name]), 0.5):.0f}",
            spread(alone[name]),
            f"{quantile(joined(nested[name]), 0.5):.0f}",
            spread(nested[name]),
            f"{_bytes_each(ON_ASYNCIO[name]):.0f}" if name in ON_ASYNCIO else "",
        ]
        for name in NAMES
    ]
    columns = ("", "alone, ns", "blocks", "five nested, ns", "blocks", "open, bytes")
    result.tables.append(Table("CPU of a scope that is left in time; memory of an open one", columns, rows))
    for label, samples in (("alone", alone), ("five nested", nested)):
        values = ratios(samples[OURS], samples["anyio.fail_after"])
        result.criteria.append(Criterion(f"{label}: deadline / anyio.fail_after", values, 1.0))

    def draw(axes: Any) -> None:
        for axis, samples, title in zip(axes, (alone, nested), ("alone", "five nested"), strict=True):
            names = list(reversed(NAMES))
            middles = [quantile(joined(samples[name]), 0.5) / 1e3 for name in names]
            axis.barh(names, middles, color=[colour(name) for name in names])
            axis.set(xlabel="CPU of entry and exit, µs", title=title)

    result.publish(draw, panels=2)


if __name__ == "__main__":
    main()

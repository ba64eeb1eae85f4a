"""How long it takes to cut 1 to 10,000 sleeping tasks: from the instant to the first line of the `except`.

The tasks are children of a task group inside of the scope: asyncio's own under `deadline` and under
`asyncio.timeout`, anyio's under `deadline` and under `anyio.fail_after`. The time includes the lateness of
the cut itself, the delivery to every child, and the end of the group.

The instant lies far enough away for every task to be asleep by then, which is checked: a run where one
was not counts for nothing and is repeated with twice the time.
"""

from __future__ import annotations

import asyncio
import gc
import random
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from _harness import Blocks, Criterion, Result, Table, colour, empty, quantile, ratios, spread, turns
from _scopes import expire

from deadline import deadline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Sleepers = Callable[[int, float], Awaitable[None]]

COUNTS = {1: 20, 10: 20, 100: 5, 1_000: 2, 10_000: 1}
"""How many tasks, and the runs of each in a block."""

LONG = 3600.0
SLACK = 0.02
"""Seconds from when all are asleep to the instant, at least."""


class StillStartingError(Exception):
    """The instant was too near."""


async def _asyncio_sleepers(count: int, latest: float) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(asyncio.sleep(LONG))
        await asyncio.sleep(0)  # each has had its first turn after this
        if monotonic() > latest:
            raise StillStartingError


async def _anyio_sleepers(count: int, latest: float) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(anyio.sleep, LONG)
        await anyio.lowlevel.checkpoint()
        if monotonic() > latest:
            raise StillStartingError


ENTRANTS: dict[str, tuple[Any, Sleepers]] = {
    "deadline, asyncio's group": (deadline, _asyncio_sleepers),
    "asyncio.timeout": (asyncio.timeout, _asyncio_sleepers),
    "deadline, anyio's group": (deadline, _anyio_sleepers),
    "anyio.fail_after": (anyio.fail_after, _anyio_sleepers),
}


async def _cut(name: str, count: int) -> float:
    scope, sleepers = ENTRANTS[name]
    seconds = SLACK + count * 30e-6
    while True:
        gc.collect()
        fraction = random.uniform(0, 0.001)  # of a millisecond: epoll rounds it up
        latest = monotonic() + seconds - SLACK / 2
        try:
            return await expire(scope, seconds + fraction, lambda: sleepers(count, latest))  # noqa: B023
        except* StillStartingError:
            pass
        seconds *= 2


def _measured() -> dict[int, dict[str, Blocks]]:
    samples = {count: empty(list(ENTRANTS)) for count in COUNTS}
    with asyncio.Runner() as runner:
        for count, runs in COUNTS.items():
            for block, _, name in turns(list(ENTRANTS), runs):
                samples[count][name][block].append(runner.run(_cut(name, count)) * 1e3)
    return samples


def _table(samples: dict[int, dict[str, Blocks]]) -> Table:
    rows = [
        [
            name,
            *(
                f"{quantile([quantile(block, 0.5) for block in samples[count][name]], 0.5):.3g}"
                for count in COUNTS
            ),
            spread(samples[max(COUNTS)][name]),
        ]
        for name in ENTRANTS
    ]
    columns = ("", *(f"{count:,}" for count in COUNTS), f"blocks at {max(COUNTS):,}")
    return Table("ms from the instant until all sleeping tasks have ended", columns, rows)


def main() -> None:
    """Measure with each number of tasks."""
    samples = _measured()
    most = samples[max(COUNTS)]
    result = Result("fan_out", "ms", ("anyio",), [_table(samples)])
    result.criteria = [
        Criterion(
            f"{max(COUNTS):,} tasks of asyncio's group: deadline / asyncio.timeout",
            ratios(most["deadline, asyncio's group"], most["asyncio.timeout"]),
            1.2,
        ),
        Criterion(
            f"{max(COUNTS):,} tasks of anyio's group: deadline / anyio.fail_after",
            ratios(most["deadline, anyio's group"], most["anyio.fail_after"]),
            1.1,
        ),
    ]

    def draw(axes: Any) -> None:
        for name in ENTRANTS:
            middles = [quantile([quantile(block, 0.5) for block in samples[n][name]], 0.5) for n in COUNTS]
            style = "--" if "anyio" in name else "-"
            axes[0].plot(list(COUNTS), middles, style, marker="o", color=colour(name), label=name)
        axes[0].set(
            xscale="log",
            yscale="log",
            xlabel="sleeping tasks",
            ylabel="ms after the instant",
            title="Until all tasks have ended",
        )
        axes[0].legend(frameon=False)

    result.publish(draw, height=3.6)


if __name__ == "__main__":
    main()

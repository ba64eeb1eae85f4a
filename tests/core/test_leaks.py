"""Ten thousand expiries in one process leave nothing behind: a Lambda environment lives for hours."""

from __future__ import annotations

import asyncio
import gc
import os
import tracemalloc
import weakref
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from deadline import DeadlineExceeded, deadline, step
from deadline._core.timer import clock_of
from deadline._report.tasks import calls

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

EXPIRIES = 10_000
HOSTS = 250
TINY = 0.0002


async def plain() -> None:
    async with deadline(TINY, name="plain"):
        await asyncio.sleep(9)


async def nested() -> None:
    async with deadline(TINY), deadline(5), deadline(TINY):
        with step("waiting"):
            await asyncio.sleep(9)


async def with_children() -> None:
    async with deadline(TINY), asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(9))
        group.create_task(asyncio.sleep(9))


async def with_anyio_children() -> None:
    async with deadline(TINY), anyio.create_task_group() as group:
        group.start_soon(asyncio.sleep, 9)


async def reporting() -> None:
    try:
        async with deadline(TINY, margin=0):
            await asyncio.gather(asyncio.sleep(9), asyncio.sleep(9))
    except DeadlineExceeded as exceeded:
        exceeded.report.to_json()
        raise


async def not_started() -> None:
    async with deadline(0):
        pytest.fail("the body ran")


KINDS = [plain, nested, with_children, with_anyio_children, reporting, not_started]


async def expire(count: int) -> int:
    """Let so many deadlines expire, some hundreds at a time."""
    expired = 0
    for batch in range(0, count, HOSTS):
        works = (KINDS[(batch + number) % len(KINDS)]() for number in range(min(HOSTS, count - batch)))
        errors = await asyncio.gather(*works, return_exceptions=True)
        expired += sum(type(error) is DeadlineExceeded for error in errors)
    return expired


def left() -> dict[str, int]:
    """What there is of everything that could pile up."""
    loop: Any = asyncio.get_running_loop()
    gc.collect()
    return {
        "tasks": len(asyncio.all_tasks()),
        "timers": sum(not timer.cancelled() for timer in loop._scheduled),
        "spinner's heap": len(clock_of(loop)._heap),
        "calls": len(calls),
        "descriptors": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,  # noqa: PTH112, PTH208
    }


def test_ten_thousand_expiries_leave_nothing() -> None:
    """No tasks, timers or descriptors more than before, and less than a megabyte of memory."""

    async def main() -> tuple[dict[str, int], dict[str, int], int, int]:
        await expire(1000)  # caches fill
        before = left()
        tracemalloc.start()
        try:
            memory, _ = tracemalloc.get_traced_memory()
            expired = await expire(EXPIRIES)
            await asyncio.sleep(0)
            after = left()
            memory = tracemalloc.get_traced_memory()[0] - memory
        finally:
            tracemalloc.stop()
        return before, after, expired, memory

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        before, after, expired, memory = runner.run(main())
    assert expired == EXPIRIES
    assert after == before
    assert memory < 1_000_000


class Big:
    """Something of the user's that must not live on."""


@pytest.mark.parametrize("kind", ["sleep", "gather", "not started"])
def test_big_objects_live_no_longer_than_the_error(kind: str) -> None:
    """What a block held is freed with its error, without the garbage collector; a kept error keeps it."""
    kept: list[DeadlineExceeded] = []

    async def work() -> weakref.ref[Big]:
        big = Big()
        seen = weakref.ref(big)
        try:
            async with deadline(0 if kind == "not started" else 0.001):
                if kind == "gather":
                    await asyncio.gather(asyncio.sleep(9), asyncio.sleep(9))
                else:
                    await asyncio.sleep(9)
        except DeadlineExceeded as exceeded:
            kept.append(exceeded)
        return seen

    async def main() -> None:
        seen = await asyncio.create_task(work())
        await asyncio.sleep(0)
        assert seen() is not None  # the traceback has the frame
        kept.clear()
        assert seen() is None

    _without_collector(main)


def test_a_bare_task_keeps_nothing_of_the_block_it_outlives() -> None:
    """A task that goes on keeps the deadline's numbers in its context, not the task that entered it."""

    async def work(bare: list[asyncio.Task[None]]) -> Big:
        with pytest.raises(DeadlineExceeded):
            async with deadline(0.001):
                bare.append(asyncio.create_task(asyncio.sleep(0.05)))
                await asyncio.sleep(9)
        return Big()

    async def main() -> None:
        bare: list[asyncio.Task[None]] = []
        seen = weakref.ref(await asyncio.create_task(work(bare)))
        await asyncio.sleep(0)
        assert seen() is None
        assert not bare[0].done()
        await bare[0]

    _without_collector(main)


def test_a_loop_is_freed_with_its_deadlines() -> None:
    """The clock kept on a loop does not keep the loop: closed and forgotten, it is collected."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(_swallow())
        seen = weakref.ref(runner.get_loop())
    del runner
    gc.collect()
    assert seen() is None


async def _swallow() -> None:
    with pytest.raises(DeadlineExceeded):
        await plain()


def _without_collector(main: Callable[[], Any]) -> None:
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(main())
    finally:
        gc.enable()

"""The report names what a thread does that a task waits for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest

from deadline import DeadlineExceeded, deadline, remaining

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from deadline import Report


@pytest.fixture
async def gate() -> AsyncIterator[threading.Event]:
    """What hangs goes on when the test is over, before its loop waits for the threads."""
    gate = threading.Event()
    yield gate
    gate.set()


def hard(gate: threading.Event) -> None:
    gate.wait(60)


LINE = hard.__code__.co_firstlineno + 1


async def cut(work: Callable[[], Awaitable[Any]]) -> Report:
    """The report of a block that waits for `work` until it is cut."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.3):
            await work()
    return caught.value.report


def in_thread(gate: threading.Event) -> Awaitable[None]:
    return asyncio.to_thread(hard, gate)


def in_thread_of_anyio(gate: threading.Event) -> Awaitable[None]:
    return anyio.to_thread.run_sync(hard, gate, abandon_on_cancel=True)


def in_executor(gate: threading.Event) -> Awaitable[None]:
    return asyncio.get_running_loop().run_in_executor(None, hard, gate)


def in_own_executor(gate: threading.Event) -> Awaitable[None]:
    pool = ThreadPoolExecutor(1)
    future = asyncio.get_running_loop().run_in_executor(pool, hard, gate)
    pool.shutdown(wait=False)
    return future


@pytest.mark.parametrize(
    "work",
    [
        in_thread,
        in_thread_of_anyio,
        in_executor,
        in_own_executor,
    ],
    ids=["to_thread", "anyio", "run_in_executor", "its own pool"],
)
async def test_the_function_in_the_thread_is_named_with_its_line(gate: threading.Event, work: Any) -> None:
    """Behind what awaits it, in the report and where it is rendered."""
    report = await cut(lambda: work(gate))
    (host,) = report.tasks
    links = [(link.function, link.line) for link in host.awaiting]
    assert ("hard", LINE) in links
    assert links[-1][0] == "Condition.wait"
    assert f"tests/report/test_threads.py:{LINE}" in report.render()


async def test_of_several_threads_each_task_names_its_own(gate: threading.Event) -> None:
    """Tasks that wait for threads at once are told apart."""

    def other() -> None:
        hard(gate)

    report = await cut(lambda: asyncio.gather(asyncio.to_thread(hard, gate), asyncio.to_thread(other)))
    named = [[link.function.rpartition(".")[2] for link in task.awaiting][:2] for task in report.tasks]
    assert sorted(named[1:]) == [["to_thread", "hard"], ["to_thread", "other"]]


async def test_a_function_in_c_has_a_module_and_no_line() -> None:
    """It has no frame; the report is as plain as ever."""
    report = await cut(lambda: asyncio.to_thread(time.sleep, 1.0))
    (host,) = report.tasks
    assert host.awaiting[-1] == ("sleep", "time", 0)
    assert str(host.awaiting[-1]) == "sleep (time)"
    assert '"time", 0' not in report.render()
    assert report.to_dict()["tasks"][0]["awaiting"][-1] == {"function": "sleep", "file": "time", "line": 0}


async def test_a_thread_of_a_task_left_running_is_named(gate: threading.Event) -> None:
    """A bare task that goes on shows its thread, too."""
    tasks: list[asyncio.Task[None]] = []

    async def start() -> None:
        tasks.append(asyncio.create_task(asyncio.to_thread(hard, gate)))
        await asyncio.sleep(60)

    (left,) = (await cut(start)).left_running
    assert [link.function for link in left.awaiting][:2] == ["to_thread", "hard"]
    gate.set()
    await tasks[0]


async def test_work_that_waits_for_a_thread_shows_none(gate: threading.Event) -> None:
    """Nothing is told of a thread that there is not."""
    pool = ThreadPoolExecutor(1)
    loop = asyncio.get_running_loop()
    first = loop.run_in_executor(pool, gate.wait)
    report = await cut(lambda: loop.run_in_executor(pool, hard, gate))
    assert "hard" not in [link.function for link in report.tasks[0].awaiting]
    gate.set()
    await first
    pool.shutdown()


async def test_a_deep_recursion_in_a_thread_is_cut_short(gate: threading.Event) -> None:
    """Fifty frames, the outermost ones."""

    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        else:
            hard(gate)

    report = await cut(lambda: asyncio.to_thread(deep, 200))
    in_thread = report.tasks[0].awaiting[-50:]
    assert {link.function.rpartition(".")[2] for link in in_thread} == {"deep"}


def test_what_is_left_is_known_to_a_loop_in_a_thread() -> None:
    """A scope of its own over `remaining()` ends there when the outer one does."""

    async def inner() -> str:
        async with deadline(None, name="longer"):
            left = remaining()
            assert 0 < left <= 0.5
            try:
                async with deadline(left, name="what is left"):
                    await asyncio.sleep(60)
            except DeadlineExceeded as exceeded:
                assert exceeded.deadline is not None
                assert remaining() == 0.0
                return f"{exceeded.deadline.name} is over"
        return "never"

    async def main() -> list[str]:
        said: list[str] = []
        with contextlib.suppress(DeadlineExceeded):
            async with deadline(0.5, name="outer"):
                said.append(await anyio.to_thread.run_sync(asyncio.run, inner()))
        return said

    assert asyncio.run(main()) == ["what is left is over"]

"""Virtual time for asyncio."""

import asyncio
import concurrent.futures
import socket
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import anyio
import pytest

from deadline.testing import VirtualClock, VirtualLoop

T = TypeVar("T")


@pytest.fixture
async def late_fixture(virtual_clock: VirtualClock) -> AsyncIterator[float]:
    await asyncio.sleep(10)
    yield virtual_clock.time()
    await asyncio.sleep(10)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


async def test_time_starts_at_zero(virtual_clock: VirtualClock) -> None:
    """A test begins at virtual time 0.0."""
    assert virtual_clock.time() == 0.0


async def test_sleeping_moves_the_clock_exactly(virtual_clock: VirtualClock) -> None:
    """Sums of sleeps come out as float arithmetic says, without drift."""
    expected = 0.0
    for seconds in (0.1, 0.2, 0.7, 1e-9, 3600.0, 0.1, 1 / 3):
        await asyncio.sleep(seconds)
        expected += seconds
        assert virtual_clock.time() == expected


async def test_timers_fire_at_their_own_instants(virtual_clock: VirtualClock) -> None:
    """Each timer sees exactly its own instant, however close to its neighbour."""
    loop = asyncio.get_running_loop()
    seen: list[float] = []
    instants = [1.0, 1.0000000000000002, 1.0000000001, 1.5, 86400.0, 1e9, 1e9 + 1e-6]
    for when in reversed(instants):
        loop.call_at(when, lambda: seen.append(virtual_clock.time()))
    await asyncio.sleep(2e9)
    assert seen == instants


async def test_a_century_passes_at_once(virtual_clock: VirtualClock) -> None:
    """Instants so far off that a float cannot tell nanoseconds are reached all the same."""
    century = 100 * 365.25 * 86400
    started = time.monotonic()
    await asyncio.sleep(century)
    await asyncio.sleep(0.5)
    assert virtual_clock.time() == century + 0.5
    assert time.monotonic() - started < 5


async def test_concurrent_tasks_interleave_by_instant(virtual_clock: VirtualClock) -> None:
    """Tasks wake in the order of their instants, as they would in real time."""
    order: list[tuple[str, float]] = []

    async def tick(name: str, every: float, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(every)
            order.append((name, virtual_clock.time()))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(tick("slow", 2.0, 2))
        tasks.create_task(tick("fast", 1.5, 2))
    assert order == [("fast", 1.5), ("slow", 2.0), ("fast", 3.0), ("slow", 4.0)]


async def test_time_stands_still_while_callbacks_are_ready(virtual_clock: VirtualClock) -> None:
    """Going round the loop takes no virtual time."""
    asyncio.get_running_loop().call_later(1, lambda: None)
    for _ in range(100):
        await asyncio.sleep(0)
    assert virtual_clock.time() == 0.0


async def test_spinning_round_the_loop_ends(virtual_clock: VirtualClock) -> None:
    """Code that comes round the loop until a timer has fired gets there, at the timer's exact instant."""
    rung: list[float] = []
    asyncio.get_running_loop().call_later(0.1, lambda: rung.append(virtual_clock.time()))
    while not rung:
        await asyncio.sleep(0)
    assert rung == [0.1]


async def test_timeouts_fire_at_their_instant(virtual_clock: VirtualClock) -> None:
    """Timeouts of asyncio and anyio obey the virtual clock."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(30):
            await asyncio.sleep(60)
    assert virtual_clock.time() == 30.0
    with anyio.move_on_after(12.5) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert virtual_clock.time() == 42.5


async def test_cancelled_timers_are_leapt_over(virtual_clock: VirtualClock) -> None:
    """A timer that was cancelled does not stop the clock on its way."""
    loop = asyncio.get_running_loop()
    for seconds in range(1, 500):
        loop.call_later(seconds / 1000, lambda: None).cancel()
    await asyncio.sleep(7)
    assert virtual_clock.time() == 7.0


async def test_fixtures_share_the_clock_of_their_test(
    late_fixture: float, virtual_clock: VirtualClock
) -> None:
    """An async fixture that asks for the clock runs on it, before and after the test."""
    assert late_fixture == virtual_clock.time() == 10.0


async def test_a_ready_socket_comes_before_the_next_timer(virtual_clock: VirtualClock) -> None:
    """What can be read already is read before the clock moves."""
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)  # noqa: FBT003  # its only form
        right.send(b"here")
        async with asyncio.timeout(0.001):
            assert await asyncio.get_running_loop().sock_recv(left, 10) == b"here"
    assert virtual_clock.time() == 0.0


async def test_a_thread_wakes_a_loop_without_timers(virtual_clock: VirtualClock) -> None:
    """With no timer set, the loop waits for a worker thread in real time."""
    gate = threading.Event()
    working = asyncio.get_running_loop().run_in_executor(None, gate.wait, 30)
    threading.Timer(0.02, gate.set).start()
    assert await working
    assert virtual_clock.time() == 0.0


async def test_an_infinite_timer_is_no_timer(virtual_clock: VirtualClock) -> None:
    """The clock never leaps to infinity: the loop waits for a thread instead."""
    loop = asyncio.get_running_loop()
    never = loop.call_at(float("inf"), lambda: None)
    woken = asyncio.Event()
    threading.Timer(0.02, loop.call_soon_threadsafe, (woken.set,)).start()
    await woken.wait()
    assert virtual_clock.time() == 0.0
    never.cancel()


def test_closing_waits_for_busy_threads() -> None:
    """The loop's end joins its executor in real time, without a warning that it took too long."""
    gate = threading.Event()
    done: concurrent.futures.Future[None] = concurrent.futures.Future()

    def work() -> None:
        gate.wait(30)
        done.set_result(None)

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, work)
        threading.Timer(0.05, gate.set).start()

    run_virtual(main())
    assert done.done()


def test_a_deadlock_is_an_error() -> None:
    """With nothing ready, no timer, no socket and no thread, the loop raises and names who waits."""
    loop = VirtualLoop()
    quiet = asyncio.Event()

    async def main() -> None:
        await asyncio.sleep(2.5)
        await quiet.wait()

    # Threads of other tests could wake a loop for all it knows; here there shall be none.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("threading.active_count", lambda: 1)
        task = loop.create_task(main(), name="the-waiter")
        with pytest.raises(RuntimeError, match=r"deadlock at virtual time 2\.5: .*waiting: the-waiter"):
            loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


def test_each_loop_has_its_own_clock() -> None:
    """A second loop starts at zero again, whatever the first one did."""

    async def main() -> float:
        await asyncio.sleep(5)
        return VirtualClock().time()

    assert run_virtual(main()) == 5.0
    assert run_virtual(main()) == 5.0


def test_the_loop_reads_as_having_a_clock_of_its_own() -> None:
    """Code that asks whether a loop keeps real time can tell that this one does not."""
    assert VirtualLoop.time is not asyncio.BaseEventLoop.time


def test_the_clock_needs_a_virtual_loop() -> None:
    """Reading virtual time on a real loop, or on none, says what to do instead."""

    async def main() -> None:
        VirtualClock().time()

    with pytest.raises(RuntimeError, match=r"asyncio\.Runner\(loop_factory=VirtualLoop\)"):
        VirtualClock().time()
    with pytest.raises(RuntimeError, match=r"needs a running VirtualLoop, not <.*EventLoop"):
        asyncio.run(main())

"""What an invocation leaves behind in the process takes nothing from the next ones."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from deadline import DeadlineExceeded, aws
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from deadline import Event

pytestmark = pytest.mark.usefixtures("own_environment")

PLACES = min(32, (os.cpu_count() or 1) + 4)
"""Threads of a default executor."""


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hangs goes on when the test is over."""
    gate = threading.Event()
    yield gate
    gate.set()


def left_threads(told: list[Event]) -> list[Event]:
    return [event for event in told if event.name == "aws.left_threads"]


# --- threads ----------------------------------------------------------------------------------------------


def test_threads_that_hang_take_no_place_from_later_invocations(
    gate: threading.Event, told: list[Event]
) -> None:
    """After as many hung threads as there are places, the next invocation has a thread at once."""

    def hard(seconds: float) -> str:
        gate.wait(seconds)
        return "shrunk"

    @aws.handler(margin=0.4)
    async def f(event: float, context: Any) -> str:
        return await asyncio.to_thread(hard, event)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: float, context: Any) -> str:
        (host,) = exceeded.report.tasks
        assert "hard" in [link.function.rpartition(".")[2] for link in host.awaiting]
        return "cut"

    for _n in range(PLACES):
        assert f(60, FakeContext(0.7)) == "cut"
    assert f(0, FakeContext(30.0)) == "shrunk"
    events = left_threads(told)
    assert len(events) == PLACES
    assert events[0].level == logging.WARNING
    assert events[0].fields["function"] == "f"
    line = hard.__code__.co_firstlineno + 1
    threads = events[0].fields["threads"]
    assert "hard (" in threads
    assert threads.endswith(f"tests/aws/runtime/test_whole_environment.py:{line})")


def test_name_look_ups_find_a_thread(gate: threading.Event) -> None:
    """The loop's own use of its default executor works after threads that hang."""

    @aws.handler(margin=0.4)
    async def f(event: str, context: Any) -> Any:
        if event == "hang":
            await asyncio.gather(*(asyncio.to_thread(gate.wait) for _ in range(PLACES + 2)))
        return await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: str, context: Any) -> None:
        return None

    assert f("hang", FakeContext(0.7)) is None
    assert f("look up", FakeContext(30.0))


def test_many_threads_are_named_shortly(gate: threading.Event, told: list[Event]) -> None:
    """Five of them and how many more; what had no thread yet is taken back and not named."""
    begun: list[int] = []

    def hang(number: int) -> None:
        begun.append(number)
        gate.wait()

    @aws.handler
    async def f(event: Any, context: Any) -> None:
        await asyncio.gather(*(asyncio.to_thread(hang, number) for number in range(PLACES + 3)))

    with pytest.raises(DeadlineExceeded):
        f({}, FakeContext(0.8))
    (event,) = left_threads(told)
    assert event.fields["threads"].count("hang (") == min(5, PLACES)
    assert event.fields["threads"].endswith(f" and {PLACES - 5} more") == (PLACES > 5)
    gate.set()
    assert len(begun) == PLACES


def test_a_function_in_c_is_named_without_a_line(told: list[Event]) -> None:
    """It has no frame."""

    @aws.handler
    async def f(event: Any, context: Any) -> None:
        await asyncio.to_thread(time.sleep, 2.0)

    with pytest.raises(DeadlineExceeded):
        f({}, FakeContext(0.6))
    (event,) = left_threads(told)
    assert event.fields["threads"] == "sleep (time)"


def test_threads_that_ended_are_nothing_to_tell_of(told: list[Event]) -> None:
    """The executor stays as it is, and its threads are used again."""

    @aws.handler
    async def f(event: Any, context: Any) -> int:
        return await asyncio.to_thread(threading.get_ident)

    assert f({}, FakeContext(30.0)) == f({}, FakeContext(30.0))
    assert told == []


def test_a_thread_left_by_a_success_is_named(gate: threading.Event, told: list[Event]) -> None:
    """Nobody has to be cut for it."""

    @aws.handler
    async def f(event: Any, context: Any) -> str:
        asyncio.get_running_loop().run_in_executor(None, gate.wait)
        return "done"

    assert f({}, FakeContext(30.0)) == "done"
    (event,) = left_threads(told)
    assert event.fields["threads"].startswith("Event.wait (threading.py:")


def test_threads_of_the_lifespan_are_its_own(gate: threading.Event, told: list[Event]) -> None:
    """What a lifespan has given to a thread is not left by the invocation that entered it."""

    @asynccontextmanager
    async def resources() -> AsyncIterator[str]:
        waiting = asyncio.get_running_loop().run_in_executor(None, gate.wait)
        yield "open"
        await waiting

    @aws.handler(lifespan=resources)
    async def f(event: Any, context: Any, given: str) -> str:
        return given

    assert f({}, FakeContext(30.0)) == f({}, FakeContext(30.0)) == "open"
    assert told == []
    gate.set()


def test_an_executor_of_the_user_s_own_stays(gate: threading.Event) -> None:
    """Whoever sets a default executor keeps it, with its number of threads."""
    own = ThreadPoolExecutor(1, thread_name_prefix="own")

    @aws.handler
    async def f(event: str, context: Any) -> str:
        asyncio.get_running_loop().set_default_executor(own)
        if event == "hang":
            await asyncio.to_thread(gate.wait)
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    with pytest.raises(DeadlineExceeded):
        f("hang", FakeContext(0.6))
    gate.set()
    assert f("name", FakeContext(30.0)).startswith("own")
    own.shutdown()


# --- loops ------------------------------------------------------------------------------------------------


def test_a_lock_of_a_former_loop_says_why(told: list[Event]) -> None:
    """The error of what belongs to a former loop names the invocation that cost it, and the fix."""
    lock = asyncio.Lock()

    @aws.handler(recycle=True, margin=0.2)
    async def f(event: str, context: Any) -> str:
        if event == "block":
            time.sleep(60)  # noqa: ASYNC251  # it is to block

        async def work() -> None:
            async with lock:
                await asyncio.sleep(0)

        if event == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(work())
                group.create_task(work())
        else:
            await asyncio.gather(work(), work())
        return "done"

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: str, context: Any) -> str:
        return "cut"

    assert f("work", FakeContext(30.0)) == "done"
    context = FakeContext(0.4)
    assert f("block", context) == "cut"
    (replaced,) = [event for event in told if event.name == "aws.loop_replaced"]
    assert replaced.fields == {"function": "f", "reason": "was interrupted (recycle=True)"}
    for how in ("work", "group"):
        with pytest.raises(Exception) as caught:  # noqa: PT011  # a group has its members in its message
            f(how, FakeContext(30.0))
        assert "is bound to a different event loop" in str(caught.value)
        request = context.aws_request_id
        assert f"since request {request} of f was interrupted (recycle=True)" in str(caught.value)
        assert "make it in the lifespan" in str(caught.value)


def test_a_lock_of_a_foreign_loop_is_left_alone() -> None:
    """Where no loop was replaced there is nothing to explain."""
    lock = asyncio.Lock()

    async def contend() -> None:
        await lock.acquire()
        waiting = asyncio.ensure_future(lock.acquire())
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(contend())

    @aws.handler
    async def f(event: Any, context: Any) -> None:
        await lock.acquire()

    with pytest.raises(RuntimeError, match="is bound to a different event loop") as caught:
        f({}, FakeContext(30.0))
    assert "former one" not in str(caught.value)


def test_warm_invocations_share_locks() -> None:
    """Locks, semaphores and queues at module level work while the loop stays."""
    lock, semaphore, queue = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Queue[int]()

    @aws.handler
    async def f(event: Any, context: Any) -> list[int]:
        async def work(number: int) -> None:
            async with semaphore, lock:
                await asyncio.sleep(0)
                await queue.put(number)

        await asyncio.gather(*map(work, range(4)))
        return [await queue.get() for _ in range(4)]

    assert all(f({}, FakeContext(30.0)) == [0, 1, 2, 3] for _ in range(30))


# --- the loop and the signals -----------------------------------------------------------------------------


def test_a_body_that_stops_the_loop_is_run_on(told: list[Event]) -> None:
    """It ends in its own invocation, and nothing of it goes on in the next."""
    went_on: list[str] = []

    @aws.handler(margin=0.3)
    async def f(event: str, context: Any) -> str:
        if event == "stop":
            asyncio.get_running_loop().stop()
            await asyncio.sleep(0.01)
            went_on.append(event)
        return f"answer to {event}"

    assert f("stop", FakeContext(10.0)) == "answer to stop"
    assert went_on == ["stop"]
    assert f("next", FakeContext(10.0)) == "answer to next"
    assert "aws.loop_replaced" not in [event.name for event in told]


def test_a_body_that_stops_the_loop_and_hangs_is_mitigated() -> None:
    """As any other that hangs."""

    @aws.handler(margin=0.3)
    async def f(event: str, context: Any) -> str:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(60)
        return "never"

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: str, context: Any) -> str:
        return "mitigated"

    assert f("stop", FakeContext(0.5)) == "mitigated"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_cannot_run_is_replaced(told: list[Event]) -> None:
    """Its selector was closed, as `os.closerange` does: that invocation fails, and the next one is right."""

    @aws.handler
    async def f(event: str, context: Any) -> str:
        if event == "close":
            os.close(asyncio.get_running_loop()._selector.fileno())  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)
        return "answer"

    assert f("", FakeContext(2.0)) == "answer"
    with pytest.raises(OSError):  # noqa: PT011  # of the system
        f("close", FakeContext(2.0))
    assert [f("", FakeContext(2.0)) for _ in range(2)] == ["answer", "answer"]
    (replaced,) = [event for event in told if event.name == "aws.loop_replaced"]
    assert replaced.fields["reason"] == "left an event loop that cannot run"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)  # nothing rings for what is on it


@pytest.mark.parametrize("kind", ["an async def", "a plain function"])
def test_signals_that_an_invocation_leaves_blocked_are_unblocked(kind: str, told: list[Event]) -> None:
    """With SIGALRM blocked no later invocation would be interrupted."""

    def work(event: str) -> str:
        if event == "block":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            return "early"
        time.sleep(60)
        return "late"

    f: Any
    if kind == "an async def":

        @aws.handler(margin=0.5)
        async def f(event: str, context: Any) -> str:
            return work(event)
    else:

        @aws.handler(margin=0.5)
        def f(event: str, context: Any) -> str:
            return work(event)

    try:
        assert f("block", FakeContext(1.0)) == "early"
        with pytest.raises(DeadlineExceeded):
            f("", FakeContext(0.6))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    (unblocked,) = [event for event in told if event.name == "aws.signals_unblocked"]
    assert unblocked.fields["signals"] == "SIGALRM"

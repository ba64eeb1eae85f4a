"""What a deadline withstands: cancellations, groups, generators and foreign timeouts in the worst order."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import math
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from deadline import Deadline, DeadlineExceeded, current, deadline, remaining, step
from deadline._core.cut import PATIENCE, TIE
from deadline.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

pytestmark = pytest.mark.usefixtures("virtual_clock")


def now() -> float:
    return asyncio.get_running_loop().time()


def me() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def timers() -> list[asyncio.TimerHandle]:
    """The loop's timers that are still to fire."""
    scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return [timer for timer in scheduled if not timer.cancelled()]


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """After each test: no deadline in force, nothing counted, no timer, no task, no error in the loop."""
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    before = asyncio.all_tasks()
    yield
    assert_clean()
    assert asyncio.all_tasks() - {me()} <= before
    assert errors == []


def assert_clean() -> None:
    """Nothing of a deadline is left in this task and on this loop."""
    assert current() is None
    assert remaining() == math.inf
    assert me().cancelling() == 0
    assert anyio.current_effective_deadline() == math.inf
    assert timers() == []


# --- a cancellation from outside --------------------------------------------------------------------------


LAST_TURN = 40


class Program:
    """Some of everything, with its turns of the loop counted."""

    def __init__(self) -> None:
        self.outer: Deadline | None = None
        self.turn = 0
        self.turning = True
        self.left: list[object] = []
        self.state: tuple[object, ...] = ()

    async def _turns(self, count: int) -> None:
        for _ in range(count):
            self.turn += 1
            await asyncio.sleep(0)

    async def _child(self) -> None:
        try:
            await self._turns(3)
        finally:
            with anyio.CancelScope(shield=True):
                await self._turns(2)

    async def _generate(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(2):
                await self._turns(1)
                yield number
        finally:
            await self._turns(1)

    async def __call__(self) -> str:
        try:
            async with deadline(5.0, name="outer") as self.outer:
                await self._turns(2)
                async with deadline(10.0, name="inner"), contextlib.aclosing(self._generate()) as numbers:
                    async for _ in numbers:
                        await self._turns(1)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._child())
                    await self._turns(1)
                async with anyio.create_task_group() as other:
                    other.start_soon(self._child)
                    await self._turns(1)
                await asyncio.gather(self._child(), self._child())
                if sys.version_info >= (
                    3,
                    12,
                ):  # before, wait_for itself swallowed some (python/cpython#86296)
                    await asyncio.wait_for(self._child(), 5)
                async with asyncio.timeout(5):
                    await self._turns(2)
                self.turning = False
                await asyncio.sleep(1.0)
                await self._turns(1)
        except BaseException as error:
            self.left.append(type(error))
            raise
        else:
            return "done"
        finally:
            self.state = (current(), remaining(), me().cancelling())

    async def after(self, turns: int, *interruptions: str) -> asyncio.Task[str]:
        """Run it in a task until it ends, interrupted in one turn of the loop."""
        task = asyncio.create_task(self())
        for _ in range(turns):
            await asyncio.sleep(0)
        for interruption in interruptions:
            if interruption == "cancel":
                task.cancel("from outside")
            elif self.outer is not None:
                self.outer.due()
        await asyncio.wait([task])
        return task


@pytest.mark.parametrize(
    "order", [("cancel",), ("cancel", "cut"), ("cut", "cancel"), ("cancel", "cancel", "cut")]
)
@pytest.mark.parametrize("turns", range(LAST_TURN))
async def test_a_cancel_at_any_await_is_a_cancellation(turns: int, order: tuple[str, ...]) -> None:
    """Wherever in a program a cancellation lands, alone or with the cut, it passes every edge as one."""
    program = Program()
    task = await program.after(turns, *order)
    assert task.cancelled()
    assert task.cancelling() == order.count("cancel")
    assert program.left == ([] if turns == 0 else [asyncio.CancelledError])
    assert turns == 0 or program.state == (None, math.inf, order.count("cancel"))


@pytest.mark.parametrize("turns", range(1, LAST_TURN))
async def test_a_cut_at_any_await_is_exceeded(turns: int) -> None:
    """Wherever in a program the cut lands, the edge raises `DeadlineExceeded`, and no count is left."""
    program = Program()
    task = await program.after(turns, "cut")
    error = task.exception()
    assert isinstance(error, DeadlineExceeded)
    assert error.deadline is program.outer
    assert program.left == [DeadlineExceeded]
    assert program.state == (None, math.inf, 0)


async def test_the_program_above_ends() -> None:
    """The turns above reach the whole program: without a cancellation it ends within them."""
    program = Program()
    task = asyncio.create_task(program())
    turns = 0
    while program.turning:
        await asyncio.sleep(0)
        turns += 1
    assert program.turn > 20
    assert turns < LAST_TURN
    assert await task == "done"
    assert program.state == (None, math.inf, 0)


async def in_native_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(9))


async def in_anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(asyncio.sleep, 9)


async def in_gather() -> None:
    await asyncio.gather(asyncio.sleep(9), asyncio.sleep(9))


async def behind_a_shield() -> None:
    try:
        await asyncio.sleep(9)
    finally:
        with anyio.CancelScope(shield=True):
            for _ in range(4):
                await asyncio.sleep(0)


async def in_sleep() -> None:
    await asyncio.sleep(9)


@pytest.mark.parametrize("shift", range(-3, 12))
@pytest.mark.parametrize("body", [in_sleep, in_gather, in_native_group, in_anyio_group, behind_a_shield])
async def test_a_cancel_in_the_turns_around_the_expiry(
    shift: int, body: Callable[[], Awaitable[None]]
) -> None:
    """Some turns before, in, or after the turn of the expiry: nothing is swallowed, nothing is converted.

    Before the edge is reached it is a cancellation; afterwards the block has raised already.
    """
    edge: list[type[BaseException]] = []

    async def work() -> None:
        try:
            async with deadline(1.0):
                await body()
        except BaseException as error:
            edge.append(type(error))
            raise

    task = asyncio.create_task(work())
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)

    def later(turns: int) -> None:
        if turns:
            loop.call_soon(later, turns - 1)
        else:
            task.cancel()

    # The virtual clock moves on when nothing is ready: turns before the instant are at one before it.
    instant = 1.0 if shift >= 0 else math.nextafter(1.0, 0)
    loop.call_at(instant, later, shift if shift >= 0 else -shift - 1)
    await asyncio.wait([task])
    assert now() == instant
    if shift <= 0:
        assert edge == [asyncio.CancelledError]
    if edge == [asyncio.CancelledError]:
        assert task.cancelled()
        assert task.cancelling() == 1
    else:  # the cancel came when the task was done, and did nothing
        assert edge == [DeadlineExceeded]
        assert isinstance(task.exception(), DeadlineExceeded)
        assert task.cancelling() == 0
    await asyncio.sleep(1)


@pytest.mark.parametrize("instant", [0.5, 1.0])
async def test_two_cancels_in_one_turn(instant: float) -> None:
    """Two cancellations in one turn, with or without the expiry in it, are a cancellation."""

    async def work() -> None:
        async with deadline(1.0):
            await asyncio.sleep(9)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    loop.call_at(instant, task.cancel)
    loop.call_at(instant, task.cancel)
    await asyncio.wait([task])
    assert task.cancelled()
    assert task.cancelling() == 2


async def test_a_cancel_that_was_taken_back_leaves_the_cut() -> None:
    """A cancellation that somebody inside handled and took back does not disturb a later cut."""
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            asyncio.get_running_loop().call_at(0.5, me().cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(9)
            assert me().uncancel() == 0
            await asyncio.sleep(9)
    assert now() == 1.0


async def test_a_cancel_that_was_swallowed_goes_on_at_the_cut() -> None:
    """A cancellation that the body swallowed without taking it back is still counted: the cut is no timeout.

    `asyncio.timeout` does the same.
    """

    async def work(scope: contextlib.AbstractAsyncContextManager[object]) -> None:
        async with scope:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.5)
            await asyncio.sleep(9)

    for scope in (deadline, asyncio.timeout):
        started = now()
        task = asyncio.create_task(work(scope(1.0)))
        await asyncio.sleep(0.25)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert now() - started == 1.0


async def test_a_task_cancelled_before_it_entered() -> None:
    """A task that is cancelled already when it enters is cancelled at its first await; the count stays."""

    async def work() -> None:
        me().cancel()
        async with deadline(1.0):
            await asyncio.sleep(9)

    task = asyncio.create_task(work())
    await asyncio.wait([task])
    assert task.cancelled()
    assert now() == 0.0


async def fails(at: float) -> None:
    await asyncio.sleep(at - now())
    raise KeyError("broken")


@pytest.mark.parametrize("fails_at", [0.5, 1.0])
@pytest.mark.parametrize("kind", ["native", "anyio"])
async def test_a_siblings_failure_inside_the_deadline(fails_at: float, kind: str) -> None:
    """A sibling that fails in time fails the group; in the very turn of the expiry, one of the two raises."""
    with pytest.raises((ExceptionGroup, DeadlineExceeded)) as caught:
        async with deadline(1.0):
            if kind == "native":
                async with asyncio.TaskGroup() as group:
                    group.create_task(fails(fails_at))
                    group.create_task(asyncio.sleep(9))
            else:
                async with anyio.create_task_group() as other:
                    other.start_soon(fails, fails_at)
                    other.start_soon(asyncio.sleep, 9)
    assert now() == fails_at
    if fails_at < 1.0 or isinstance(caught.value, ExceptionGroup):
        assert caught.group_contains(KeyError)
        assert not caught.group_contains(DeadlineExceeded)


@pytest.mark.parametrize("fails_at", [0.5, 1.0])
@pytest.mark.parametrize("kind", ["native", "anyio"])
async def test_a_siblings_failure_beside_the_deadline(fails_at: float, kind: str) -> None:
    """A sibling's failure cancels a block beside it, from outside: the group has that failure.

    In the very turn of the expiry the block may have raised its own beside it.
    """

    async def waits() -> None:
        async with deadline(1.0):
            await asyncio.sleep(9)

    with pytest.raises(ExceptionGroup) as caught:
        if kind == "native":
            async with asyncio.TaskGroup() as group:
                group.create_task(fails(fails_at))
                group.create_task(waits())
        else:
            async with anyio.create_task_group() as other:
                other.start_soon(fails, fails_at)
                other.start_soon(waits)
    assert caught.group_contains(KeyError)
    assert caught.value.split((KeyError, DeadlineExceeded))[1] is None
    assert fails_at == 1.0 or not caught.group_contains(DeadlineExceeded)
    assert now() == fails_at


# --- how a block may be left ------------------------------------------------------------------------------


async def test_return_break_and_continue_leave_the_block() -> None:
    """`return`, `break` and `continue` leave the block and everything of it."""

    async def returns() -> str:
        async with deadline(1.0):
            await asyncio.sleep(0.5)
            return "returned"

    assert await returns() == "returned"
    assert_clean()
    rounds = 0
    for _ in range(3):
        async with deadline(1.0):
            rounds += 1
            await asyncio.sleep(0.1)
            if rounds < 2:
                continue
            break
    assert rounds == 2
    assert_clean()
    await asyncio.sleep(5)


@pytest.mark.parametrize("how", ["return", "break"])
async def test_leaving_from_finally_keeps_the_result(how: str) -> None:
    """A `return` or `break` while unwinding ends the block: its result is kept and `overran` is set."""

    async def returns() -> str:
        async with deadline(1.0):
            try:
                await asyncio.sleep(9)
            except asyncio.CancelledError:
                return "kept"
        return "not reached"

    scopes: list[Deadline] = []
    if how == "return":
        assert await returns() == "kept"
    else:
        while True:
            async with deadline(1.0) as dl:
                scopes.append(dl)
                try:
                    await asyncio.sleep(9)
                except asyncio.CancelledError:
                    break
        assert scopes[0].expired
    assert now() == 1.0
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "kind", [KeyError, asyncio.TimeoutError, KeyboardInterrupt, SystemExit, GeneratorExit]
)
async def test_an_error_in_finally_wins(kind: type[BaseException]) -> None:
    """Whatever is raised while unwinding wins over the cut, with one note."""
    with pytest.raises(kind) as caught:
        async with deadline(1.0):
            try:
                await asyncio.sleep(9)
            finally:
                raise kind
    assert type(caught.value) is kind
    assert len(caught.value.__notes__) == 1


async def test_a_cancellation_raised_by_the_body_itself() -> None:
    """A CancelledError that nobody asked for passes before the instant and is the cut's after it."""
    with pytest.raises(asyncio.CancelledError):
        async with deadline(1.0):
            raise asyncio.CancelledError
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            try:
                await asyncio.sleep(9)
            finally:
                raise asyncio.CancelledError("another")


async def test_cancelling_oneself_after_the_cut_is_from_outside() -> None:
    """A body that cancels its own task while it is being cut is cancelled."""

    async def work() -> None:
        async with deadline(1.0):
            try:
                await asyncio.sleep(9)
            finally:
                me().cancel()

    task = asyncio.create_task(work())
    await asyncio.wait([task])
    assert task.cancelled()


# --- groups, gather, wait, shield -------------------------------------------------------------------------


async def sleeper(ended: list[float]) -> None:
    try:
        await asyncio.sleep(9)
    finally:
        ended.append(now())


@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_gather_is_cut(return_exceptions: bool) -> None:  # noqa: FBT001
    """A cut ends what `gather` gathers, whatever it does with exceptions, and raises at the edge."""
    ended: list[float] = []
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            await asyncio.gather(*(sleeper(ended) for _ in range(3)), return_exceptions=return_exceptions)
    assert ended == [1.0] * 3


@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_gather_of_children_that_swallow(return_exceptions: bool) -> None:  # noqa: FBT001
    """Children that swallow their cancellation do not hide the cut from the edge."""

    async def swallows() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(9)
        return "swallowed"

    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            await asyncio.gather(swallows(), swallows(), return_exceptions=return_exceptions)
    assert now() == 1.0


@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_gather_of_children_with_deadlines(return_exceptions: bool) -> None:  # noqa: FBT001
    """A gathered child's own deadline raises in the child, and `gather` treats it as any error."""
    scopes: list[Deadline] = []

    async def child() -> None:
        async with deadline(1.0) as dl:
            scopes.append(dl)
            await asyncio.sleep(9)

    async with deadline(5.0):
        if return_exceptions:
            results = await asyncio.gather(child(), child(), return_exceptions=True)
            assert [error.deadline for error in results if isinstance(error, DeadlineExceeded)] == scopes
        else:
            with pytest.raises(DeadlineExceeded) as caught:
                await asyncio.gather(child(), child())
            assert caught.value.deadline is scopes[0]
    await asyncio.sleep(1)


async def test_wait_is_cut_and_leaves_its_tasks() -> None:
    """A cut ends `asyncio.wait`; the tasks are bare ones and go on."""
    ended: list[float] = []
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0):
            tasks = [asyncio.create_task(sleeper(ended), name=f"bare {number}") for number in range(2)]
            await asyncio.wait(tasks)
    assert sorted(left.name for left in caught.value.report.left_running) == ["bare 0", "bare 1"]
    assert ended == []
    await asyncio.wait(tasks)
    assert ended == [9.0, 9.0]


@pytest.mark.parametrize("nested", [1, 3])
@pytest.mark.parametrize("kind", ["native", "anyio"])
async def test_task_groups_are_cut(kind: str, nested: int) -> None:
    """A cut ends the groups in the block, however they nest, without an exception group."""
    ended: list[float] = []

    async def level(left: int) -> None:
        if left == 0:
            await sleeper(ended)
        elif kind == "native":
            async with asyncio.TaskGroup() as group:
                group.create_task(level(left - 1))
                group.create_task(level(left - 1))
        else:
            async with anyio.create_task_group() as other:
                other.start_soon(level, left - 1)
                other.start_soon(level, left - 1)

    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0) as dl:
            await level(nested)
    assert caught.value.deadline is dl
    assert ended == [1.0] * 2**nested


@pytest.mark.parametrize("kind", ["native", "anyio"])
async def test_a_childs_own_deadline_leaves_the_group_as_its_error(kind: str) -> None:
    """A child's deadline that nobody handles fails the group; the outer deadline has no part in it."""
    scopes: list[Deadline] = []

    async def child() -> None:
        async with deadline(1.0) as dl:
            scopes.append(dl)
            await asyncio.sleep(9)

    with pytest.raises(ExceptionGroup) as caught:
        async with deadline(5.0):
            if kind == "native":
                async with asyncio.TaskGroup() as group:
                    group.create_task(child())
            else:
                async with anyio.create_task_group() as other:
                    other.start_soon(child)
    (error,) = caught.value.exceptions
    assert isinstance(error, DeadlineExceeded)
    assert error.deadline is scopes[0]
    assert not hasattr(caught.value, "__notes__")


async def test_a_real_error_beside_the_cut_wins_as_the_groups() -> None:
    """A child that answers its cut with an error fails the group: that wins, with the note on the group."""

    async def fails() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            raise KeyError("broken")

    with pytest.raises(ExceptionGroup) as caught:
        async with deadline(1.0), asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(asyncio.sleep(9))
    assert caught.group_contains(KeyError)
    assert "being cut" in caught.value.__notes__[0]


async def test_shield_keeps_its_inside() -> None:
    """`asyncio.shield` is left behind at once; its inside goes on and sees no deadline any more."""
    seen: list[Deadline | None] = []

    async def inside() -> str:
        await asyncio.sleep(2)
        seen.append(current())
        return "kept"

    task = asyncio.create_task(inside())
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            await asyncio.shield(task)
    assert now() == 1.0
    assert await task == "kept"
    assert seen == [None]


@pytest.mark.parametrize("after", [0.25, 2.5])
async def test_a_deadline_behind_a_shield_is_exact(after: float) -> None:
    """Cleanup behind a shield, in a block that is being cut, may have an exact deadline of its own."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0) as outer:
            try:
                await asyncio.sleep(9)
            finally:
                with anyio.CancelScope(shield=True):
                    with pytest.raises(DeadlineExceeded) as inside:
                        async with deadline(after) as cleanup:
                            assert now() == 1.0
                            assert current() is cleanup
                            await asyncio.sleep(9)
                    assert inside.value.deadline is cleanup
                    assert now() == 1.0 + after
    assert caught.value.deadline is outer


async def test_nothing_left_behind_a_shield_is_told_at_once() -> None:
    """Behind a shield, a deadline with nothing left does not wait for the ancestor that cannot reach it."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0) as outer:
            try:
                await asyncio.sleep(9)
            finally:
                with anyio.CancelScope(shield=True):
                    with pytest.raises(DeadlineExceeded) as inside:
                        async with deadline(0):
                            pytest.fail("the body ran")
                    assert not inside.value.started
                    assert now() == 1.0
    assert caught.value.deadline is outer


async def test_a_block_that_used_a_thread() -> None:
    """A block that used a thread is cut like any other, and the thread saw the deadline."""
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0) as dl:
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(contextvars.copy_context().run, current).result() is dl
            await asyncio.sleep(9)


# --- async generators and context managers ----------------------------------------------------------------


async def bounded(seconds: float, closed: list[float]) -> AsyncGenerator[int, None]:
    """Numbers, each within a deadline that is open across the `yield`."""
    try:
        async with deadline(seconds, name="inside"):
            for number in range(5):
                await asyncio.sleep(0.5)
                yield number
    finally:
        closed.append(now())


async def test_a_generator_with_a_deadline_closed_early() -> None:
    """A generator that holds a deadline and is closed early leaves nothing in force."""
    closed: list[float] = []
    async with contextlib.aclosing(bounded(10.0, closed)) as numbers:
        async for number in numbers:
            if number == 1:
                break
    assert closed == [1.0]
    assert_clean()
    await asyncio.sleep(20)


async def test_a_generator_with_a_deadline_is_cut() -> None:
    """A deadline inside a generator raises out of the `async for` that drives it."""
    closed: list[float] = []
    got: list[int] = []
    with pytest.raises(DeadlineExceeded, match="'inside' exceeded"):
        async for number in bounded(1.25, closed):
            got.append(number)  # noqa: PERF401  # the error must find what came before
    assert got == [0, 1]
    assert closed == [1.25]


async def test_an_error_thrown_into_a_generator_leaves_its_deadline() -> None:
    """`athrow` into a generator that holds a deadline ends both, with the error that was thrown."""
    closed: list[float] = []
    numbers = bounded(10.0, closed)
    assert await anext(numbers) == 0
    with pytest.raises(KeyError):
        await numbers.athrow(KeyError("thrown"))
    assert closed == [0.5]


async def test_a_deadline_around_async_for() -> None:
    """A deadline around `async for` cuts the generator where it awaits and runs its `finally`."""
    closed: list[float] = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            while True:
                await asyncio.sleep(0.4)
                yield 1
        finally:
            closed.append(now())

    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0) as dl:
            async for _ in numbers():
                pass
    assert caught.value.deadline is dl
    assert closed == [1.0]


@pytest.mark.parametrize("how", ["asend", "anext", "anext with a default", "athrow", "aclose"])
async def test_a_cut_through_a_generators_protocol(how: str) -> None:
    """A cut passes through `asend`, `anext`, `athrow` and `aclose` to the edge."""

    async def echo() -> AsyncGenerator[int, int]:
        try:
            got = yield 0
            while True:
                await asyncio.sleep(9)
                got = yield got
        finally:
            await asyncio.sleep(9)

    generator = echo()
    assert await anext(generator) == 0
    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "asend": lambda: generator.asend(1),
        "anext": lambda: anext(generator),
        "anext with a default": lambda: anext(generator, 7),
        "athrow": lambda: generator.athrow(KeyError()),
        "aclose": generator.aclose,
    }
    with pytest.raises(DeadlineExceeded):
        async with deadline(2.0, margin=1.0):
            await ways[how]()
    # Where the cut comes into the `finally` itself, nothing is left to unwind.
    assert now() == (1.0 if how in {"athrow", "aclose"} else 1.25)


async def test_an_async_context_manager_that_holds_a_deadline() -> None:
    """A deadline opened by a context manager cuts the user's block and leaves with its exit."""

    @contextlib.asynccontextmanager
    async def within(seconds: float) -> AsyncIterator[Deadline]:
        async with deadline(seconds, name="held") as dl:
            yield dl

    with pytest.raises(DeadlineExceeded) as caught:
        async with within(1.0) as dl:
            assert current() is dl
            await asyncio.sleep(9)
    assert caught.value.deadline is dl
    async with within(1.0):
        await asyncio.sleep(0.5)


async def test_an_exit_stack_of_deadlines() -> None:
    """Deadlines on an `AsyncExitStack` unwind in order; the earliest raises, and later ones let it pass."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with contextlib.AsyncExitStack() as stack:
            scopes = [await stack.enter_async_context(deadline(end)) for end in (5.0, 1.0, 3.0)]
            await asyncio.sleep(9)
    assert caught.value.deadline is scopes[1]
    assert now() == 1.0


async def test_exit_callbacks_may_raise_past_a_cut() -> None:
    """An `__aexit__` between the cut and the edge that raises has its error win."""

    class Broken:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *_: object) -> None:
            raise KeyError("broken exit")

    with pytest.raises(KeyError) as caught:
        async with deadline(1.0), Broken():
            await asyncio.sleep(9)
    exceeded = caught.value.__context__
    assert isinstance(exceeded, DeadlineExceeded)
    assert isinstance(exceeded.__cause__, asyncio.CancelledError)


# --- other people's timeouts ------------------------------------------------------------------------------


@pytest.mark.parametrize("ours", [1.0, 2.0])
async def test_wait_for_inside(ours: float) -> None:
    """`wait_for` inside: the first of both raises its own error, and the awaited work is ended."""
    ended: list[float] = []
    with pytest.raises(TimeoutError) as caught:
        async with deadline(ours):
            await asyncio.wait_for(sleeper(ended), 1.5)
    assert isinstance(caught.value, DeadlineExceeded) is (ours == 1.0)
    assert ended == [min(ours, 1.5)]


@pytest.mark.parametrize("ours", [1.0, 1.5, 2.0])
async def test_wait_for_outside(ours: float) -> None:
    """`wait_for` outside: the first raises its own; in the same turn either may, and nothing is left."""

    async def work() -> None:
        async with deadline(ours):
            await asyncio.sleep(9)

    with pytest.raises(TimeoutError) as caught:
        await asyncio.wait_for(work(), 1.5)
    if ours != 1.5:
        assert isinstance(caught.value, DeadlineExceeded) is (ours == 1.0)
    assert now() == min(ours, 1.5)


async def test_asyncio_timeout_inside_in_the_same_turn() -> None:
    """An `asyncio.timeout` inside with the same instant: one of the two raises, each at its own edge."""
    with pytest.raises(TimeoutError):
        async with deadline(1.0), asyncio.timeout(1.0):
            await asyncio.sleep(9)
    assert now() == 1.0


async def test_timeouts_and_deadlines_interleaved() -> None:
    """However they alternate, the earliest raises its own, and every count is back."""
    for first in range(4):
        limits = [2.0 + number for number in range(4)]
        limits[first] = 1.0
        started = now()
        with pytest.raises(TimeoutError) as caught:
            async with deadline(limits[0]), asyncio.timeout(limits[1]):
                async with deadline(limits[2]), asyncio.timeout(limits[3]):
                    await asyncio.sleep(9)
        assert isinstance(caught.value, DeadlineExceeded) is (first % 2 == 0)
        assert now() - started == 1.0
        assert_clean()


@pytest.mark.parametrize("theirs", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("where", ["inside", "outside"])
async def test_with_move_on_after(theirs: float, where: str) -> None:
    """anyio's `move_on_after` inside or outside: the first ends its own block; on a tie one of both does."""
    moved = raised = False
    if where == "outside":
        with anyio.move_on_after(theirs) as scope:
            try:
                async with deadline(1.0):
                    await asyncio.sleep(9)
            except DeadlineExceeded:
                raised = True
        moved = scope.cancelled_caught
    else:
        try:
            async with deadline(1.0):
                with anyio.move_on_after(theirs) as scope:
                    await asyncio.sleep(9)
                moved = scope.cancelled_caught
        except DeadlineExceeded:
            raised = True
    assert now() == min(1.0, theirs)
    if theirs == 1.0:
        assert moved or raised
    else:
        assert (moved, raised) == (theirs < 1.0, theirs > 1.0)


async def test_an_outer_scope_cancelled_from_inside() -> None:
    """A surrounding anyio scope that is cancelled goes through a deadline untouched, also at its instant."""
    for instant in (0.5, 1.0):
        started = now()
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_at(started + instant, scope.cancel)
            async with deadline(instant + (0.0 if instant == 1.0 else 1.0)):
                await asyncio.sleep(9)
            pytest.fail("the cancellation was swallowed")
        assert scope.cancelled_caught
        assert now() == started + instant
        assert_clean()


async def test_a_task_group_cancelled_at_the_instant() -> None:
    """A group whose scope is cancelled in the turn of a child's expiry swallows the child quietly."""
    async with anyio.create_task_group() as group:

        async def child() -> None:
            async with deadline(1.0):
                await asyncio.sleep(9)

        group.start_soon(child)
        await asyncio.sleep(0.5)
        asyncio.get_running_loop().call_at(math.nextafter(1.0, 0), group.cancel_scope.cancel)
    assert now() == math.nextafter(1.0, 0)


async def test_tasks_started_with_start() -> None:
    """A deadline around `TaskGroup.start()` bounds the start, and no more of the task."""

    async def serve(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        await asyncio.sleep(0.5)
        task_status.started("up")
        await asyncio.sleep(5)
        ended.append((now(), current()))

    ended: list[tuple[float, Deadline | None]] = []
    async with anyio.create_task_group() as group:
        async with deadline(1.0):
            assert await group.start(serve) == "up"
        assert now() == 0.5
    assert ended == [(5.5, None)]


async def test_a_start_that_takes_too_long_is_cut() -> None:
    """A task that has not reported itself as started is ended with the deadline around `start()`."""
    ended: list[float] = []

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await sleeper(ended)
        task_status.started()

    async with anyio.create_task_group() as group:
        with pytest.raises(DeadlineExceeded):
            async with deadline(1.0):
                await group.start(serve)
        assert ended == [1.0]


async def test_a_started_task_with_a_deadline_of_its_own() -> None:
    """A task that reports itself as started from inside of its own deadline keeps that deadline."""

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with pytest.raises(DeadlineExceeded):
            async with deadline(3.0):
                await asyncio.sleep(0.5)
                task_status.started()
                await asyncio.sleep(9)
        ended.append(now())

    ended: list[float] = []
    async with anyio.create_task_group() as group:
        async with deadline(1.0):
            await group.start(serve)
    assert ended == [3.0]


# --- nests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", range(10))
async def test_ten_levels(owner: int) -> None:
    """Of ten nested deadlines the earliest raises at its own edge; those inside and around have no part."""
    raised: list[int] = []

    async def level(depth: int) -> None:
        if depth == 10:
            await asyncio.sleep(50)
            return
        try:
            async with deadline(1.0 if depth == owner else 10.0 + depth) as dl:
                await level(depth + 1)
        except DeadlineExceeded as exceeded:
            assert exceeded.deadline is dl
            raised.append(depth)
        assert me().cancelling() == 0

    await level(0)
    assert raised == [owner]
    assert now() == 1.0


async def test_ties_chain_outwards() -> None:
    """Ties go from scope to scope: the innermost leaves it to one that leaves it to the outermost."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0 + 1.5 * TIE) as outer, deadline(1.0 + 0.75 * TIE), deadline(1.0):
            await asyncio.sleep(9)
    assert caught.value.deadline is outer
    assert now() == 1.0 + 1.5 * TIE


@pytest.mark.parametrize(("apart", "owner"), [(0.0019, "outer"), (0.0021, "inner")])
async def test_a_tie_is_two_milliseconds(apart: float, owner: str) -> None:
    """Two milliseconds are a tie, as two readings of one context need; more would be another's instant."""
    with pytest.raises(DeadlineExceeded, match=owner):
        async with deadline(1.0 + apart, name="outer"), deadline(1.0, name="inner"):
            await asyncio.sleep(9)


async def test_an_ancestor_cut_in_the_turn_of_a_foreign_cancellation() -> None:
    """Both scopes are cut while a CancelledError of the body's own is on its way: it is the outer's.

    anyio cancels no task that is about to wake, so the count alone would not tell.
    """
    loop = asyncio.get_running_loop()
    awaited = loop.create_future()
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(5.0) as outer, deadline(4.0) as inner:
            for callback in (awaited.cancel, inner.due, outer.due):
                loop.call_soon(callback)
            await awaited
    assert caught.value.deadline is outer


@pytest.mark.parametrize("clause", ["except", "finally"])
async def test_a_deadline_after_an_expired_one(clause: str) -> None:
    """In `except` and `finally` around an expired block another deadline is an ordinary one."""
    seen: list[tuple[float, bool]] = []

    async def again() -> None:
        with pytest.raises(DeadlineExceeded) as inside:
            async with deadline(1.0) as dl:
                await asyncio.sleep(9)
        seen.append((now(), inside.value.deadline is dl))

    with pytest.raises(DeadlineExceeded) as caught:
        try:
            async with deadline(1.0) as first:
                await asyncio.sleep(9)
        except DeadlineExceeded:
            if clause == "except":
                await again()
            raise
        finally:
            if clause == "finally":
                await again()
    assert caught.value.deadline is first
    assert seen == [(2.0, True)]


async def test_an_edge_after_an_ancestors_cut_is_not_ours() -> None:
    """A block that unwinds past its ancestor's instant leaves it to the ancestor."""
    passed: list[type[BaseException]] = []
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(2.0) as outer:
            try:
                async with deadline(1.0):
                    try:
                        await asyncio.sleep(9)
                    finally:
                        with anyio.CancelScope(shield=True):
                            await asyncio.sleep(1.5)
            except BaseException as error:
                passed.append(type(error))
                raise
    assert caught.value.deadline is outer
    assert passed == [asyncio.CancelledError]
    assert now() == 2.5


async def test_no_cut_reaches_a_block_that_is_over() -> None:
    """A thousand blocks left one after the other in the very turn of their instants: nothing comes later."""
    for _ in range(1000):
        try:
            async with deadline(0.001):
                await asyncio.sleep(0.001)
        except DeadlineExceeded:
            pass
        await asyncio.sleep(0)
        assert me().cancelling() == 0
    await asyncio.sleep(1)


# --- loops, tasks, threads --------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@pytest.mark.parametrize("kind", ["bare", "native", "gather"])
async def test_eager_tasks(kind: str) -> None:
    """Tasks that begin in the middle of their creator's step have deadlines like any other."""
    asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009
    ended: list[float] = []

    async def child(seconds: float) -> None:
        async with deadline(seconds) as dl:
            assert current() is dl
            await sleeper(ended)

    async def quick() -> Deadline | None:
        async with deadline(1.0):
            return current()

    try:
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(2.0) as outer:
                assert await asyncio.create_task(quick()) is not None
                assert current() is outer
                with pytest.raises(DeadlineExceeded):
                    await asyncio.create_task(child(0.5))
                if kind == "bare":
                    await asyncio.create_task(child(9.0))
                elif kind == "native":
                    async with asyncio.TaskGroup() as group:
                        group.create_task(child(2.0))
                        group.create_task(child(9.0))
                else:
                    await asyncio.gather(child(9.0), child(2.001))
    finally:
        asyncio.get_running_loop().set_task_factory(None)
    assert caught.value.deadline is outer
    assert ended == [0.5, *([2.0] * (1 if kind == "bare" else 2))]


async def test_entered_in_one_task_and_left_in_another() -> None:
    """A block belongs to one task: leaving it in another is an error that says so, and cuts nobody later."""
    scope = deadline(1.0, name="crossed")

    async def enter() -> None:
        await scope.__aenter__()
        await asyncio.sleep(2)

    task = asyncio.create_task(enter(), name="one")
    await asyncio.sleep(0.5)
    me().set_name("another")
    with pytest.raises(
        RuntimeError, match="'crossed'.*: entered in task 'one' and left in 'another'; one task"
    ):
        await scope.__aexit__(None, None, None)
    await task
    assert now() == 2.0


async def test_a_coroutine_that_is_closed_leaves_its_deadline() -> None:
    """A coroutine that is closed from outside runs its `finally` and leaves nothing armed."""
    ended: list[float] = []

    async def work() -> None:
        async with deadline(1.0):
            await sleeper(ended)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.5)
    coroutine = task.get_coro()
    assert coroutine is not None
    coroutine.close()
    assert ended == [0.5]
    task.cancel()
    await asyncio.wait([task])
    assert isinstance(task.exception(), RuntimeError)  # asyncio's: the coroutine is over


async def test_a_deadline_does_not_wait_for_one_on_another_loop() -> None:
    """An ancestor that a context carried to another thread's loop cannot cut there: nobody waits for it."""

    async def inner() -> tuple[float, bool]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with deadline(0.5):
                await asyncio.sleep(9)
        except DeadlineExceeded as exceeded:
            return loop.time() - started, exceeded.started
        pytest.fail("not cut")

    def thread() -> tuple[float, bool]:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(asyncio.sleep(100))  # its clock is far ahead of the ancestor's
            return runner.run(inner())

    async with deadline(50.0):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(contextvars.copy_context().run, thread).result() == (0.5, True)


# --- objects that misbehave -------------------------------------------------------------------------------


class Touchy:
    """A proxy, like those of web frameworks, that fails when it is looked at outside of a request."""

    @property
    def __class__(self) -> type:
        raise RuntimeError("working outside of a request")

    @__class__.setter
    def __class__(self, value: type) -> None: ...


@pytest.mark.parametrize(
    "make",
    [Touchy, partial(MagicMock, spec=asyncio.TaskGroup), partial(MagicMock, spec=asyncio.Task)],
    ids=["proxy", "group", "task"],
)
async def test_a_local_that_misbehaves_does_not_save_the_block(make: Callable[[], object]) -> None:
    """Whatever a block has in its variables, it is cut, at its instant."""

    async def holds(held: object) -> None:
        await asyncio.wait_for(asyncio.sleep(9), 8)
        del held

    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0):
            await holds(make())
    assert now() == 1.0
    assert caught.value.report.tasks[0].host


class Awaits:
    """Awaits through an object of one's own."""

    def __await__(self) -> Any:
        yield from asyncio.sleep(9).__await__()


async def test_an_awaitable_of_ones_own() -> None:
    """A chain through `__await__` is cut and seen."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0):
            await Awaits()
    chain = [link.function for link in caught.value.report.tasks[0].awaiting]
    assert chain[-2:] == ["Awaits.__await__", "sleep"]


async def test_a_look_that_fails_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If looking at the tasks fails, the block is cut all the same, and the log says what is missing."""

    def fails(*_: object, **__: object) -> None:
        raise KeyError("moved")

    for where in ("TaskSnapshot.refresh", "TaskSnapshot"):
        monkeypatch.setattr(f"deadline._report.record.{where}", fails)
        started = now()
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(1.0):
                await asyncio.sleep(9)
        assert now() == started + 1.0
    assert caught.value.report.tasks == ()
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


class NoSetting(DeadlineExceeded):
    """A class with an idea of its own about an attribute."""

    @property
    def elapsed(self) -> float:  # type: ignore[override]
        return 0.0


class Failing(DeadlineExceeded):
    def __init__(self, message: str) -> None:
        raise KeyError(message)


class Another(DeadlineExceeded):
    def __new__(cls, message: str) -> Any:
        return ValueError(message)


@pytest.mark.parametrize("error", [NoSetting, Failing, Another])
async def test_an_error_class_that_misbehaves(error: type[DeadlineExceeded]) -> None:
    """A class that cannot be built or filled does not lose the cut: the plain error comes, with a note."""
    with pytest.raises(DeadlineExceeded, match="1.000 s allowed") as caught:
        async with deadline(1.0, error=error) as dl:
            await asyncio.sleep(9)
    assert type(caught.value) is DeadlineExceeded
    assert (caught.value.deadline, caught.value.elapsed) == (dl, 1.0)
    assert f"error={error.__name__} could not be built" in caught.value.__notes__[0]


async def test_an_abandoned_error_class_that_exits_is_not_held() -> None:
    """Only an `Exception` of the class is held back: an interrupt in it goes on."""

    class Interrupted(DeadlineExceeded):
        def __init__(self, message: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with deadline(1.0, error=Interrupted):
            await asyncio.sleep(9)


async def test_steps_that_begin_in_a_thread_while_the_error_is_made() -> None:
    """A thread that begins steps while the edge reads them does not lose the cut."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0) as dl:
            with step("first"):
                pass
            steps = dl.record().steps

            class Racing:
                """Where a thread would get its turn."""

                name = "racing"
                started = 0.0

                @property
                def status(self) -> str:
                    assert steps is not None
                    dl.begin_step(steps[0])
                    return "done"

                def report(self, *_: float) -> object:
                    assert steps is not None
                    steps.append(steps[0])
                    return steps[0].report(0.0, 1.0)

            steps.append(Racing())  # type: ignore[arg-type]
            await asyncio.sleep(9)
    assert caught.value.report.done[0] == "first"


async def test_the_error_frees_what_the_block_held() -> None:
    """No cycle: what a cut block held is freed with the error, without the garbage collector."""

    class Big: ...

    async def work() -> weakref.ref[Big]:
        big = Big()
        seen = weakref.ref(big)
        try:
            async with deadline(1.0):
                await asyncio.gather(asyncio.sleep(9), asyncio.sleep(9))
        except DeadlineExceeded as exceeded:
            assert exceeded.report.tasks
        del big
        return seen

    gc.collect()
    gc.disable()
    try:
        seen = await asyncio.create_task(work())
        await asyncio.sleep(0)
        assert seen() is None
    finally:
        gc.enable()


async def test_patience_bounds_a_bare_tasks_entry() -> None:
    """A bare task that enters while its ancestor unwinds for long waits for `PATIENCE` and then begins."""

    async def bare() -> float:
        await asyncio.sleep(1.01)
        async with deadline(5.0):
            return now()

    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            task = asyncio.create_task(bare())
            try:
                await asyncio.sleep(9)
            finally:
                with anyio.CancelScope(shield=True):
                    entered = await task
    assert entered == pytest.approx(1.0 + PATIENCE, abs=2 * TIE)


@pytest.mark.parametrize("scope", [deadline, asyncio.timeout])
async def test_after_a_native_groups_failure_was_handled(
    scope: Callable[[float], contextlib.AbstractAsyncContextManager[object]],
) -> None:
    """A group in the block failed and that was handled: a later cut is raised, like `asyncio.timeout`'s.

    Before 3.13 such a group left one cancellation counted for ever (python/cpython#116720), so for both
    scopes the cut looks like one from outside.
    """

    async def work() -> None:
        async with scope(1.0):
            with contextlib.suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(fails(0.5))
            await asyncio.sleep(9)

    task = asyncio.create_task(work())
    await asyncio.wait([task])
    if sys.version_info >= (3, 13):
        assert isinstance(task.exception(), TimeoutError)
    else:
        assert task.cancelled()
    assert now() == 1.0

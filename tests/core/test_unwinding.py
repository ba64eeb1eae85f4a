"""What a cut leaves time for: one cancellation first, and one at every await after the unwinding share."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from deadline import Deadline, DeadlineExceeded, Event, current, deadline, remaining, subscribe
from deadline._core.cut import UNWINDING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

pytestmark = pytest.mark.usefixtures("virtual_clock")


def now() -> float:
    return asyncio.get_running_loop().time()


def me() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


@pytest.fixture
def events() -> Iterator[list[Event]]:
    told: list[Event] = []
    unsubscribe = subscribe(told.append)
    yield told
    unsubscribe()


async def in_the_task() -> None:
    await asyncio.sleep(9)


async def in_gather() -> None:
    await asyncio.gather(asyncio.sleep(9), asyncio.sleep(9))


async def in_a_native_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(9))


async def in_an_anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(asyncio.sleep, 9)


async def in_a_foreign_scope() -> None:
    with anyio.move_on_after(20):
        await asyncio.sleep(9)


BODIES = [in_the_task, in_gather, in_a_native_group, in_an_anyio_group, in_a_foreign_scope]


@pytest.mark.parametrize("body", BODIES)
async def test_cleaning_up_runs_whole_around_any_body(body: Callable[[], Awaitable[None]]) -> None:
    """Whatever the block awaited, its `finally` awaits undisturbed for a quarter of the margin."""
    cleaned: list[float] = []
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(2.0, margin=1.0) as dl:
            try:
                await body()
            finally:
                for _ in range(3):
                    await anyio.sleep(0.0625)
                    cleaned.append(now())
    assert cleaned == [1.0625, 1.125, 1.1875]
    assert caught.value.deadline is dl
    assert me().cancelling() == 0


@pytest.mark.parametrize("body", BODIES)
async def test_what_still_awaits_is_cut_again_around_any_body(body: Callable[[], Awaitable[None]]) -> None:
    """When the unwinding share is over, every await is cut, until the block is left."""
    cuts: list[float] = []
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(2.0, margin=1.0) as dl:
            try:
                await body()
            finally:
                for _ in range(3):
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(9)
                    cuts.append(now())
                await asyncio.sleep(9)
    assert cuts == [1.25] * 3
    assert caught.value.deadline is dl
    assert me().cancelling() == 0
    assert anyio.current_effective_deadline() == math.inf


async def test_without_a_margin_cleaning_up_has_a_bound() -> None:
    """Without a margin a `finally` that hangs is cut after some seconds, as `asyncio.timeout` never does."""
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            try:
                await asyncio.sleep(9)
            finally:
                await asyncio.sleep(60)
    assert now() == 1.0 + UNWINDING


@pytest.mark.parametrize("at", [1.1, 1.3])
async def test_a_cancel_from_outside_while_unwinding_is_a_cancellation(at: float) -> None:
    """A cancellation in the edge's phase ends the `finally`; in either phase it is never swallowed."""
    cleaned: list[float] = []

    async def work() -> None:
        async with deadline(2.0, margin=1.0):
            try:
                await asyncio.sleep(9)
            finally:
                with anyio.CancelScope(shield=True):
                    await asyncio.sleep(0.0625)
                cleaned.append(now())
                await asyncio.sleep(0.5)

    task = asyncio.create_task(work())
    asyncio.get_running_loop().call_at(at, task.cancel)
    await asyncio.wait([task])
    assert cleaned == [1.0625]
    if at < 1.25:
        assert task.cancelled()
        assert task.cancelling() == 1
    else:
        assert isinstance(task.exception(), DeadlineExceeded)  # it had left at 1.25
    assert now() == min(at, 1.25)


async def test_a_parents_cut_while_a_block_unwinds_is_the_parents() -> None:
    """A parent whose instant comes while a block unwinds cuts that as well; what is around has time again."""
    story: list[tuple[str, float]] = []
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(3.0, margin=1.0, name="outer") as outer:
            try:
                async with deadline(1.9, name="inner"):
                    try:
                        await asyncio.sleep(9)
                    finally:
                        for _ in range(2):
                            with contextlib.suppress(asyncio.CancelledError):
                                await asyncio.sleep(9)
                            story.append(("inner", now()))
                        await asyncio.sleep(9)
            finally:
                await asyncio.sleep(0.125)
                story.append(("outer", now()))
    assert story == [("inner", 2.0), ("inner", 2.0), ("outer", 2.125)]
    assert caught.value.deadline is outer
    assert me().cancelling() == 0


async def test_a_shield_puts_the_cut_off_and_it_comes_once() -> None:
    """Behind a shield of anyio's nothing is cancelled; the one cancellation comes when it is left."""
    story: list[float] = []
    with pytest.raises(DeadlineExceeded):
        async with deadline(2.0, margin=1.0):
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(1.125)
                story.append(now())
            try:
                await asyncio.sleep(9)
            finally:
                await asyncio.sleep(0.0625)
                story.append(now())
    assert story == [1.125, 1.1875]


async def test_a_result_that_came_in_the_same_turn_is_not_lost() -> None:
    """What has come in the turn of the cut reaches the block: a connection, say; the next await is cut."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()
    got: list[str] = []
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0) as dl:

            def both() -> None:
                future.set_result("connection")
                dl.due()

            loop.call_at(0.5, both)
            got.append(await future)
            await asyncio.sleep(9)
    assert got == ["connection"]
    assert now() == 0.5


async def test_a_deadline_of_the_same_end_does_not_cut_while_another_unwinds() -> None:
    """Nested deadlines of one instant are one cut: the `finally` of the inner block is cut by neither."""
    cleaned: list[float] = []
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(2.0, margin=1.0) as outer, deadline(2.001, margin=1.0):
            try:
                await asyncio.sleep(9)
            finally:
                await asyncio.sleep(0.2)
                cleaned.append(now())
    assert cleaned == [pytest.approx(1.2, abs=1e-9)]
    assert caught.value.deadline is outer


async def limited(around: Callable[[], Any]) -> AsyncGenerator[int, None]:
    async with contextlib.AsyncExitStack() as stack:
        scope = around()
        if hasattr(scope, "__aenter__"):
            await stack.enter_async_context(scope)
        else:
            stack.enter_context(scope)
        for number in range(10):
            yield number


@pytest.mark.parametrize("around", [lambda: anyio.fail_after(5), anyio.CancelScope])
async def test_a_generator_with_a_scope_of_anyios_may_be_broken_off(around: Callable[[], Any]) -> None:
    """A body that was in time keeps its result, and one that is cut leaves as `DeadlineExceeded`."""
    numbers = limited(around)
    async with deadline(1.0) as dl:
        async for _ in numbers:
            break
    assert not dl.expired
    others = limited(around)
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            async for _ in others:
                break
            await asyncio.sleep(9)
    assert me().cancelling() == 0


async def test_a_deadline_of_a_generator_that_is_broken_off_is_told_and_cuts_nobody(
    events: list[Event],
) -> None:
    """It is named with the line that entered it, and does not cut the task that goes on."""
    numbers = limited(lambda: deadline(2.0, name="page"))
    async with deadline(1.0, name="all"):
        async for _ in numbers:
            break
    told = [event for event in events if event.name == "deadline.left_open"]
    assert [(event.fields["deadline"], event.fields["around"]) for event in told] == [("page", "all")]
    assert "contextlib.py" in told[0].fields["entered"] or "test_unwinding.py" in told[0].fields["entered"]
    assert current() is None
    await asyncio.sleep(5)
    assert me().cancelling() == 0
    await numbers.aclose()


async def test_while_unwinding_nothing_remains_and_the_deadline_is_current() -> None:
    """In a `finally` after the cut `remaining()` is 0.0: loops that ask it end."""
    seen: list[tuple[float, Deadline | None]] = []
    with pytest.raises(DeadlineExceeded):
        async with deadline(2.0, margin=1.0) as dl:
            try:
                await asyncio.sleep(9)
            finally:
                await asyncio.sleep(0.125)
                seen.append((remaining(), current()))
    assert seen == [(0.0, dl)]


async def test_a_deadline_in_a_finally_of_one_that_was_cut() -> None:
    """As `test_nested_timeout_in_finally` of CPython's own tests has it of `asyncio.timeout`."""
    with pytest.raises(DeadlineExceeded):
        async with deadline(0.01):
            try:
                await asyncio.sleep(1)
            finally:
                with pytest.raises(DeadlineExceeded):
                    async with deadline(0.01):
                        await asyncio.sleep(10)
    assert now() == 0.02


# --- a real error -----------------------------------------------------------------------------------------


async def fail() -> None:
    """Answer a cancellation by another error."""
    try:
        await asyncio.sleep(9)
    finally:
        raise ZeroDivisionError


async def fail_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        await asyncio.sleep(9)


async def test_a_real_error_keeps_the_expiry_in_its_chain() -> None:
    """As under `asyncio.timeout` from CPython 3.13 on."""
    with pytest.raises(ZeroDivisionError) as caught:
        async with deadline(1.0) as dl:
            await fail()
    exceeded = caught.value.__context__
    assert isinstance(exceeded, DeadlineExceeded)
    assert exceeded.deadline is dl
    assert isinstance(exceeded.__cause__, asyncio.CancelledError)


async def test_a_group_keeps_the_expiry_in_its_members_chains() -> None:
    """There the cancellation came to the child by way of its group."""
    with pytest.raises(ExceptionGroup) as caught:
        async with deadline(1.0):
            await fail_in_a_group()
    (member,) = caught.value.exceptions
    assert isinstance(member, ZeroDivisionError)
    assert isinstance(member.__context__, DeadlineExceeded)


async def test_a_real_error_beside_another_cancellation_is_left_as_it_is() -> None:
    """The time was not alone in ending the block."""
    with pytest.raises(ZeroDivisionError) as caught:
        async with deadline(1.0):
            try:
                await asyncio.sleep(9)
            finally:
                me().cancel()
                raise ZeroDivisionError
    me().uncancel()
    assert isinstance(caught.value.__context__, asyncio.CancelledError)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)

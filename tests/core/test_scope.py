"""What a deadline promises, statement by statement, on a virtual clock: the times are exact."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import pickle
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from deadline import (
    Deadline,
    DeadlineExceeded,
    Event,
    InsufficientTime,
    current,
    deadline,
    remaining,
    subscribe,
)
from deadline._core.cut import PATIENCE, TIE, UNWINDING
from deadline.testing import FakeContext, VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("virtual_clock")


def now() -> float:
    return asyncio.get_running_loop().time()


def block(seconds: float) -> None:
    """Keep the loop from running, as computing does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop._set_now(loop.time() + seconds)


async def cut(seconds: float = 1.0, **options: Any) -> DeadlineExceeded:
    """A deadline's error, cut after `seconds`."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(seconds, **options):
            await asyncio.sleep(math.inf)
    return caught.value


@pytest.fixture
def events() -> Iterator[list[Event]]:
    told: list[Event] = []
    unsubscribe = subscribe(told.append)
    yield told
    unsubscribe()


# --- 1. entry ---------------------------------------------------------------------------------------------


async def test_time_is_sampled_on_entry() -> None:
    """Time is sampled on entry, not when `deadline()` is called."""
    scope = deadline(1.0)
    await asyncio.sleep(5)
    with pytest.raises(DeadlineExceeded):
        async with scope as dl:
            assert (dl.soft, dl.hard) == (6.0, 6.0)
            await asyncio.sleep(10)
    assert now() == 6.0


@pytest.mark.parametrize("source", [None, math.inf])
async def test_none_and_inf_mean_no_limit(source: float | None) -> None:
    """`None` and `inf` are no limit."""
    async with deadline(source) as dl:
        await asyncio.sleep(1e6)
        assert (dl.remaining(), remaining(), dl.margin) == (math.inf, math.inf, 0.0)
        assert not dl.expired


@pytest.mark.parametrize(("left", "margin"), [(10.0, 1.0), (2.0, 1.0), (1.0, 0.5), (0.2, 0.1)])
async def test_default_margin_under_a_context(left: float, margin: float) -> None:
    """The default margin is 1.0 s for a Lambda context, at most half of what is left."""
    async with deadline(FakeContext(left)) as dl:
        # The context's milliseconds are floored by one.
        assert dl.hard == pytest.approx(left - 0.001)
        assert dl.margin == pytest.approx(min(margin, (left - 0.001) / 2))


@pytest.mark.parametrize("source", [3.0, 3, timedelta(seconds=3)])
async def test_default_margin_otherwise(source: float | timedelta) -> None:
    """The default margin of anything but a context is 0."""
    async with deadline(source) as dl:
        assert (dl.soft, dl.hard, dl.margin) == (3.0, 3.0, 0.0)


async def test_margin_is_kept_between_soft_and_hard() -> None:
    """Soft is hard less the margin, and the block is cut at soft."""
    exceeded = await cut(3.0, margin=1.0)
    assert now() == 2.0
    assert exceeded.deadline is not None
    assert (exceeded.deadline.soft, exceeded.deadline.hard) == (2.0, 3.0)


async def test_one_context_is_anchored_once() -> None:
    """Nested scopes on one context have the very same hard instant, whatever its milliseconds say."""

    class Jittery:
        answers: Iterator[int] = iter([1000, 990, 1050])

        def get_remaining_time_in_millis(self) -> int:
            return next(self.answers)

    context = Jittery()
    async with deadline(context) as first, deadline(context) as second, deadline(context) as third:
        assert first.hard == second.hard == third.hard == 0.999


async def test_the_next_invocation_on_the_same_context_is_anchored_anew() -> None:
    """A context object that says something else by more than jitter belongs to another invocation."""
    context = FakeContext(1.0)
    async with deadline(context):
        pass
    context = FakeContext(5.0)
    await asyncio.sleep(3)
    async with deadline(context) as dl:
        assert dl.hard == pytest.approx(4.999)


async def test_a_reused_fake_context_is_read_again() -> None:
    """A context that always gives the same answer, as test fakes do, never goes stale."""

    class Constant:
        def get_remaining_time_in_millis(self) -> int:
            return 1001

    context = Constant()
    for entered in (0.0, 5.0):
        async with deadline(context, margin=0) as dl:
            assert dl.hard == entered + 1.0
        await asyncio.sleep(5)


async def test_contexts_that_cannot_be_remembered_work() -> None:
    """A context that cannot be weakly referred to is read each time; the rule for ties keeps order."""

    class Slotted:
        __slots__ = ()

        def get_remaining_time_in_millis(self) -> int:
            return 1001 - round(now() * 1000)

    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(Slotted(), margin=0) as outer:
            async with deadline(Slotted(), margin=0):
                await asyncio.sleep(2)
    assert caught.value.deadline is outer


async def test_a_durable_context_is_unwrapped() -> None:
    """A durable execution keeps the real context inside; that one is read."""

    class Durable:
        lambda_context = FakeContext(2.0)

    async with deadline(Durable(), margin=0.5) as dl:
        assert dl.soft == pytest.approx(1.499)


async def test_a_deadline_is_entered_once() -> None:
    """Entering a second time is an error that says what to write."""
    scope = deadline(1)
    async with scope:
        pass
    with pytest.raises(RuntimeError, match=r"entered once; call deadline\(\.\.\.\) again"):
        await scope.__aenter__()


async def test_remaining_before_entry_is_an_error() -> None:
    """A deadline that has not been entered has nothing to count from."""
    with pytest.raises(RuntimeError, match="starts on entry"):
        deadline(1).remaining()


# --- 2. nothing left on entry -----------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "margin"), [(0, 0), (1.0, 1.0), (1.0, 5.0), (FakeContext(0.0), None)])
async def test_nothing_left_on_entry(source: Any, margin: float | None) -> None:
    """Nothing left: the body does not run, `started` is False, and no time passes."""
    ran = False
    with pytest.raises(DeadlineExceeded, match="before it began") as caught:
        async with deadline(source, margin=margin):
            ran = True
    assert not ran
    assert not caught.value.started
    assert now() == 0.0
    assert current() is None


async def test_grace_works_with_what_is_left_on_entry() -> None:
    """If the margin is larger than what is left, grace has what is left."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.4, margin=1.0):
            pass
    async with caught.value.grace() as grace:
        assert grace.remaining() == 0.4


async def test_entry_under_a_past_ancestor_is_its_checkpoint() -> None:
    """If an open ancestor is already past, entry is cut by the ancestor and raises nothing of its own."""
    entered = False
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0) as outer:
            block(2)
            async with deadline(5.0):
                entered = True
    assert caught.value.deadline is outer
    assert caught.value.started
    assert not entered
    assert now() == 2.0


async def test_entry_while_an_ancestor_unwinds_is_an_ordinary_entry() -> None:
    """Cleaning up after a cut may have a deadline of its own, which cuts what it limits and nothing else."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(2.0, margin=1.0) as outer:
            try:
                await asyncio.sleep(9)
            finally:
                with pytest.raises(DeadlineExceeded) as inside:
                    async with deadline(0.125, name="cleaning") as cleaning:
                        await asyncio.sleep(9)
                assert inside.value.deadline is cleaning
    assert caught.value.deadline is outer
    assert now() == 1.125


async def test_entry_without_time_yields_to_an_ancestor_that_ties() -> None:
    """Nothing left on entry, and an ancestor that ends within a tie: the expiry is the ancestor's."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.001) as outer:
            await asyncio.sleep(1)
            async with deadline(0):
                pass
    assert caught.value.deadline is outer
    assert now() == 1.001


async def test_a_bare_task_enters_although_its_ancestor_is_past() -> None:
    """An ancestor that does not reach a task cannot keep it from working for long."""

    async def bare() -> float:
        await asyncio.sleep(1.5)
        async with deadline(5.0) as dl:
            return dl.soft

    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            task = asyncio.create_task(bare())
            try:
                await asyncio.sleep(3)
            finally:
                with anyio.CancelScope(shield=True):
                    assert await task == 6.5
                    assert now() == 1.5


# --- 3. nesting only shortens -----------------------------------------------------------------------------


async def test_the_inner_deadline_expires_first() -> None:
    """An inner deadline that ends earlier is the one that raises; the outer goes on."""
    async with deadline(5.0) as outer:
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(1.0) as inner:
                await asyncio.sleep(9)
        assert caught.value.deadline is inner
        assert now() == 1.0
        await asyncio.sleep(1)
    assert not outer.expired


async def test_the_outer_deadline_cuts_the_inner_block() -> None:
    """An inner deadline cannot lengthen: the outer cuts, and the outer raises."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0) as outer:
            async with deadline(5.0) as inner:
                assert inner.remaining() == remaining() == 1.0
                await asyncio.sleep(9)
    assert caught.value.deadline is outer
    assert now() == 1.0
    assert not inner.expired


@pytest.mark.parametrize("apart", [0.0, TIE / 2, TIE * 0.99])
@pytest.mark.parametrize("first", ["inner", "outer"])
async def test_ties_go_to_the_outer(apart: float, first: str) -> None:
    """Instants within 2 ms tie, ties go to the outer, and nobody raises early."""
    inner_end, outer_end = (1.0, 1.0 + apart) if first == "inner" else (1.0 + apart, 1.0)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(outer_end) as outer:
            async with deadline(inner_end):
                await asyncio.sleep(9)
    assert caught.value.deadline is outer
    assert now() == outer_end


async def test_just_more_than_a_tie_goes_to_the_inner() -> None:
    """Instants further apart than 2 ms are different ones."""
    async with deadline(1.0 + TIE * 1.01):
        with pytest.raises(DeadlineExceeded):
            async with deadline(1.0):
                await asyncio.sleep(9)
        assert now() == 1.0


@pytest.mark.parametrize("depth", [2, 3, 10])
async def test_many_scopes_on_one_context_raise_as_the_outermost(depth: int) -> None:
    """However deep the scopes on one context nest, the outermost raises, once."""
    context = FakeContext(2.0)
    seen: list[Deadline] = []

    async def nest(left: int) -> None:
        async with deadline(context) as dl:
            seen.append(dl)
            await (nest(left - 1) if left else asyncio.sleep(9))

    with pytest.raises(DeadlineExceeded) as caught:
        await nest(depth)
    assert caught.value.deadline is seen[0]


@pytest.mark.parametrize("apart", [-0.5, -0.0015, 0.0, 0.0015])
@pytest.mark.parametrize("group", [asyncio.TaskGroup, anyio.create_task_group])
async def test_ties_across_a_task_group_go_to_the_outer(group: Callable[[], Any], apart: float) -> None:
    """A child's deadline that ties with the group's, or is past it, does not raise in its place."""

    async def child() -> None:
        async with deadline(1.0 + apart):
            await asyncio.sleep(9)

    end = 1.0 if apart > -0.1 else 0.5
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(end) as outer, group() as tasks:
            start = getattr(tasks, "start_soon", None) or (lambda function: tasks.create_task(function()))
            for _ in range(3):
                start(child)
    assert caught.value.deadline is outer
    assert now() == end


async def test_who_owns_is_decided_when_it_fires() -> None:
    """An ancestor that has been left by then does not count: a bare task's own deadline raises."""

    async def bare() -> float:
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(1.0):
                await asyncio.sleep(9)
        assert caught.value.elapsed == 1.0
        return now()

    async with deadline(1.001):
        task = asyncio.create_task(bare())
        await asyncio.sleep(0.5)
    assert await task == 1.0


async def test_a_bare_task_with_a_tying_deadline_is_cut_all_the_same() -> None:
    """An ancestor's cut does not reach a bare task; its own deadline, which stood back, then cuts it."""
    ended: list[float] = []

    async def bare() -> None:
        try:
            async with deadline(1.0):
                await asyncio.sleep(9)
        except DeadlineExceeded:
            ended.append(now())

    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            task = asyncio.create_task(bare())
            await asyncio.sleep(9)
    await task
    assert ended == [1.0 + TIE]


async def test_a_bare_task_is_cut_although_its_ancestor_does_not_leave() -> None:
    """An ancestor that was cut and is still open a while later counts no more."""
    ended: list[float] = []

    async def bare() -> None:
        try:
            async with deadline(1.0):
                await asyncio.sleep(9)
        except DeadlineExceeded:
            ended.append(now())

    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            task = asyncio.create_task(bare())
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(3)
            await asyncio.sleep(0)
    await task
    assert ended == [pytest.approx(1.0 + PATIENCE, abs=2 * TIE)]


async def test_current_is_the_innermost_open_deadline() -> None:
    """`current()` gives the innermost open deadline, `None` without one."""
    assert current() is None
    async with deadline(5, name="outer") as outer:
        assert current() is outer
        async with deadline(1, name="inner") as inner:
            assert current() is inner
        assert current() is outer
    assert current() is None
    assert remaining() == math.inf


async def test_a_task_that_outlives_a_scope_must_not_see_it() -> None:
    """A task started in a block sees the deadline while it is open, and no longer."""
    seen: list[tuple[Deadline | None, float]] = []

    async def outlives() -> None:
        for _ in range(2):
            seen.append((current(), remaining()))
            await asyncio.sleep(1)

    async with deadline(9) as outer:
        async with deadline(0.5) as inner:
            task = asyncio.create_task(outlives())
            await asyncio.sleep(0)
        await asyncio.sleep(1)
        await task
    assert seen == [(inner, 0.5), (outer, 8.0)]


async def test_current_follows_tasks_and_threads() -> None:
    """Both follow tasks and `to_thread` through contextvars."""

    async def child() -> Deadline | None:
        return current()

    async with deadline(None) as dl:
        assert await asyncio.create_task(child()) is dl
        assert await asyncio.to_thread(current) is dl
        assert await asyncio.to_thread(remaining) == math.inf


async def test_remaining_never_falls_below_zero() -> None:
    """After the instant nothing remains: 0.0, not less."""
    seen = []
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0, margin=0.5) as dl:
            try:
                await asyncio.sleep(9)
            finally:
                with anyio.CancelScope(shield=True):
                    await asyncio.sleep(0.25)
                seen += [remaining(), remaining(hard=True), dl.expired]
    assert seen == [0.0, 0.25, True]


# --- 4. where it surfaces ---------------------------------------------------------------------------------


async def test_a_cut_surfaces_only_at_the_edge() -> None:
    """No `except Exception` in the block can eat a cut."""
    eaten: list[Exception] = []
    with pytest.raises(DeadlineExceeded):
        async with deadline(1):
            while True:
                try:
                    await asyncio.sleep(9)
                except Exception as error:  # the block's own mistake
                    eaten.append(error)
    assert eaten == []


async def test_a_cut_is_a_timeout_error() -> None:
    """`DeadlineExceeded` is a `TimeoutError`."""
    assert isinstance(await cut(), TimeoutError)


async def test_identity_tells_whose_deadline_it_was() -> None:
    """`exceeded.deadline is dl` tells one's own timeout from another's."""
    async with deadline(5) as mine:
        try:
            async with deadline(1) as other:
                await asyncio.sleep(9)
        except DeadlineExceeded as exceeded:
            assert exceeded.deadline is other
            assert exceeded.deadline is not mine


async def test_error_takes_a_subclass() -> None:
    """`error=` takes a subclass, built from the message alone, with the attributes set after."""

    class CheckoutTimeout(DeadlineExceeded):
        def __init__(self, message: str) -> None:
            super().__init__(message)
            self.code = 504

    with pytest.raises(CheckoutTimeout, match="'checkout' exceeded: 1.000 s allowed") as caught:
        async with deadline(1.0, name="checkout", error=CheckoutTimeout) as dl:
            await asyncio.sleep(2)
    assert caught.value.code == 504
    assert caught.value.deadline is dl
    assert (caught.value.allowed, caught.value.elapsed) == (1.0, 1.0)


async def test_a_subclass_that_cannot_be_built_does_not_lose_the_cut() -> None:
    """If the user's class needs more than a message, the plain error comes, with a note that says so."""

    class Wants(DeadlineExceeded):
        def __init__(self, message: str, more: int) -> None:
            super().__init__(message, more)

    exceeded = await cut(1.0, error=Wants)
    assert type(exceeded) is DeadlineExceeded
    assert "error=Wants could not be built" in exceeded.__notes__[0]


async def test_a_refusal_is_raised_where_it_happens() -> None:
    """A refusal can be handled inside the block, which then finishes."""
    async with deadline(1, name="move") as dl:
        try:
            raise dl.refusal("no")
        except InsufficientTime as refused:
            assert refused.deadline is dl
            assert refused.report.name == "move"
    assert not dl.expired


async def test_a_refusal_may_leave_the_edge() -> None:
    """A refusal that nobody handles leaves the block as it is."""
    with pytest.raises(InsufficientTime) as caught:
        async with deadline(1) as dl:
            raise dl.refusal("no")
    assert caught.value.deadline is dl
    assert now() == 0


async def test_it_pickles_as_plain_numbers_and_report() -> None:
    """It pickles as numbers and report; its `grace()` then raises, and says what to do instead."""
    exceeded = await cut(1.0, margin=0.25, name="move")
    exceeded.add_note("a note")
    copy = pickle.loads(pickle.dumps(exceeded))  # noqa: S301  # our own
    assert type(copy) is DeadlineExceeded
    assert str(copy) == str(exceeded)
    assert (copy.allowed, copy.elapsed, copy.margin, copy.started) == (0.75, 0.75, 0.25, True)
    assert copy.report == exceeded.report
    assert copy.report.tasks
    assert copy.__notes__ == ["a note"]
    assert copy.deadline is None
    with pytest.raises(RuntimeError, match=r"write `async with deadline\(seconds\):` instead"):
        copy.grace()


class Custom(DeadlineExceeded):
    """A user's class with arguments of its own."""

    def __init__(self, message: str, *, code: int = 7) -> None:
        super().__init__(f"custom: {message}")
        self.code = code


async def test_a_subclass_pickles_past_its_own_init() -> None:
    """A subclass keeps its message and attributes when it pickles; its `__init__` does not run again."""
    exceeded = await cut(1.0, error=Custom)
    copy = pickle.loads(pickle.dumps(exceeded))  # noqa: S301  # our own
    assert (type(copy), copy.code, str(copy)) == (Custom, 7, str(exceeded))


# --- the grace --------------------------------------------------------------------------------------------


async def test_grace_ends_at_hard() -> None:
    """`grace()` is an ordinary deadline that ends at the hard end."""
    exceeded = await cut(3.0, margin=1.0, name="move")
    with pytest.raises(DeadlineExceeded) as caught:
        async with exceeded.grace() as grace:
            assert (grace.remaining(), grace.name) == (1.0, "move grace")
            assert current() is grace
            await asyncio.sleep(9)
    assert now() == 3.0
    assert caught.value.deadline is grace


async def test_grace_keeps_a_reserve() -> None:
    """`reserve` seconds before hard are not for the mitigation."""
    exceeded = await cut(3.0, margin=1.0)
    with pytest.raises(DeadlineExceeded):
        async with exceeded.grace(reserve=0.25) as grace:
            assert grace.remaining(hard=True) == 1.0
            await asyncio.sleep(9)
    assert now() == 2.75


async def test_a_parents_soft_still_cuts_the_grace() -> None:
    """A surrounding deadline's soft instant cuts the grace."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(2.5) as outer:
            try:
                async with deadline(3.0, margin=1.0):
                    await asyncio.sleep(9)
            except DeadlineExceeded as exceeded:
                async with exceeded.grace():
                    await asyncio.sleep(9)
    assert caught.value.deadline is outer
    assert now() == 2.5


async def test_grace_without_a_margin_has_nothing() -> None:
    """Without a margin nothing was kept: the grace's body does not run, and the message says why."""
    exceeded = await cut(1.0)
    with pytest.raises(DeadlineExceeded, match="before it began: 0.000 s left"):
        async with exceeded.grace():
            pytest.fail("the body ran")


@pytest.mark.parametrize("reserve", [-1, math.nan, math.inf, "1", True])
async def test_grace_checks_its_reserve(reserve: Any) -> None:
    """A wrong reserve is named."""
    exceeded = await cut()
    with pytest.raises((TypeError, ValueError), match="^reserve: "):
        exceeded.grace(reserve)


# --- 5. the edge decides by count -------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["cancel first", "deadline first", "only cancel"])
async def test_a_cancellation_from_outside_is_never_converted(order: str) -> None:
    """A cancellation from outside is never swallowed or converted, also in the same loop turn."""

    async def work() -> None:
        async with deadline(1.0):
            await asyncio.sleep(9)

    loop = asyncio.get_running_loop()
    task: asyncio.Task[None]
    if order == "cancel first":
        loop.call_at(1.0, lambda: task.cancel())  # noqa: PLW0108  # the task comes after
        task = asyncio.create_task(work())
    else:
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        loop.call_at(1.0 if order == "deadline first" else 0.5, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert task.cancelling() == 1


async def test_a_cancellation_from_outside_while_unwinding_wins() -> None:
    """A cancellation that arrives after the cut, before the edge, goes on as a cancellation."""

    async def work() -> None:
        async with deadline(1.0):
            try:
                await asyncio.sleep(9)
            finally:
                with anyio.CancelScope(shield=True):
                    await asyncio.sleep(1)

    task = asyncio.create_task(work())
    await asyncio.sleep(1.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_count_is_restored() -> None:
    """After a cut the task's count of cancellations is what it was; the task works on."""
    task = asyncio.current_task()
    assert task is not None
    await cut()
    assert task.cancelling() == 0
    async with asyncio.timeout(1):
        await asyncio.sleep(0.5)
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0.1))


async def test_a_body_that_finishes_keeps_its_result(
    events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    """A body that finishes although cut keeps its result; `overran` tells by how much, with a warning."""

    async def stubborn() -> str:
        async with deadline(1.0, name="move") as dl:
            try:
                await asyncio.sleep(9)
            except asyncio.CancelledError:
                with anyio.CancelScope(shield=True):
                    await asyncio.sleep(0.5)
            result = "kept"
        assert dl.overran == 0.5
        assert dl.expired
        return result

    with caplog.at_level(logging.WARNING, "deadline"):
        assert await stubborn() == "kept"
    assert [(event.name, event.fields) for event in events] == [
        ("deadline.overran", {"deadline": "move", "seconds": 0.5})
    ]
    assert caplog.messages == ["deadline.overran deadline='move' seconds=0.500"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(1)


async def test_a_real_error_while_unwinding_wins() -> None:
    """A real error raised while unwinding wins, with a note that the block was being cut."""
    with pytest.raises(KeyError) as caught:
        async with deadline(1.0, name="move"):
            try:
                await asyncio.sleep(9)
            finally:
                raise KeyError("broken")
    assert "'move'" in caught.value.__notes__[0]
    assert "being cut" in caught.value.__notes__[0]


async def test_an_error_before_the_instant_is_left_alone() -> None:
    """An error in time has nothing to do with the deadline: no note."""
    with pytest.raises(KeyError) as caught:
        async with deadline(1.0):
            raise KeyError("broken")
    assert not hasattr(caught.value, "__notes__")


async def test_the_inner_traceback_is_kept() -> None:
    """The error's cause is the cancellation, whose traceback leads to what was awaited."""
    exceeded = await cut()
    assert isinstance(exceeded.__cause__, asyncio.CancelledError)
    assert exceeded.__context__ is exceeded.__cause__


async def test_a_group_of_nothing_but_cancellations_is_a_cut() -> None:
    """A group in which everything is a cancellation counts as one."""
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            try:
                await asyncio.sleep(9)
            except asyncio.CancelledError as error:
                raise BaseExceptionGroup("all", [error, BaseExceptionGroup("some", [error])]) from None


@pytest.mark.parametrize("where", ["inside", "outside"])
@pytest.mark.parametrize("first", ["asyncio", "ours"])
async def test_with_asyncio_timeout(where: str, first: str) -> None:
    """`asyncio.timeout` inside or outside: whoever is first raises its own error at its own edge."""
    ours, theirs = (1.0, 2.0) if first == "ours" else (2.0, 1.0)
    expected = DeadlineExceeded if first == "ours" else TimeoutError
    with pytest.raises(TimeoutError) as caught:
        if where == "inside":
            async with deadline(ours), asyncio.timeout(theirs):
                await asyncio.sleep(9)
        else:
            async with asyncio.timeout(theirs), deadline(ours):
                await asyncio.sleep(9)
    assert type(caught.value) is expected
    assert now() == 1.0


async def test_asyncio_timeout_outside_in_the_same_turn() -> None:
    """An `asyncio.timeout` around that fires in the same turn is a cancellation from outside: it raises."""
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(1.0), deadline(1.0):
            await asyncio.sleep(9)
    assert type(caught.value) is TimeoutError


# --- 6. level cancellation --------------------------------------------------------------------------------


@pytest.mark.parametrize(("margin", "ends"), [(0.0, 2.0 + UNWINDING), (1.0, 1.25), (0.25, 1.75 + 0.0625)])
async def test_an_awaiting_finally_is_cut_when_its_share_is_over(margin: float, ends: float) -> None:
    """A `finally` that awaits runs for a quarter of the margin; then whatever awaits is cut again."""
    with pytest.raises(DeadlineExceeded):
        async with deadline(2.0, margin=margin):
            try:
                await asyncio.sleep(9)
            finally:
                try:
                    await asyncio.sleep(9)
                finally:
                    await asyncio.sleep(9)
    assert now() == ends


async def test_a_finally_that_ends_in_its_share_runs_whole() -> None:
    """A `finally` that ends in time is not disturbed, and the block leaves when it has ended."""
    cleaned: list[float] = []
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(2.0, margin=1.0):
            try:
                await asyncio.sleep(9)
            finally:
                for _ in range(3):
                    await asyncio.sleep(0.0625)
                    cleaned.append(now())
    assert cleaned == [1.0625, 1.125, 1.1875]
    assert caught.value.elapsed == 1.1875


async def test_anyio_children_are_cut_again() -> None:
    """anyio's children are cut again, too."""

    async def child() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            await asyncio.sleep(9)

    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0), anyio.create_task_group() as group:
            group.start_soon(child)
            group.start_soon(child)
    assert now() == 1.0


async def test_native_children_get_one_cancel() -> None:
    """Children of an `asyncio.TaskGroup` get one cancel: their awaiting `finally` runs on."""

    async def child() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            await asyncio.sleep(0.5)

    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0), asyncio.TaskGroup() as group:
            group.create_task(child())
    assert now() == 1.5


# --- 7. bare tasks ----------------------------------------------------------------------------------------


async def test_bare_tasks_are_left_alone_and_named() -> None:
    """Tasks that the block merely started are not touched; the report names them as `left_running`."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0):
            task = asyncio.create_task(asyncio.sleep(2, "mine"), name="shared")
            await asyncio.sleep(9)
    assert [left.name for left in caught.value.report.left_running] == ["shared"]
    assert caught.value.report.left_running[0].awaiting[-1].function == "sleep"
    assert await task == "mine"
    assert now() == 2.0


async def test_other_peoples_tasks_are_not_named() -> None:
    """A task started elsewhere is none of the report's business."""
    other = asyncio.create_task(asyncio.sleep(2), name="other")
    assert (await cut()).report.left_running == ()
    await other


async def test_what_is_inside_a_shield_is_left_running() -> None:
    """`asyncio.shield` keeps its inside alive; the report says so."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0):
            inside = asyncio.ensure_future(asyncio.sleep(2))
            await asyncio.shield(inside)
    assert len(caught.value.report.left_running) == 1
    await inside


# --- what surrounds it ------------------------------------------------------------------------------------


async def test_the_repr_reads_well_in_a_log() -> None:
    """The `repr` says name, state, what is left, of how much."""
    scope = deadline(3.0, margin=1.0, name="move")
    assert repr(scope) == "<Deadline 'move' not entered>"
    with pytest.raises(DeadlineExceeded):
        async with scope as dl:
            assert repr(dl) == "<Deadline 'move' open, 2.000 s left of 2.000 s, margin 1.000 s>"
            try:
                await asyncio.sleep(9)
            finally:
                with anyio.CancelScope(shield=True):
                    await asyncio.sleep(0.25)
                assert repr(dl) == "<Deadline 'move' open, expired 0.250 s ago of 2.000 s, margin 1.000 s>"
    assert repr(dl) == "<Deadline 'move' expired, of 2.000 s, margin 1.000 s>"
    async with deadline(None) as dl:
        assert repr(dl) == "<Deadline open, without a limit>"
    assert repr(dl) == "<Deadline left in time, without a limit>"


async def test_leaving_in_another_context_is_fine() -> None:
    """Entered in one context, left in another, as async test fixtures are: no error, nothing left behind."""
    scope = deadline(5)
    task = asyncio.current_task()
    assert task is not None
    await scope.__aenter__()

    async def leave() -> None:
        await scope.__aexit__(None, None, None)

    coroutine = leave()
    with pytest.raises(StopIteration):
        contextvars.copy_context().run(coroutine.send, None)
    assert current() is None


async def test_events_tell_a_cut_once(events: list[Event]) -> None:
    """A cut is told once, as `deadline.exceeded` with plain fields."""
    await cut(2.0, margin=0.5, name="move")
    assert events == [
        Event(
            "deadline.exceeded",
            logging.INFO,
            {"deadline": "move", "started": True, "allowed": 1.5, "elapsed": 1.5, "margin": 0.5},
        )
    ]


async def test_outside_of_a_task() -> None:
    """In a plain callback there is no task to cut: entering says so."""
    caught: list[str] = []

    def callback() -> None:
        try:
            deadline(1).__aenter__().send(None)
        except RuntimeError as error:
            caught.append(str(error))

    asyncio.get_running_loop().call_soon(callback)
    await asyncio.sleep(0)
    assert "in a task" in caught[0]

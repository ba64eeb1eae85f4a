"""`aws.handler`, without the runtime client: `invoke` on a virtual clock, and calls as Lambda makes them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import logging
import os
import threading
import time
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

import anyio
import pytest

from deadline import DeadlineExceeded, InsufficientTime, aws, critical, current, deadline, remaining
from deadline.aws._runtime import event_loop as _environment
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from deadline import Event
    from deadline.testing import VirtualClock


pytestmark = pytest.mark.usefixtures("own_environment")


@aws.handler
async def echo(event: Any, context: FakeContext) -> Any:
    return event


# --- the answer -------------------------------------------------------------------------------------------


def test_a_handler_is_a_plain_function() -> None:
    """It keeps the name and the docstring, is a function, and answers."""

    @aws.handler
    async def orders(event: Any, context: Any) -> Any:
        """Take orders."""
        return {"left": remaining(), "of": type(current()).__name__}

    assert orders.__name__ == "orders"  # type: ignore[attr-defined]
    assert orders.__doc__ == "Take orders."
    assert type(orders).__name__ == "function"
    answer = orders({}, FakeContext(3.0))
    assert 2.0 < answer["left"] <= 2.5
    assert answer["of"] == "Deadline"


@pytest.mark.parametrize(
    ("left", "margin"), [(30.0, 0.5), (2.001, 0.5), (1.001, 0.25), (0.401, 0.1)], ids=str
)
async def test_the_default_margin(virtual_clock: VirtualClock, left: float, margin: float) -> None:
    """Half a second, at most a quarter of what is left: an inner `deadline(context)` comes first."""

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        dl = current()
        assert dl is not None
        return dl.margin

    assert await f.invoke({}, FakeContext(left)) == pytest.approx(margin)


@pytest.mark.parametrize(
    ("text", "margin"), [("0.2", 0.2), ("2", 1.0), ("", 0.5), ("soon", 0.5), ("-1", 0.5)], ids=str
)
async def test_the_margin_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, text: str, margin: float
) -> None:
    """DEADLINE_MARGIN replaces the default, at most half of what is left; nonsense is said and ignored."""
    monkeypatch.setenv("DEADLINE_MARGIN", text)

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        dl = current()
        assert dl is not None
        return dl.margin

    assert await f.invoke({}, FakeContext(2.1)) == pytest.approx(margin, rel=0.1)
    assert ("DEADLINE_MARGIN" in caplog.text) == (text in {"soon", "-1"})


async def test_an_argument_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`margin=` is more specific than DEADLINE_MARGIN."""
    monkeypatch.setenv("DEADLINE_MARGIN", "0.2")

    @aws.handler(margin=0.7)
    async def f(event: Any, context: Any) -> Any:
        dl = current()
        assert dl is not None
        return dl.margin

    assert await f.invoke({}, FakeContext(3.0)) == pytest.approx(0.7)


async def test_without_a_context_there_is_no_limit(virtual_clock: VirtualClock) -> None:
    """`invoke(event)` runs without a limit, and `invoke(event, 5.0)` with one in seconds."""

    @aws.handler
    async def f(event: Any, context: Any = None) -> Any:
        await asyncio.sleep(3600)
        return remaining()

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return exceeded.margin

    assert await f.invoke({}) == float("inf")
    assert await f.invoke({}, 5.0) == pytest.approx(0.5)


# --- expiry -----------------------------------------------------------------------------------------------


async def test_without_mitigation_it_fails_with_its_error(virtual_clock: VirtualClock) -> None:
    """The error is the class that was asked for, which is the name that Lambda is told."""

    class MoveTimeout(DeadlineExceeded):
        pass

    @aws.handler(error=MoveTimeout, name="move", margin=1.0)
    async def f(event: Any, context: Any) -> Any:
        await asyncio.sleep(9)

    with pytest.raises(
        MoveTimeout, match="deadline 'move' exceeded: 1.999 s allowed with a margin of 1.000 s"
    ):
        await f.invoke({}, FakeContext(3.0))
    assert asyncio.get_running_loop().time() == pytest.approx(1.999, abs=1e-3)


async def test_the_mitigation_answers(virtual_clock: VirtualClock) -> None:
    """`on_exceeded` gets the error, the event and the context; what it returns is the response."""

    @aws.handler(margin=1.0)
    async def f(event: Any, context: Any) -> Any:
        await asyncio.sleep(9)
        return "whole"

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: FakeContext) -> tuple[Any, ...]:
        await asyncio.sleep(0.5)
        return exceeded.elapsed, event, context.aws_request_id, remaining()

    context = FakeContext(3.0)
    elapsed, event, request_id, left = await f.invoke({"key": 1}, context)
    assert elapsed == pytest.approx(1.999)
    assert (event, request_id) == ({"key": 1}, context.aws_request_id)
    assert left == pytest.approx(1.0 - 0.5 - 0.05)


async def test_a_mitigation_may_fail_the_invocation(virtual_clock: VirtualClock) -> None:
    """`raise exceeded` fails with the very error, so that whoever retries does."""

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        await asyncio.sleep(9)

    seen: list[DeadlineExceeded] = []

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> None:
        seen.append(exceeded)
        raise exceeded

    with pytest.raises(DeadlineExceeded) as caught:
        await f.invoke({}, FakeContext(3.0))
    assert caught.value is seen[0]


async def test_a_mitigation_that_raises_tells_both(virtual_clock: VirtualClock) -> None:
    """Its own error leaves, under its own name, and the message tells of the deadline, too."""

    @aws.handler(name="move")
    async def f(event: Any, context: Any) -> Any:
        await asyncio.sleep(9)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> None:
        raise LookupError("no such queue")

    with pytest.raises(
        LookupError, match="(?s)no such queue.*caused by DeadlineExceeded: deadline 'move'"
    ) as caught:
        await f.invoke({}, FakeContext(3.0))
    assert type(caught.value).__name__ == "LookupError"


async def test_a_mitigation_that_raises_from_something_tells_both(virtual_clock: VirtualClock) -> None:
    """The deadline is the first of the causes, behind those that it has."""

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        await asyncio.sleep(9)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> None:
        if event == "timeout":
            async with asyncio.timeout(0.01):
                await asyncio.sleep(9)
        raise ValueError("own") from KeyError("k")

    both = "(?s)own.*caused by KeyError: 'k'.*caused by DeadlineExceeded: deadline 'f'"
    with pytest.raises(ValueError, match=both):
        await f.invoke({}, FakeContext(3.0))
    with pytest.raises(TimeoutError, match="caused by DeadlineExceeded: deadline 'f'"):
        await f.invoke("timeout", FakeContext(3.0))


@pytest.mark.parametrize("source", [0.5, 0.0])
async def test_a_mitigation_without_time_says_so(virtual_clock: VirtualClock, source: float) -> None:
    """It was not cut, it had no time to begin."""

    @aws.handler(margin=0.0)
    async def f(event: Any, context: Any) -> Any:
        await asyncio.sleep(9)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> None:
        raise AssertionError

    with pytest.raises(DeadlineExceeded, match="on_exceeded had no time to begin"):
        await f.invoke({}, FakeContext(source))


async def test_a_margin_that_cannot_be_is_half_of_the_time(
    virtual_clock: VirtualClock, told_by_handlers: list[Event]
) -> None:
    """With 5 s under a timeout of 3 s the work has half of it, and one warning says the numbers."""

    @aws.handler(margin=5.0)
    async def f(event: Any, context: Any) -> Any:
        dl = current()
        assert dl is not None
        await asyncio.sleep(event)
        return dl.margin, dl.remaining()

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return exceeded.report.margin, repr(exceeded.deadline)

    assert await f.invoke(1, FakeContext(3.001)) == pytest.approx((1.5, 0.5))
    margin, said = await f.invoke(9, FakeContext(3.001))
    assert margin == pytest.approx(1.5)
    assert "margin 1.500 s" in said
    (warning,) = [event for event in told_by_handlers if event.name == "aws.margin_clamped"]
    assert warning.level == logging.WARNING
    assert {key: warning.fields[key] for key in ("function", "margin", "left", "kept")} == pytest.approx(
        {"function": "f", "margin": 5.0, "left": 3.0, "kept": 1.5}
    )


@pytest.mark.parametrize(
    ("limit", "left", "margin"), [(3.0, 900.001, 1.5), (29.0, 900.001, 5.0), (3.0, 3.001, 1.5)], ids=str
)
async def test_a_margin_that_cannot_be_for_a_caller(
    virtual_clock: VirtualClock, limit: float, left: float, margin: float
) -> None:
    """A caller that waits for less than the margin is answered in time; repr and report say what is kept."""

    @aws.handler(margin=5.0, caller_limit=limit)
    async def f(event: Any, context: Any) -> Any:
        await asyncio.sleep(3600)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return exceeded.started, exceeded.report.margin, repr(exceeded.deadline)

    started, kept, said = await f.invoke({}, FakeContext(left))
    assert (started, kept) == (True, pytest.approx(margin))
    assert f"margin {margin:.3f} s" in said


async def test_a_margin_that_leaves_little_is_kept(
    virtual_clock: VirtualClock, told_by_handlers: list[Event]
) -> None:
    """What can be kept is what somebody chose, and nothing is said of it."""

    @aws.handler(margin=2.5)
    async def f(event: Any, context: Any) -> float:
        return remaining()

    assert await f.invoke({}, FakeContext(3.001)) == pytest.approx(0.5)
    assert told_by_handlers == []


@pytest.mark.parametrize("how", ["waits", "swallows", "shields"])
async def test_a_mitigation_that_overruns_is_cut(virtual_clock: VirtualClock, how: str) -> None:
    """It has all but the last twentieth of the margin; then the invocation fails with both told."""

    @aws.handler(margin=1.0)
    async def f(event: Any, context: Any) -> Any:
        await asyncio.sleep(9)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> None:
        if how == "shields":
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(60)
        while how == "swallows":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
        await asyncio.sleep(60)

    with pytest.raises(DeadlineExceeded, match="(?s)1.999 s allowed.*on_exceeded did not end in time"):
        await f.invoke({}, FakeContext(3.0))
    hard = 2.999
    late = {"waits": 0.05, "swallows": 0.025, "shields": 0.025}[how]
    assert asyncio.get_running_loop().time() == pytest.approx(hard - late, abs=2e-3)


async def test_an_inner_deadline_of_the_same_end_is_the_invocations(virtual_clock: VirtualClock) -> None:
    """An inner `deadline(context)` that nobody handles is mitigated; a shorter one is any other error."""

    @aws.handler
    async def f(event: str, context: FakeContext) -> Any:
        async with deadline(context if event == "context" else 0.5):
            await asyncio.sleep(9)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> str:
        return f"{exceeded.margin:.1f}"

    assert await f.invoke("context", FakeContext(3.0)) == "1.0"
    with pytest.raises(DeadlineExceeded):
        await f.invoke("short", FakeContext(3.0))


@pytest.mark.parametrize("group", ["asyncio", "anyio"])
async def test_what_comes_out_of_a_task_group_is_mitigated(virtual_clock: VirtualClock, group: str) -> None:
    """A group wraps what its children raise; beside a real error it is that error's turn."""

    async def child(context: FakeContext) -> None:
        async with deadline(context):
            await asyncio.sleep(9)

    async def fail() -> None:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise LookupError("beside") from None

    @aws.handler
    async def f(event: Any, context: FakeContext) -> Any:
        if group == "asyncio":
            async with asyncio.TaskGroup() as native:
                native.create_task(child(context))
                if event:
                    native.create_task(fail())
        else:
            async with anyio.create_task_group() as theirs:
                theirs.start_soon(child, context)
                if event:
                    theirs.start_soon(fail)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return "mitigated"

    assert await f.invoke(None, FakeContext(3.0)) == "mitigated"
    with pytest.raises(ExceptionGroup) as caught:
        await f.invoke("fail", FakeContext(3.0))
    assert "LookupError: beside" in str(caught.value)


async def test_a_refusal_is_mitigated(virtual_clock: VirtualClock) -> None:
    """A refusal that nobody handled is the invocation's time being up."""

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        dl = current()
        assert dl is not None
        raise dl.refusal("too long")

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> str:
        return type(exceeded).__name__

    assert await f.invoke({}, FakeContext(3.0)) == InsufficientTime.__name__


async def test_nothing_left_on_entry_runs_nothing(virtual_clock: VirtualClock) -> None:
    """Neither the body nor `on_exceeded`: there is no time for either."""

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        raise AssertionError

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        raise AssertionError

    with pytest.raises(DeadlineExceeded, match="before it began") as caught:
        await f.invoke({}, FakeContext(0.0))
    assert caught.value.started is False
    assert "on_exceeded had no time to begin" in str(caught.value)


async def test_a_body_that_finishes_late_keeps_its_answer(virtual_clock: VirtualClock) -> None:
    """A body that finishes although it was cut has the last word."""

    @aws.handler(margin=1.0)
    async def f(event: Any, context: Any) -> Any:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            return "after all"
        return "never"

    assert await f.invoke({}, FakeContext(3.0)) == "after all"


# --- left behind ------------------------------------------------------------------------------------------


async def _swallow(released: asyncio.Event) -> None:
    while True:
        try:
            await released.wait()
        except asyncio.CancelledError:
            pass


async def _shield(released: asyncio.Event) -> None:
    with anyio.CancelScope(shield=True):
        await released.wait()


async def _finally(released: asyncio.Event) -> None:
    try:
        await asyncio.sleep(99)
    finally:
        with anyio.CancelScope(shield=True):
            await released.wait()


async def _group(released: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_swallow(released))


async def _anyio_group(released: asyncio.Event) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_swallow, released)


async def _nested_groups(released: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_group(released))
        group.create_task(_swallow(released))


STUBBORN = [_swallow, _shield, _finally, _group, _anyio_group, _nested_groups]


@pytest.mark.parametrize("body", STUBBORN, ids=lambda body: body.__name__)
async def test_a_body_that_does_not_end_is_left_behind(
    virtual_clock: VirtualClock, body: Callable[[asyncio.Event], Any], told_by_handlers: list[Event]
) -> None:
    """After a quarter of the margin it is closed, the mitigation answers, and no task is left.

    Nor does a group complain to the loop that a child failed, which was closed like its parent.
    """
    released = asyncio.Event()
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))

    @aws.handler(margin=1.0)
    async def f(event: Any, context: Any) -> Any:
        await body(released)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return [link.function for link in exceeded.report.tasks[0].awaiting]

    before = asyncio.all_tasks()
    awaiting = await f.invoke({}, FakeContext(3.0))
    assert body.__name__ in awaiting
    assert asyncio.get_running_loop().time() == pytest.approx(1.999 + 0.25, abs=5e-3)
    assert asyncio.all_tasks() == before
    assert [event.name for event in told_by_handlers] == ["aws.left_behind", "aws.exceeded"]
    assert await echo.invoke(7, FakeContext(3.0)) == 7
    assert complaints == []


def test_a_child_that_is_left_behind_does_not_fail_the_lifespans_group() -> None:
    """It counts as cancelled: asyncio's group, which is another task's and goes on, takes no harm."""
    left: list[str] = []

    @asynccontextmanager
    async def groups() -> AsyncIterator[asyncio.TaskGroup]:
        try:
            async with asyncio.TaskGroup() as group:
                yield group
        finally:
            left.append("group")

    @aws.handler(lifespan=groups)
    async def f(event: Any, context: Any, group: asyncio.TaskGroup) -> Any:
        group.create_task(_swallow(asyncio.Event()))
        await asyncio.sleep(0)
        return event

    assert [f(number, FakeContext(3.0)) for number in range(2)] == [0, 1]
    assert left == []


async def test_a_section_that_undoes_is_not_left_behind(
    virtual_clock: VirtualClock, told_by_handlers: list[Event]
) -> None:
    """Its undo has three quarters of the margin, and the body a little more to unwind."""
    undone: list[str] = []

    async def undo() -> None:
        await asyncio.sleep(0.24)
        undone.append("copy")

    @aws.handler(margin=1.0)
    async def move(event: Any, context: Any) -> Any:
        try:
            async with critical("move") as section, section.step("copy", undo=undo):
                await asyncio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.02)

    @move.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        (section,) = exceeded.report.sections
        return section.status

    assert await move.invoke({}, FakeContext(3.001)) == "undone"
    assert asyncio.get_running_loop().time() == pytest.approx(2.76)
    assert undone == ["copy"]
    assert [event.name for event in told_by_handlers] == ["aws.exceeded"]


async def test_finally_blocks_run_when_a_body_is_left_behind(virtual_clock: VirtualClock) -> None:
    """Closing runs the `finally` blocks that do not wait, in the task's own context."""
    var: ContextVar[str] = ContextVar("var", default="outside")
    ran: list[Any] = []

    @aws.handler(margin=1.0)
    async def f(event: Any, context: Any) -> Any:
        token = var.set("inside")
        task = asyncio.current_task()
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(99)
        finally:
            ran.append((var.get(), asyncio.current_task() is task))
            var.reset(token)

    with pytest.raises(DeadlineExceeded):
        await f.invoke({}, FakeContext(3.0))
    assert ran == [("inside", True)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python's own, of the close
@pytest.mark.parametrize("where", ["body", "task"])
@pytest.mark.slow
def test_what_nothing_ends_costs_the_loop_at_most(told_by_handlers: list[Event], where: str) -> None:
    """What swallows even its closing is orphaned, or left with its loop; the next invocations are right."""
    going = True

    async def go_on() -> None:
        while going:
            try:
                await asyncio.sleep(0.01)
            except BaseException:
                pass

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        await (go_on() if where == "body" else asyncio.create_task(go_on()))

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> str:
        return "mitigated"

    used = _environment.environment()
    assert f({}, FakeContext(0.4)) == "mitigated"
    stuck = [event.name for event in told_by_handlers][-1] == "aws.loop_replaced"
    assert stuck == (where == "task")
    for number in range(3):
        assert echo(number, FakeContext(3.0)) == number
    assert (_environment.environment() is not used) == stuck
    going = False
    used.loop.run_until_complete(asyncio.sleep(0.05))
    assert asyncio.all_tasks(used.loop) == set()
    gc.collect()


@pytest.mark.slow
def test_a_worker_thread_is_never_waited_for() -> None:
    """A body that sits in a thread is cut as usual; the thread goes on and nobody joins it."""
    release = threading.Event()

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        await asyncio.to_thread(release.wait, 30)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> str:
        return "mitigated"

    started = time.monotonic()
    assert f({}, FakeContext(0.5)) == "mitigated"
    assert echo(1, FakeContext(3.0)) == 1
    assert time.monotonic() - started < 10
    release.set()


# --- draining ---------------------------------------------------------------------------------------------


async def test_what_is_left_running_is_ended_and_named(
    virtual_clock: VirtualClock, told_by_handlers: list[Event]
) -> None:
    """Tasks that the body left are cancelled before the answer, and the event says which."""
    left: list[asyncio.Task[None]] = []

    async def poll() -> None:
        await asyncio.sleep(3600)

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        left.append(asyncio.create_task(poll(), name="poller"))
        return "answer"

    assert await f.invoke({}, FakeContext(3.0)) == "answer"
    assert left[0].cancelled()
    (event,) = told_by_handlers
    assert event.name == "aws.left_running"
    assert "poller (" in event.fields["tasks"]
    assert "poll)" in event.fields["tasks"]


async def test_a_left_task_that_does_not_end_is_closed(virtual_clock: VirtualClock) -> None:
    """Its cancellation is waited for 0.2 s at most."""
    released = asyncio.Event()

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        asyncio.create_task(_swallow(released))  # noqa: RUF006
        await asyncio.sleep(0)
        return "answer"

    before = asyncio.all_tasks()
    assert await f.invoke({}, FakeContext(30.0)) == "answer"
    assert asyncio.all_tasks() == before
    assert asyncio.get_running_loop().time() == pytest.approx(0.2, abs=5e-3)


async def test_others_tasks_are_left_alone(virtual_clock: VirtualClock) -> None:
    """Only what the invocation has started is ended."""
    other = asyncio.create_task(asyncio.sleep(5, "other"))
    await echo.invoke({}, FakeContext(3.0))
    assert await other == "other"


async def test_async_generators_are_closed(virtual_clock: VirtualClock) -> None:
    """One that is suspended, dropped or kept, has run its `finally` before the answer."""
    closed: list[str] = []
    kept: list[Any] = []

    async def numbers(name: str) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(name)

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        async for _ in numbers("dropped"):
            break
        generator = numbers("kept")
        await anext(generator)
        kept.append(generator)
        return "answer"

    assert await f.invoke({}, FakeContext(3.0)) == "answer"
    assert sorted(closed) == ["dropped", "kept"]


async def test_cancelling_invoke_cancels_the_body(virtual_clock: VirtualClock) -> None:
    """A cancellation from outside is no error of the function: it goes through, and nothing is left."""
    ended: list[str] = []

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        try:
            await asyncio.sleep(9)
        finally:
            ended.append("body")

    before = asyncio.all_tasks()
    task = asyncio.create_task(f.invoke({}, FakeContext(30.0)))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["body"]
    assert asyncio.all_tasks() == before


# --- what Lambda is told ----------------------------------------------------------------------------------


class Private(BaseException):
    pass


ESCAPING = [
    (asyncio.CancelledError(), "CancelledError", ""),
    (SystemExit(3), "SystemExit", "3"),
    (KeyboardInterrupt(), "KeyboardInterrupt", ""),
    (Private("mine"), "Private", "mine"),
    (
        BaseExceptionGroup("all", [Private("a"), ValueError("b")]),
        "BaseExceptionGroup",
        "all (2 sub-exceptions)\n- Private: a\n- ValueError: b",
    ),
    (ExceptionGroup("all", [KeyError("a")]), "ExceptionGroup", "all (1 sub-exception)\n- KeyError: 'a'"),
]


@pytest.mark.parametrize(("error", "name", "message"), ESCAPING, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("where", ["body", "task", "mitigation"])
@pytest.mark.slow
def test_nothing_but_an_exception_leaves(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, name: str, message: str, where: str
) -> None:
    """Under its own name, with all of it in the message; the next invocations are right."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9")

    async def fail() -> None:
        raise error

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        if where == "mitigation":
            await asyncio.sleep(9)
        elif where == "task":
            await asyncio.create_task(fail())
        else:
            await fail()

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> None:
        await fail()

    with pytest.raises(Exception) as caught:  # noqa: PT011  # the message is looked at below
        f({}, FakeContext(0.8 if where == "mitigation" else 3.0))
    assert type(caught.value).__name__ == name
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, Exception)
    for number in range(3):
        assert echo(number, FakeContext(3.0)) == number
    error.__cause__ = None
    gc.collect()  # a task's SystemExit that nobody took is told by the loop, here and not later


def test_a_keyboard_interrupt_gets_out_where_there_is_a_keyboard() -> None:
    """Outside of Lambda, Ctrl-C is meant for the program."""

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        f({}, FakeContext(3.0))


def test_a_tasks_exit_that_nobody_awaits_ends_the_invocation() -> None:
    """SystemExit in a task stops any loop; here the invocation fails with it, and is drained."""

    async def leave() -> None:
        raise SystemExit(4)

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        task = asyncio.create_task(leave())
        await asyncio.sleep(9)
        await task

    with pytest.raises(Exception, match="4") as caught:
        f({}, FakeContext(30.0))
    assert type(caught.value).__name__ == "SystemExit"
    assert echo(1, FakeContext(3.0)) == 1
    gc.collect()


async def test_notes_causes_and_members_are_in_the_message() -> None:
    """All that the runtime client would drop."""

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        failure = RuntimeError("no table")
        failure.add_note("asked for by checkout")
        raise failure from KeyError("orders")

    with pytest.raises(RuntimeError) as caught:
        await f.invoke({})
    assert str(caught.value) == "no table\nasked for by checkout\n- caused by KeyError: 'orders'"
    assert type(caught.value).__name__ == "RuntimeError"
    assert isinstance(caught.value.__cause__, RuntimeError)


async def test_a_plain_error_leaves_as_it_is() -> None:
    """What says everything by itself is the same object."""
    error = ValueError("plain")

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        raise error

    with pytest.raises(ValueError, match="plain") as caught:
        await f.invoke({})
    assert caught.value is error


@pytest.mark.parametrize("depth", [1, 50])
async def test_circles_and_depth_of_causes_end(depth: int) -> None:
    """A chain of causes may be long or a circle; the message ends."""
    errors = [ValueError(f"number {number}") for number in range(depth)]
    for one, next_one in zip(errors, errors[1:] + errors[:1], strict=True):
        one.__cause__ = next_one

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        raise errors[0]

    with pytest.raises(ValueError, match="number 0") as caught:
        await f.invoke({})
    assert len(str(caught.value).splitlines()) <= 10


class Picky(Exception):
    def __new__(cls, one: int, *, two: int) -> Self:
        return super().__new__(cls, one, two)

    def __init__(self, one: int, *, two: int) -> None:
        super().__init__(one)


async def test_an_error_that_cannot_be_made_again_keeps_its_name() -> None:
    """Its class may have an idea of its own about its arguments."""

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        raise Picky(1, two=2) from KeyError("x")

    with pytest.raises(Exception, match="caused by KeyError: 'x'") as caught:
        await f.invoke({})
    assert type(caught.value).__name__ == "Picky"


async def test_the_whole_traceback_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """If Lambda's own log would miss something; from the handler's code on."""

    async def fail() -> None:
        raise LookupError("deep inside")

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    with caplog.at_level(logging.ERROR, logger="deadline"), pytest.raises(ExceptionGroup):
        await f.invoke({}, FakeContext(3.0))
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    text = record.getMessage()
    assert text.startswith("aws.invocation_failed function='f' request_id=")
    assert text.count("LookupError: deep inside") == 1
    assert "_invocation.py" not in text
    assert "traceback" not in json.dumps(record.__dict__["deadline"])


# --- lifespan ---------------------------------------------------------------------------------------------


def test_the_lifespan_is_entered_once_in_a_task_of_its_own() -> None:
    """It is open from the first invocation on, and left by the task that entered it."""
    happened: list[Any] = []

    @asynccontextmanager
    async def clients() -> AsyncIterator[str]:
        happened.append(("enter", asyncio.current_task(), current()))
        async with anyio.create_task_group():
            yield "clients"
        happened.append(("leave", asyncio.current_task(), current()))

    @aws.handler(lifespan=clients)
    async def f(event: Any, context: Any, resources: str) -> Any:
        return resources, asyncio.current_task()

    assert happened == []
    answers = [f({}, FakeContext(3.0)) for _ in range(3)]
    assert [resources for resources, _ in answers] == ["clients"] * 3
    assert len(happened) == 1
    _environment.environment().close()
    enter, leave = happened
    assert enter[1] is leave[1]
    assert enter[1] not in [task for _, task in answers]
    assert enter[2] is None


def test_a_lifespan_that_fails_fails_the_invocation_and_is_tried_again() -> None:
    """The next invocation enters it anew."""
    tries: list[int] = []

    @asynccontextmanager
    async def clients() -> AsyncIterator[str]:
        tries.append(1)
        if len(tries) == 1:
            raise LookupError("no secret")
        yield "clients"

    @aws.handler(lifespan=clients)
    async def f(event: Any, context: Any, resources: str) -> Any:
        return resources

    with pytest.raises(LookupError, match="no secret"):
        f({}, FakeContext(3.0))
    assert f({}, FakeContext(3.0)) == "clients"


@pytest.mark.slow
def test_a_lifespan_that_takes_too_long_is_cut() -> None:
    """Entering counts: the mitigation runs without resources, and nothing goes on in the next invocation."""
    entered: list[str] = []

    @asynccontextmanager
    async def clients() -> AsyncIterator[str]:
        entered.append("begun")
        try:
            await asyncio.sleep(0 if len(entered) > 1 else 99)
        except asyncio.CancelledError:
            entered.append("cut")
            raise
        yield "clients"

    @aws.handler(lifespan=clients)
    async def f(event: Any, context: Any, resources: str) -> Any:
        return resources

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any, resources: str | None) -> Any:
        return resources

    assert f({}, FakeContext(0.3)) is None
    assert f({}, FakeContext(3.0)) == "clients"
    assert entered == ["begun", "cut", "begun"]


@pytest.mark.slow
def test_a_lifespan_that_is_slow_to_stop_is_waited_for_and_entered_anew() -> None:
    """What was cut is not the next invocation's error, although it is unwound in the time of that."""
    entered: list[str] = []

    @asynccontextmanager
    async def clients() -> AsyncIterator[str]:
        entered.append("begun")
        if len(entered) == 1:
            try:
                await asyncio.sleep(99)
            finally:
                await asyncio.sleep(0.5)
                entered.append("unwound")
        yield "clients"

    @aws.handler(lifespan=clients, margin=0.1)
    async def f(event: Any, context: Any, resources: str) -> Any:
        return resources

    with pytest.raises(DeadlineExceeded):
        f({}, FakeContext(0.3))
    assert f({}, FakeContext(3.0)) == "clients"
    assert entered == ["begun", "unwound", "begun"]


async def test_the_report_looks_into_a_lifespan(virtual_clock: VirtualClock) -> None:
    """A cold start that hangs is told by where it hangs."""

    @asynccontextmanager
    async def clients() -> AsyncIterator[str]:
        await asyncio.sleep(99)
        yield "clients"

    @aws.handler(lifespan=clients)
    async def f(event: Any, context: Any, resources: str) -> Any:
        return resources

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any, resources: Any) -> Any:
        return [link.function for task in exceeded.report.tasks for link in task.awaiting]

    assert any("clients" in function for function in await f.invoke({}, FakeContext(3.0)))


@pytest.mark.parametrize(
    "lifespan", [3, "clients", contextlib.nullcontext()], ids=["number", "text", "called"]
)
def test_what_is_no_lifespan_is_refused_where_it_is_written(lifespan: Any) -> None:
    """The message says what to put above which function."""
    with pytest.raises(TypeError, match="lifespan: expected a function that gives an async context manager"):
        aws.handler(lifespan=lifespan)


async def test_a_lifespan_without_its_decorator_is_refused() -> None:
    """A bare generator where it is written, another context manager when it is entered."""

    async def bare() -> AsyncIterator[None]:
        yield

    with pytest.raises(TypeError, match="asynccontextmanager above"):
        aws.handler(lifespan=bare)  # type: ignore[arg-type]
    made: Any = lambda: contextlib.closing(None)  # type: ignore[type-var] # noqa: E731

    @aws.handler(lifespan=made)
    async def f(event: Any, context: Any, resources: Any) -> Any: ...

    with pytest.raises(TypeError, match="which is no async context manager"):
        await f.invoke({}, FakeContext(3.0))


async def test_resources_without_a_lifespan_are_refused() -> None:
    """They would be dropped in silence."""
    with pytest.raises(TypeError, match="resources: echo has no lifespan"):
        await echo.invoke({}, FakeContext(3.0), resources="clients")


@pytest.mark.slow
def test_a_second_thread_is_refused_before_anything_runs() -> None:
    """A process has one loop, and one invocation at a time."""
    ran: list[str] = []
    began = threading.Event()

    @aws.handler
    async def f(event: str, context: Any) -> Any:
        ran.append(event)
        began.set()
        await asyncio.sleep(0.5)

    thread = threading.Thread(target=f, args=("first", FakeContext(30.0)))
    thread.start()
    began.wait(10)
    with pytest.raises(RuntimeError, match="while an invocation was running"):
        f("second", FakeContext(3.0))
    thread.join()
    assert ran == ["first"]


async def test_a_partial_is_a_function() -> None:
    """It has no name of its own."""

    async def named(event: Any, context: Any, more: int) -> int:
        return more

    assert await aws.handler(functools.partial(named, more=4)).invoke({}, FakeContext(3.0)) == 4


async def test_a_second_mitigation_is_refused() -> None:
    """It would take the first one's place in silence."""

    @aws.handler
    async def f(event: Any, context: Any) -> Any: ...

    @f.on_exceeded
    async def first(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any: ...

    with pytest.raises(RuntimeError, match="on_exceeded: f has .*first already"):

        @f.on_exceeded
        async def second(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any: ...


async def test_invoke_takes_resources_or_enters_the_lifespan() -> None:
    """Given resources are used as they are; else the lifespan is entered and left for this invocation."""
    happened: list[str] = []

    @asynccontextmanager
    async def clients() -> AsyncIterator[str]:
        happened.append("enter")
        yield "real"
        happened.append("leave")

    @aws.handler(lifespan=clients)
    async def f(event: Any, context: Any, resources: str) -> Any:
        return resources

    assert await f.invoke({}, FakeContext(3.0), resources="fake") == "fake"
    assert happened == []
    assert await f.invoke({}, FakeContext(3.0)) == "real"
    assert happened == ["enter", "leave"]


@pytest.mark.parametrize(
    ("variables", "entered"),
    [
        ({"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9"}, True),
        ({}, False),
        ({"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9", "AWS_LAMBDA_MAX_CONCURRENCY": "4"}, False),
        ({"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9", "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}, False),
    ],
)
def test_an_eager_lifespan_is_entered_where_lambda_initialises(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], *, entered: bool
) -> None:
    """In the init phase, unless the process is copied afterwards; never in a unit test."""
    for name in ("AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_MAX_CONCURRENCY", "AWS_LAMBDA_INITIALIZATION_TYPE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    happened: list[str] = []

    @asynccontextmanager
    async def clients() -> AsyncIterator[str]:
        happened.append("enter")
        yield "clients"

    @aws.handler(lifespan=clients, eager=True)
    async def f(event: Any, context: Any, resources: str) -> Any:
        return resources

    assert happened == (["enter"] if entered else [])
    assert f({}, FakeContext(3.0)) == "clients"
    assert happened == ["enter"]


def test_a_fork_gets_a_loop_of_its_own() -> None:
    """A forked worker neither runs nor closes its parent's loop."""
    assert echo(1, FakeContext(3.0)) == 1
    parents = _environment.environment()
    child = os.fork()
    if child == 0:
        try:
            ours = _environment.environment() is not parents and echo(2, FakeContext(3.0)) == 2
            os._exit(0 if ours else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert echo(3, FakeContext(3.0)) == 3


# --- sources, switches, bad input -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "answer", "warns"),
    [
        ("aws:sqs", {"status": "partial"}, True),
        ("aws:kinesis", None, True),
        ("aws:dynamodb", {"batchItemFailures": []}, True),
        ("aws:sqs", {"batchItemFailures": [{"itemIdentifier": "1"}]}, False),
        ("aws:s3", {"status": "partial"}, False),
    ],
)
async def test_an_answer_that_loses_work_is_warned_of_once(
    virtual_clock: VirtualClock, told_by_handlers: list[Event], source: str, answer: Any, *, warns: bool
) -> None:
    """To a queue or a stream no error means that all is done."""

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        await asyncio.sleep(9)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return answer

    for _turn in range(2):
        await f.invoke({"Records": [{"eventSource": source}]}, FakeContext(3.0))
    assert [event.name for event in told_by_handlers].count("aws.work_lost") == warns


def test_disabled_it_is_a_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """With DEADLINE_DISABLED there is no deadline, no draining and no folding; errors leave as they are."""
    monkeypatch.setattr("deadline._core.scope.DISABLED", True)

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        if event:
            raise Private(event)
        return remaining()

    assert f("", FakeContext(0.0)) == float("inf")
    with pytest.raises(Private):
        f("error", FakeContext(0.0))


async def test_called_inside_of_a_loop_it_says_what_to_write() -> None:
    """The message has the line to write instead."""
    with pytest.raises(RuntimeError, match=r"await function.invoke\(event, context\)"):
        echo(1, FakeContext(3.0))


_handler: Any = aws.handler
_lifespan: Any = asynccontextmanager(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _handler("f"), r"function: expected an `async def` or a plain function, got 'f'"),
        (lambda: _handler(margin=-1), r"margin: -1.0 is negative"),
        (lambda: _handler(margin=float("inf")), r"margin: inf leaves no time"),
        (lambda: _handler(error=ValueError), r"error: expected a subclass of DeadlineExceeded"),
        (lambda: _handler(name=3), r"name: expected a string"),
        (
            lambda: _handler(lifespan=_lifespan)(_two),
            r"function: _two is called with \(event, context, resources\)",
        ),
        (lambda: _handler(_two).on_exceeded(lambda *_: None), r"on_exceeded: expected an `async def`"),
        (
            lambda: _handler(_two).on_exceeded(_two),
            r"on_exceeded: _two is called with \(exceeded, event, con",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make: Callable[[], Any], message: str) -> None:
    """Where it is written, not at the first invocation."""
    with pytest.raises((TypeError, ValueError), match=message):
        make()


async def _two(event: Any, context: Any) -> None: ...


@pytest.fixture
def told_by_handlers(told: list[Event]) -> list[Event]:
    """The events of `aws`."""
    return told


# --- many ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_invocations_leave_nothing(
    leaves_nothing: Callable[[Callable[[int], None]], None],
) -> None:
    """No tasks, no threads, no descriptors; under a megabyte of memory."""

    @aws.handler
    async def f(event: int, context: Any) -> Any:
        if event % 10 == 0:
            asyncio.create_task(asyncio.sleep(60))  # noqa: RUF006
        if event % 100 == 0:
            await asyncio.sleep(60)
        return event

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return exceeded.report.to_json()

    def shoot(count: int) -> None:
        for number in range(count):
            with contextlib.suppress(DeadlineExceeded):  # a mitigation that was kept waiting
                f(number, FakeContext(0.3 if number % 100 == 0 else 3.0))

    leaves_nothing(shoot)
    assert asyncio.all_tasks(_environment.environment().loop) == set()

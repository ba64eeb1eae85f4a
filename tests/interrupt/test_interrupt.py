"""Interrupting what blocks the loop."""

from __future__ import annotations

import asyncio
import dis
import gc
import importlib
import importlib.util
import opcode
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import uvloop

from deadline import DeadlineExceeded, critical, deadline, subscribe
from deadline._core import scope as _scope
from deadline._interrupt.alarm import alarm
from deadline._interrupt.interrupted import LOOP_RUNNERS, USER_CALLS, Interrupted
from deadline._interrupt.places import Place, interruptible, is_unawaited, may_interrupt_callback
from deadline._work.section import SectionStep
from deadline.aws._function.plain_invocation import call_yours
from deadline.aws._runtime.event_loop import Environment
from deadline.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from deadline import Event

SOON = 0.02
LONG = 10.0
"""Longer than any test may take: what lasts so long was not interrupted."""

slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def _signals_come_back() -> Iterator[None]:
    """After every test nobody holds the alarm, and what an interrupt has left is gone.

    A task that tells of its lost error in the middle of another test's import breaks Python's parser there
    (python/cpython#106905).
    """
    before = signal.getsignal(signal.SIGALRM)
    yield
    gc.collect()
    after, timer = signal.getsignal(signal.SIGALRM), signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    assert (after, timer[0]) == (before, 0.0)
    assert not alarm._targets


@pytest.fixture(params=[asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[Any]], Any]:
    """Run a coroutine to its end on a loop of this kind, in the time that a test may take."""

    def run(work: Any) -> Any:
        before = time.monotonic()
        with asyncio.Runner(loop_factory=request.param) as runner:
            try:
                return runner.run(work)
            finally:
                assert time.monotonic() - before < LONG - 1

    return run


def block(seconds: float = LONG) -> None:
    """Keep the loop from everything."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(seconds, 0.5))


async def blocks() -> None:
    block()


# --- the decision -----------------------------------------------------------------------------------------

USERS = Place("orders", "handle", awaits=True)
UNDOES = Place("deadline._work.section", "undo", awaits=True, calls_user=True)
CALLED = Place("deadline.aws._function.plain_invocation", "call_yours", awaits=False, calls_user=True)
JOINS = Place("asyncio.base_events", "shutdown_default_executor", awaits=True, calls_user=True)
WAITS = Place("selectors", "select", awaits=False)


def of(module: str, function: str = "f") -> Place:
    return Place(module, function, awaits=False)


@pytest.mark.parametrize(
    ("stack", "from_share"),
    [
        ([USERS], 0.0),
        ([of("time"), of("orders"), USERS], 0.0),
        ([of("threading"), USERS], 0.0),
        ([of("queue"), USERS], 0.0),
        ([of("concurrent.futures._base", "result"), USERS], 0.0),
        ([of("asyncio_tools"), of("deadlines"), USERS], 0.0),
        ([of("weakref"), USERS], None),
        ([of("_weakrefset"), USERS], None),
        ([of("orders"), of("weakref"), USERS], 1 / 3),
        ([of("orders"), of("logging.handlers"), USERS], 1 / 3),
        ([of("orders"), of("importlib._bootstrap"), USERS], 1 / 3),
        ([of("orders"), of("_frozen_importlib"), USERS], 1 / 3),
        ([of("threading", "__enter__"), USERS], 1 / 3),
        ([of("contextlib", "__exit__"), USERS], 1 / 3),
        ([of("orders"), of("orders", "__del__"), USERS], None),
        ([of("asyncio.base_events"), USERS], None),
        ([Place("asyncio.tasks", "sleep", awaits=True), USERS], None),
        ([of("anyio._backends._asyncio"), USERS], None),
        ([of("concurrent.futures._base", "result"), of("anyio.from_thread", "call"), CALLED], 0.0),
        ([of("uvloop"), USERS], None),
        ([of("deadline._core.scope"), USERS], None),
        ([of("orders"), UNDOES], 0.0),
        ([of("orders"), CALLED, of("deadline.aws._function.plain_invocation")], 0.0),
        ([CALLED, of("deadline.aws._function.plain_invocation")], None),
        ([of("deadline._work.section", "__enter__"), of("orders"), CALLED], None),
        ([of("orders", "__del__"), of("orders"), CALLED], None),
        ([of("logging"), of("orders"), CALLED], 1 / 3),
        (
            [of("threading", "join"), JOINS],
            0.0,
        ),
        ([WAITS, of("asyncio.base_events", "_run_once"), of("orders"), CALLED], None),
        ([UNDOES], None),
        ([of("deadline._events"), UNDOES], None),
        ([USERS, of("asyncio.events"), of("__main__")], 0.0),
        ([USERS._replace(unawaited=True)], 1 / 3),
        ([of("orders"), USERS._replace(unawaited=True)], 0.0),
        ([of("orders"), of("asyncio.events")], None),
        ([of("orders")], None),
        ([], None),
    ],
    ids=lambda value: "-".join(one.module for one in value) if isinstance(value, list) else None,
)
def test_what_may_be_interrupted_and_when(stack: list[Place], from_share: float | None) -> None:
    """Never the loop's own books, nor a `__del__`, nor what is no task; some places only later."""
    for spent in (0.0, 0.2, 0.34, 0.6, 0.99, 5.0):
        expected = from_share is not None and spent >= from_share
        assert interruptible(stack, spent, own=True) is expected
        assert interruptible(stack, spent, own=False) is (expected and spent >= 2 / 3)


def test_a_loop_that_runs_inside_may_be_left_where_it_waits() -> None:
    """Nowhere else: in the middle of its books as little as the deadline's own loop."""
    loop = [
        of("asyncio.base_events", "_run_once"),
        of("asyncio.base_events", "run_forever"),
        of("orders"),
        CALLED,
    ]
    for inside, stack, expected in [
        (True, [WAITS, *loop], True),
        (False, [WAITS, *loop], False),
        (True, [of("orders"), WAITS, *loop], False),
        (True, [WAITS, of("orders"), CALLED], True),
        (True, loop, False),
        (True, [of("orders"), of("asyncio.events", "_run"), *loop], False),
    ]:
        assert interruptible(stack, 0.5, own=True, leaves_loop=inside) is expected


CALLS_BACK = Place("asyncio.events", "_run", awaits=False, hands_on=True)
RUNNER = of("asyncio.runners", "run")._replace(runs_loop=True)
RUNS = of("deadline.aws._runtime.event_loop", "run")._replace(runs_loop=True)


@pytest.mark.parametrize(
    ("stack", "own", "others"),
    [
        ([of("orders"), CALLS_BACK, of("asyncio.base_events", "_run_once")], True, True),
        ([of("orders"), of("time"), of("logging"), CALLS_BACK], True, True),
        ([of("orders"), USERS, CALLS_BACK], True, True),  # somebody drives it by hand
        ([CALLS_BACK], True, False),  # C code of the block's, or a task that has just ended
        ([CALLS_BACK._replace(hands_on=False)], False, False),
        ([of("orders"), CALLS_BACK._replace(hands_on=False)], False, False),  # a signal's handler
        ([of("orders"), of("asyncio.events", "_add_callback"), CALLS_BACK], False, False),
        ([of("aiohttp"), of("asyncio.selector_events"), CALLS_BACK], False, False),
        ([of("anyio._backends._asyncio"), CALLS_BACK], False, False),
        ([of("deadline._core.timer"), CALLS_BACK], False, False),
        ([of("orders", "__del__"), CALLS_BACK], False, False),
        ([of("weakref", "remove"), CALLS_BACK], False, False),
        ([of("_weakrefset", "_remove"), CALLS_BACK], False, False),
        ([of("selectors", "select"), of("asyncio.base_events", "_run_once"), RUNS], False, False),
        ([of("uvloop._noop", "noop"), RUNS], False, False),
        ([of("orders"), RUNS], True, True),
        ([of("orders"), RUNNER], True, True),
        ([RUNS], True, False),
        ([of("orders"), of("__main__")], False, False),
        ([], False, False),
    ],
    ids=lambda value: "-".join(one.module for one in value) if isinstance(value, list) else None,
)
def test_what_the_loop_bears(stack: list[Place], *, own: bool, others: bool) -> None:
    """A callback that stands right on the loop, in the last third; C code of it only if it is the block's."""
    for spent in (0.0, 0.5, 0.67, 5.0):
        assert may_interrupt_callback(stack, spent, own=True) is (own and spent >= 2 / 3)
        assert may_interrupt_callback(stack, spent, own=False) is (others and spent >= 2 / 3)


def test_the_functions_that_call_the_users_are_marked() -> None:
    """By their code, so that the interrupt is not switched off by a new name or another module."""
    assert {SectionStep.undo.__code__, call_yours.__code__} <= USER_CALLS
    assert Environment.run.__code__ in LOOP_RUNNERS


@pytest.mark.parametrize("work", [JOINS, RUNNER], ids=lambda place: place.function)
def test_the_standard_librarys_own_are_there(work: Place) -> None:
    """They are known by name."""
    module = importlib.import_module(work.module)
    assert any(hasattr(kind, work.function) for kind in (module, *vars(module).values()))


def test_the_place_where_asyncio_calls_back_is_known() -> None:
    """One call in its `_run`, which the standard library may write otherwise one day."""
    code = asyncio.Handle._run.__code__
    assert (asyncio.Handle.__module__, code.co_name) == ("asyncio.events", "_run")
    assert [one.opname for one in dis.get_instructions(code)].count("CALL_FUNCTION_EX") == 1


def test_an_instruction_that_is_gone_makes_the_guard_careful(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not break the import, and what cannot be told counts as about to await."""
    monkeypatch.delitem(opcode.opmap, "GET_AWAITABLE")
    spec = importlib.util.find_spec("deadline._interrupt.places")
    assert spec is not None
    assert spec.loader is not None
    places = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(places)
    assert places.is_unawaited(awaits.__code__, 0) is True


async def awaits(group: Any) -> None:
    async with group:
        len("nothing to await")
    await group.close()


def test_what_is_called_to_be_awaited_is_told_from_other_calls() -> None:
    """An `__aexit__` that was called and is not yet awaited, among others."""
    found = [one for one in dis.get_instructions(awaits) if is_unawaited(awaits.__code__, one.offset)]
    calls = [one for one in dis.get_instructions(awaits) if one.opname == "CALL"]
    *entered, plain, left, closed = [one in found for one in calls]
    assert all(entered)  # from 3.14 on `__aenter__` is called by a CALL, too
    assert (plain, left, closed) == (False, True, True)
    assert "WITH_EXCEPT_START" in {one.opname for one in found}
    assert not {one.opname for one in found} & {"GET_AWAITABLE", "SEND", "RETURN_VALUE"}


# --- a scope ----------------------------------------------------------------------------------------------


async def in_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(LONG))
        group.create_task(blocks())


async def in_anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(asyncio.sleep, LONG)
        group.start_soon(blocks)


async def gathered() -> None:
    await asyncio.gather(blocks())


async def gathered_and_kept() -> None:
    await asyncio.gather(blocks(), return_exceptions=True)


async def waited_for() -> None:
    await asyncio.wait([asyncio.create_task(blocks())])


async def swallowed() -> None:
    for _ in range(3):
        try:
            block()
        except BaseException:
            pass


async def swallowed_and_awaited() -> None:
    await swallowed()
    await asyncio.sleep(LONG)


async def raised_as_cancelled() -> None:
    try:
        block()
    except BaseException:
        raise asyncio.CancelledError from None


async def swallowed_for_ever() -> None:
    while True:
        try:
            try:
                block()
            finally:
                len("not the end of it")
        except BaseException as error:
            repr(error)


async def suppressed_for_ever() -> None:
    while True:
        with suppress(BaseException):
            while True:
                pass


async def called_back() -> None:
    asyncio.get_running_loop().call_soon(block)
    await asyncio.sleep(LONG)


async def called_back_in_c() -> None:
    asyncio.get_running_loop().call_later(0.001, time.sleep, LONG)
    await asyncio.sleep(LONG)


async def called_back_by_a_thread() -> None:
    threading.Thread(target=asyncio.get_running_loop().call_soon_threadsafe, args=[block]).start()
    await asyncio.sleep(LONG)


async def deadlocked() -> None:
    lock = threading.Condition()
    with lock:
        lock.wait()


WAYS: list[Callable[[], Awaitable[None]]] = [
    blocks, in_group, in_anyio_group, gathered, gathered_and_kept, waited_for, swallowed,
    swallowed_and_awaited, raised_as_cancelled, deadlocked, swallowed_for_ever, suppressed_for_ever,
    called_back, called_back_in_c, called_back_by_a_thread,
]  # fmt: skip


@slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_whatever_blocks_ends_in_the_deadlines_error(run: Callable[..., Any], way: Any) -> None:
    """Also if the interrupt was lost on its way: an interrupted scope never lets its result stand."""
    if way in {swallowed_for_ever, suppressed_for_ever} and sys.gettrace() is not None:
        pytest.skip("whoever measures coverage traces, and is left alone")

    async def main() -> None:
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(SOON + 0.3, margin=0.3, interrupt=True) as dl:
                await way()
        assert caught.value.deadline is dl
        assert caught.value.report.blocked
        assert dl.overran == 0.0
        if way is not in_group or sys.version_info >= (3, 13):  # python/cpython#116720
            assert (task := asyncio.current_task()) is not None
            assert task.cancelling() == 0
        await asyncio.sleep(0)  # nothing is left of it

    run(main())


@slow
def test_whoever_traces_goes_on_tracing() -> None:
    """A debugger, say: what swallows is then struck singly, and its tracer is there afterwards."""

    def tracer(*_: object) -> None: ...

    async def main() -> int:
        swallowed = 0
        with pytest.raises(DeadlineExceeded):
            async with deadline(SOON + 0.2, margin=0.2, interrupt=True):
                for _ in range(15):
                    try:
                        block()
                    except BaseException:
                        swallowed += 1
        return swallowed

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        assert asyncio.run(main()) == 15
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


@slow
def test_a_second_strike_leaves_no_tracer_behind(run: Callable[..., Any]) -> None:
    """Whether it came or there was nothing more to strike."""
    if sys.gettrace() is not None:
        pytest.skip("somebody else traces")

    async def lets_go() -> None:
        for _ in range(4):
            try:
                block()
            except BaseException:
                pass

    async def main() -> None:
        for way in (lets_go, swallowed_for_ever):
            with pytest.raises(DeadlineExceeded):
                async with deadline(SOON + 0.1, margin=0.1, interrupt=True):
                    await way()
            await asyncio.sleep(0)
            assert sys.gettrace() is None

    run(main())


@slow
def test_the_report_shows_the_blocking_stack(run: Callable[..., Any]) -> None:
    """From the outermost coroutine to the line that blocks; in the message, rendered, and as JSON."""

    async def main() -> None:
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(SOON, interrupt=True):
                await blocks()
        report = caught.value.report
        assert [link.function.rpartition(".")[2] for link in report.blocked] == ["main", "blocks", "block"]
        assert report.to_dict()["blocked"][-1]["file"] == __file__
        assert "blocking the loop, interrupted" in report.render()
        assert "blocked in block (" in str(caught.value)

    run(main())


@slow
def test_a_step_that_is_interrupted_is_cut() -> None:
    """It has not failed by itself."""
    from deadline import step

    async def main() -> None:
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(SOON, interrupt=True):
                with step("blocking"):
                    block()
        assert caught.value.report.steps[0].status == "cut"

    asyncio.run(main())


@slow
def test_without_the_switch_nothing_is_interrupted() -> None:
    """The default: the body goes on, and its result stands."""

    async def main() -> None:
        async with deadline(SOON) as dl:
            block(0.1)
        assert dl.overran > 0.05

    asyncio.run(main())
    assert alarm._targets == []


@slow
def test_a_body_that_blocks_a_little_keeps_its_result() -> None:
    """Within the two milliseconds in which the loop's own timer would come first."""

    async def main() -> float:
        async with deadline(SOON, interrupt=True) as dl:
            end = dl.soft + 0.001
            while time.monotonic() < end:
                pass
        return dl.overran

    for _ in range(20):  # another process may have had the machine
        try:
            overran = asyncio.run(main())
        except DeadlineExceeded:
            continue
        assert 0.0 < overran < 0.5
        return
    pytest.fail("it was interrupted twenty times")


@pytest.mark.parametrize(
    ("limits", "patience"),
    [
        ({"margin": 1.0}, 0.1),
        ({"margin": 0.02}, 0.005),
        ({"margin": 0.0}, 0.005),
        ({"margin": 2.0, "caller_limit": 2.0}, 0.1),
    ],
)
def test_an_interrupt_waits_for_a_tenth_of_the_margin(limits: Any, patience: float) -> None:
    """For 5 ms at least; the margin is the one that the caller's limit leaves."""

    async def main() -> float:
        async with deadline(10.0, interrupt=True, **limits) as dl:
            return dl.interrupt_after - dl.soft

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(main()) == pytest.approx(patience)


@slow
def test_what_computes_in_slices_is_cut_at_an_await() -> None:
    """A slice that lasts over the soft instant ends by itself."""

    async def main() -> None:
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(SOON + 5.0, margin=5.0, interrupt=True):
                while True:
                    block(0.04)
                    await asyncio.sleep(0)
        assert not caught.value.report.blocked

    before = alarm.raised
    asyncio.run(main())
    assert alarm.raised == before


@slow
def test_cleaning_up_after_a_cut_is_no_blocking() -> None:
    """The cut's share of the margin is its own; what blocks beyond it is interrupted."""

    async def clean_up(seconds: float) -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            block(seconds)
            done.append(seconds)

    async def main() -> None:
        for seconds in (0.05, LONG):
            with pytest.raises(DeadlineExceeded) as caught:
                async with deadline(SOON + 0.4, margin=0.4, interrupt=True):
                    await clean_up(seconds)
            assert bool(caught.value.report.blocked) is (seconds == LONG)

    done: list[float] = []
    asyncio.run(main())
    assert done == [0.05]


@slow
def test_what_cleans_up_after_an_interrupt_has_time_for_it() -> None:
    """A tenth of the margin: an `except` that ends a child process must not be struck itself."""
    done = []

    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
            async with deadline(SOON + 2, margin=2.0, interrupt=True):
                try:
                    block()
                except BaseException:
                    block(0.05)
                    done.append("cleaned up")
                    raise

    asyncio.run(main())
    assert done == ["cleaned up"]


@slow
def test_a_real_error_wins() -> None:
    """One that is raised while the interrupt unwinds leaves, with a note."""

    async def main() -> None:
        with pytest.raises(LookupError) as caught:
            async with deadline(SOON, interrupt=True):
                try:
                    block()
                finally:
                    raise LookupError
        assert "while its block was being cut" in caught.value.__notes__[0]

    asyncio.run(main())


@slow
@pytest.mark.parametrize("ending", ["interrupt", "swallow", "await"])
def test_a_cancellation_from_outside_is_not_swallowed(run: Callable[..., Any], ending: str) -> None:
    """It arrives while the loop is blocked, and is delivered as soon as something awaits."""

    async def work() -> None:
        async with deadline(SOON, interrupt=True):
            tasks[0].cancel()
            try:
                block()
            except BaseException:
                if ending == "interrupt":
                    raise
            if ending == "await":
                await asyncio.sleep(LONG)

    async def around() -> None:
        try:
            await work()
        except DeadlineExceeded:
            ended.append("exceeded")
            await asyncio.sleep(0)

    async def main() -> None:
        tasks.append(asyncio.create_task(around()))
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    tasks: list[asyncio.Task[None]] = []
    ended: list[str] = []
    run(main())
    assert ended == ([] if ending == "await" else ["exceeded"])


@slow
def test_an_object_that_is_deleted_is_left_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised in a `__del__` is printed and lost; the interrupt comes after it."""
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    deleted = []

    class Slow:
        def __del__(self) -> None:
            block(SOON + 0.1)
            deleted.append(True)

    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
            async with deadline(SOON, interrupt=True):
                Slow()
                block()

    asyncio.run(main())
    assert (deleted, unraisable) == ([True], [])


@slow
def test_what_the_garbage_collector_calls_is_left_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised there is printed and lost as well."""
    gc.collect()  # what others have left
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    called = []

    def slow_callback(phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            block(SOON + 0.1)
            called.append(True)

    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
            async with deadline(SOON, interrupt=True):
                gc.collect()
                block()

    gc.callbacks.append(slow_callback)
    try:
        asyncio.run(main())
    finally:
        gc.callbacks.remove(slow_callback)
    assert called
    assert unraisable == []


@slow
def test_an_idle_loop_is_never_interrupted(run: Callable[..., Any]) -> None:
    """The alarm rings on, while the body refuses to end and waits; nothing is raised anywhere."""

    async def main() -> str:
        async with deadline(SOON, interrupt=True):
            end = time.monotonic() + 0.4
            while time.monotonic() < end:
                try:
                    await asyncio.to_thread(time.sleep, 0.05)
                except asyncio.CancelledError:
                    pass
        return "finished"

    before = alarm.raised
    assert run(main()) == "finished"
    assert alarm.raised == before


# --- nesting ----------------------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize(
    ("outer", "inner", "owner"),
    [
        ({"interrupt": True}, {}, "outer"),
        ({}, {"interrupt": True}, "inner"),
        ({"interrupt": True}, {"interrupt": True}, "inner"),
    ],
    ids=["outer", "inner", "both"],
)
def test_who_asked_for_it_is_who_raises(outer: Any, inner: Any, owner: str) -> None:
    """The inner deadline ends first, if it interrupts; else the outer one ends it all."""

    async def main() -> None:
        deadlines = {}
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(SOON + 0.1, **outer) as deadlines["outer"]:
                async with deadline(SOON, **inner) as deadlines["inner"]:
                    block()
        assert caught.value.deadline is deadlines[owner]

    asyncio.run(main())


@slow
def test_the_outer_one_owns_what_both_are_past() -> None:
    """Ties go to the outer deadline, and so does an expiry that it had first, whoever interrupts."""

    async def main() -> None:
        for first, second in ((SOON, SOON), (SOON, SOON + 0.05)):
            inner_raised = False
            with pytest.raises(DeadlineExceeded) as caught:
                async with deadline(first) as outer:
                    try:
                        async with deadline(second, interrupt=True):
                            block()
                    except DeadlineExceeded:
                        inner_raised = True
                        raise
            assert caught.value.deadline is outer
            assert not inner_raised

    asyncio.run(main())


@slow
def test_the_grace_is_protected_as_well() -> None:
    """A mitigation that blocks is interrupted before its reserve is gone."""

    async def main() -> float:
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(SOON + 0.2, margin=0.2, interrupt=True) as dl:
                block()
        with pytest.raises(DeadlineExceeded) as again:
            async with caught.value.grace(reserve=0.1):
                block()
        assert again.value.report.blocked
        return dl.hard - time.monotonic()

    assert asyncio.run(main()) > 0.0


@slow
def test_a_task_of_others_is_interrupted_last() -> None:
    """In the last third of the margin; it ends with the private exception, and the deadline goes on."""

    async def foreign() -> None:
        await asyncio.sleep(SOON / 2)
        block()

    async def main() -> None:
        task = asyncio.create_task(foreign())
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(SOON + 0.3, margin=0.3, interrupt=True) as dl:
                await asyncio.sleep(LONG)
        assert dl.hard - 0.11 < time.monotonic()
        assert isinstance(task.exception(), Interrupted)
        assert caught.value.report.blocked[0].function.endswith("foreign")

    asyncio.run(main())


@slow
@pytest.mark.parametrize("undo", [block, blocks])
def test_an_undo_that_blocks_is_interrupted_when_its_time_is_up(undo: Callable[[], Any]) -> None:
    """At three quarters of the margin, so that the mitigation has its time; and what stands is told."""

    async def main() -> DeadlineExceeded:
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(1.2, margin=1.0, interrupt=True):
                async with critical("move") as section:
                    async with section.step("one", undo=undo):
                        await asyncio.sleep(LONG)
        return caught.value

    exceeded = asyncio.run(main())
    assert 0.2 + 0.75 <= exceeded.elapsed < 0.2 + 0.82
    (section,) = exceeded.report.sections
    assert str(section) == "critical section 'move' partial: one undo failed"
    assert "deadline 'undo of move' exceeded" in str(section.steps[0].error)
    assert "blocked in block" in str(section.steps[0].error)


@slow
def test_a_task_of_others_that_is_interrupted_costs_no_result() -> None:
    """It has given the body what that waited for, and the body finishes."""

    async def foreign(answer: asyncio.Future[str]) -> None:
        await asyncio.sleep(0)
        answer.set_result("an answer")
        block()

    async def main() -> None:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(foreign(answer))
        async with deadline(SOON + 0.3, margin=0.3, interrupt=True) as dl:
            assert await answer == "an answer"
        assert dl.overran > 0.0
        assert isinstance(task.exception(), Interrupted)

    asyncio.run(main())


# --- the signal -------------------------------------------------------------------------------------------


@contextmanager
def users_alarm(seconds: float, interval: float = 0.0) -> Iterator[list[float]]:
    """An alarm of the user's own."""
    rung: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, seconds, interval)
    yield rung
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@slow
def test_the_users_handler_and_the_rest_of_the_timer_come_back() -> None:
    """After nested deadlines, too, one of which was interrupted."""

    async def main() -> None:
        async with deadline(LONG, interrupt=True):
            with pytest.raises(DeadlineExceeded):
                async with deadline(SOON, interrupt=True):
                    block()
            assert signal.getsignal(signal.SIGALRM) == alarm._rings

    with users_alarm(60.0, 7.0):
        handler = signal.getsignal(signal.SIGALRM)
        asyncio.run(main())
        assert signal.getsignal(signal.SIGALRM) is handler
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 60.0 - LONG < left < 60.0 - SOON
        assert interval == 7.0


@slow
def test_a_users_alarm_that_was_due_meanwhile_rings_afterwards() -> None:
    """Late is better than never."""

    async def main() -> None:
        async with deadline(LONG, interrupt=True):
            await asyncio.sleep(0.05)
            assert rung == []

    with users_alarm(0.01) as rung:
        asyncio.run(main())
        time.sleep(0.05)
        assert len(rung) == 1


@slow
def test_who_takes_the_alarm_in_the_block_keeps_it() -> None:
    """It was taken knowingly; nothing is put in its place."""

    async def main() -> None:
        async with deadline(LONG, interrupt=True):
            signal.signal(signal.SIGALRM, signal.SIG_IGN)

    before = signal.getsignal(signal.SIGALRM)
    asyncio.run(main())
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_IGN
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Event]]:
    """What is told about the interrupt, as by a process that has not told anything yet."""
    monkeypatch.setattr(alarm, "_refused", set())
    events: list[Event] = []
    unsubscribe = subscribe(events.append)
    yield events
    unsubscribe()


@slow
def test_in_another_thread_it_is_said_once(told: list[Event]) -> None:
    """There the block is cut when it awaits, as without; the main thread's alarm is not touched."""

    async def work() -> None:
        for _ in range(2):
            with pytest.raises(DeadlineExceeded):
                async with deadline(SOON, interrupt=True):
                    await asyncio.sleep(LONG)

    async def main() -> None:
        async with deadline(LONG, interrupt=True):
            await asyncio.to_thread(asyncio.run, work())

    asyncio.run(main())
    said = [event.fields["reason"] for event in told if event.name == "deadline.interrupt_unavailable"]
    assert said == ["not in the main thread"]


@pytest.mark.parametrize("missing", ["platform", "C"])
async def test_where_there_is_no_alarm_it_is_said_once(
    told: list[Event], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """On Windows; or where C code has the signal, whose handler could not be given back."""
    if missing == "platform":
        monkeypatch.delattr(signal, "setitimer")
    else:
        monkeypatch.setattr(signal, "getsignal", lambda _: None)
    for _ in range(2):
        async with deadline(LONG, interrupt=True):
            pass
    monkeypatch.undo()
    said = [event.fields["reason"] for event in told if event.name == "deadline.interrupt_unavailable"]
    assert len(said) == 1


def test_a_virtual_clock_has_no_alarm() -> None:
    """Its hours are over in no time, and the alarm's would not be."""

    async def main() -> None:
        async with deadline(3600, interrupt=True):
            assert not alarm._targets

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


async def test_a_deadline_without_end_has_no_alarm() -> None:
    """There is nothing to ring for."""
    async with deadline(None, interrupt=True):
        assert not alarm._targets


async def test_disabled_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`DEADLINE_DISABLED` turns it off with everything else."""
    monkeypatch.setattr(_scope, "DISABLED", True)
    async with deadline(0.0, interrupt=True):
        assert not alarm._targets


@slow
def test_at_the_limit_of_recursion_it_is_tried_again() -> None:
    """The handler itself cannot be called there; the next ring comes all the same."""

    def dive(end: float) -> None:
        try:
            dive(end)
        except RecursionError:
            while time.monotonic() < end:
                pass

    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
            async with deadline(SOON, interrupt=True):
                dive(time.monotonic() + LONG)

    before = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - before < LONG - 1


@slow
def test_fifty_interrupts_leave_the_loop_whole(run: Callable[..., Any]) -> None:
    """Scopes are cut at any place of a busy body; the same loop goes on, and every task ends."""

    async def body() -> None:
        while True:
            await asyncio.sleep(0)
            sum(range(1000))
            end = time.monotonic() + 0.008
            while time.monotonic() < end:
                asyncio.get_running_loop().call_soon(int)
                asyncio.create_task(asyncio.sleep(0))  # noqa: RUF006
                [len(str(number)) for number in range(50)]

    async def main() -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))
        for _ in range(50):
            with pytest.raises(DeadlineExceeded):
                async with deadline(0.003, interrupt=True):
                    await body()
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == 1
        assert complaints == []

    run(main())

"""What the report says: who awaited what, which steps were done, what still runs."""

from __future__ import annotations

import asyncio
import contextvars
import json
import math
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from deadline import (
    Breaker,
    BreakerOpen,
    DeadlineExceeded,
    Event,
    Report,
    critical,
    deadline,
    step,
    subscribe,
)
from deadline._report.data import MOST_STEPS, Await, CallReport, StepReport, TaskReport
from deadline._report.tasks import MOST_TASKS, Call, calls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

pytestmark = pytest.mark.usefixtures("virtual_clock")


async def reported(work: Callable[[], Awaitable[object]], seconds: float = 1.0, **options: Any) -> Report:
    """The report of `work`, cut after so many seconds."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(seconds, **options):
            await work()
    return caught.value.report


def chain(task: TaskReport) -> list[str]:
    """The functions of a chain, without where they were defined."""
    return [link.function.rpartition(".")[2] for link in task.awaiting]


def below(report: Report) -> dict[str, list[str]]:
    """The chains of all tasks but the host, by their names."""
    return {task.name: chain(task) for task in report.tasks if not task.host}


async def nap() -> None:
    await asyncio.sleep(9)


async def deep(levels: int) -> None:
    await (deep(levels - 1) if levels else nap())


# --- chains -----------------------------------------------------------------------------------------------


async def test_a_chain_of_coroutines() -> None:
    """The chain names each function on the way, outermost first, with its file and the line that awaits."""
    report = await reported(lambda: deep(2))
    (host,) = report.tasks
    assert host.host
    assert chain(host)[-5:] == ["deep", "deep", "deep", "nap", "sleep"]
    link = next(link for link in host.awaiting if link.function == "nap")
    assert link == Await("nap", __file__, nap.__code__.co_firstlineno + 1)


async def test_a_chain_is_never_endless() -> None:
    """Of a very deep recursion the outer hundred links are told."""
    report = await reported(lambda: deep(300))
    assert len(report.tasks[0].awaiting) == 100


async def numbers() -> AsyncGenerator[int, int]:
    while True:
        await nap()
        yield 1


async def over() -> None:
    async for _ in numbers():
        pass


async def by_anext() -> None:
    await anext(numbers())


async def by_anext_with_default() -> None:
    await anext(numbers(), 7)


async def by_asend() -> None:
    await numbers().asend(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("drive", [over, by_anext, by_anext_with_default, by_asend])
async def test_chains_go_through_async_generators(drive: Callable[[], Awaitable[None]]) -> None:
    """However a generator is driven, its function and what it awaits are in the chain."""
    report = await reported(drive)
    assert chain(report.tasks[0])[-4:] == [drive.__name__, "numbers", "nap", "sleep"]


async def test_gather_shows_its_children() -> None:
    """The children of `gather` are told with their names and chains."""

    async def work() -> None:
        await asyncio.gather(*(asyncio.create_task(deep(0), name=f"part {number}") for number in range(3)))

    report = await reported(work)
    assert below(report) == {f"part {number}": ["deep", "nap", "sleep"] for number in range(3)}
    assert report.left_running == ()


async def in_native(*, named: bool, body: bool) -> None:
    if named:
        async with asyncio.TaskGroup() as group:
            group.create_task(deep(0), name="child")
            await (nap() if body else asyncio.sleep(0))
    else:
        groups = [asyncio.TaskGroup()]
        async with groups[0]:
            groups.pop().create_task(deep(0), name="child")
            await (nap() if body else asyncio.sleep(0))


async def in_anyio(*, named: bool, body: bool) -> None:
    if named:
        async with anyio.create_task_group() as group:
            group.start_soon(deep, 0, name="child")
            await (nap() if body else asyncio.sleep(0))
    else:
        groups = [anyio.create_task_group()]
        async with groups[0]:
            groups.pop().start_soon(deep, 0, name="child")
            await (nap() if body else asyncio.sleep(0))


@pytest.mark.parametrize("inside", [in_native, in_anyio])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("body", [True, False])
async def test_groups_show_their_children(
    inside: Callable[..., Awaitable[None]], *, named: bool, body: bool
) -> None:
    """Children of a group are told, named or not, whether the host is in the group's body or at its end."""
    report = await reported(lambda: inside(named=named, body=body))
    ((name, awaiting),) = below(report).items()
    assert (name, awaiting[-3:]) == ("child", ["deep", "nap", "sleep"])
    assert report.left_running == ()


async def test_nested_groups_show_everybody() -> None:
    """Groups in the children of groups are told as well, whichever kind is in which."""

    async def inner() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(nap, name="grandchild")

    async def work() -> None:
        async with asyncio.TaskGroup() as outer, anyio.create_task_group() as other:
            outer.create_task(inner(), name="child")
            other.start_soon(nap, name="other child")

    report = await reported(work)
    assert set(below(report)) == {"child", "grandchild", "other child"}


async def test_an_awaited_task_is_told() -> None:
    """A task that the block awaits directly is told with its chain."""

    async def work() -> None:
        await asyncio.create_task(deep(1), name="awaited")

    assert below(await reported(work)) == {"awaited": ["deep", "deep", "nap", "sleep"]}


async def test_wait_for_and_wait_show_what_they_wait_for() -> None:
    """What `wait_for` and `wait` wait for is in the report, as links or as tasks."""

    async def bounded() -> None:
        await asyncio.wait_for(deep(0), 5)

    async def all_of() -> None:
        await asyncio.wait([asyncio.create_task(deep(0), name="waited for")])

    report = await reported(bounded)
    assert ["deep", "nap", "sleep"] in [chain(task)[-3:] for task in report.tasks]
    report = await reported(all_of)
    assert below(report) == {"waited for": ["deep", "nap", "sleep"]}
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def test_at_most_so_many_tasks_are_told() -> None:
    """Of a thousand tasks the host and the first sixty-three are told."""
    report = await reported(lambda: asyncio.gather(*(nap() for _ in range(1000))))
    assert len(report.tasks) == MOST_TASKS == 64
    assert report.tasks[0].host


async def test_tasks_that_ended_are_not_told() -> None:
    """A task that was done by the instant is not in the report."""

    async def work() -> None:
        await asyncio.gather(
            asyncio.create_task(asyncio.sleep(0.5), name="short"), asyncio.create_task(nap(), name="long")
        )

    assert set(below(await reported(work))) == {"long"}


# --- steps ------------------------------------------------------------------------------------------------


async def test_the_fate_of_each_step() -> None:
    """Steps are done, failed, cut or still running, in the order in which they began."""
    running = asyncio.Event()

    async def beside() -> None:
        with step("beside"):
            running.set()
            await nap()

    async def work() -> None:
        with step("copy"):
            await asyncio.sleep(0.25)
        with pytest.raises(KeyError), step("check"):
            raise KeyError
        task = asyncio.create_task(beside())
        tasks.append(task)
        await running.wait()
        with step("delete"):
            await nap()

    tasks: list[asyncio.Task[None]] = []
    report = await reported(work)
    assert report.steps == (
        StepReport("copy", "done", 0.0, 0.25),
        StepReport("check", "failed", 0.25, 0.0),
        StepReport("beside", "running", 0.25, 0.75),
        StepReport("delete", "cut", 0.25, 0.75),
    )
    assert (report.done, report.pending) == (["copy"], ["check", "beside", "delete"])
    tasks[0].cancel()


async def test_a_refusal_and_a_closing_cut_a_step() -> None:
    """A step that a refusal leaves is cut, and so is one whose coroutine was closed; neither failed."""

    async def closed() -> None:
        with step("closed"):
            await nap()

    async with deadline(1.0) as dl:
        with pytest.raises(DeadlineExceeded), step("refused"):
            raise dl.refusal("no")
        coroutine = closed()
        coroutine.send(None)
        coroutine.close()
        report = dl.refusal("look").report
    assert [(one.name, one.status) for one in report.steps] == [("refused", "cut"), ("closed", "cut")]


async def test_the_message_names_the_step_that_was_cut() -> None:
    """The message, all that an error report carries, names the step that was cut."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0, name="move", margin=0.25):
            with step("outer"), step("copy"):
                await nap()
    assert str(caught.value) == (
        "deadline 'move' exceeded: 0.750 s allowed with a margin of 0.250 s, cut in step 'copy'"
    )


async def test_nested_deadlines_both_see_a_step() -> None:
    """A step is told by every deadline around it, with times from each one's own entry."""
    with pytest.raises(DeadlineExceeded) as outer:
        async with deadline(2.0):
            await asyncio.sleep(0.5)
            with pytest.raises(DeadlineExceeded) as inner:
                async with deadline(1.0):
                    with step("both"):
                        await nap()
            with step("outer only"):
                await nap()
    assert inner.value.report.steps == (StepReport("both", "cut", 0.0, 1.0),)
    assert outer.value.report.steps == (
        StepReport("both", "cut", 0.5, 1.0),
        StepReport("outer only", "cut", 1.5, 0.5),
    )


async def test_a_step_may_begin_before_the_deadline() -> None:
    """A step around the deadline is none of its own; one that outlives it goes on for the outer."""
    with pytest.raises(DeadlineExceeded) as outer:
        async with deadline(2.0):
            with step("around"):
                with pytest.raises(DeadlineExceeded) as inner:
                    async with deadline(1.0):
                        await nap()
                await nap()
    assert inner.value.report.steps == ()
    assert outer.value.report.steps == (StepReport("around", "cut", 0.0, 2.0),)


async def test_a_step_without_a_deadline_does_nothing() -> None:
    """Without a deadline a step is nothing, so a library may use it freely."""
    with step("alone"):
        await asyncio.sleep(1)
    assert (await reported(nap)).steps == ()


async def test_a_step_is_entered_once() -> None:
    """Entering a step again under a deadline is an error that says what to write."""
    async with deadline(5.0):
        again = step("again")
        with again:
            pass
        with pytest.raises(
            RuntimeError, match=r"^step 'again': a step is entered once; call step\(\.\.\.\) again"
        ):
            again.__enter__()


async def test_steps_in_threads() -> None:
    """A step in a thread belongs to the deadline that the thread was started in."""

    def work() -> None:
        with step("in a thread"):
            pass

    async with deadline(None) as dl:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(contextvars.copy_context().run, work).result()
        assert dl.refusal("look").report.done == ["in a thread"]


async def test_of_very_many_steps_the_newest_are_kept() -> None:
    """A deadline remembers so many steps and no more: the newest."""

    async def work() -> None:
        for number in range(MOST_STEPS + 5):
            with step(str(number)):
                pass
        await nap()

    report = await reported(work)
    assert len(report.steps) == MOST_STEPS
    assert (report.steps[0].name, report.steps[-1].name) == ("5", str(MOST_STEPS + 4))


# --- calls and what was left ------------------------------------------------------------------------------


async def test_a_call_in_flight_is_told() -> None:
    """A call that a hook registered is told with its attempt and time, and the message names it."""

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0.25)
        call = calls[task] = Call("s3", "DeleteObject", asyncio.get_running_loop().time())
        call.attempt = 2
        call.outcome = "unknown"
        call.error = lambda: ConnectionError("reset")
        try:
            with step("delete"):
                await nap()
        finally:
            del calls[task]

    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0):
            await work()
    assert caught.value.report.tasks[0].call == CallReport("s3", "DeleteObject", 2, 0.75, "unknown")
    assert str(caught.value).endswith(
        ", cut in step 'delete', awaiting s3.DeleteObject attempt 2, 0.750 s, unknown"
    )
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert calls == {}


async def test_bare_tasks_are_left_running() -> None:
    """Unfinished tasks that the block started are told, with those that they started, but no others."""

    async def parent() -> None:
        await asyncio.create_task(deep(0), name="grandchild")

    other = asyncio.create_task(nap(), name="other")

    async def work() -> None:
        tasks.append(asyncio.create_task(parent(), name="child"))
        tasks.append(asyncio.create_task(asyncio.sleep(0), name="done"))
        await nap()

    tasks: list[asyncio.Task[None]] = []
    report = await reported(work)
    assert {task.name: chain(task) for task in report.left_running} == {
        "child": ["parent"],
        "grandchild": ["deep", "nap", "sleep"],
    }
    for task in (other, *tasks):
        task.cancel()


# --- the report as an object ------------------------------------------------------------------------------


async def test_a_report_is_made_once_and_kept() -> None:
    """The report is made when it is first asked for, and is the same one from then on."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0):
            task = asyncio.create_task(asyncio.sleep(5), name="bare")
            await nap()
    exceeded = caught.value
    await asyncio.sleep(2)
    first = exceeded.report
    assert [left.name for left in first.left_running] == ["bare"]
    await task
    assert exceeded.report is first


async def full() -> Report:
    async def work() -> None:
        with step("copy"):
            await asyncio.sleep(0.5)
        with step("delete"):
            async with asyncio.TaskGroup() as group:
                group.create_task(nap(), name="eu-west-1")

    return await reported(work, 1.25, margin=0.25, name="move")


async def test_to_dict_and_json() -> None:
    """The report turns into plain values, and back from JSON into the same ones."""
    report = await full()
    plain = report.to_dict()
    assert json.loads(report.to_json()) == plain
    assert "\n" not in report.to_json()
    assert (plain["name"], plain["allowed"], plain["elapsed"], plain["margin"]) == ("move", 1.0, 1.0, 0.25)
    assert (plain["done"], plain["pending"]) == (["copy"], ["delete"])
    assert plain["steps"][1] == {"name": "delete", "status": "cut", "started": 0.5, "seconds": 0.5}
    assert plain["tasks"][1]["name"] == "eu-west-1"
    assert plain["tasks"][1]["awaiting"][-1]["function"] == "sleep"
    assert set(plain) == {
        "name", "allowed", "elapsed", "margin", "tasks", "steps", "sections", "batches", "breakers",
        "left_running", "left_behind", "blocked", "done", "pending",
    }  # fmt: skip


async def test_infinite_times_become_null() -> None:
    """JSON has no infinity: a refusal in a block without a limit has `null` for what it allows."""
    async with deadline(None) as dl:
        report = dl.refusal("no").report
    assert report.allowed == math.inf
    assert json.loads(report.to_json())["allowed"] is None
    odd = Report(name="odd", allowed=math.nan, margin=math.inf, elapsed=-math.inf)
    assert [json.loads(odd.to_json())[key] for key in ("allowed", "margin", "elapsed")] == [None] * 3


async def test_a_report_pickles() -> None:
    """A report pickles as it is, alone and with its error."""
    report = await full()
    assert pickle.loads(pickle.dumps(report)) == report  # noqa: S301  # our own


async def test_the_rendering_of_one_scenario() -> None:
    """A log shows a title, a bar for each step on one scale, and where each task was."""
    report = await full()
    lines = [line.rstrip() for line in report.render().splitlines()]
    assert lines[:4] == [
        "deadline 'move' exceeded: 1.000 s allowed, margin 0.250 s, left after 1.000 s",
        f"  copy   done       0.000 {'#' * 32}{'.' * 32}   0.500 s",
        f"  delete cut        0.500 {'.' * 32}{'#' * 32}   0.500 s",
        f"  awaiting in {report.tasks[0].name} (the block's own)",
    ]
    child = lines.index("  awaiting in eu-west-1")
    here = re.escape(f"test_report.py:{nap.__code__.co_firstlineno + 1}")
    assert re.fullmatch(rf"    nap {{38}}\S*{here}", lines[child + 1])
    assert lines[child + 2].startswith("    sleep ")
    assert len(lines) == child + 3


LONG = "a very long name that says much more than anybody wants to read " * 3


@pytest.mark.parametrize("width", [60, 80, 100, 200])
async def test_no_line_is_wider_than_asked(width: int) -> None:
    """However long the names and times are, no line is wider than asked for, and each stays one line."""
    call = CallReport("s3", LONG, 3, 12.0)
    task = TaskReport(LONG, host=True, awaiting=(Await(LONG, f"/{LONG}.py", 7),), call=call)
    report = Report(
        name=LONG,
        allowed=123456.0,
        elapsed=123456.789,
        margin=1000.0,
        tasks=(task,),
        steps=(
            StepReport(LONG, "cut", -20000.0, 143456.789),
            StepReport("two\nlines\x1b[2J", "done", 0.0, 1e-9),
            StepReport("after", "running", 123456.789, 0.0),
            *(StepReport(f"step {number}", "done", number, 1.0) for number in range(100)),
        ),
        left_running=(task,),
    )
    lines = report.render(width).split("\n")
    assert len(lines) == 1 + 103 + 2 * 2
    assert max(map(len, lines)) <= width
    assert all(line.isprintable() for line in lines)


async def test_a_narrow_width_is_widened() -> None:
    """Below sixty columns nothing can be read: sixty it is."""
    report = Report(name="x", allowed=1.0, elapsed=1.0, steps=(StepReport("a", "done", 0.0, 1.0),))
    assert report.render(10) == report.render(60)


async def test_an_empty_report_renders() -> None:
    """A report of nothing is its title."""
    assert Report().render() == "deadline exceeded before it began: nothing was left"


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1e308, -1e308], ids=repr)
async def test_a_report_made_by_hand_renders_whatever_its_numbers(odd: float) -> None:
    """What cannot be drawn has no length; every line keeps its width."""
    steps = (StepReport("a", "done", odd, 1.0), StepReport("b", "cut", 1.0, odd))
    made = Report("x", allowed=odd, elapsed=odd, margin=odd, steps=steps)
    lines = made.render(80).splitlines()
    assert len(lines) == 3
    assert all(len(line) <= 80 for line in lines)
    made.to_json()


async def test_a_name_of_megabytes_is_a_short_message() -> None:
    """Errors, representations and events show 200 characters of a name; the report has all of it."""
    name = "n" * 3_000_000
    events: list[Event] = []
    unsubscribe = subscribe(events.append)
    try:
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(1.0, name=name), critical(name) as section, section.step(name):
                with step(name):
                    await asyncio.sleep(60)
    finally:
        unsubscribe()
    exceeded = caught.value
    assert exceeded.deadline is not None
    report = exceeded.report
    for text in (
        str(exceeded),
        repr(exceeded.deadline),
        str(exceeded.deadline.refusal("a call")),
        str(report.sections[0]),
        report.render(),
        str(BreakerOpen(name)),
        repr(Breaker(name)),
        *map(str, events),
    ):
        assert len(text) < 2_000, text[:100]
    assert f"{'n' * 199}…" in str(exceeded)
    assert report.name == name
    assert report.steps[0].name == name
    assert any(event.fields.get("deadline") == f"{'n' * 199}…" for event in events)

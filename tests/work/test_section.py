"""Critical sections: refused whole, holding the clock, undone when they fail or are cut."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from deadline import DeadlineExceeded, InsufficientTime, critical, current, deadline, remaining, step
from deadline._work.section import calls_of_step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from deadline import Event, Section

pytestmark = pytest.mark.usefixtures("virtual_clock")


def now() -> float:
    return asyncio.get_running_loop().time()


class Ledger:
    """What was done and undone, in order."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def undo(self, name: str, seconds: float = 0.0, error: Exception | None = None) -> Callable[[], Any]:
        async def undo() -> None:
            await asyncio.sleep(seconds)
            if error is not None:
                raise error
            self.entries.append(f"undo {name}")

        return undo


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


# --- the clock --------------------------------------------------------------------------------------------


async def test_a_section_holds_the_clock(ledger: Ledger) -> None:
    """Open, it may go on until half of the margin; leaving it late is where the deadline cuts."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(3.0, margin=1.0):
            await asyncio.sleep(1.9)
            async with critical("move") as section:
                assert remaining() == pytest.approx(0.6)
                async with section.step("copy", undo=ledger.undo("copy")):
                    await asyncio.sleep(0.4)
            raise AssertionError
    assert now() == pytest.approx(2.3)
    assert ledger.entries == []
    assert [str(one) for one in caught.value.report.sections] == ["critical section 'move' done: copy done"]
    assert caught.value.report.done == ["copy"]
    assert caught.value.allowed == pytest.approx(2.0)


async def test_a_section_left_in_time_gives_the_clock_back() -> None:
    """After it the block is cut at soft, as without it."""
    with pytest.raises(DeadlineExceeded):
        async with deadline(3.0, margin=1.0) as dl:
            async with critical("move"):
                assert dl.soft == pytest.approx(2.5)
                await asyncio.sleep(0.5)
            assert dl.soft == pytest.approx(2.0)
            await asyncio.sleep(9)
    assert now() == pytest.approx(2.0)


async def test_at_the_holds_end_it_is_cut_and_undone(ledger: Ledger) -> None:
    """At half of the margin the section is cut; its undo has until three quarters."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(3.0, margin=1.0):
            async with critical("move") as section:
                async with section.step("copy", undo=ledger.undo("copy", 0.2)):
                    pass
                async with section.step("delete", undo=ledger.undo("delete", 0.01)):
                    await asyncio.sleep(9)
    assert ledger.entries == ["undo delete", "undo copy"]
    assert now() == pytest.approx(2.5 + 0.21)
    (section_report,) = caught.value.report.sections
    assert section_report.status == "undone"
    assert section_report.standing == []


async def test_undo_is_bounded(ledger: Ledger) -> None:
    """An undo that takes too long is cut at three quarters of the margin, and the report says what stands."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(3.0, margin=1.0):
            async with critical("move") as section:
                async with section.step("first", undo=ledger.undo("first")):
                    pass
                async with section.step("second", undo=ledger.undo("second", 60)):
                    await asyncio.sleep(9)
    assert now() == pytest.approx(2.75)
    (report,) = caught.value.report.sections
    assert report.status == "partial"
    assert report.standing == ["first", "second"]
    assert "DeadlineExceeded" in str(report.steps[1].error)


async def test_everyone_around_is_held_by_their_own_margin(ledger: Ledger) -> None:
    """Each deadline around moves into its own margin; one without a margin cuts as ever."""
    with pytest.raises(DeadlineExceeded):
        async with deadline(10.0, margin=4.0) as outer:
            async with deadline(4.0, margin=2.0) as inner:
                async with critical("move"):
                    assert [outer.soft, inner.soft] == pytest.approx([8.0, 3.0])
                    assert remaining() == pytest.approx(3.0)
                assert [outer.soft, inner.soft] == pytest.approx([6.0, 2.0])
            async with deadline(1.0):
                async with critical("short") as section:
                    async with section.step("one", undo=ledger.undo("one")):
                        await asyncio.sleep(9)
    assert now() == pytest.approx(1.0)
    assert ledger.entries == []  # without a margin there is no time to undo


async def test_a_deadline_inside_of_a_section_is_not_held() -> None:
    """Only what is around it is held."""
    async with deadline(3.0, margin=1.0):
        async with critical("move"):
            with pytest.raises(DeadlineExceeded):
                async with deadline(0.5, margin=0.4):
                    await asyncio.sleep(9)
            assert now() == pytest.approx(0.1)


async def test_two_sections_hold_until_both_are_left() -> None:
    """The clock is given back with the last hold."""

    async def hold(seconds: float) -> None:
        async with critical(f"for {seconds}"):
            await asyncio.sleep(seconds)

    with pytest.raises(DeadlineExceeded):
        async with deadline(3.0, margin=1.0), asyncio.TaskGroup() as group:
            group.create_task(hold(2.1))
            group.create_task(hold(2.3))
            await asyncio.sleep(9)
    assert now() == pytest.approx(2.3)


@pytest.mark.parametrize("left", [0.4, 0.0])
async def test_a_section_that_does_not_fit_is_refused_whole(left: float) -> None:
    """`needs` is counted to soft: the margin is no time to plan with."""
    ran = False
    with pytest.raises(DeadlineExceeded):
        async with deadline(2.0, margin=1.0) as dl:
            await asyncio.sleep(1.0 - left)
            try:
                async with critical("move", needs=0.5):
                    ran = True
            except InsufficientTime as refused:
                assert refused.deadline is dl
                assert "critical section 'move' was not entered, it needs 0.500 s: 0.400 s left" in str(
                    refused
                )
                assert left
                raise
            except asyncio.CancelledError:
                assert not left
                raise
    assert not ran


async def test_a_refusal_can_be_handled() -> None:
    """It is raised where it happens, before anything was done."""
    async with deadline(0.3):
        with pytest.raises(InsufficientTime):
            async with critical("move", needs=0.5):
                raise AssertionError
        await asyncio.sleep(0.1)


# --- undo -------------------------------------------------------------------------------------------------


async def test_without_a_deadline_it_is_a_saga(ledger: Ledger) -> None:
    """What fails is undone, last in first out, and the error says so."""
    section = critical("move")
    with pytest.raises(ValueError, match="no") as caught:
        async with section:
            for name in ("one", "two"):
                async with section.step(name, undo=ledger.undo(name)):
                    pass
            raise ValueError("no")
    assert ledger.entries == ["undo two", "undo one"]
    assert caught.value.__notes__ == ["deadline: critical section 'move' undone: one undone, two undone"]
    assert section.report.status == "undone"


async def test_a_sync_undo_will_do() -> None:
    """Any callable without arguments, awaited if it gives something to await."""
    undone: list[str] = []
    with pytest.raises(ValueError, match="no"):
        async with critical("move") as section:
            async with section.step("one", undo=lambda: undone.append("one")):
                pass
            raise ValueError("no")
    assert undone == ["one"]


async def test_undo_is_shielded_from_cancellation(ledger: Ledger) -> None:
    """Cancelled again and again while it undoes, it undoes to the end, and the cancellation goes on."""

    async def work() -> None:
        async with critical("move") as section:
            async with section.step("one", undo=ledger.undo("one", 0.5)):
                pass
            await asyncio.sleep(9)

    task = asyncio.create_task(work())
    for _ in range(4):
        await asyncio.sleep(0.1)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ledger.entries == ["undo one"]
    assert now() == pytest.approx(0.6)


async def test_a_cancellation_during_the_undo_of_an_error_goes_on(ledger: Ledger) -> None:
    """It is not lost behind the error that was being undone."""

    async def work() -> None:
        async with critical("move") as section:
            async with section.step("one", undo=ledger.undo("one", 0.5)):
                pass
            raise ValueError("no")

    task = asyncio.create_task(work())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ledger.entries == ["undo one"]


async def test_a_failing_undo_does_not_keep_the_others(ledger: Ledger, happened: list[Event]) -> None:
    """It is recorded, the others run, and the report tells which effect stands."""
    section = critical("move")
    with pytest.raises(ValueError, match="no"):
        async with section:
            async with section.step("one", undo=ledger.undo("one")):
                pass
            async with section.step("two", undo=ledger.undo("two", error=LookupError("gone"))):
                pass
            raise ValueError("no")
    assert ledger.entries == ["undo one"]
    assert section.report.status == "partial"
    assert section.report.standing == ["two"]
    assert section.report.steps[1].error == "LookupError: gone"
    assert [event.name for event in happened] == ["deadline.undo_failed", "deadline.section_failed"]


async def test_an_undo_that_is_cancelled_has_failed(ledger: Ledger) -> None:
    """A cancellation out of what it awaits is its own failure; the others run, and the error leaves."""

    async def undo() -> None:
        gone = asyncio.get_running_loop().create_future()
        gone.cancel()
        await gone

    section = critical("move")
    with pytest.raises(ValueError, match="no"):
        async with section:
            async with section.step("one", undo=ledger.undo("one")):
                pass
            async with section.step("two", undo=undo):
                raise ValueError("no")
    assert ledger.entries == ["undo one"]
    assert section.report.steps[1].error == "CancelledError: "


async def test_an_undo_that_is_only_made_has_failed(ledger: Ledger) -> None:
    """A generator function that is called has run nothing: that is told, not taken for undone."""

    async def undo() -> AsyncIterator[None]:
        ledger.entries.append("undo one")
        yield

    section = critical("move")
    with pytest.raises(ValueError, match="no"):
        async with section:
            async with section.step("one", undo=undo):
                pass
            async with section.step("two", undo=lambda: (name for name in "ab")):
                pass
            raise ValueError("no")
    assert ledger.entries == []
    assert section.report.standing == ["one", "two"]
    assert "TypeError: undo: it made <async_generator object" in str(section.report.steps[0].error)


async def test_an_undo_that_has_not_ended_is_no_undo(ledger: Ledger) -> None:
    """Who is told meanwhile, because the body is left behind say, hears that it is not undone."""
    section = critical("move")

    async def work() -> None:
        async with section:
            async with section.step("one", undo=ledger.undo("one", 0.5)):
                raise ValueError("no")

    task = asyncio.create_task(work())
    await asyncio.sleep(0.1)
    assert str(section.report) == "critical section 'move' partial: one undo failed"
    assert section.report.steps[0].error == "it has not ended"
    with pytest.raises(ValueError, match="no"):
        await task
    assert section.report.steps == (("one", "undone", None, False),)


async def test_an_undo_that_is_ended_for_good_has_failed(ledger: Ledger) -> None:
    """What is no `Exception` leaves at once; what is told is so."""

    class End(BaseException):
        pass

    def undo() -> None:
        raise End

    section = critical("move")
    with pytest.raises(End):
        async with section:
            async with section.step("one", undo=ledger.undo("one")):
                pass
            async with section.step("two", undo=undo):
                raise ValueError("no")
    assert ledger.entries == []
    assert str(section.report) == "critical section 'move' partial: one done, two undo failed"


async def test_an_undo_runs_outside_of_the_section_and_step_around(ledger: Ledger) -> None:
    """A section in it is its own: the one around does not undo what undid."""

    async def undo() -> None:
        assert calls_of_step() is None
        async with critical("undo") as undoing:
            async with undoing.step("undo", undo=ledger.undo("the undo")):
                ledger.entries.append("undo one")

    with pytest.raises(ValueError, match="no"):
        async with critical("outer") as outer:
            async with outer.step("all", undo=ledger.undo("all")):
                async with critical("inner") as inner:
                    async with inner.step("one", undo=undo):
                        raise ValueError("no")
    assert ledger.entries == ["undo one", "undo all"]


async def test_an_undo_runs_without_the_deadline_that_is_over(ledger: Ledger) -> None:
    """It has a deadline of its own: what it calls must not be refused for want of time."""
    seen: list[float] = []

    async def undo() -> None:
        dl = current()
        assert dl is not None
        seen.append(dl.remaining())

    with pytest.raises(DeadlineExceeded):
        async with deadline(3.0, margin=1.0):
            async with critical("move") as section:
                async with section.step("one", undo=undo):
                    await asyncio.sleep(9)
    assert seen == [pytest.approx(0.25)]


async def test_past_a_step_without_undo_nothing_is_undone(ledger: Ledger) -> None:
    """It is the point of no return: the report says what stands."""
    section = critical("move")
    with pytest.raises(ValueError, match="no"):
        async with section:
            async with section.step("one", undo=ledger.undo("one")):
                pass
            async with section.step("final"):
                pass
            raise ValueError("no")
    assert ledger.entries == []
    assert section.report.standing == ["one", "final"]


async def test_a_final_step_that_was_refused_is_not_passed(ledger: Ledger) -> None:
    """Not done is not done: what came before is undone."""
    async with deadline(1.0, margin=0.5) as dl:
        with pytest.raises(InsufficientTime):
            async with critical("move") as section:
                async with section.step("one", undo=ledger.undo("one")):
                    pass
                async with section.step("final"):
                    raise dl.refusal("no time")
    assert ledger.entries == ["undo one"]


async def test_a_step_that_failed_may_be_done(ledger: Ledger) -> None:
    """What cannot be known counts as done: its own undo runs first."""
    with pytest.raises(ValueError, match="no"):
        async with critical("move") as section:
            async with section.step("one", undo=ledger.undo("one")):
                raise ValueError("no")
    assert ledger.entries == ["undo one"]


# --- nesting and tasks ------------------------------------------------------------------------------------


async def test_a_nested_section_is_undone_with_the_outer_one(ledger: Ledger) -> None:
    """It was done; if the outer one fails later, so is its part of it undone, in order."""
    with pytest.raises(ValueError, match="no"):
        async with critical("outer") as outer:
            async with outer.step("one", undo=ledger.undo("one")):
                pass
            async with critical("inner") as inner:
                async with inner.step("two", undo=ledger.undo("two")):
                    pass
            async with outer.step("three", undo=ledger.undo("three")):
                pass
            raise ValueError("no")
    assert ledger.entries == ["undo three", "undo two", "undo one"]
    assert str(inner.report) == "critical section 'inner' undone: two undone"


async def test_a_nested_section_that_fails_is_undone_once(ledger: Ledger) -> None:
    """By itself, and not again by the outer one."""
    with pytest.raises(ValueError, match="no"):
        async with critical("outer") as outer:
            async with outer.step("one", undo=ledger.undo("one")):
                pass
            async with critical("inner") as inner:
                async with inner.step("two", undo=ledger.undo("two")):
                    raise ValueError("no")
    assert ledger.entries == ["undo two", "undo one"]


@pytest.mark.parametrize("group", ["asyncio", "anyio"])
async def test_steps_in_tasks(ledger: Ledger, group: str) -> None:
    """Steps may run at once; a sibling's failure cuts the section and undoes what was done."""

    async def one(section: Any, name: str, seconds: float) -> None:
        async with section.step(name, undo=ledger.undo(name)):
            await asyncio.sleep(seconds)

    async def fail() -> None:
        await asyncio.sleep(0.5)
        raise ValueError("no")

    with pytest.raises(ExceptionGroup):
        async with critical("move") as section:
            if group == "asyncio":
                async with asyncio.TaskGroup() as native:
                    native.create_task(one(section, "short", 0.1))
                    native.create_task(one(section, "long", 9))
                    native.create_task(fail())
            else:
                async with anyio.create_task_group() as theirs:
                    theirs.start_soon(one, section, "short", 0.1)
                    theirs.start_soon(one, section, "long", 9)
                    theirs.start_soon(fail)
    assert now() == pytest.approx(0.5)
    assert sorted(ledger.entries) == ["undo long", "undo short"]


async def test_a_section_in_a_child_task_is_cut_with_its_siblings(ledger: Ledger) -> None:
    """It holds the clock, not the group: a failure beside it cuts it at once."""

    async def section() -> None:
        async with critical("move") as one:
            async with one.step("one", undo=ledger.undo("one")):
                await asyncio.sleep(9)

    with pytest.raises(ExceptionGroup):
        async with deadline(30.0, margin=10.0), asyncio.TaskGroup() as group:
            group.create_task(section())
            await asyncio.sleep(0.3)
            raise ValueError("beside")
    assert now() == pytest.approx(0.3)
    assert ledger.entries == ["undo one"]


async def test_a_section_in_gathered_tasks_is_held_and_undone(ledger: Ledger) -> None:
    """In a task that the block gathers the cut comes again and again; the undo goes through all the same."""

    async def section(name: str) -> None:
        async with critical(name) as one:
            async with one.step(name, undo=ledger.undo(name, 0.1)):
                await asyncio.sleep(9)

    with pytest.raises(DeadlineExceeded):
        async with deadline(3.0, margin=1.0):
            await asyncio.gather(section("a"), section("b"))
    assert sorted(ledger.entries) == ["undo a", "undo b"]
    assert now() == pytest.approx(2.6)


_critical: Any = critical


# --- mistakes ---------------------------------------------------------------------------------------------


async def test_a_section_is_entered_once() -> None:
    """The message says what to do instead."""
    section = critical("move")
    async with section:
        pass
    with pytest.raises(RuntimeError, match=r"critical section 'move': it is entered once; call critical"):
        async with section:
            pass


async def test_a_step_needs_an_open_section() -> None:
    """Before and after it there is nothing to undo it with."""
    section = critical("move")
    with pytest.raises(RuntimeError, match="critical section 'move' is not open"):
        async with section.step("one"):
            pass


async def test_a_step_is_entered_once(ledger: Ledger) -> None:
    """Twice it would be undone twice."""
    with pytest.raises(RuntimeError, match=r"step 'one': a step is entered once"):
        async with critical("move") as section:
            one = section.step("one", undo=ledger.undo("one"))
            async with one:
                pass
            async with one:
                pass
    assert ledger.entries == ["undo one"]


async def test_a_section_that_is_closed_tells_what_stands(ledger: Ledger, happened: list[Event]) -> None:
    """Nobody waits for an undo then, but it is told."""

    async def numbers() -> AsyncIterator[Section]:
        async with critical("move") as section:
            async with section.step("one", undo=ledger.undo("one")):
                pass
            yield section

    generator = numbers()
    section = await anext(generator)
    assert repr(section) == "<critical section 'move' open: one done>"
    await generator.aclose()  # type: ignore[attr-defined]
    assert ledger.entries == []
    assert [(event.name, event.fields["status"]) for event in happened] == [
        ("deadline.section_failed", "partial")
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _critical(3), r"name: expected a string, got 3 \(int\); write critical\('move'\)"),
        (lambda: _critical("move", needs=-1), r"needs: -1.0 is negative"),
        (lambda: _critical("move", needs=math.nan), r"needs: NaN"),
        (lambda: _critical("move").step(3), r"name: expected a string, got 3"),
        (lambda: _critical("move").step("a", undo="b"), r"undo: expected a function without arguments"),
    ],
)
async def test_bad_input_is_refused_by_name(make: Callable[[], Any], message: str) -> None:
    """At the line where it is written."""
    with pytest.raises((TypeError, ValueError), match=message):
        make()


async def test_steps_of_both_kinds_stand_in_the_report() -> None:
    """`section.step` names what is going on, like `step`."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0):
            with step("plain"):
                pass
            async with critical("move") as section:
                async with section.step("effect", undo=lambda: None):
                    pass
            await asyncio.sleep(9)
    assert caught.value.report.done == ["plain", "effect"]
    assert "critical section 'move' done: effect done" in caught.value.report.render()
    assert caught.value.report.to_dict()["sections"] == [
        {
            "name": "move",
            "status": "done",
            "steps": [{"name": "effect", "fate": "done", "error": None, "unanswered": False}],
        }
    ]


@pytest.fixture
def happened() -> Any:
    from deadline import subscribe

    events: list[Event] = []
    unsubscribe = subscribe(lambda event: events.append(event) if event.name != "deadline.exceeded" else None)
    yield events
    unsubscribe()


async def test_a_refusal_lets_the_loop_run(virtual_clock: object) -> None:
    """A loop that asks again at once keeps no other task from its work."""
    turns: list[str] = []

    async def ask() -> None:
        for _ in range(3):
            with pytest.raises(InsufficientTime):
                async with critical("move", needs=9.0):
                    pass
            turns.append("refused")

    async def other() -> None:
        for _ in range(3):
            turns.append("other")
            await asyncio.sleep(0)

    async with deadline(1.0):
        await asyncio.gather(ask(), other())
    assert turns[:4] == ["other", "refused", "other", "refused"]

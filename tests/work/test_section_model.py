"""Random critical sections against what really happened to their effects.

Sections in each other and in tasks, with compensations that are slow, fail or are cancelled, cut by
deadlines, by each other's failures and from outside. A ledger keeps what was done and undone, and when; the
laws below say what must be true of it, and of every report. Programs run on a virtual clock, so their times
are exact.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from deadline import DeadlineExceeded, Section, critical, current, deadline
from deadline._core.cut import TIE
from deadline._core.margin import shares
from deadline._work.section import WITHOUT_LIMIT
from deadline.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable

unhurried = settings(deadline=None, derandomize=True, max_examples=400)

GRID = 1 / 1024
EXACT = 1e-9


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Undo:
    seconds: float
    ending: Literal["well", "error", "cancelled"]


@dataclass(frozen=True)
class Step:
    """An effect, at the end of some work; `fails` after it."""

    work: float
    undo: Undo | None
    fails: bool


@dataclass(frozen=True)
class Group:
    kind: Literal["native", "anyio"]
    branches: tuple[tuple[Part, ...], ...]


@dataclass(frozen=True)
class Critical:
    body: tuple[Part, ...]


Part: TypeAlias = "Sleep | Step | Group | Critical"


@dataclass(frozen=True)
class Program:
    """A section inside of deadlines of (seconds, margin), outermost first; perhaps cancelled from outside."""

    limits: tuple[tuple[float, float], ...]
    section: Critical
    cancel_at: float


# --- programs ---------------------------------------------------------------------------------------------


def durations(most: int) -> st.SearchStrategy[float]:
    return st.builds(
        lambda tenths, dust: (102 * tenths + dust) * GRID, st.integers(0, most), st.integers(0, 40)
    )


undos = st.builds(
    Undo,
    st.one_of(*[durations(3)] * 4, st.just(11.0)),
    st.sampled_from(["well", "well", "well", "error", "cancelled"]),
)
# One in eight steps has no undo, one in ten fails: most programs should have something to undo.
steps = st.builds(
    Step,
    durations(3),
    st.one_of(*[undos] * 7, st.none()),
    st.sampled_from([False] * 9 + [True]),
)


def parts(depth: int) -> st.SearchStrategy[Part]:
    if depth == 0:
        return st.one_of(steps, steps, durations(3).map(Sleep))
    body = st.lists(parts(depth - 1), min_size=1, max_size=3).map(tuple)
    groups = st.builds(
        Group, st.sampled_from(["native", "anyio"]), st.lists(body, min_size=1, max_size=3).map(tuple)
    )
    return st.one_of(steps, steps, st.builds(Critical, body), groups)


limits = st.tuples(durations(12).map(lambda seconds: seconds + GRID), durations(8))
programs = st.builds(
    Program,
    st.lists(limits.map(lambda limit: (limit[0] + limit[1], limit[1])), max_size=2).map(tuple),
    st.builds(Critical, st.lists(parts(2), min_size=1, max_size=4).map(tuple)),
    st.one_of(st.just(math.inf), durations(12)),
)


# --- what really happened ---------------------------------------------------------------------------------


@dataclass
class Effect:
    """What became of a step's effect, by the ledger.

    Attributes:
        ended: When the step was left.
        done: Whether it was left without an error.
        began_undo: When its compensation began, each time.
        ended_undo: When it ended, in whatever way.
        undone: Whether it ended well.
    """

    undo: Undo | None
    ended: float = math.nan
    done: bool = False
    began_undo: list[float] = field(default_factory=list)
    ended_undo: list[float] = field(default_factory=list)
    undone: bool = False


@dataclass
class Entered:
    """A section that was entered.

    Attributes:
        section: It.
        around: The section around it.
        cut_at: When the deadlines around cut it, by the rule of the shares.
        undo_until: When its undo must have ended.
        failed_at: When the undoing of it began, or would have.
    """

    section: Section
    around: Section | None
    cut_at: float
    undo_until: float
    failed_at: float = math.nan


@dataclass
class Reality:
    """Runs a program and keeps the ledger."""

    program: Program
    effects: dict[str, Effect] = field(default_factory=dict)
    sections: list[Entered] = field(default_factory=list)
    errors: int = 0
    held: bool = False
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def run(self) -> None:
        await self.limited(self.program.limits)

    async def limited(self, limits: tuple[tuple[float, float], ...]) -> None:
        if not limits:
            await self.critical(self.program.section, None)
            return
        (seconds, margin), *inner = limits
        async with deadline(seconds, margin=margin) as dl:
            try:
                await self.limited(tuple(inner))
            finally:
                self.held |= dl.soft != dl.unheld_soft

    async def critical(self, part: Critical, around: Section | None) -> None:
        async with critical(f"section {next(self.numbers)}") as section:
            entered = self.entered(section, around)
            try:
                for inner in part.body:
                    await self.part(section, inner)
            finally:
                entered.failed_at = now()

    def entered(self, section: Section, around: Section | None) -> Entered:
        dl, ends = current(), []
        while dl is not None:
            ends.append(shares(dl.unheld_soft, dl.hard))
            dl = next(dl._around(), None)
        cut_at = min((end.section for end in ends), default=math.inf)
        undo_until = min((end.undo for end in ends), default=math.inf)
        self.sections.append(Entered(section, around, cut_at, undo_until))
        return self.sections[-1]

    async def part(self, section: Section, part: Part) -> None:
        match part:
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Step():
                await self.step(section, part)
            case Critical():
                await self.critical(part, section)
            case Group("native", branches):
                async with asyncio.TaskGroup() as native:
                    for branch in branches:
                        native.create_task(self.branch(section, branch))
            case Group(_, branches):
                async with anyio.create_task_group() as theirs:
                    for branch in branches:
                        theirs.start_soon(self.branch, section, branch)

    async def branch(self, section: Section, branch: tuple[Part, ...]) -> None:
        for part in branch:
            await self.part(section, part)

    async def step(self, section: Section, part: Step) -> None:
        name = f"step {next(self.numbers)}"
        effect = self.effects[name] = Effect(part.undo)
        undo = None if part.undo is None else self.undo(effect, part.undo)
        async with section.step(name, undo=undo):
            try:
                await asyncio.sleep(part.work)
                if part.fails:
                    self.errors += 1
                    raise ValueError(name)
                effect.done = True
            finally:
                effect.ended = now()

    def undo(self, effect: Effect, undo: Undo) -> Callable[[], object]:
        async def compensate() -> None:
            effect.began_undo.append(now())
            try:
                await asyncio.sleep(undo.seconds)
                if undo.ending == "error":
                    raise LookupError
                if undo.ending == "cancelled":
                    raise asyncio.CancelledError
                effect.undone = True
            finally:
                effect.ended_undo.append(now())

        return compensate


def now() -> float:
    return asyncio.get_running_loop().time()


# --- the laws ---------------------------------------------------------------------------------------------


@unhurried
@given(program=programs)
def test_sections_keep_the_laws(program: Program) -> None:
    """Undone in order, once, in time, and never past the point of no return; and the reports are true."""
    reality = Reality(program)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        error = runner.run(ended(reality))
    for entered in reality.sections:
        undoes_in_order(reality, entered)
        keeps_the_bounds(reality, entered)
        tells_the_truth(reality, entered)
        event(entered.section.report.status)
    assert not reality.held
    for effect in reality.effects.values():
        assert len(effect.began_undo) <= 1
    if isinstance(error, DeadlineExceeded) and error.started:
        assert list(error.report.sections) == [entered.section.report for entered in reality.sections]
    if error is None:
        assert all(effect.done and not effect.began_undo for effect in reality.effects.values())
    event(type(error).__name__)


async def ended(reality: Reality) -> BaseException | None:
    """Run a program, to what leaves it; nothing may be left, and no cancellation from outside be lost."""
    program = asyncio.create_task(reality.run())
    cancelled: list[bool] = []
    if reality.program.cancel_at < math.inf:
        cancel = asyncio.get_running_loop().call_at(
            reality.program.cancel_at, lambda: cancelled.append(program.cancel())
        )
    await asyncio.wait([program])
    if reality.program.cancel_at < math.inf:
        cancel.cancel()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    if program.cancelled():
        return asyncio.CancelledError()
    if any(cancelled) and not reality.errors:
        pytest.fail("a cancellation from outside was lost")
    return program.exception()


def undoes_in_order(reality: Reality, entered: Entered) -> None:
    """Last in first out, one after the other; all that may be done, or nothing past a step without undo."""
    told = entered.section.report.steps
    begun = [reality.effects[step.name] for step in reversed(told) if reality.effects[step.name].began_undo]
    for one, following in itertools.pairwise(begun):
        assert one.ended_undo[0] <= following.began_undo[0]
    if entered.section._status == "failed":
        final = any(reality.effects[step.name].undo is None for step in told)
        assert all((step.fate in {"undone", "undo failed"}) is not final for step in told)
    for inner in reality.sections:
        if inner.around is entered.section and inner.section._status == "done":
            assert set(inner.section.report.steps) <= set(told)


def keeps_the_bounds(reality: Reality, entered: Entered) -> None:
    """The steps end by the section's share of the margin, the undo by its own, and no undo before that."""
    until = entered.undo_until if entered.undo_until < math.inf else entered.failed_at + WITHOUT_LIMIT
    for step in entered.section.report.steps:
        effect = reality.effects[step.name]
        assert effect.ended <= entered.cut_at + TIE + EXACT
        if entered.section._status == "failed":
            assert max(effect.ended_undo, default=0.0) <= until + EXACT
        if step.fate == "undo failed" and effect.undo is not None and effect.undo.ending == "well":
            assert min(effect.ended_undo, default=math.inf) >= until - EXACT


def tells_the_truth(reality: Reality, entered: Entered) -> None:
    """Each fate is what happened, and the status follows from them."""
    report = entered.section.report
    for step in report.steps:
        effect = reality.effects[step.name]
        assert {
            "done": effect.done and not effect.began_undo,
            "unknown": not effect.done and not effect.began_undo,
            "undone": effect.undone,
            "undo failed": not effect.undone,
        }[step.fate]
        assert (step.error is not None) == (step.fate == "undo failed")
    touched = any(step.fate in {"undone", "undo failed"} for step in report.steps)
    failed = entered.section._status == "failed"
    assert (report.status == "done") == (not failed and not touched)
    if report.status != "done":
        assert report.status == ("partial" if report.standing else "undone")

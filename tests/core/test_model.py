"""Random nests of deadlines against a model that says who must raise, and when.

The model knows no loop: it reads a program from the top and keeps, for each open scope, its soft instant
and whether it was cut. Programs run on a virtual clock, so their times are exact.
"""

from __future__ import annotations

import asyncio
import math
import sys
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import anyio
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from deadline import Deadline, DeadlineExceeded, current, deadline
from deadline._core.cut import TIE
from deadline.testing import VirtualLoop

unhurried = settings(deadline=None, derandomize=True, max_examples=1000)

CLEAR = 0.0005
"""A sleep that ends this near to a cut may end before or after it: such programs say nothing."""

# Times on a grid of 2^-10 s, so that sums are exact, with ties of all kinds around whole multiples.
GRID = 1 / 1024


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Scope:
    """A deadline around a body; `cleanup` is slept in a `finally` at its end, behind a shield or not."""

    number: int
    seconds: float
    body: tuple[Part, ...]
    cleanup: float | None
    shield: bool
    catch: bool


Part: TypeAlias = "Sleep | Scope"
Kind: TypeAlias = Literal["entered", "skipped", "exceeded", "passed", "cancelled", "left"]


@dataclass(frozen=True)
class Happened:
    """What became of a scope: it was entered, or skipped for want of time; and what left its edge."""

    scope: int
    kind: Kind
    at: float


# --- programs ---------------------------------------------------------------------------------------------


def ticks(most: int) -> st.SearchStrategy[float]:
    return st.integers(0, most).map(lambda count: count * GRID)


# Instants cluster: a tenth of a second apart give or take a few ticks, so that ties are common.
durations = st.builds(lambda tenths, dust: tenths * 102 * GRID + dust, st.integers(0, 6), ticks(4))
naps = st.builds(lambda tenths, dust: tenths * 102 * GRID + 40 * GRID + dust, st.integers(0, 6), ticks(9))


def scopes(depth: int) -> st.SearchStrategy[Scope]:
    inner = naps.map(Sleep) if depth == 0 else st.one_of(naps.map(Sleep), scopes(depth - 1))
    return st.builds(
        Scope,
        number=st.just(0),
        seconds=durations,
        body=st.lists(inner, min_size=1, max_size=3).map(tuple),
        cleanup=st.one_of(st.none(), naps),
        shield=st.booleans(),
        catch=st.booleans(),
    )


def numbered(scope: Scope, number: int = 0) -> tuple[Scope, int]:
    """The same program, its scopes numbered in the order of the text."""
    body: list[Part] = []
    following = number + 1
    for part in scope.body:
        if isinstance(part, Scope):
            part, following = numbered(part, following)  # noqa: PLW2901
        body.append(part)
    return Scope(number, scope.seconds, tuple(body), scope.cleanup, scope.shield, scope.catch), following


programs = scopes(3).map(lambda scope: numbered(scope)[0])


# --- the model --------------------------------------------------------------------------------------------


class Exceeded(Exception):
    """In the model: a deadline's error is on its way out."""


class Cancelled(Exception):
    """In the model: a cancellation is on its way out."""


@dataclass
class Open:
    """A scope that is open.

    Its cut comes once, at an await that no shield protects. When one around it cuts as well, whatever awaits
    in it is cut.
    """

    soft: float
    cut: bool = False
    come: bool = False
    level: bool = False


@dataclass
class Model:
    """Reads a program and writes down what must happen.

    Attributes:
        cancel_at: When somebody outside cancels the task.
        cancelled: Whether that has landed.
        around: The open scopes, outermost first.
    """

    cancel_at: float
    cancelled: bool = False
    now: float = 0.0
    around: list[Open] = field(default_factory=list)
    story: list[Happened] = field(default_factory=list)

    def run(self, program: Scope) -> str:
        try:
            self.scope(program)
        except (Exceeded, Cancelled) as error:
            return type(error).__name__
        return "done"

    def owners(self) -> list[Open]:
        """Scopes that will cut: those with no ancestor that is earlier or ties."""
        return [
            one
            for depth, one in enumerate(self.around)
            if not one.cut and all(outer.soft > one.soft + TIE for outer in self.around[:depth])
        ]

    def pause(self, end: float, *, shield: bool = False) -> None:
        """Let time pass; a cut ends the pause unless a shield is around it, a cancellation ends it always."""
        while True:
            if not shield and any(one.level or (one.cut and not one.come) for one in self.around):
                self.come()
                raise Cancelled
            owner = min(self.owners(), key=lambda one: one.soft, default=Open(math.inf))
            cancel_at = math.inf if self.cancelled else self.cancel_at
            first = min(owner.soft, cancel_at)
            assume(abs(first - end) > CLEAR)
            if first > end:
                break
            self.now = first
            owner.cut = owner.soft == first
            if cancel_at == first:
                self.cancelled = True
                if not shield:  # both at once are one
                    self.come()
                raise Cancelled
        self.now = end

    def come(self) -> None:
        """What is on its way out is the cut of all that have cut."""
        for depth, one in enumerate(self.around):
            one.come |= one.cut
            one.level |= one.cut and any(outer.cut for outer in self.around[:depth])

    def scope(self, scope: Scope) -> None:
        try:
            self.bounded(scope)
        except Exceeded:
            if not scope.catch:
                raise

    def bounded(self, scope: Scope) -> None:
        self.enter(scope)
        kind: Kind = "left"
        try:
            try:
                for part in scope.body:
                    if isinstance(part, Sleep):
                        self.pause(self.now + part.seconds)
                    else:
                        self.scope(part)
            finally:
                if scope.cleanup is not None:
                    self.pause(self.now + scope.cleanup, shield=scope.shield)
        except Exceeded:
            kind = "passed"
            raise
        except Cancelled:
            *outer, own = self.around
            if own.cut and not self.cancelled and not any(one.cut for one in outer):
                kind = "exceeded"
                raise Exceeded from None
            kind = "cancelled"
            if own.cut:
                self.come()
            raise
        finally:
            self.around.pop()
            self.tell(scope, kind)

    def enter(self, scope: Scope) -> None:
        soft = self.now + scope.seconds
        past = max(self.now, soft + TIE) if soft <= self.now else self.now
        if any(outer.soft <= past for outer in self.around):
            self.tell(scope, "skipped")
            self.pause(math.inf)
        if soft <= self.now:
            self.tell(scope, "skipped")
            raise Exceeded
        self.around.append(Open(soft))
        self.tell(scope, "entered")

    def tell(self, scope: Scope, kind: Kind) -> None:
        self.story.append(Happened(scope.number, kind, self.now))


# --- the real thing ---------------------------------------------------------------------------------------


@dataclass
class Reality:
    """Runs a program and writes down what happens."""

    story: list[Happened] = field(default_factory=list)

    async def scope(self, scope: Scope) -> None:
        try:
            await self.bounded(scope)
        except DeadlineExceeded:
            if not scope.catch:
                raise

    async def bounded(self, scope: Scope) -> None:
        opened: Deadline | None = None
        kind: Kind = "left"
        before = asyncio.get_running_loop().time()
        try:
            async with deadline(scope.seconds) as opened:
                assert current() is opened
                self.tell(scope, "entered")
                try:
                    for part in scope.body:
                        await (asyncio.sleep(part.seconds) if isinstance(part, Sleep) else self.scope(part))
                finally:
                    if scope.cleanup is not None:
                        with anyio.CancelScope(shield=scope.shield):
                            await asyncio.sleep(scope.cleanup)
        except DeadlineExceeded as exceeded:
            kind = "exceeded" if exceeded.deadline is opened else "passed"
            if kind == "exceeded":
                assert exceeded.started
                assert task().cancelling() == 0
            raise
        except asyncio.CancelledError:
            kind = "cancelled"
            raise
        finally:
            assert current() is not opened or opened is None
            if opened is None:
                self.tell(scope, "skipped", before)
            else:
                self.tell(scope, kind)

    def tell(self, scope: Scope, kind: Kind, at: float | None = None) -> None:
        now = asyncio.get_running_loop().time()
        self.story.append(Happened(scope.number, kind, now if at is None else at))


def task() -> asyncio.Task[object]:
    running = asyncio.current_task()
    assert running is not None
    return running


async def settled(program: asyncio.Task[object]) -> str:
    """Wait for a program's end, in peace, and say which it was; nothing may be left."""
    await asyncio.wait([program])
    scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    if asyncio.all_tasks() != {task()}:
        pytest.fail("tasks are left")
    if [timer for timer in scheduled if not timer.cancelled() and timer._callback != program.cancel]:  # type: ignore[attr-defined]
        pytest.fail("timers are left")
    if program.cancelled():
        return "Cancelled"
    error = program.exception()
    if error is None:
        return "done"
    if not isinstance(error, DeadlineExceeded):
        raise error
    return "Exceeded"


# --- the properties ---------------------------------------------------------------------------------------


@unhurried
@given(program=programs, cancel_at=st.one_of(st.just(math.inf), durations.filter(bool)))
def test_a_nest_of_deadlines_does_what_the_model_says(program: Scope, cancel_at: float) -> None:
    """Every scope is entered, passed and left when the model says so, and the same one raises."""
    model = Model(cancel_at)
    end = model.run(program)

    async def main() -> tuple[str, int]:
        reality = Reality()
        running = asyncio.create_task(reality.scope(program))
        if cancel_at < math.inf:
            asyncio.get_running_loop().call_at(cancel_at, running.cancel)
        ended = await settled(running)
        assert reality.story == model.story
        return ended, running.cancelling()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(main()) == (end, int(model.cancelled))
    for what in {happened.kind for happened in model.story}:
        event(what)


Kinds: TypeAlias = Literal["native", "anyio", "gather"]


@dataclass(frozen=True)
class Child:
    work: float
    seconds: float


@dataclass(frozen=True)
class Family:
    """Children with deadlines of their own inside an outer one of `ours` seconds."""

    kind: Kinds
    ours: float
    children: tuple[Child, ...]
    catch: bool

    def expected(self) -> tuple[str, float]:
        """Who raises, and when all is over."""
        for child in self.children:
            assume(all(abs(child.work - end) > CLEAR for end in (self.ours, child.seconds)))
        ends = [(min(child.work, self.fires(child)), child) for child in self.children]
        failing = [end for end, child in ends if end == self.fires(child) and not self.catch]
        last = min(failing, default=max(end for end, _ in ends))
        assume(all(abs(child.work - last) > CLEAR or last == child.work for child in self.children))
        if last > self.ours:
            return "outer", self.ours
        return ("child" if failing else "nobody"), last

    def fires(self, child: Child) -> float:
        """When a child's own deadline fires: never if the outer's comes first or ties."""
        return child.seconds if child.seconds + TIE < self.ours else math.inf

    async def work(self, child: Child, outer: Deadline, raised: list[Child]) -> None:
        try:
            async with deadline(child.seconds) as own:
                await asyncio.sleep(child.work)
        except DeadlineExceeded as exceeded:
            assert exceeded.deadline is own
            assert exceeded.deadline is not outer
            assert asyncio.get_running_loop().time() == child.seconds
            raised.append(child)
            if not self.catch:
                raise

    async def together(self, outer: Deadline, raised: list[Child]) -> None:
        if self.kind == "native":
            async with asyncio.TaskGroup() as group:
                for child in self.children:
                    group.create_task(self.work(child, outer, raised))
        elif self.kind == "anyio":
            async with anyio.create_task_group() as other:
                for child in self.children:
                    other.start_soon(self.work, child, outer, raised)
        else:
            await asyncio.gather(*(self.work(child, outer, raised) for child in self.children))

    async def live(self, raised: list[Child]) -> tuple[str, float]:
        """What `expected` foretells, as it happens."""
        loop = asyncio.get_running_loop()
        who = "nobody"
        try:
            async with deadline(self.ours) as outer:
                await self.together(outer, raised)
        except DeadlineExceeded as exceeded:
            who = "outer" if exceeded.deadline is outer else "child"
            assert self.kind == "gather" or who == "outer"
        except ExceptionGroup as group:
            who = "child"
            assert all(
                isinstance(error, DeadlineExceeded) and error.deadline is not outer
                for error in group.exceptions
            )
        ended = loop.time()
        if who != "child" or self.kind != "native" or sys.version_info >= (3, 13):
            assert (
                task().cancelling() == 0
            )  # before, a native group that failed left one (python/cpython#116720)
        await asyncio.sleep(10)  # what `gather` left behind ends by itself
        assert asyncio.all_tasks() == {task()}
        return who, ended


families = st.builds(
    Family,
    kind=st.sampled_from(["native", "anyio", "gather"]),
    ours=durations.filter(bool),
    children=st.lists(
        st.builds(Child, work=naps, seconds=durations.filter(bool)), min_size=1, max_size=5
    ).map(tuple),
    catch=st.booleans(),
)


@unhurried
@given(family=families)
def test_children_with_deadlines_of_their_own(family: Family) -> None:
    """A child's deadline raises in the child, unless the outer's is first or ties: then only that raises."""
    who, ended = family.expected()
    raised: list[Child] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(family.live(raised)) == (who, ended)
    for child in family.children:
        if family.fires(child) < min(child.work, ended):
            assert child in raised
        elif child in raised:
            # Others that fail in the same instant, and in `gather` those that nobody ends.
            assert child.seconds == ended or family.kind == "gather"
    event(f"{family.kind}: {who}")


# --- runners ----------------------------------------------------------------------------------------------


def test_a_runner_is_left_as_it_was() -> None:
    """After a cut the main task of an `asyncio.Runner` has no cancellation left, and the runner goes on."""

    async def main() -> int:
        with pytest.raises(DeadlineExceeded):
            async with deadline(1.0), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(9))
        assert current() is None
        return task().cancelling()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(main()) == 0
        assert runner.run(main()) == 0

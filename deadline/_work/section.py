"""Steps, and critical sections whose steps can be undone.

A section that is cut between two effects leaves a state that nobody meant. Shielding it is the wrong tool: a
shield also keeps off its siblings' failures and whoever cancels it from outside, and in task groups it does
not hold. So a section *holds the clock* instead: the soft instant of the deadlines around it moves into the
margin for as long as it is open, for everyone in them, and everything else can still cut it.

When it fails or is cut, the effects of its steps are undone, last in first out. For that a step's
compensation is registered before its effect, and runs if the effect is done or may be: what is unknown
counts as done.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
from asyncio import CancelledError
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Final, Self, final

import anyio.lowlevel

from deadline._core import source as _source
from deadline._core.errors import DeadlineExceeded, InsufficientTime
from deadline._core.scope import Deadline, current, without_deadline
from deadline._events import emit, shown
from deadline._interrupt.interrupted import Interrupted, calls_user_code
from deadline._report.data import EffectReport, SectionReport, Step
from deadline._text import quoted
from deadline._work.shielded import to_the_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import Context
    from datetime import timedelta
    from types import TracebackType

    from deadline._report.data import Effect, Fate
    from deadline._report.tasks import Call

    Undo = Callable[[], object]

WITHOUT_LIMIT: Final = 10.0
"""Seconds for undoing a section without a deadline, which has no margin to take them from."""

_CUTS: Final = (CancelledError, DeadlineExceeded, Interrupted, GeneratorExit)  # the last one: closed


# --- steps ------------------------------------------------------------------------------------------------

_watcher: Callable[[Step], object] | None = None


def watch_steps(watcher: Callable[[Step], object] | None) -> None:
    """Have `watcher` told of each step that begins or ends inside of a deadline; there is one, or none.

    It is called between two lines of the work, in whatever thread that is, and must not raise.
    """
    global _watcher  # noqa: PLW0603  # a process's record has one place for the last step
    _watcher = watcher


@final
class NamedStep:
    """A step's block, as `step(name)` gives it."""

    __slots__ = ("_entered", "_name", "_now", "_step")

    def __init__(self, name: str) -> None:
        self._name = name
        self._entered = False
        self._step: Step | None = None

    def __enter__(self) -> None:
        if self._entered:
            raise RuntimeError(
                f"step {quoted(self._name)}: a step is entered once; call step(...) again for another"
            )
        self._entered = True
        dl = current()
        if dl is not None:
            self._now = dl.now
            self._step = Step(self._name, dl.now())
            dl.begin_step(self._step)
            if _watcher is not None:
                _watcher(self._step)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._step is None:
            return
        self._step.ended = self._now()
        if exc is None:
            self._step.status = "done"
        elif isinstance(exc, _CUTS):
            self._step.status = "cut"
        else:
            self._step.status = "failed"
        if _watcher is not None:
            _watcher(self._step)


def step(name: str) -> NamedStep:
    """Name what is going on.

    Write `with step("copy"): ...`. The reports of all deadlines open around it say whether the step was
    done, cut, failed or was still running. Without a deadline it does nothing, so a library may use it
    freely.

    Raises:
        TypeError: `name` is not a string.
    """
    return NamedStep(_checked_name(name, "step('copy')"))


def _checked_name(name: str, example: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {name!r} ({type(name).__name__}); write {example}")
    return str.__str__(name)  # a subclass may have a repr of its own


# --- critical sections ------------------------------------------------------------------------------------

_section: ContextVar[Section | None] = ContextVar("deadline_section", default=None)
_calls: ContextVar[list[Call] | None] = ContextVar("deadline_section_calls", default=None)


def calls_of_step() -> list[Call] | None:
    """Where the calls of the section's step that is running here are kept, for whoever makes one."""
    return _calls.get()


def critical(name: str, *, needs: float | timedelta = 0.0) -> Section:
    """Keep steps together that leave a wrong state if only some of them are done.

    Write `async with critical("move", needs=0.5) as section:`, and in it, for each effect,
    `async with section.step("copy", undo=...)`.

    The section is refused whole if it does not fit. Once it is open it holds the clock: the deadlines around
    it cut at half of their margins instead of at soft. What fails or is cut is undone, until three quarters
    of the margin at most. Leaving it late is a checkpoint, where the deadline cuts.

    Without a deadline it is simply a saga: what fails is undone, for 10 s at most.

    Args:
        name: For messages, events and the report.
        needs: Seconds that it takes if all goes well; it is not entered with less before soft.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        InsufficientTime: On entry, if less than `needs` is left.
    """
    return Section(_checked_name(name, "critical('move')"), _source.seconds(needs, "needs"))


@final
class Section:
    """A critical section, as `async with critical(...) as section` gives it.

    Attributes:
        name: As given.
    """

    def __init__(self, name: str, needs: float) -> None:
        self.name = name
        self._needs = needs
        self._status = "new"
        self._steps: list[SectionStep] = []
        self._held: list[Deadline] = []
        self._around: Section | None = None

    @property
    def report(self) -> SectionReport:
        """What became of its effects, by now."""
        steps = tuple(step.report() for step in self._steps)
        if self._status in {"new", "open"}:
            return SectionReport(self.name, "open", steps)
        # A section that was left well is done no more when one around it has undone it.
        if self._status == "done" and not any(step.fate in {"undone", "undo failed"} for step in steps):
            return SectionReport(self.name, "done", steps)
        return SectionReport(self.name, "partial" if any(step.stands for step in steps) else "undone", steps)

    def __repr__(self) -> str:
        return f"<{self.report}>"

    def step(self, name: str, *, undo: Undo | None = None) -> SectionStep:
        """Name one effect, and say how it is undone: `async with section.step("copy", undo=remove): ...`.

        Args:
            name: For messages and the report.
            undo: Called without arguments, sync or async, if the section fails or is cut when this step is
                done, or may be. It is registered before the effect, so it must be idempotent, and do nothing
                where there is nothing. Without it the step is the point of no return: once it is done, or may
                be, nothing of the section is undone any more.

        Raises:
            TypeError: An argument is wrong; the message names it.
            RuntimeError: On entry, if the section is not open.
        """
        if undo is not None and not callable(undo):
            raise TypeError(
                f"undo: expected a function without arguments, got {undo!r} ({type(undo).__name__}); write "
                "undo=lambda: s3.delete_object(...), which is called if the step has to be undone"
            )
        return SectionStep(self, _checked_name(name, "section.step('copy')"), undo)

    # --- entry and edge -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._status != "new":
            raise RuntimeError(
                f"critical section {quoted(self.name)}: it is entered once; "
                "call critical(...) again for another"
            )
        dl = current()
        if dl is not None:
            left = dl.remaining()
            if left < self._needs or left <= 0.0:
                # If the time is up this is a cut like any other. A caller that tries again lets the loop run.
                await anyio.lowlevel.checkpoint()
                emit(
                    "deadline.section_refused", logging.INFO, section=self.name, left=left, needs=self._needs
                )
                raise dl.refusal(
                    f"critical section {quoted(self.name)} was not entered, it needs {self._needs:.3f} s"
                )
            self._held = dl.hold()
            dl.begin_section(lambda: self.report)
        self._around = _section.get()
        self._token = _section.set(self)
        self._status = "open"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(ValueError):  # entered in another context, as a test's async fixture may be
            _section.reset(self._token)
        try:
            if exc is None:
                self._succeed()
            elif isinstance(exc, GeneratorExit):
                self._status = "failed"
                self._tell(exc)  # closed from outside: there is nobody to wait for an undo
            else:
                await self._fail(exc)
        finally:
            for dl in reversed(self._held):
                dl.release()
        if exc is None and any(dl.remaining() <= 0.0 for dl in self._held):
            await anyio.lowlevel.checkpoint()

    def _succeed(self) -> None:
        self._status = "done"
        around = self._around
        if around is not None and around._status == "open":  # noqa: SLF001  # its own kind
            around._steps += self._steps  # noqa: SLF001  # if that one fails, these are undone with it

    async def _fail(self, exc: BaseException) -> None:
        self._status = "failed"
        undoing = [step for step in reversed(self._steps) if step.may_be_done]
        try:
            if undoing and not any(step.is_final for step in undoing):
                interrupt = any(dl._interrupt for dl in self._held)  # noqa: SLF001  # as a grace does
                await to_the_end(
                    _undo(self.name, undoing, self._undo_until(), interrupt=interrupt), _outside()
                )
        except CancelledError:
            if not isinstance(exc, CancelledError):
                raise
        finally:
            self._tell(exc)

    def _tell(self, exc: BaseException) -> None:
        report = self.report
        emit(
            "deadline.section_failed",
            logging.WARNING if report.standing else logging.INFO,
            section=self.name,
            status=report.status,
            steps=", ".join(map(str, report.steps)),
        )
        if report.steps and not isinstance(exc, CancelledError):
            exc.add_note(f"deadline: {report}")

    def _undo_until(self) -> float:
        """When undoing must be over, on the loop's clock."""
        until = min((dl.shares().undo for dl in self._held), default=math.inf)
        return asyncio.get_running_loop().time() + WITHOUT_LIMIT if until == math.inf else until


def _outside() -> Context:
    """A context for undoing: not of the deadline that is over, nor of a section or a step around."""
    context = without_deadline(copy_context())
    context.run(_section.set, None)
    context.run(_calls.set, None)
    return context


async def _undo(section: str, steps: Sequence[SectionStep], until: float, *, interrupt: bool) -> None:
    """Run the compensations, the last step's first, until an instant on the loop's clock."""
    source, name = _source.Instant(until), f"undo of {section}"
    for step in steps:
        try:
            async with Deadline(source, 0.0, name, DeadlineExceeded, interrupt=interrupt):
                await step.undo()
        except BaseException as error:  # whatever it is, the others run
            step.failed_to_undo(error)
            emit("deadline.undo_failed", logging.WARNING, section=section, step=step.name, error=shown(error))
            if not isinstance(error, Exception | CancelledError | Interrupted):
                raise  # the end of the process, or of this coroutine


@final
class SectionStep:
    """A step's block, as `section.step(...)` gives it."""

    def __init__(self, section: Section, name: str, undo: Undo | None) -> None:
        self.name = name
        self._section = section
        self._undo = undo
        self._named = NamedStep(name)
        self._made: list[Call] = []
        self._fate: Fate = "running"
        self._error: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether the section is past its point of no return."""
        return self._undo is None and self.may_be_done

    @property
    def may_be_done(self) -> bool:
        """Whether the effect is there, or may be."""
        return self._fate in {"done", "unknown", "running"}

    def report(self) -> EffectReport:
        """As plain data."""
        unanswered = any(call.outcome == "unknown" for call in self._made)
        return EffectReport(self.name, self._fate, self._error, unanswered)

    @calls_user_code
    async def undo(self) -> None:
        """Run the compensation. It is interrupted here if it blocks."""
        assert self._undo is not None
        self._fate, self._error = "undo failed", "it has not ended"
        done = self._undo()
        if inspect.isawaitable(done):
            await done
        elif inspect.isgenerator(done) or inspect.isasyncgen(done):
            raise TypeError(
                f"undo: it made {done!r}, of which nothing has run; write a function without `yield`"
            )
        self._fate, self._error = "undone", None

    def failed_to_undo(self, error: BaseException) -> None:
        """Remember why the compensation failed."""
        self._fate, self._error = "undo failed", f"{type(error).__name__}: {error}"

    async def __aenter__(self) -> None:
        if self._section._status != "open":  # noqa: SLF001  # one concept
            raise RuntimeError(
                f"step {quoted(self.name)}: critical section {quoted(self._section.name)} is not open; "
                "enter its steps "
                "inside of its `async with`"
            )
        self._named.__enter__()
        self._section._steps.append(self)  # noqa: SLF001
        self._token = _calls.set(self._made)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(ValueError):  # closed from another context
            _calls.reset(self._token)
        self._named.__exit__(exc_type, exc, traceback)
        self._fate = "done" if exc is None else effect_of(self._made, exc)


def effect_of(calls: Sequence[Call], error: BaseException) -> Effect:
    """Whether a step that failed or was cut had its effect.

    Args:
        calls: The AWS calls that it made, as far as they are known.
        error: What ended it.

    Returns:
        `unknown`, if a call was sent and not answered; else `done`, if one succeeded; else `not done`, if all
        were answered with a refusal or not sent. Without any call only a refusal of ours says that nothing
        happened.
    """
    effects = {call.effect for call in calls}
    if not calls:
        return "not done" if isinstance(error, InsufficientTime) else "unknown"
    return next(effect for effect in ("unknown", "done", "not done") if effect in effects)

"""What a deadline says: what is left of its time, who gets which share, and what its block has done.

`Reading` is the part of `Deadline` that changes nothing but its own account.
"""

from __future__ import annotations

import asyncio
import math
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from deadline._core.margin import shares
from deadline._core.source import CallerMargin
from deadline._report.record import Record
from deadline._text import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Context

    from deadline._core.margin import Shares
    from deadline._core.source import Margin
    from deadline._core.timer import Clock, PlainClock
    from deadline._report.data import BatchReport, SectionReport, Step
    from deadline._report.record import Closable

State = Literal["new", "open", "closed", "disabled", "dropped"]

innermost_deadline: Final[ContextVar[Any]] = ContextVar("deadline", default=None)
"""The innermost `Deadline` that was entered around the caller, open or not; `None` without one."""


class Reading:
    """What a deadline says of itself.

    Attributes:
        name: As given.
        soft: When the block is cut; later for as long as a critical section is open in it.
        hard: When the source ends.
        overran: Seconds by which a block that finished did so after `soft`; 0.0 otherwise.
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_cut_at",
        "_entered",
        "_expired",
        "_holds",
        "_levels_at",
        "_margin",
        "_parent",
        "_record",
        "_state",
        "_unheld",
        "hard",
        "name",
        "overran",
        "soft",
    )

    _clock: Clock | PlainClock
    _cut_at: float
    _entered: float
    _expired: bool
    _holds: int
    _levels_at: float
    _margin: Margin
    _parent: Self | None
    _record: Record | None
    _state: State
    _unheld: float
    hard: float
    name: str | None
    overran: float
    soft: float

    @property
    def margin(self) -> float:
        """Seconds between soft and hard; 0.0 without a limit."""
        return 0.0 if math.isinf(self.hard) else self.hard - self.soft

    def _kept(self) -> float:
        """The margin as it is told: seconds from soft until whoever waits gives up."""
        return max(0.0, min(self.margin, self.answer_by - self.soft))

    @property
    def answer_by(self) -> float:
        """When whoever waits for the answer gives up; at the latest, and if nobody does, `hard`."""
        if isinstance(self._margin, CallerMargin):
            return min(self.hard, self._entered + self._margin.limit)
        return self.hard

    @property
    def expired(self) -> bool:
        """Whether its time is up; after the block has been left, whether it was by then."""
        return self.remaining() <= 0.0 if self._state == "open" else self._expired

    def remaining(self, *, hard: bool = False) -> float:
        """Seconds until the block is cut, by this deadline or by one around it; 0.0 once it should be.

        Args:
            hard: Count to the hard end instead.

        Raises:
            RuntimeError: Not entered yet: a deadline starts on entry.
        """
        if self._state == "new":
            raise RuntimeError(f"{self!r}: it starts on entry; write `async with` before asking what remains")
        if self._state == "disabled":
            return math.inf
        end = self.hard if hard else self.soft
        for around in self._around():
            end = min(end, around.hard if hard else around.soft)
        return max(0.0, end - self._clock.now())

    def until_cancelled(self) -> float:
        """Seconds until what the running task awaits is cancelled, at the latest.

        That is `remaining()`; in a task that has been cut and cleans up, until unwinding has had its time.
        """
        task = asyncio.current_task()
        if self._state != "open" or task is None or not task.cancelling():
            return self.remaining()
        ends = (dl._levels_at if dl._cut_at < math.inf else dl.soft for dl in (self, *self._around()))
        return max(0.0, min(ends) - self._clock.now())

    def now(self) -> float:
        """The loop's clock, in seconds."""
        return self._clock.now()

    def _is_past(self, now: float) -> bool:
        """Whether this or a deadline around it is open and should have been cut."""
        around: Reading | None = self
        while around is not None:  # a loop of its own: `_around` would cost every entry a generator
            if around.soft <= now and around._state == "open":
                return True
            around = around._parent
        return False

    def _around(self) -> Iterator[Self]:
        """The open deadlines around this one, innermost first."""
        around = self._parent
        while around is not None:
            if around._state == "open":
                yield around
            around = around._parent

    def covers(self, context: Context) -> bool:
        """Whether a task with this context was started inside of this deadline."""
        inside = context.get(innermost_deadline)
        while inside is not None and inside is not self:
            inside = inside._parent
        return inside is self

    def __repr__(self) -> str:
        name = f" {quoted(self.name)}" if self.name else ""
        if self._state in {"new", "disabled"}:
            return f"<Deadline{name} {'not entered' if self._state == 'new' else 'disabled'}>"
        margin = f", margin {self._kept():.3f} s" if self._kept() else ""
        allowed = (
            f"of {self.soft - self._entered:.3f} s{margin}" if self.soft < math.inf else "without a limit"
        )
        if self._state == "closed":
            return f"<Deadline{name} {'expired' if self._expired else 'left in time'}, {allowed}>"
        left = self.soft - self._clock.now()
        when = f"{left:.3f} s left" if left > 0 else f"expired {-left:.3f} s ago"
        return (
            f"<Deadline{name} open, {when} {allowed}>"
            if left < math.inf
            else f"<Deadline{name} open, {allowed}>"
        )

    # --- the shares of the margin ---------------------------------------------------------------------------

    def shares(self) -> Shares:
        """Who gets which share of the margin, or of what was left of it on entry."""
        return shares(max(self.unheld_soft, self._entered), self.hard)

    def answering(self) -> Shares:
        """The same of the time until whoever waits for the answer gives up."""
        return shares(max(self.unheld_soft, self._entered), self.answer_by)

    @property
    def unheld_soft(self) -> float:
        """When the block would be cut without critical sections."""
        return self._unheld if self._holds else self.soft

    @property
    def cut_at(self) -> float:
        """When the block was cut; `inf` if it was not."""
        return self._cut_at

    @property
    def unwinds_until(self) -> float:
        """Until when what cleans up after the cut is let alone; `inf` without one."""
        return self._levels_at

    # --- what its block has done ----------------------------------------------------------------------------

    def record(self) -> Record:
        """What is remembered of the block."""
        if self._record is None:
            self._record = Record()
        return self._record

    def records(self) -> Iterator[Record]:
        """The records of this block and of every one around."""
        return (dl.record() for dl in (self, *self._around()))

    def begin_step(self, step: Step) -> None:
        """Remember a step, here and in every deadline around."""
        for record in self.records():
            record.steps.append(step)

    def begin_section(self, report: Callable[[], SectionReport]) -> None:
        """Remember a critical section, here and in every deadline around."""
        for record in self.records():
            record.sections.append(report)

    def begin_batch(self, report: Callable[[], BatchReport]) -> None:
        """Remember a batch, here and in every deadline around."""
        for record in self.records():
            record.batches.append(report)

    def close_on_cut(self, resource: Closable) -> None:
        """Have `resource` closed if the block is cut, by this deadline or by any other cancellation.

        A resource that the block leaves open when it ends in any other way is the business of the deadline
        around. What closes itself when it is forgotten is referred to weakly.
        """
        self.record().opened(resource)

    def leave_behind(self, what: str) -> None:
        """Have the reports, here and of every deadline around, name what could not be cleaned up."""
        for record in self.records():
            record.left_behind.append(what)

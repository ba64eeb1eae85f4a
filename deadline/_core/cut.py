"""The cut: whose expiry it is, and how the block ends.

First an edge, then a level. At the soft instant the task that entered is cancelled once, as by
`asyncio.timeout`: what awaits in a `finally`, an `except` or an `__aexit__` runs. When unwinding has had its
share of the margin, an anyio scope is put around the block and cancelled: whatever awaits then is cancelled
again, until the block is left. A shield of anyio's inside the block puts off both.

Every scope arms its own instant, and nested scopes on one context have the same one. So when an instant
comes, the scope first looks at its open ancestors: if one of them is past, or will be within `TIE`, the
expiry is that one's. The scope then stands back and looks again later, because not every task is reached by
its ancestors' cancellation: a bare task is not, a task group's child is, some turns of the loop later. An
ancestor that cut its block `PATIENCE` ago and has not reached this one counts no more; one that has reached
it counts until its own level begins.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final, Self

from deadline._core.anyio_seam import Around, children, is_shielded
from deadline._core.cancel import cancel, cut, has_come, may_refuse, tell
from deadline._core.margin import shares
from deadline._core.reading import Reading, innermost_deadline
from deadline._core.timer import PlainClock
from deadline._report.tasks import context_of, running_inside

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from types import CodeType

    from deadline._core.anyio_seam import CancelScope
    from deadline._interrupt.alarm import Alarm

TIE: Final = 0.002
"""Seconds within which two instants are the same one: two readings of one context differ by up to 1 ms and
by the time between them."""

PATIENCE: Final = 0.1
"""Seconds for which a scope leaves it to an ancestor that is past to cut what it must."""

UNWINDING: Final = 5.0
"""Seconds for which a block without a margin may unwind before whatever awaits is cancelled again.

`asyncio.timeout` sets no limit at all, and lets a `finally` hang for ever. Five seconds is what psycopg 3
takes at most to cancel a query on the server (`AsyncConnection.cancel_safe(timeout=5)` within `wait`); a
rollback needs a round trip."""

ASSUMED: Final = 1.0
"""Seconds of margin that a deadline without one spares in interrupting what blocks it: nothing ends it."""

LEAST_PATIENCE: Final = 0.005
"""Seconds after soft until a blocked loop is interrupted, whatever the margin."""


class Cut(Reading):
    """A deadline that cuts its block."""

    __slots__ = (
        "_cancelling",
        "_come",
        "_edged",
        "_interrupt",
        "_interrupted",
        "_outside",
        "_retry",
        "_scope",
        "_task",
        "handle",
        "sheltered",
        "wakes_at",
    )

    _cancelling: int
    _come: bool
    _edged: bool
    _interrupt: bool
    _interrupted: bool
    _outside: CancelScope | None
    _retry: asyncio.Handle | None
    _scope: Around | None
    _task: asyncio.Task[object]
    handle: asyncio.TimerHandle | None
    sheltered: tuple[asyncio.Task[object], ...]
    wakes_at: float

    # --- whose expiry it is ---------------------------------------------------------------------------------

    def _owner(self, now: float) -> Self | None:
        """The outermost open ancestor that is past and whose cut must come first, if there is one.

        Before our own instant that is an ancestor past its own; at it, one that ties with us as well.
        """
        past = max(now, self.soft + TIE) if self.soft <= now else now
        owner = None
        for around in self._around():
            if around.soft <= past and self._may_be_cut_by(around, now):
                owner = around
        return owner

    def _may_be_cut_by(self, around: Self, now: float) -> bool:
        """Whether the cut of an ancestor that is past can get here yet."""
        if around._clock.loop is not self._clock.loop:
            return False  # it is another thread's
        before = around._cut_at <= self._entered  # it cut before we were entered
        if around._task is self._task:
            if around._come:
                return not before and now < around._levels_at
            if around._cut_at < math.inf and not is_shielded(self._task, around._outside_scopes()):
                return True
            if before:
                return False
        elif before and self._state == "open":
            return False  # it would have ended the entry
        return now < (around._levels_at if self._is_reached_by(around) else around._cut_at + PATIENCE)

    def _is_reached_by(self, around: Self) -> bool:
        """Whether the cut of an ancestor has got here: somebody has cancelled this task since it entered."""
        return (
            around._cut_at < math.inf and self._state == "open" and self._task.cancelling() > self._cancelling
        )

    # --- the instant ----------------------------------------------------------------------------------------

    def near(self) -> None:
        """Look at the tasks while there is time to (the timer calls this shortly before the instant)."""
        early = self._clock.early
        until = self.wakes_at - early / 8 if early else math.inf
        self.record().look(self._task, self.covers, self._clock.now, until)

    def due(self) -> None:
        """Cut the block, unless the expiry is an ancestor's (the timer calls this at the instant).

        Where the block has no loop, what is cut is what the running loop does for it, if one does.
        """
        now = max(self._clock.now(), self.soft)
        owner = self._owner(now)
        if owner is not None:
            self.wakes_at = max(now + TIE, owner._levels_at if self._is_reached_by(owner) else 0.0)
            if self.wakes_at < math.inf:
                self._clock.arm(self)
            return
        self._cut_at = now
        if isinstance(self._clock, PlainClock):
            self._cut_inside(now)
            return
        try:
            self.record().look_again(self._task, now)
            self.sheltered = self.record().sheltered()
            self._levels_at = self._unwinds_until(now)
            self._clock.disarm(self)
            self.handle = self._clock.loop.call_at(
                self._levels_at, self._cancel_always, context=self._clock.context
            )
        finally:
            self._cancel_once()

    def _cut_inside(self, now: float) -> None:
        """Cancel what a loop does that runs inside of a plain function's block."""
        self.record().inside, tasks = running_inside(self.covers, now)
        for task in tasks:
            if (error := cancel(task)) is not None:
                tell(task.get_loop(), self.name, error)
        self._interrupted |= bool(tasks)  # what comes of them is no result of the block's

    def _unwinds_until(self, now: float) -> float:
        """When the level begins, if the edge comes `now`."""
        if self.margin == 0.0:
            until = now + UNWINDING
        else:  # a cut that comes late, after a critical section or a blocked loop, has the same time
            ends = self.answering()
            share = ends.unwinding - max(self.unheld_soft, self._entered)
            until = max(ends.unwinding, min(now + share, ends.undo))
        for around in self._around():
            if around._cut_at < math.inf:
                until = min(until, around._levels_at)
            elif around._task is not self._task:  # in the same task its own cut begins our level
                until = min(until, max(now, around.soft))
        return until

    def _cancel_once(self) -> None:
        """Cancel the task that entered, once, as soon as nothing is lost by it.

        What the task waits for may have come already, in this turn of the loop: a connection, for example. A
        cancellation now would lose it, so it waits a turn.
        """
        self._wait_no_more()
        task, clock = self._task, self._clock
        if self._come or self._state != "open" or task.done() or isinstance(clock, PlainClock):
            return
        if task.cancelling() > self._cancelling:
            for inside in self._inside():
                if inside._cut_at < math.inf:
                    inside._cancel_always()
        outside = self._outside_scopes()
        if is_shielded(task, outside):
            if self._scope is None:
                self._scope = Around.of(task, outside)
            self._scope.call_when_reachable(self._cancel_once)
        elif asyncio.current_task(clock.loop) is task or has_come(task):
            self._retry = clock.loop.call_soon(self._cancel_once, context=clock.context)
        else:
            self._come = self._edged = True
            self._strike(clock.loop, task, outside)

    def _strike(
        self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[object], outside: Container[object]
    ) -> None:
        if (error := cancel(task, "deadline exceeded")) is not None:
            tell(loop, self.name, error)
        for child in children(task, outside):
            # Its group will cancel it, and would break off at a `cancel` that raises.
            if may_refuse(child) and (error := cancel(child, "deadline exceeded", at_once=True)) is not None:
                tell(loop, self.name, error)

    def _wait_no_more(self) -> None:
        """Give up what `_cancel_once` waits for."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._scope is not None and self._scope.on_reach is not None:
            self._scope.stop()

    def cancel_on(self) -> None:
        """Have the unwinding share end now, if the block was cut and is still open."""
        if self._cut_at < math.inf:
            self._cancel_always()

    def _cancel_always(self) -> None:
        """Cancel whatever awaits in the block from now on, until it is left."""
        self._clock.disarm(self)
        loop = self._clock.loop
        if self._state != "open" or self._task.done() or loop is None:
            return
        self._levels_at = min(self._levels_at, self._clock.now())
        self._wait_no_more()
        if self._scope is None:
            self._scope = Around.of(self._task, self._outside_scopes())
        cut(self._scope, loop, self.name)

    def _outside_scopes(self) -> Container[object]:
        """The scopes of anyio's at which this block begins, seen from the inside."""
        return {self._outside, *(around._scope for around in self._around() if around._task is self._task)}

    def _inside(self) -> Iterator[Self]:
        """The open deadlines that the same task has entered since, innermost first."""
        inside = context_of(self._task).get(innermost_deadline)
        inner = []
        while inside is not None and inside is not self:
            if inside._state == "open" and inside._task is self._task:
                inner.append(inside)
            inside = inside._parent
        return iter(inner if inside is self else ())

    # --- critical sections ----------------------------------------------------------------------------------

    def hold(self) -> list[Self]:
        """Put off the cut, here and in every deadline around, into the margin: a critical section is open.

        Returns:
            The deadlines that are held, the innermost first; `release` each.
        """
        held = [dl for dl in (self, *self._around()) if dl._clock.loop in {self._clock.loop, None}]
        for dl in held:
            if not dl._holds:
                dl._unheld = dl.soft
                dl._move(dl.answering().section)
            dl._holds += 1
        return held

    def release(self) -> None:
        """Take back one hold. With the last one the block is cut, if its time is up by now."""
        self._holds -= 1
        if not self._holds and self._state == "open":
            self._move(self._unheld)

    def _move(self, soft: float) -> None:
        self.soft = self.wakes_at = soft
        if self._cut_at < math.inf or soft == math.inf:
            return
        self._clock.disarm(self)
        if soft <= self._clock.now():
            self.due()
        else:
            self._clock.arm(self)
        if self._interrupt:
            alarm_of_process().reset()

    # --- the interrupt --------------------------------------------------------------------------------------

    @property
    def interrupt_after(self) -> float:
        """A tenth of the margin after soft, for what ends by itself; after the cut, when its share is over.

        Where no loop runs nothing else ends the block, and so it is the soft instant.
        """
        if self._cut_at == math.inf:
            return self.soft if self._clock.loop is None else self.soft + self._patience()
        if self._holds and self._clock.loop is None:
            return self.shares().undo  # a loop inside waits for it, which is no hanging
        soft, margin = self.margin_span
        return shares(soft, soft + margin).unwinding

    def _patience(self) -> float:
        """Seconds that a blocked loop has to run again by itself, and to cut the block at an await."""
        return max(LEAST_PATIENCE, self.margin and self.margin_span[1] / 10)

    @property
    def margin_span(self) -> tuple[float, float]:
        """The margin, from soft on."""
        end = self.hard if self._holds else self.answer_by  # nobody cuts an undo short for a caller
        return self.soft, (self.margin and end - self.soft) or ASSUMED

    def on_interrupt(self, stack: list[tuple[CodeType, int]], *, own: bool) -> None:
        """Remember it, on the deadline that owns the expiry: the interrupt may be lost on its way."""
        owner = self._owner(self._clock.now()) or self
        owner.record().blocked = stack
        owner._interrupted |= own


def alarm_of_process() -> Alarm:
    """The process's alarm, loaded when a deadline that interrupts is entered."""
    from deadline._interrupt.alarm import alarm  # noqa: PLC0415  # see above

    return alarm

"""The deadline and its scope.

First an edge, then a level. At the soft instant the task that entered is cancelled once, as by
`asyncio.timeout`: what awaits in a `finally`, an `except` or an `__aexit__` runs. When unwinding has had its
share of the margin, an anyio scope is put around the block and cancelled: whatever awaits then is cancelled
again, until the block is left. A shield of anyio's inside the block puts off both.

Who owns an expiry. Every scope arms its own instant, and nested scopes on one context have the same one.
So when an instant comes, the scope first looks at its open ancestors: if one of them is past, or will be
within `TIE`, the expiry is that one's. The scope then stands back and looks again later, because not every
task is reached by its ancestors' cancellation: a bare task is not, a task group's child is, some turns
of the loop later. An ancestor that cut its block `PATIENCE` ago and has not reached this one counts no more;
one that has reached it counts until its own level begins.

What leaves the edge is decided by count, like in `asyncio.timeout`, never by a message. The CancelledError
is ours if we cut, the task's count of cancellations, less our own, is back to what it was on entry, and no
surrounding scope of anyio's is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, NoReturn, Self, final

import anyio.lowlevel

from deadline._core import source as _source
from deadline._core.anyio_seam import Around, children, innermost, is_cancelled, is_shielded
from deadline._core.cancel import FATAL, cancel, cut, has_come, may_refuse, tell
from deadline._core.edge import built, check_name_and_error, holds_interrupt, is_expiry, is_unwinding, said
from deadline._core.errors import DeadlineExceeded, InsufficientTime
from deadline._core.margin import shares
from deadline._core.timer import Clock, PlainClock, clock_of, plain_clock
from deadline._events import emit, shown
from deadline._interrupt.alarm import alarm
from deadline._report.record import Record
from deadline._report.tasks import context_of, left_running, locate, running_inside
from deadline._text import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator
    from contextvars import Context, Token
    from datetime import timedelta
    from types import CodeType, TracebackType

    from deadline._core.anyio_seam import CancelScope
    from deadline._core.margin import Shares
    from deadline._report.data import BatchReport, Report, SectionReport, Step
    from deadline._report.record import Closable

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

# The switch an operator wants at night; a function's environment does not change while it runs.
DISABLED = os.environ.get("DEADLINE_DISABLED", "").strip().lower() in {"1", "true", "yes", "on"}

_NOTHING_TO_LEAVE: Final = frozenset({"disabled", "dropped"})

_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)

_State = Literal["new", "open", "closed", "disabled", "dropped"]


def deadline(
    source: _source.Source,
    *,
    margin: float | timedelta | None = None,
    caller_limit: float | timedelta | None = None,
    name: str | None = None,
    error: type[DeadlineExceeded] = DeadlineExceeded,
    interrupt: bool = False,
) -> Deadline:
    """Limit the time of a block.

    Write `async with deadline(context, margin=1.0) as dl: ...`.

    Time is sampled on entry, on the event loop's clock. The block is cut at the *soft* instant, `margin`
    seconds before the *hard* one at which the source ends; the time in between is for mitigation
    (`DeadlineExceeded.grace`). Scopes nest; an inner one can only shorten.

    Args:
        source: A Lambda context (or a durable execution's), seconds, a timedelta, an aware datetime. `None`
            or `inf`: no limit. Zero, or a datetime that has passed: nothing is left and the body does not
            run. A context is read once per invocation, and its milliseconds are taken one lower, because
            the runtime client's answer is up to 1 ms too large.
        margin: Seconds kept back between soft and hard. Not negative. Default: 1.0 for a Lambda context, at
            most half of what is left; otherwise 0.
        caller_limit: Seconds, counted from entry, until whoever waits for the answer gives up
            (`aws.caller_left(event)` knows). The soft instant and `grace` end in time for that, with at most
            half of it as the margin; the hard instant stays, so that undoing and notices keep their time.
            Default: nobody is known to wait.
        name: For messages, logs and the report.
        error: What to raise, a subclass of `DeadlineExceeded`; it is called with the message alone.
        interrupt: Interrupt also what blocks the loop past the soft instant, by SIGALRM, in the main
            thread and on a real clock. An interrupted block's result does not stand.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it. A context's answer is
            looked at on entry.
        DeadlineExceeded: On entry (`started` is False) or at the edge of the block.
        RuntimeError: On entry, outside of a task on an asyncio event loop.
    """
    check_name_and_error(name, error)
    checked, kept = _source.checked(source), _source.checked_margin(margin)
    if caller_limit is None:
        return Deadline(checked, kept, name, error, interrupt=interrupt)
    ends = _source.bounded(checked, kept, _source.checked_caller_limit(caller_limit))
    return Deadline(*ends, name, error, interrupt=interrupt)


@final
class Deadline:
    """A deadline in force, as `async with deadline(...) as dl` and `exceeded.grace()` give it.

    Instants are seconds on the loop's clock (`loop.time()`); they are `nan` before entry.

    Attributes:
        name: As given.
        soft: When the block is cut; later for as long as a critical section is open in it.
        hard: When the source ends.
        overran: Seconds by which a block that finished did so after `soft`; 0.0 otherwise.
    """

    __slots__ = (
        "__weakref__",
        "_alone",
        "_cancelling",
        "_clock",
        "_come",
        "_cut_at",
        "_edged",
        "_entered",
        "_error",
        "_expired",
        "_holds",
        "_interrupt",
        "_interrupted",
        "_levels_at",
        "_margin",
        "_outside",
        "_parent",
        "_place",
        "_record",
        "_retry",
        "_scope",
        "_source",
        "_state",
        "_task",
        "_token",
        "_unheld",
        "handle",
        "hard",
        "name",
        "overran",
        "sheltered",
        "soft",
        "wakes_at",
    )

    _task: asyncio.Task[object]
    _clock: Clock | PlainClock
    _parent: Deadline | None
    _entered: float
    _outside: CancelScope | None
    _cancelling: int
    _place: tuple[CodeType, int]
    _token: Token[Deadline | None]
    _unheld: float
    wakes_at: float

    def __init__(
        self,
        source: _source.Checked,
        margin: _source.Margin,
        name: str | None,
        error: type[DeadlineExceeded],
        *,
        interrupt: bool = False,
        alone: bool = False,
    ) -> None:
        self._source = source
        self._alone = alone  # whether nobody else ends its block: `explains`
        self._margin = margin
        self._error = error
        self._interrupt = interrupt
        self._interrupted = False
        self._state: _State = "new"
        self._cut_at = self._levels_at = math.inf
        self._come = self._edged = False
        self._retry: asyncio.Handle | None = None
        self._scope: Around | None = None
        self._expired = False
        self._holds = 0
        self._record: Record | None = None
        self.handle: asyncio.TimerHandle | None = None
        self.name = name if name is None else str.__str__(name)  # a subclass may have a repr of its own
        self.soft = self.hard = math.nan
        self.overran = 0.0
        self.sheltered: tuple[asyncio.Task[object], ...] = ()

    # --- what a user asks ---------------------------------------------------------------------------------

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
        if isinstance(self._margin, _source.CallerMargin):
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

    def _is_past(self, now: float) -> bool:
        """Whether this or a deadline around it is open and should have been cut."""
        around: Deadline | None = self
        while around is not None:  # a loop of its own: `_around` would cost every entry a generator
            if around.soft <= now and around._state == "open":
                return True
            around = around._parent
        return False

    def _around(self) -> Iterator[Deadline]:
        """The open deadlines around this one, innermost first."""
        around = self._parent
        while around is not None:
            if around._state == "open":
                yield around
            around = around._parent

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

    # --- entry --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise RuntimeError(
                f"{self!r}: a deadline is entered once; call deadline(...) again for another block"
            )
        if DISABLED:
            self._state = "disabled"
            self.soft = self.hard = math.inf
            return self
        self._task = task = _running_task()
        clock = clock_of(task.get_loop())
        now = self._sample(clock)
        if self.soft <= now or (self._parent is not None and self._parent._is_past(now)):
            await self._enter_late()
        self._outside = innermost(task)
        frame = sys._getframe(1)  # inspect's costs more than the rest of the entry
        self._place = frame.f_code, frame.f_lasti
        self._cancelling = task.cancelling()
        self._state = "open"
        self._token = _current.set(self)
        if self.soft < math.inf:
            clock.arm(self)
            if self._interrupt and clock.early:
                alarm.arm(self, clock.loop)
        return self

    def enter_plainly(self) -> None:
        """Enter it where no loop runs; only the alarm cuts there. `leave_plainly` is its edge.

        Raises:
            DeadlineExceeded: Nothing is left.
        """
        if self._sample(plain_clock) >= self.soft:
            self._refuse()
        self._task = None  # type: ignore[assignment]  # a deadline in a loop that runs inside looks at it
        self._state = "open"
        self._token = _current.set(self)
        if self._interrupt and self.soft < math.inf:
            alarm.arm(self, None, self.due)

    def _sample(self, clock: Clock | PlainClock) -> float:
        """Read the time, and work out the instants. Returns what it is."""
        self._clock = clock
        self._parent = current()
        self._entered = now = clock.now()
        self.hard = hard = _source.hard_end(self._source, clock, now)
        margin = self._margin
        if not isinstance(margin, float):
            margin = margin.of(self._source, hard - now)
        self.soft = self.wakes_at = hard - margin
        return now

    async def _enter_late(self) -> None:
        """Nothing is left, here or around: be cut by who is past, or raise.

        The ancestor's cancellation ends the sleep in any task that it reaches.
        """
        if any(around._cut_at < math.inf for around in self._around()):
            await anyio.lowlevel.checkpoint_if_cancelled()
        while self._owner(self._clock.now()) is not None:  # noqa: ASYNC110  # only time can tell
            await asyncio.sleep(TIE)
        if self.soft <= self._clock.now():
            del self._task
            self._refuse()

    def _refuse(self) -> NoReturn:
        self._expired = True
        self._state = "closed"
        raise self._exceeded(self._clock.now(), started=False)

    # --- the instant --------------------------------------------------------------------------------------

    def _owner(self, now: float) -> Deadline | None:
        """The outermost open ancestor that is past and whose cut must come first, if there is one.

        Before our own instant that is an ancestor past its own; at it, one that ties with us as well.
        """
        past = max(now, self.soft + TIE) if self.soft <= now else now
        owner = None
        for around in self._around():
            if around.soft <= past and self._may_be_cut_by(around, now):
                owner = around
        return owner

    def _may_be_cut_by(self, around: Deadline, now: float) -> bool:
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

    def _is_reached_by(self, around: Deadline) -> bool:
        """Whether the cut of an ancestor has got here: somebody has cancelled this task since it entered."""
        return (
            around._cut_at < math.inf and self._state == "open" and self._task.cancelling() > self._cancelling
        )

    def near(self) -> None:
        """Look at the tasks while there is time to (the timer calls this shortly before the instant)."""
        early = self._clock.early
        until = self.wakes_at - early / 8 if early else math.inf
        self.record().look(self._task, self.covers, self._clock.now, until)
        if early and self._clock.now() < self.wakes_at - early:
            self._rehearse()

    def _rehearse(self) -> None:
        """Make the error once for nothing: what has not run for a while takes twice as long at first."""
        self._filled(DeadlineExceeded(self._said(started=True)), self.soft)

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

    def _inside(self) -> Iterator[Deadline]:
        """The open deadlines that the same task has entered since, innermost first."""
        inside = context_of(self._task).get(_current)
        inner = []
        while inside is not None and inside is not self:
            if inside._state == "open" and inside._task is self._task:
                inner.append(inside)
            inside = inside._parent
        return iter(inner if inside is self else ())

    # --- the interrupt (see `_interrupt.alarm.Target`) ----------------------------------------------------

    @property
    def strikes_at(self) -> float:
        """A tenth of the margin after soft, for what ends by itself; after the cut, when its share is over.

        Where no loop runs nothing else ends the block, and so it is the soft instant.
        """
        if self._cut_at == math.inf:
            return self.soft if self._clock.loop is None else self.soft + self._patience()
        if self._holds and self._clock.loop is None:
            return self.shares().undo  # a loop inside waits for it, which is no hanging
        soft, margin = self.spared
        return shares(soft, soft + margin).unwinding

    def _patience(self) -> float:
        """Seconds that a blocked loop has to run again by itself, and to cut the block at an await."""
        return max(LEAST_PATIENCE, self.margin and self.spared[1] / 10)

    @property
    def spared(self) -> tuple[float, float]:
        """The margin, from soft on."""
        end = self.hard if self._holds else self.answer_by  # nobody cuts an undo short for a caller
        return self.soft, (self.margin and end - self.soft) or ASSUMED

    def struck(self, stack: list[tuple[CodeType, int]], *, own: bool) -> None:
        """Remember it, on the deadline that owns the expiry: the interrupt may be lost on its way."""
        owner = self._owner(self._clock.now()) or self
        owner.record().blocked = stack
        owner._interrupted |= own

    # --- the edge -----------------------------------------------------------------------------------------

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._state in _NOTHING_TO_LEAVE:
            return
        now = self._close()
        try:
            if not self._left_by_its_task(exc):
                return
            passes = self._cut_at < math.inf and self._take_back(exc)
            if self._record is not None and (opened := self._record.resources()):
                await self._settle(self._record, opened, exc)
            if not passes:
                self._decide(exc, now)
        finally:
            # Tasks that the block started keep this object in their contexts for as long as they live.
            del self._task, self._outside, self._token
            self._scope = self._record = None

    def _take_back(self, exc: BaseException | None) -> bool:
        """Take back the cancellations that we have counted on the task.

        Returns:
            Whether what leaves is an ancestor's cut as well: one that cut in the same task while this block
            was open. If its own cancellation has not come yet, it must not come any more.
        """
        self._wait_no_more()
        if self._scope is not None:
            self._scope.remove()
        heirs = [
            dl for dl in self._around() if dl._task is self._task and self._entered < dl._cut_at < math.inf
        ]
        heirs = [dl for dl in heirs if not is_shielded(self._task, dl._outside_scopes())]
        leaves = exc is not None and is_unwinding(exc, self)
        for around in heirs:
            if leaves and not around._come:
                around._wait_no_more()
                around._come, around._edged, self._edged = True, self._edged, False
            if leaves and around is not heirs[-1]:
                around._cancel_always()
            elif not around._come:
                around._cancel_once()
        if self._edged:
            self._task.uncancel()
        return leaves and bool(heirs)

    def leave_plainly(self, exc: BaseException | None) -> None:
        """Leave what `enter_plainly` has entered, by `exc` or with a result.

        Raises:
            DeadlineExceeded: It was cut.
        """
        now = self._close()
        try:
            self._decide(exc, now)
        finally:
            del self._token
            self._record = None

    def _close(self) -> float:
        """Have nothing wake it any more. Returns what time it is."""
        self._clock.disarm(self)
        if self._interrupt:
            alarm.disarm(self)
        now = self._clock.now()
        self._state = "closed"
        self._expired = now >= self.soft
        if _current.get() is not self and isinstance(self._clock, Clock):
            self._drop_inner()
        _reset(self._token)
        return now

    def _drop_inner(self) -> None:
        """Close the deadlines that this task entered inside and has not left, as broken-off generators do."""
        inside = _current.get()
        inner = []
        while inside is not None and inside is not self:
            if inside._state == "open" and inside._task is self._task:
                inner.append(inside)
            inside = inside._parent
        for dl in inner if inside is self else ():
            dl._clock.disarm(dl)
            alarm.disarm(dl)
            if dl._cut_at < math.inf:
                dl._take_back(None)
            dl._state = "dropped"
            emit(
                "deadline.left_open",
                logging.WARNING,
                deadline=dl.name,
                entered=str(locate(dl._place)),
                around=self.name,
            )

    def _decide(self, exc: BaseException | None, now: float) -> None:
        """Raise our own error, if it is what leaves instead.

        Args:
            exc: What leaves.
            now: When.
        """
        if exc is None and not self._interrupted:
            self._stands(now)
        elif self.explains(exc):
            raise self._expiry(exc, now)
        elif self._cut_at == math.inf and not self._interrupted:
            pass
        elif exc is not None and not is_unwinding(exc, self):
            exc.add_note(f"{self!r}: raised while its block was being cut")
        elif self._is_ours(exc, now):
            raise self._exceeded(now) from self.record().last_error() or exc

    def explains(self, exc: BaseException | None) -> bool:
        """Whether an error is the expiry of a deadline that alone ends its block, as a handler's does.

        There a count of cancellations that is off means that somebody has counted wrong, and a real error
        after the cut, or for want of a retry, that the time was too short for the work.
        """
        cut = self._cut_at < math.inf or self._interrupted
        return self._alone and is_expiry(exc, self.hard - TIE, cut=cut)

    def _expiry(self, exc: BaseException | None, now: float) -> DeadlineExceeded:
        """The error for `exc`, which is then its cause. Before the instant it is a refusal."""
        if exc is None or is_unwinding(exc, self):
            error, cause = self._exceeded(now), self.record().last_error() or exc
        elif self._cut_at == math.inf and not self._interrupted and now < self.soft:
            error, cause = self.refusal("no time for another attempt of a call that failed"), exc
        else:
            error, cause = self._exceeded(now), exc
        error.__cause__ = cause
        return error

    def _left_by_its_task(self, exc: BaseException | None) -> bool:
        """Whether the task that entered is the one that leaves; False if it leaves no more, but is closed."""
        task = asyncio.current_task(self._clock.loop)
        if task is self._task:
            return True
        if isinstance(exc, GeneratorExit):
            return False
        raise RuntimeError(
            f"{self!r}: entered in task {quoted(self._task.get_name())} and left in "
            f"{quoted(task.get_name() if task else 'none')}; one task must do both, and a generator or an "
            "async fixture that holds a deadline over a `yield` is left by another: enter it at the work "
            "itself"
        )

    def _stands(self, now: float) -> None:
        """A body that finishes keeps its result."""
        if now > self.soft:
            self.overran = now - self.soft
            emit("deadline.overran", logging.WARNING, deadline=self.name, seconds=self.overran)

    def _is_ours(self, exc: BaseException | None, now: float) -> bool:
        """Whether what leaves is our doing: our interrupt, or our cut and nobody else's cancellation."""
        if exc is None or holds_interrupt(exc):
            return self._interrupted or self._owner(now) is None  # a task of others may hand on its own
        if self._clock.loop is None:
            return True
        return self._task.cancelling() <= self._cancelling and not is_cancelled(self._outside)

    async def _settle(self, record: Record, opened: list[Closable], exc: BaseException | None) -> None:
        """Close what was opened in the block if it was cut; else it is for the deadline around to do."""
        around = next(self._around(), None)
        if self._interrupted if exc is None else is_unwinding(exc, self) or self.explains(exc):
            await record.close_resources()
        elif around is not None:
            for resource in opened:
                around.close_on_cut(resource)

    def _exceeded(self, now: float, *, started: bool = True, tell: bool = True) -> DeadlineExceeded:
        message = self._said(started=started)
        if tell:
            self._tell(now, started=started)
        try:
            return self._filled(built(self._error, message), now, started=started)
        except FATAL:
            raise
        except BaseException as error:  # noqa: BLE001  # a user's class may do anything: the cut must not be lost
            plain = DeadlineExceeded(message)
            plain.add_note(
                f"error={self._error.__name__} could not be built from the message alone: {shown(error)}"
            )
            return self._filled(plain, now, started=started)

    def _said(self, *, started: bool) -> str:
        return said(
            self.name,
            entered=self._entered,
            soft=self.soft,
            hard=self.hard,
            answer_by=self.answer_by,
            margin=self.margin,
            where=self.record().where() if started else None,
        )

    def _tell(self, now: float, *, started: bool) -> None:
        blocked = self.record().blocked_in()
        if blocked is not None:
            level = logging.INFO if self._alone else logging.WARNING  # a handler warns of the expiry itself
            emit("deadline.interrupted", level, deadline=self.name, blocked=blocked)
        emit(
            "deadline.exceeded",
            logging.INFO,
            deadline=self.name,
            started=started,
            allowed=self.soft - self._entered,
            elapsed=now - self._entered,
            margin=self.margin,
        )

    def _filled(self, error: DeadlineExceeded, now: float, *, started: bool = True) -> DeadlineExceeded:
        """Set an error's attributes to what is true of this deadline at `now`."""
        error.deadline = self
        error.started = started
        error.allowed = self.soft - self._entered
        error.elapsed = now - self._entered
        error.margin = self.margin
        error._report = partial(self._report, self.record(), now)
        return error

    def refusal(self, message: str) -> InsufficientTime:
        """The error for a piece of work that does not fit; for the code that refuses it.

        It belongs to the deadline that leaves the least time, the outer one if two tie.
        """
        least = self.refusing()
        name = f" of deadline {quoted(least.name)}" if least.name else ""
        error = InsufficientTime(f"{message}: {least.remaining():.3f} s left{name}")
        least._filled(error, self._clock.now())
        return error

    def refusing(self) -> Deadline:
        """The deadline that leaves the least time, the outer one if two tie."""
        least = self
        for around in self._around():
            if around.soft <= least.soft + TIE:
                least = around
        return least

    def account(self) -> DeadlineExceeded:
        """What the edge of a cut block will raise; for the code that answers while it is being undone."""
        self.record().look(self._task, self.covers, self._clock.now, math.inf)
        exceeded = self._exceeded(self._clock.now(), tell=False)
        exceeded.report  # noqa: B018  # made now
        return exceeded

    async def give_up(self) -> DeadlineExceeded:
        """Go on without a block that was cut and does not end; for the code that leaves it behind.

        Returns:
            What its edge would have raised; the report names what it was still awaiting.
        """
        now = self._clock.now()
        self._clock.disarm(self)
        alarm.disarm(self)
        self._state, self._expired, self._alone = "closed", True, False
        record = self.record()
        self._wait_no_more()
        if self._scope is not None:  # anyio delivers in each turn of the loop for as long as the block lasts
            self._scope.stop()
        record.look(self._task, self.covers, self._clock.now, math.inf)
        exceeded = self._exceeded(now)
        exceeded.report  # noqa: B018  # made now: what is still running will be gone
        await record.close_resources()
        return exceeded

    def _report(self, record: Record, now: float) -> Report:
        return record.report(
            name=self.name,
            entered=self._entered,
            soft=self.soft,
            margin=self._kept(),
            now=now,
            left_running=left_running(self._clock.loop, self.covers, now, getattr(self, "_task", None)),
        )

    def covers(self, context: Context) -> bool:
        """Whether a task with this context was started inside of this deadline."""
        inside = context.get(_current)
        while inside is not None and inside is not self:
            inside = inside._parent
        return inside is self

    def _grace(self, reserve: float) -> Deadline:
        name = f"{self.name} grace" if self.name else "grace"
        return Deadline(
            _source.Instant(self.answer_by),
            _source.checked_margin(reserve, "reserve"),
            name,
            DeadlineExceeded,
            interrupt=self._interrupt,
        )

    # --- what the rest of the package tells it ------------------------------------------------------------

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

    def hold(self) -> list[Deadline]:
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
        alarm.reset()

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

    def now(self) -> float:
        """The loop's clock, in seconds."""
        return self._clock.now()


def _reset(token: Token[Deadline | None]) -> None:
    """Undo `set`, unless the block was entered in another context, as a test's async fixture may be."""
    try:  # noqa: SIM105  # contextlib.suppress costs a tenth of a whole scope
        _current.reset(token)
    except ValueError:
        pass


def _running_task() -> asyncio.Task[object]:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is None:
        raise RuntimeError(
            "deadline() must be entered in a task on a running asyncio event loop; "
            "write asyncio.run(main()) with `async with deadline(...)` inside main()"
        )
    return task


def without_deadline(context: Context) -> Context:
    """Make a context one in which no deadline is in force."""
    context.run(_current.set, None)
    return context


def current() -> Deadline | None:
    """The innermost deadline that is open around the caller, `None` without one.

    It follows tasks: a task sees the deadline in which it was started, for as long as that is open.
    """
    innermost = _current.get()
    while innermost is not None and innermost._state != "open":
        innermost = innermost._parent
    return innermost


def remaining(*, hard: bool = False) -> float:
    """Seconds left of the deadline in force, counted to its soft instant; `inf` without one, never below 0.0.

    Args:
        hard: Count to the hard end instead.
    """
    innermost = current()
    return math.inf if innermost is None else innermost.remaining(hard=hard)

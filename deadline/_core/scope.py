"""`deadline(...)`, and how its scope is entered.

A `Deadline` is one object, in four files by what it does: what it says (`reading`), how it cuts (`cut`), what
leaves its block (`edge`), and here its making and its entry.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
from typing import TYPE_CHECKING, NoReturn, Self, final

import anyio.lowlevel

from deadline._core.anyio_seam import innermost
from deadline._core.cut import TIE, alarm_of_process
from deadline._core.edge import Edge
from deadline._core.errors import DeadlineExceeded, check_name_and_error
from deadline._core.reading import innermost_deadline
from deadline._core.source import Instant, bounded, checked, checked_caller_limit, checked_margin, hard_end
from deadline._core.timer import Clock, PlainClock, clock_of, plain_clock

if TYPE_CHECKING:
    from contextvars import Context
    from datetime import timedelta

    from deadline._core.source import Checked, Margin, Source

# The switch an operator wants at night; a function's environment does not change while it runs.
DISABLED = os.environ.get("DEADLINE_DISABLED", "").strip().lower() in {"1", "true", "yes", "on"}


def deadline(
    source: Source,
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
    limit, kept = checked(source), checked_margin(margin)
    if caller_limit is None:
        return Deadline(limit, kept, name, error, interrupt=interrupt)
    ends = bounded(limit, kept, checked_caller_limit(caller_limit))
    return Deadline(*ends, name, error, interrupt=interrupt)


@final
class Deadline(Edge):
    """A deadline in force, as `async with deadline(...) as dl` and `exceeded.grace()` give it.

    Instants are seconds on the loop's clock (`loop.time()`); they are `nan` before entry.

    Attributes:
        name: As given.
        soft: When the block is cut; later for as long as a critical section is open in it.
        hard: When the source ends.
        overran: Seconds by which a block that finished did so after `soft`; 0.0 otherwise.
    """

    __slots__ = ("_source",)

    def __init__(
        self,
        source: Checked,
        margin: Margin,
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
        self._state = "new"
        self._cut_at = self._levels_at = math.inf
        self._come = self._edged = False
        self._retry = None
        self._scope = None
        self._expired = False
        self._holds = 0
        self._record = None
        self.handle = None
        self.name = name if name is None else str.__str__(name)  # a subclass may have a repr of its own
        self.soft = self.hard = math.nan
        self.overran = 0.0
        self.sheltered = ()

    # --- entry ----------------------------------------------------------------------------------------------

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
        self._token = innermost_deadline.set(self)
        if self.soft < math.inf:
            clock.arm(self)
            if self._interrupt and clock.early:
                alarm_of_process().arm(self, clock.loop)
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
        self._token = innermost_deadline.set(self)
        if self._interrupt and self.soft < math.inf:
            alarm_of_process().arm(self, None, self.due)

    def _sample(self, clock: Clock | PlainClock) -> float:
        """Read the time, and work out the instants. Returns what it is."""
        self._clock = clock
        self._parent = current()  # type: ignore[assignment]  # Deadline is final
        self._entered = now = clock.now()
        self.hard = hard = hard_end(self._source, clock, now)
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

    # --- the time after the cut -----------------------------------------------------------------------------

    def _grace(self, reserve: float) -> Deadline:
        name = f"{self.name} grace" if self.name else "grace"
        return Deadline(
            Instant(self.answer_by),
            checked_margin(reserve, "reserve"),
            name,
            DeadlineExceeded,
            interrupt=self._interrupt,
        )


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
    context.run(innermost_deadline.set, None)
    return context


def current() -> Deadline | None:
    """The innermost deadline that is open around the caller, `None` without one.

    It follows tasks: a task sees the deadline in which it was started, for as long as that is open.
    """
    innermost: Deadline | None = innermost_deadline.get()
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

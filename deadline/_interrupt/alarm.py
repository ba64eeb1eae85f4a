"""Interrupting what blocks the loop: a cancellation cannot reach it, a signal can.

While a deadline that asks for it is open, a timer of the operating system runs beside the loop's own. The
loop's comes first; if it does not, because something blocks the loop, the handler of SIGALRM raises
`Interrupted` in the code that does: between two lines of Python, in a call that waits, in C code that asks
for signals (regular expressions and huge integers do).

Raising at any time and place orphans tasks, kills loops and leaves locks behind, so each ring of the alarm
passes three questions first:

- Is the loop blocked? It was asked to run a callback at the ring before, and has not.
- Is a deadline past that the running task is in, and a tenth of its margin over? What blocks for less ends by
  itself. The handler sees the task's context. Cleaning up after a cut is no blocking before its share of
  the margin is over (`Target.interrupt_after`).
- May this place be interrupted? `places.interruptible` decides.

Where no loop runs, as under a plain `def`, the first question falls away, and the last one ends at the call
of that function. If it runs a loop itself (`asyncio.run`), what that loop runs for the deadline is cancelled
first; a loop that goes on all the same is left where it waits, as Ctrl-C leaves it.

An answer of no is asked again a millisecond later. After a raise the code has a tenth of the margin to clean
up before the next: code that swallows one must be interrupted again, and code that ends a child process in
its `except` must not be interrupted while it does.

In the last third of the margin there is less to lose. A plain callback of the loop's may then be interrupted,
because the loop handles what leaves it (`may_interrupt_callback`). And code that has swallowed several is
interrupted twice, the second time right behind the `except` that swallowed the first (`_strike_again`), where
its `try` is over.

What is raised is no `Exception` and no CancelledError: either could be handled on the way, or
dropped. It may be lost all the same (`gather(return_exceptions=True)`, `except BaseException`), so that the
deadline remembers it, and decides at its edge.

The alarm belongs to the process, and may be in use: whoever had the handler and the timer has both back when
the last deadline that needs it is left, the timer with what then remains of its time. Whoever sets a handler
meanwhile keeps it: our timer is set under our handler only, and stopped wherever another is found.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from deadline._events import emit, shown
from deadline._interrupt.interrupted import Interrupted
from deadline._interrupt.places import (
    blocking_frames,
    interruptible,
    may_interrupt_callback,
    outward,
    place_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

TICK: Final = 0.003
"""Seconds that a loop is given to show that it is not blocked."""

RETRY: Final = 0.001
"""Seconds until a place that must not be interrupted is looked at again."""

FALLBACK: Final = 0.010007
"""Seconds until the alarm rings again if a ring could not even set the next: at the limit of recursion.

As the interval of the timer it is a mark as well: nobody else uses this number, so it tells our timer from
another's (`_is_ours`).
"""

MOST_SWALLOWED: Final = 2
"""Interrupts after which what still blocks is known for swallowing them."""

LONGEST_STACK: Final = 50
"""Frames of the blocking code that are remembered, the innermost ones."""


# --- the alarm --------------------------------------------------------------------------------------------


class Target(Protocol):
    """On whose behalf the alarm rings. Instants are on the clock of `time.monotonic`."""

    @property
    def interrupt_after(self) -> float:
        """From when on what blocks the loop is interrupted. It may change at any time."""

    @property
    def margin_span(self) -> tuple[float, float]:
        """When the margin began, and its length, which is more than zero."""

    def covers(self, context: contextvars.Context) -> bool:
        """Whether what runs in this context belongs to it."""

    def on_interrupt(self, stack: list[tuple[CodeType, int]], *, own: bool) -> None:
        """What blocks the loop is about to be interrupted there. Called in a signal handler: be brief."""


class _Armed:
    """A target for which the alarm rings.

    Attributes:
        loop: The one that the target belongs to, if to any.
        cut: For a target without one, what cuts the work of a loop that runs inside; until it was called.
    """

    __slots__ = ("cut", "loop", "target")

    def __init__(
        self, target: Target, loop: asyncio.AbstractEventLoop | None, cut: Callable[[], None] | None
    ) -> None:
        self.target = target
        self.loop = loop
        self.cut = cut

    @property
    def asks(self) -> bool:
        """Whether a running loop is given the time to show that it is not blocked."""
        return self.loop is not None or self.cut is not None


class Alarm:
    """The process's alarm: SIGALRM and its timer.

    Attributes:
        raised: How often it has interrupted something, in this process.
    """

    def __init__(self) -> None:
        self.raised = 0
        self._targets: list[_Armed] = []
        self._asked = False
        self._swallowed = 0  # since the loop last ran
        self._refused: set[str] = set()
        self._failure: Exception | None = None
        self._before: tuple[Any, float, float, float] = (None, 0.0, 0.0, 0.0)

    def arm(
        self,
        target: Target,
        loop: asyncio.AbstractEventLoop | None,
        cut: Callable[[], None] | None = None,
    ) -> None:
        """Ring for `target` until it is disarmed.

        Args:
            target: On whose behalf.
            loop: What it runs on, if on any.
            cut: For a target without a loop: called once, past its instant, in a loop that runs inside of it.

        Where that is not possible it is said once, by the event `deadline.interrupt_unavailable`.
        """
        if (not self._targets or threading.current_thread() is not threading.main_thread()) and (
            reason := self._take()
        ):
            if reason not in self._refused:
                self._refused.add(reason)
                emit("deadline.interrupt_unavailable", logging.WARNING, reason=reason)
            return
        self._targets.append(_Armed(target, loop, cut))
        self.reset()

    def disarm(self, target: Target) -> None:
        """Ring no more for `target`, if it was armed."""
        for at in range(len(self._targets) - 1, -1, -1):
            if self._targets[at].target is target:
                del self._targets[at]
                if not self._targets:
                    self._give_back()
                self._tell()
                return

    def forget(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ring no more for any target of a loop that will never run again."""
        for one in [one.target for one in self._targets if one.loop is loop]:
            self.disarm(one)

    def reset(self) -> None:
        """Set the timer anew, because a target's instant has changed."""
        if self._targets:
            self._ring_in(min(one.target.interrupt_after for one in self._targets) - time.monotonic())

    def _take(self) -> str | None:
        """Take over handler and timer, or say why not."""
        if not hasattr(signal, "setitimer"):
            return "no SIGALRM on this platform"
        if threading.current_thread() is not threading.main_thread():
            return "not in the main thread"
        if signal.getsignal(signal.SIGALRM) is None:
            return "SIGALRM is handled by C code"
        left, interval = signal.setitimer(signal.ITIMER_REAL, 0.0)
        if _is_ours(interval):  # put back after our last deadline, by a block that had saved it
            left = interval = 0.0
        handler = signal.signal(signal.SIGALRM, self._rings)
        if handler == self._rings:  # put back likewise
            handler = self._before[0]
        self._before = (handler, left, interval, time.monotonic())
        self._asked, self._swallowed = False, 0
        return None

    def _give_back(self) -> None:
        _strike_no_more()
        if not self._holds():
            return  # somebody in the block took it, and has it now, with the timer
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        handler, left, interval, since = self._before
        signal.signal(signal.SIGALRM, handler)
        if left > 0.0:
            signal.setitimer(signal.ITIMER_REAL, max(RETRY, left - (time.monotonic() - since)), interval)

    def _holds(self) -> bool:
        """Whether SIGALRM comes to us. If not, the timer is stopped where it is ours."""
        if signal.getsignal(signal.SIGALRM) == self._rings:
            return True
        if _is_ours(signal.getitimer(signal.ITIMER_REAL)[1]):
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        return False

    def _ring_in(self, seconds: float) -> None:
        if self._holds():
            in_time = 0.0 if seconds == math.inf else max(RETRY, seconds)
            signal.setitimer(signal.ITIMER_REAL, in_time, FALLBACK)

    def _rings(self, _number: int, frame: FrameType | None) -> None:
        """Handle SIGALRM. What is raised here comes out where the main thread just was.

        Raises:
            Interrupted: It is to be interrupted.
            RecursionError: Where the stack is full. The code there must expect one, and moves on by it.
        """
        try:
            self._look(frame)
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001  # the timer rings again
            self._failure = error

    def _look(self, frame: FrameType | None) -> None:
        """Interrupt what has blocked for too long, if it may be.

        Raises:
            Interrupted: It has.
        """
        now = time.monotonic()
        loop = asyncio._get_running_loop()  # noqa: SLF001  # the public one raises
        late = [
            one for one in self._targets if one.loop in {None, loop} and now >= one.target.interrupt_after
        ]
        if not late:
            self.reset()
            return
        if loop is not None and not self._asked:
            self._asked = True
            loop.call_soon_threadsafe(self._answered, context=contextvars.Context())
            late = [one for one in late if not one.asks]
        self._ring_in(RETRY if late else TICK)
        context = contextvars.copy_context()
        in_task = loop is not None and asyncio.current_task(loop) is not None
        for one in reversed(late):
            target, inside = one.target, one.loop is None
            began, length = target.margin_span
            own, spent = target.covers(context), (now - began) / length
            may = (in_task or inside) and interruptible(
                map(place_of, outward(frame)), spent, own=own, leaves_loop=inside
            )
            if not may and loop is not None and not in_task:
                may = may_interrupt_callback(map(place_of, outward(frame)), spent, own=own)
            if may:
                self._ring_in(max(FALLBACK, length / 10))
                self.raised += 1
                self._swallowed += 1
                frames = blocking_frames(frame)
                stack = [(one.f_code, one.f_lasti) for one in frames]
                target.on_interrupt(stack[:LONGEST_STACK][::-1], own=own)
                interrupted = Interrupted()
                if spent >= 2 / 3 and self._swallowed > MOST_SWALLOWED:
                    _strike_again(frames, interrupted)
                raise interrupted

    def _answered(self) -> None:
        """The loop runs."""
        self._asked, self._swallowed = False, 0
        _strike_no_more()
        for one in list(self._targets):
            if one.cut is not None and time.monotonic() >= one.target.interrupt_after:
                cut, one.cut = one.cut, None
                try:
                    cut()
                except Exception as error:  # noqa: BLE001  # the others are to be cut as well
                    self._failure = error
        self._tell()

    def _tell(self) -> None:
        """Tell what a ring has raised: the handler itself must not, the log's locks may be held below it."""
        failure, self._failure = self._failure, None
        if failure is not None:
            emit("deadline.interrupt_failed", logging.ERROR, error=shown(failure))


def _is_ours(interval: float) -> bool:
    """Whether a timer with this interval, in seconds, is ours. The system counts in microseconds."""
    return round(interval * 1e6) == round(FALLBACK * 1e6)


# --- what swallows everything -----------------------------------------------------------------------------


def _strike_again(frames: list[FrameType], first: Interrupted) -> None:
    """Raise once more where `first` has been swallowed: at the next line that one of `frames` comes to.

    What swallows in a loop comes to the loop's first line, which is in no `try` of the loop's. Python ends
    the tracing when a trace function raises. Whoever traces already, a debugger say, is left alone.
    """

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line" and not _is_on_its_way(first):
            raise Interrupted
        return trace

    if sys.gettrace() is None:
        sys.settrace(_trace_nothing)
        for frame in frames:
            frame.f_trace = trace


def _is_on_its_way(first: Interrupted) -> bool:
    """Whether it is being handled, or what somebody has raised instead."""
    error = sys.exception()
    while error is not None and error is not first:
        error = error.__context__
    return error is first


def _strike_no_more() -> None:
    if sys.gettrace() is _trace_nothing:
        sys.settrace(None)


def _trace_nothing(_frame: FrameType, _event: str, _argument: object) -> None:
    """Trace no frame that begins now."""


alarm: Final = Alarm()

"""The precise wake-up.

An event loop on Linux hands its timers to epoll, which counts in milliseconds and rounds up: every
timeout fires about 1 ms late. A deadline's last millisecond belongs to the mitigation, so we wake a
little early and then come round the loop until the instant, which is never awaited past and never
anticipated. Each turn lets everything else that is ready run, so a busy loop loses nothing.

One spinner serves all deadlines of a loop: 10,000 of their own would be 24 ms late. It costs about
half a millisecond of CPU per expiry, and none for a scope that is left in time. Attempts of AWS calls
do without.

What one expiry raises is handed to the loop's exception handler, and keeps no other deadline from its
instant: each callback sets the next one whatever leaves it.

It needs a clock that moves while callbacks run. On a virtual clock, which stands still while anything is
ready, a spin would never end, so only loops known to run on `time.monotonic` get it; all others
get a plain timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from contextvars import Context
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from deadline._core.cancel import FATAL, complain

if TYPE_CHECKING:
    from collections.abc import Callable

EARLY: Final = 0.0012
"""Seconds before the instant at which to wake: one epoll millisecond and some for the wake-up itself."""

LOOK: Final = 0.0012
"""Seconds before that at which to look at the tasks, so that a millisecond is left for it however epoll
rounds. Coming round the loop for all of that time would cost twice the CPU."""


class Sleeper(Protocol):
    """Who is woken: twice, first when the instant is near, then at it."""

    wakes_at: float
    """The instant on the loop's clock; moving it and arming again replaces the old one."""
    handle: asyncio.TimerHandle | None

    def near(self) -> None:
        """The instant is near; past already if the loop was kept from its timers."""

    def due(self) -> None:
        """The instant is here."""


class Clock:
    """A loop's clock and the deadlines that wait on it."""

    __slots__ = ("_heap", "_number", "_spinning", "context", "early", "loop", "now")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.now: Callable[[], float] = loop.time
        self.early = 0.0
        if type(loop).__module__.partition(".")[0] == "uvloop":
            # uvloop's own reading has milliseconds and stands still within a turn; it counts from where
            # time.monotonic does.
            self.now, self.early = time.monotonic, EARLY
        elif getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time:
            self.now, self.early = time.monotonic, EARLY
        self.context = Context()  # timers need no copy of anybody's, and must not keep one alive
        self._heap: list[tuple[float, int, Sleeper]] = []
        self._number = itertools.count()
        self._spinning = False

    def arm(self, sleeper: Sleeper) -> None:
        """Wake `sleeper` at its instant; call `disarm` first if it is armed already."""
        if self.early == 0.0:
            when, then = sleeper.wakes_at, self._strike
        else:
            when, then = sleeper.wakes_at - self.early - LOOK, self._look
        sleeper.handle = self.loop.call_at(when, then, sleeper, context=self.context)

    def disarm(self, sleeper: Sleeper) -> None:
        """Let `sleeper` sleep."""
        if sleeper.handle is not None:
            sleeper.handle.cancel()
            sleeper.handle = None

    def _look(self, sleeper: Sleeper) -> None:
        try:
            self._call(sleeper.near)
        finally:
            soon = sleeper.wakes_at - self.early
            if self.now() < soon:
                sleeper.handle = self.loop.call_at(soon, self._approach, sleeper, context=self.context)
            else:
                self._approach(sleeper)

    def _strike(self, sleeper: Sleeper) -> None:
        try:
            self._call(sleeper.near)
        finally:
            sleeper.handle = None
            self._call(sleeper.due)

    def _call(self, callback: Callable[[], None]) -> None:
        """Call back. What it raises is told, and is nobody else's matter."""
        try:
            callback()
        except FATAL:
            raise
        except BaseException as error:  # noqa: BLE001  # see above
            complain(self.loop, "a deadline's timer failed", error)

    def _approach(self, sleeper: Sleeper) -> None:
        when = sleeper.wakes_at
        if self.now() >= when:
            sleeper.handle = None
            self._call(sleeper.due)
            return
        heapq.heappush(self._heap, (when, next(self._number), sleeper))
        if not self._spinning:
            self._spinning = True
            self.loop.call_soon(self._spin, context=self.context)

    def _spin(self) -> None:
        heap = self._heap
        try:
            while heap and (heap[0][2].handle is None or heap[0][0] <= self.now()):
                when, _, sleeper = heapq.heappop(heap)
                if sleeper.handle is not None and sleeper.wakes_at == when:
                    sleeper.handle = None
                    self._call(sleeper.due)
        finally:
            self._spinning = bool(heap)
            if heap:
                self.loop.call_soon(self._spin, context=self.context)


class PlainClock:
    """The clock of code that no loop runs. It wakes nobody: the alarm cuts there (`_interrupt.alarm`)."""

    __slots__ = ("early", "loop", "now")

    def __init__(self) -> None:
        self.loop = None
        self.now: Callable[[], float] = time.monotonic
        self.early = EARLY

    def arm(self, sleeper: Sleeper) -> None:
        """Nothing to set."""

    def disarm(self, sleeper: Sleeper) -> None:
        """Nothing to take back."""


plain_clock: Final = PlainClock()
"""The one that there is."""


Kept = TypeVar("Kept")


def kept_on(
    loop: asyncio.AbstractEventLoop, name: str, make: Callable[[asyncio.AbstractEventLoop], Kept]
) -> Kept:
    """Return the object kept on `loop` under a name; create it on first use.

    It is kept on the loop itself. A table beside the loop would keep loops alive through what is in it,
    and costs more to look up. A loop without room for it has it made each time, which is as right.
    """
    kept: Kept | None = getattr(loop, name, None)
    if kept is None:
        kept = make(loop)
        with contextlib.suppress(AttributeError):
            setattr(loop, name, kept)
    return kept


def clock_of(loop: asyncio.AbstractEventLoop) -> Clock:
    """The one clock of `loop`."""
    return kept_on(loop, "_deadline_clock", Clock)

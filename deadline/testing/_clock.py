"""Virtual time for asyncio: a loop that leaps over every wait.

The loop polls its real selector without waiting. When nothing is ready it moves its own clock to
exactly the instant of the next timer, so a day passes in a millisecond and sums of floats come out
as arithmetic says. trio calls the idea an autojump clock.

What the loop cannot see it leaps over: a worker thread or a socket that is about to answer looks
like nothing at all, and the next timer, mostly a timeout, comes first. Use the real clock for those.
Time stands still while callbacks are ready. Code that comes round the loop until something happens, as
anyio does while it cancels a task that does not end, would thus wait for ever: after many turns in which time
stood still, the loop leaps all the same.
"""

import asyncio
import math
import selectors
import threading
from collections.abc import Callable
from typing import Final, final

_MOST_TURNS: Final = 10_000
"""Turns of the loop in a row, with something ready in each, after which time moves on."""


class _LeapingSelector(selectors.DefaultSelector):
    """Asks the loop to leap wherever the real selector would wait for a timer."""

    def __init__(self, leap: Callable[[], bool], deadlock: Callable[[], str | None]) -> None:
        super().__init__()
        self._leap = leap
        self._deadlock = deadlock
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if timeout == 0 and self._turns < _MOST_TURNS:
            self._turns += 1
            return events
        self._turns = 0
        if events or (timeout is not None and self._leap()) or timeout == 0:
            return events
        deadlock = self._deadlock()
        if deadlock is None:
            return super().select(None)
        events = super().select(0)  # a thread that has ended by now may have woken us before
        if not events:
            raise RuntimeError(deadlock)
        return events


@final
class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0.0 and leaps to the next timer when nothing is ready.

    Use it as a loop factory: `asyncio.Runner(loop_factory=VirtualLoop)`. To let time pass, sleep.

    A loop that has nothing ready and no timer waits for its sockets and for other threads in real
    time. If there are none of those, nothing can ever happen again, and it raises `RuntimeError`
    with the names of the tasks that wait, instead of hanging.
    """

    def __init__(self) -> None:
        self._virtual_now = 0.0
        super().__init__(_LeapingSelector(self._leap, self._deadlock))
        self._set_now(0.0)

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._virtual_now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109
        """Wait for the executor's threads, however long they take.

        Threads live in real time: the limit that `asyncio.Runner` sets here would be leapt over.
        """
        await super().shutdown_default_executor()

    def _set_now(self, now: float) -> None:
        self._virtual_now = now
        # The loop runs the timers before now + resolution. The next float after now makes that the
        # timers up to now and no other, also where a nanosecond is less than a float can tell.
        self._clock_resolution = math.ulp(now)

    def _leap(self) -> bool:
        # The cancelled timers at the head of the heap are gone: _run_once has just removed them.
        # now + timeout would do without the heap, but drifts: now + (when - now) need not be when.
        if not self._scheduled:  # type: ignore[attr-defined]
            return False
        when: float = self._scheduled[0].when()  # type: ignore[attr-defined]
        if when == math.inf:
            return False
        self._set_now(when)
        return True

    def _deadlock(self) -> str | None:
        """Why nothing can ever happen again, if that is so."""
        own_pipe_only = len(self._selector.get_map()) == 1  # type: ignore[attr-defined]
        if not own_pipe_only or threading.active_count() > 1 or getattr(self, "_signal_handlers", None):
            return None
        waiting = ", ".join(sorted(task.get_name() for task in asyncio.all_tasks(self)))
        return (
            f"deadlock at virtual time {self._virtual_now}: nothing is ready, no timer is set, and no thread "
            f"or socket is left to wake the loop; waiting: {waiting or 'no task'}"
        )


@final
class VirtualClock:
    """The virtual clock of the loop that is running."""

    def time(self) -> float:
        """Return the virtual seconds since the running loop was made.

        Raises:
            RuntimeError: no loop is running, or it is no `VirtualLoop`.
        """
        try:
            loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if not isinstance(loop, VirtualLoop):
            raise RuntimeError(  # noqa: TRY004  # the state is wrong, no argument is
                f"virtual time needs a running VirtualLoop, not {loop!r}: ask for the fixture virtual_clock "
                "in an async test, or use asyncio.Runner(loop_factory=VirtualLoop)"
            )
        return loop.time()

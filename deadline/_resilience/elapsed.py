"""Time that goes on while the environment is frozen, and that nobody can set back.

Between two invocations an environment is frozen, and its monotonic clock may stand still for as long. The
wall clock goes on, but it is set: by a time server, or when a frozen machine thaws. So both are read, and
of what each says has passed since the last reading, the more is believed. A wall clock that is set back
loses nothing but what passed since that reading; one that is set forward ends a wait early, which costs a
probe.
"""

from __future__ import annotations

import asyncio
import time

from deadline._core.timer import clock_of


class Elapsed:
    """Seconds that have passed since this was made, whatever happened to the clocks."""

    __slots__ = ("_passed", "_running", "_wall")

    def __init__(self) -> None:
        self._passed = 0.0
        self._wall, self._running = clocks()

    def __call__(self) -> float:
        """Read it; never less than before."""
        wall, running = clocks()
        self._passed += max(0.0, wall - self._wall, running - self._running)
        self._wall, self._running = wall, running
        return self._passed


def clocks() -> tuple[float, float]:
    """The wall clock, and one that cannot be set. A loop's virtual clock is both."""
    try:
        clock = clock_of(asyncio.get_running_loop())
    except RuntimeError:
        return time.time(), time.monotonic()
    running = clock.now()
    return (time.time() if clock.early else running), running

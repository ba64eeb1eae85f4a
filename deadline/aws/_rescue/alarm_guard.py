"""What an invocation runs outside of its body's and its mitigation's deadlines, kept from blocking the loop.

Closing a body that does not end runs its `finally` blocks; draining runs whatever tasks it has left. Both
come before the answer, and either may block.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Final

from deadline._core.timer import clock_of
from deadline._interrupt.alarm import alarm

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context
    from types import CodeType

LEAST: Final = 0.01
"""Seconds over which what must not be interrupted is spared, even if there is no time for it."""


class Guard:
    """A target of the alarm that belongs to one invocation, for all of its time.

    Args:
        covers: Whether what runs in a context belongs to the invocation.
    """

    def __init__(self, covers: Callable[[Context], bool]) -> None:
        self.covers = covers
        self.interrupt_after = math.inf
        self.margin_span = (0.0, math.inf)

    def open(self) -> None:
        """Hold the alarm, so that it is taken and given back but once."""
        loop = asyncio.get_running_loop()
        if clock_of(loop).early:
            alarm.arm(self, loop)

    def protect(self, seconds: float) -> None:
        """Interrupt what blocks the loop `seconds` from now, and spare less of it for as long again.

        Args:
            seconds: `inf` to protect no more.
        """
        self.interrupt_after = time.monotonic() + seconds
        self.margin_span = self.interrupt_after, max(seconds, LEAST)
        alarm.reset()

    def close(self) -> None:
        """Give the alarm back."""
        alarm.disarm(self)

    def on_interrupt(self, stack: list[tuple[CodeType, int]], *, own: bool) -> None:
        """Nothing to remember: there is no edge, and no result to withhold."""

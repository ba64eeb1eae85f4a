"""One timer per event loop for all AWS attempts in flight.

Nearly every attempt is answered before anybody need look at it. A timer for each would be set and cancelled
for nothing, and lie in the loop's heap until its time: a hundredth of a call's processor time. So there is
one, for whichever is to be looked at first; it may ring when that has been answered, and is set anew then,
if others wait.
"""

from __future__ import annotations

import math
from contextvars import Context
from typing import TYPE_CHECKING, Protocol

from deadline._core.cancel import FATAL, complain
from deadline._core.timer import kept_on

if TYPE_CHECKING:
    import asyncio


class TimedAttempt(Protocol):
    """Something to be looked at, by identity."""

    def look(self, now: float) -> float:
        """Look at it; return when to look again, on the loop's clock; `inf` for never."""


class AttemptTimer:
    """What is looked at on a loop, and when."""

    __slots__ = ("_at", "_loop", "_rings_at", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._at: dict[TimedAttempt, float] = {}
        self._rings_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, watched: TimedAttempt, at: float) -> None:
        """Look at it at this instant of the loop's clock."""
        self._at[watched] = at
        if at < self._rings_at:
            self._set(at)

    def end(self, watched: TimedAttempt) -> None:
        """Look at it no more, if it is watched at all."""
        self._at.pop(watched, None)

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        self._timer = None if at == math.inf else self._loop.call_at(at, self._ring, context=Context())

    def _ring(self) -> None:
        now = self._loop.time()
        self._timer = None
        try:
            for watched, at in list(self._at.items()):
                if at <= now:
                    self._at[watched] = math.inf  # if looking at it raises
                    self._at[watched] = self._look(watched, now)
        finally:
            self._set(min(self._at.values(), default=math.inf))

    def _look(self, watched: TimedAttempt, now: float) -> float:
        try:
            return watched.look(now)
        except FATAL:
            raise
        except BaseException as error:  # noqa: BLE001  # it is nobody else's matter
            complain(self._loop, "looking at an attempt in flight failed: it is not given up", error)
            return math.inf


def attempt_timer_of(loop: asyncio.AbstractEventLoop) -> AttemptTimer:
    """Return the attempt timer of `loop`; create it on first use."""
    return kept_on(loop, "_deadline_attempt_timer", AttemptTimer)

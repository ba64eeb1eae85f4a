"""Breakers: stop asking a dependency that is down.

    closed ----- enough of the calls failed -----> open
      ^                                              |
      |  the probes did well                recovery |
      |                                              v
      +---------------- half open <------------------+
                          |   one probe at a time, the others are refused;
                          +-> open again, if one fails

A call speaks for the state in which it began. What began before the breaker opened is old news once it has,
and must not decide about the probe.

There is one breaker per execution environment and no store: an environment handles one request at a time,
so that asking somebody else what the state is would cost each request what the breaker is to save.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, final

from anyio.lowlevel import checkpoint

from deadline._core import source as _source
from deadline._core.scope import DISABLED, current
from deadline._events import emit
from deadline._report.breakers import BreakerAccount, State
from deadline._resilience.elapsed import Elapsed
from deadline._resilience.failures import BreakerOpen, is_failure, verdict
from deadline._text import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Token
    from datetime import timedelta
    from types import TracebackType

P = ParamSpec("P")
T = TypeVar("T")

FAILURES: Final = 5
"""As in pybreaker, aiobreaker, purgatory, Powertools for AWS Lambda and Envoy (`consecutive_5xx`). Hystrix
wants 20 calls and resilience4j 100, which one environment seldom makes before its callers have gone."""

WINDOW: Final = 60.0
"""Seconds. Hystrix takes 10 and Polly 30 for servers under load; five calls of 10 s, one after the other,
need more."""

RECOVERY: Final = 30.0
"""Seconds, as in purgatory, Powertools and Envoy (`base_ejection_time`); 5 in Hystrix and Polly, 60 in
pybreaker, aiobreaker and gobreaker. A probe of a dependency that is still down costs one call its whole
limit."""

RATE: Final = 1 / 2
"""The share of calls that must have failed, as in Hystrix and resilience4j."""

SLICES: Final = 10
"""Parts in which the window moves on, as in Hystrix: counting costs the same however many calls there
are."""


def opens(failed: int, calls: int, failures: int) -> bool:
    """Whether a breaker opens, by its calls within the window.

    Args:
        failed: How many of them failed.
        calls: How many there were.
        failures: How many failures it takes at least.
    """
    return failed >= failures and failed >= RATE * calls


# --- what the caller gets ---------------------------------------------------------------------------------


@final
class Breaker:
    """Stop asking a dependency that is down, and ask it again when it may be up.

    Make one per dependency, where it lives as long as the process. Use it as a decorator of an `async def`,
    or as a context manager, `with breaker:`, which any number of tasks may be inside of. It never waits;
    the decorated function lets the event loop run once when it refuses.

    It opens when at least `failures` calls within `window` seconds failed, and at least half of all. While
    it is open, calls raise `BreakerOpen`. After `recovery` seconds it lets one probe through at a time, and
    closes when `probes` of them did well; what a probe itself calls through the same breaker passes. A
    probe that is not back after another `recovery` seconds no longer keeps the next one waiting.

    A call fails if it raises an error that counts, or if a limit of its own ran out: a deadline inside of
    the breaker, or `fallback` around it. What a deadline around the breaker cuts, what any other
    cancellation ends, what was refused for want of time or by another breaker, says nothing.

    Times are counted on the wall clock and on the loop's, whichever goes further: a frozen environment's
    clock may stand still. A loop's virtual clock is the only one that counts there. Under
    `DEADLINE_DISABLED` it lets everything through. It is not safe for use from several threads at once.

    Args:
        name: For messages, events and the report.
        failures: How many failed calls it takes at least, 1 or more. Default 5.
        window: Seconds for which a call counts. Default 60. It moves on by tenths.
        recovery: Seconds from opening to the first probe. Default 30.
        probes: How many probes must do well, one after the other. Default 1.
        counts: Tells of an error whether it is the dependency's failure; by default all are but answers
            with a status of 400 to 499. An error that does not count is an answer: the dependency is up.

    Attributes:
        name: As given.
        counts: As given.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
    """

    __slots__ = (
        "_changed",
        "_elapsed",
        "_failures",
        "_period",
        "_probe",
        "_probed",
        "_probes",
        "_recovery",
        "_sent",
        "_slices",
        "_state",
        "_window",
        "counts",
        "name",
    )

    def __init__(
        self,
        name: str,
        *,
        failures: int = FAILURES,
        window: float | timedelta = WINDOW,
        recovery: float | timedelta = RECOVERY,
        probes: int = 1,
        counts: Callable[[Exception], bool] = is_failure,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(
                f"name: expected a string, got {name!r} ({type(name).__name__}); write Breaker('orders')"
            )
        if isinstance(counts, type):  # it can be called, and what that makes is always true
            raise TypeError(
                f"counts: {counts!r} is a class, not a function that tells of one; write "
                f"counts=lambda error: isinstance(error, {counts.__name__})"
            )
        if not callable(counts):
            raise TypeError(
                f"counts: expected a function taking an error, got {counts!r} ({type(counts).__name__}); "
                "write counts=lambda error: not isinstance(error, NotFound)"
            )
        self.name = str.__str__(name)  # a subclass may have a repr of its own
        self._failures = _positive(failures, "failures")
        self._window = _span(window, "window")
        self._recovery = _span(recovery, "recovery")
        self._probes = _positive(probes, "probes")
        self.counts = counts
        self._elapsed = Elapsed()
        self._state: State = "closed"
        self._period = 0  # changes of state
        self._changed = 0.0
        self._slices: deque[_Slice] = deque()
        self._probe: _Call | None = None  # the last one that was let through, unless it is back
        self._sent = 0.0
        self._probed = 0

    @property
    def state(self) -> str:
        """`closed`, `open` or `half open`. It stays open until the first call after `recovery`."""
        return self._state

    def __repr__(self) -> str:
        return f"<Breaker {quoted(self.name)} {self._state}>"

    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Have every call of an `async def` go through this breaker: `@breaker` above it.

        Raises:
            TypeError: It is something else, whose work would begin when the breaker is left already.
        """
        if not inspect.iscoroutinefunction(function):
            raise TypeError(
                f"breaker {quoted(self.name)}: expected an `async def`, got {function!r}; "
                "for anything else write "
                "`with breaker:` around the work itself"
            )

        @functools.wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                with self:
                    return await function(*args, **kwargs)
            except BreakerOpen:
                await checkpoint()  # a caller that tries again at once must let the loop run
                raise

        return guarded

    # --- a call -------------------------------------------------------------------------------------------

    def __enter__(self) -> None:
        if DISABLED:
            return
        around = _inside.get()
        call = _Call(self, around)
        if self._state != "closed":
            call.speaks = not call.is_part_of(self._probe)
            if call.speaks:
                self._let_through(call)
        call.period = self._period
        call.token = _inside.set(call)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        well = None
        try:
            well = True if exc is None else verdict(exc, self.counts)
        finally:
            self.leave(well=well)

    def leave(self, *, well: bool | None) -> None:
        """End the call that the caller is in, with what it says as `verdict` has it."""
        call = _inside.get()
        if call is None or call.breaker is not self:
            return  # closed from another context, or disabled
        with suppress(ValueError):  # closed from a copy of it
            _inside.reset(call.token)
        call.around = None  # tasks that it started keep it for as long as they live
        if not call.speaks or call.period != self._period:
            return
        if self._state == "closed":
            self._count(well=well)
            return
        if self._probe is call:
            self._probe = None
        if well is not None:
            self._probed += 1
        if well is False:
            self._change("open", 1, self._probed)
        elif self._probed >= self._probes:
            self._change("closed", 0, self._probed)

    def _let_through(self, call: _Call) -> None:
        """Make `call` the probe, or refuse it."""
        now = self._elapsed()
        if self._state == "open":
            left = self._changed + self._recovery - now
            if left > 0.0:
                raise self._refused(left)
            self._change("half open", 0, 0)
        elif self._probe is not None and now < self._sent + self._recovery:
            raise self._refused(0.0)
        self._probe, self._sent = call, now

    def _count(self, *, well: bool | None) -> None:
        if well is None:
            return
        now = self._elapsed()
        slices = self._slices
        if not slices or now - slices[-1].began >= self._window / SLICES:
            slices.append(_Slice(now))
            while now - slices[0].began >= self._window:
                slices.popleft()
        slices[-1].calls += 1
        if well:
            return
        slices[-1].failed += 1
        failed, calls = sum(one.failed for one in slices), sum(one.calls for one in slices)
        if opens(failed, calls, self._failures):
            self._change("open", failed, calls)

    # --- telling ------------------------------------------------------------------------------------------

    def _change(self, state: State, failed: int, calls: int) -> None:
        before, self._state = self._state, state
        self._period += 1
        self._changed = self._elapsed()
        self._probe, self._probed = None, 0
        self._slices.clear()
        level = logging.WARNING if state == "open" else logging.INFO
        emit(
            "breaker.changed",
            level,
            breaker=self.name,
            state=state,
            before=before,
            failed=failed,
            calls=calls,
        )
        for account, now in self._accounts():
            account.changes.append((state, now))

    def _refused(self, retry_in: float) -> BreakerOpen:
        emit("breaker.refused", logging.DEBUG, breaker=self.name, state=self._state, retry_in=retry_in)
        for account, _ in self._accounts():
            account.refused += 1
        return BreakerOpen(self.name, retry_in)

    def _accounts(self) -> list[tuple[BreakerAccount, float]]:
        """What each deadline in force tells of this breaker, and what time it is there."""
        dl = current()
        if dl is None:
            return []
        state = lambda: self._state  # noqa: E731
        return [
            (record.breakers.setdefault(self, BreakerAccount(self.name, state)), dl.now())
            for record in dl.records()
        ]


# --- how it goes ------------------------------------------------------------------------------------------

_inside: ContextVar[_Call | None] = ContextVar("deadline_breaker_call", default=None)


class _Call:
    """A call that was let through.

    Attributes:
        around: The call around it, through this breaker or another.
        period: The breaker's when it began.
        speaks: Whether its end says something: not if it is a part of a probe.
    """

    __slots__ = ("around", "breaker", "period", "speaks", "token")

    token: Token[_Call | None]
    period: int

    def __init__(self, breaker: Breaker, around: _Call | None) -> None:
        self.breaker = breaker
        self.around = around
        self.speaks = True

    def is_part_of(self, probe: _Call | None) -> bool:
        """Whether it is made inside of a probe."""
        around = self.around
        while around is not None:
            if around is probe:
                return True
            around = around.around
        return False


class _Slice:
    """A tenth of the window."""

    __slots__ = ("began", "calls", "failed")

    def __init__(self, began: float) -> None:
        self.began = began
        self.calls = self.failed = 0


# --- arguments --------------------------------------------------------------------------------------------


def _positive(value: int, argument: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{argument}: expected a whole number, got {value!r} ({type(value).__name__}); write {argument}=3"
        )
    if value < 1:
        raise ValueError(f"{argument}: {value} is too few; 1 is the least")
    return value


def _span(value: Any, argument: str) -> float:
    span = _source.seconds(value, argument)
    if not 0.0 < span < math.inf:
        raise ValueError(f"{argument}: {span} is no time to wait for; write the seconds, {argument}=30.0 say")
    return span

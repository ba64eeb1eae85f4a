"""Random calls, cuts, freezes and clocks that are set, against a model of what a breaker does.

Calls run as tasks on a virtual clock. Each tells the model when it begins and when it ends, in the very turn
in which the breaker learns of it; the model says what must have become of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deadline import Breaker, BreakerOpen, DeadlineExceeded, deadline, fallback
from deadline.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

RECOVERY = 8.0
LONG = 1e9
GRID = 1 / 8
"""Every instant is a multiple, and so exact."""

MOST = 100 * GRID
FAILED = False

eighths = st.integers(1, 100).map(lambda count: count * GRID)


class DownError(Exception):
    pass


class NotFoundError(Exception):
    status = 404


class Call:
    """A call that is out.

    Attributes:
        verdict: What its end will say of the dependency, if nobody resolves it before.
        answer: Resolves it.
        period: How often the model had changed when it began.
        probe: Whether it began while the breaker was not closed.
    """

    def __init__(self, verdict: bool | None) -> None:  # noqa: FBT001
        self.verdict = verdict
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.period = 0
        self.probe = False
        self.began = 0.0


class Breakers(RuleBasedStateMachine):
    @initialize(failures=st.integers(1, 4), probes=st.integers(1, 3))
    def begin(self, failures: int, probes: int) -> None:
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.loop = self.runner.get_loop()
        self.offset = 1.7e9
        self.patched = mock.patch("deadline._resilience.elapsed.clocks", self.clocks)
        self.patched.start()
        self.breaker = Breaker("orders", failures=failures, probes=probes, recovery=RECOVERY, window=LONG)
        self.failures, self.probes = failures, probes
        self.state, self.period, self.changed, self.probed = "closed", 0, 0.0, 0
        self.said: list[bool] = []
        self.probe: Call | None = None
        self.out: list[Call] = []
        self.tasks: list[asyncio.Task[None]] = []

    def clocks(self) -> tuple[float, float]:
        return self.loop.time() + self.offset, self.loop.time()

    # --- the model ----------------------------------------------------------------------------------------

    def change(self, state: str) -> None:
        self.state, self.period, self.changed, self.probed = state, self.period + 1, self.now(), 0
        self.said, self.probe = [], None

    def admits(self) -> bool:
        if self.state == "open":
            return self.now() - self.changed >= RECOVERY
        return self.state == "closed" or self.probe is None or self.now() - self.probe.began >= RECOVERY

    def began(self, call: Call) -> None:
        if self.state == "open":
            self.change("half open")
        if self.state == "half open":
            call.probe, self.probe = True, call
        call.period, call.began = self.period, self.now()
        self.out.append(call)

    def ended(self, call: Call) -> None:
        self.out.remove(call)
        if call.period != self.period:
            return
        if self.probe is call:
            self.probe = None
        if call.verdict is None:
            return
        if self.state == "closed":
            self.said.append(call.verdict)
            failed = self.said.count(False)
            if not call.verdict and failed >= self.failures and 2 * failed >= len(self.said):
                self.change("open")
        elif not call.verdict:
            self.change("open")
        else:
            self.probed += 1
            if self.probed >= self.probes:
                self.change("closed")

    # --- what happens -------------------------------------------------------------------------------------

    def now(self) -> float:
        return self.breaker._elapsed()

    def run(self, work: Awaitable[Any]) -> None:
        async def main() -> None:
            await work
            for task in [task for task in self.tasks if task.done()]:
                self.tasks.remove(task)
                await task

        self.runner.run(main())

    def turn(self) -> None:
        """Let the tasks go on, and no time pass."""
        for _ in range(3):
            self.run(asyncio.sleep(0.0))

    async def one(self, verdict: bool | None, inside: Any, around: Any) -> None:  # noqa: FBT001
        """A call, with limits inside of the breaker and around it."""
        call = Call(verdict)
        admits = self.admits()
        entered = False

        async def ask() -> None:
            nonlocal entered
            try:
                with self.breaker:
                    entered = True
                    self.began(call)
                    async with inside():
                        await call.answer
            except BreakerOpen:
                assert not admits
                raise
            finally:
                if entered:
                    self.ended(call)
                    assert self.breaker.state == self.state

        with contextlib.suppress(
            BreakerOpen, DownError, NotFoundError, DeadlineExceeded, asyncio.CancelledError
        ):
            await around(ask)
        assert entered == admits

    def start(
        self,
        verdict: bool | None,  # noqa: FBT001
        inside: Callable[[], Any] = contextlib.nullcontext,
        around: Callable[[Callable[[], Awaitable[None]]], Awaitable[object]] = lambda ask: ask(),
    ) -> None:
        async def begin() -> None:
            self.tasks.append(asyncio.create_task(self.one(verdict, inside, around)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        self.run(begin())

    @rule()
    def call(self) -> None:
        """Without a limit: until somebody ends it."""
        self.start(None)

    @rule(seconds=eighths)
    def call_with_a_limit(self, seconds: float) -> None:
        self.start(FAILED, inside=lambda: deadline(seconds))

    @rule(seconds=eighths)
    def call_inside_of_a_deadline(self, seconds: float) -> None:
        async def around(ask: Callable[[], Awaitable[None]]) -> None:
            async with deadline(seconds):
                await ask()

        self.start(None, around=around)

    @rule(seconds=eighths)
    def call_with_a_fallback(self, seconds: float) -> None:
        self.start(FAILED, around=lambda ask: fallback(ask, default=None, within=seconds))

    @precondition(lambda self: self.out)
    @rule(
        which=st.integers(0, 99),
        end=st.sampled_from([(None, True), (DownError, False), (NotFoundError, True)]),
    )
    def answer(self, which: int, end: tuple[type[Exception] | None, bool]) -> None:
        call = self.out[which % len(self.out)]
        error, call.verdict = end
        if error is None:
            call.answer.set_result(None)
        else:
            call.answer.set_exception(error())
        self.turn()

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        """From outside, as a client that hangs up."""
        call = self.out[which % len(self.out)]
        call.verdict = None
        call.answer.cancel()
        self.turn()

    @rule(seconds=eighths)
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(seconds=eighths)
    def freeze(self, seconds: float) -> None:
        """The wall clock alone goes on."""
        before = self.now()
        self.offset += seconds
        assert self.now() == pytest.approx(before + seconds)

    @rule(seconds=eighths)
    def set_back(self, seconds: float) -> None:
        before = self.now()
        self.offset -= seconds
        assert self.now() == before

    # --- laws ---------------------------------------------------------------------------------------------

    @invariant()
    def one_probe_at_a_time(self) -> None:
        """Of those that are not given up as lost."""
        out = [call for call in self.out if call.probe and call.period == self.period]
        assert sum(self.now() - call.began < RECOVERY for call in out) <= 1

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        assert self.breaker.state == self.state

    def teardown(self) -> None:
        """Nothing is stuck: whatever happened, after a recovery a call is made, and good ones close it."""
        if not hasattr(self, "runner"):
            return
        try:
            self.run(asyncio.sleep(MOST))  # whoever has a limit is back
            self.run(asyncio.sleep(RECOVERY))
            for _ in range(self.probes):
                out = len(self.out)
                self.start(None)
                assert len(self.out) == out + 1, "it was refused"
                call = self.out[-1]
                call.verdict = True
                call.answer.set_result(None)
                self.turn()
            assert self.breaker.state == "closed"
        finally:
            for call in self.out:
                call.verdict = None
                call.answer.cancel()
            self.turn()
            self.patched.stop()
            self.runner.close()


TestBreakers = Breakers.TestCase
TestBreakers.settings = settings(
    deadline=None,
    derandomize=True,
    max_examples=150,
    stateful_step_count=30,
    report_multiple_bugs=False,
    # Shrinking takes minutes of a suite that has five; take it in when a failure is to be understood.
    phases=(Phase.explicit, Phase.generate),
)

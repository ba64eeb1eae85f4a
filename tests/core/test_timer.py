"""The precise wake-up.

"The wake-up is precise: epoll rounds timers up to the next millisecond, so every other library is about
1 ms late. Wake a little early and come round the loop to the instant, one shared spinner per loop, only
where the loop's clock is the monotonic one (on uvloop read `time.monotonic`; on a virtual clock a spin
would never end: plain timer). Never early. For scopes only, not for attempts."

How late a wake-up is depends on the machine, and benchmarks measure it. What must hold anywhere is that
none is early, that there is one spinner, and that nothing is left of it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
from typing import TYPE_CHECKING, Any

import pytest

from deadline import DeadlineExceeded, deadline
from deadline._core.timer import EARLY, LOOK, Clock, clock_of
from deadline.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from deadline import Deadline

uvloop = pytest.param(
    "uvloop", marks=pytest.mark.skipif(not importlib.util.find_spec("uvloop"), reason="no uvloop")
)
LOOPS = ["asyncio", uvloop]


def factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if loop == "virtual":
        return VirtualLoop
    if loop == "uvloop":
        import uvloop

        new: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return new
    return asyncio.SelectorEventLoop


def run(loop: str, main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=factory(loop)) as runner:
        return runner.run(main)


class Sleeper:
    """Notes on its clock when it is woken."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.handle: asyncio.TimerHandle | None = None
        self.wakes_at = clock.now() + seconds
        self.clock = clock
        self.nears: list[float] = []
        self.dues: list[float] = []

    def near(self) -> None:
        self.nears.append(self.clock.now() - self.wakes_at)

    def due(self) -> None:
        self.dues.append(self.clock.now() - self.wakes_at)


def armed(seconds: list[float]) -> list[Sleeper]:
    clock = clock_of(asyncio.get_running_loop())
    sleepers = [Sleeper(clock, one) for one in seconds]
    for sleeper in sleepers:
        clock.arm(sleeper)
    return sleepers


def timers() -> list[asyncio.TimerHandle]:
    scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return [timer for timer in scheduled if not timer.cancelled()]


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_never_early(loop: str) -> None:
    """Of hundreds of deadlines, at all distances from a whole millisecond, none expires too early."""

    async def one(seconds: float) -> float:
        dl = deadline(seconds)
        with pytest.raises(DeadlineExceeded):
            async with dl:
                await asyncio.sleep(9)
        return time.monotonic() - dl.soft

    async def main() -> list[float]:
        return await asyncio.gather(*(one(0.005 + number * 0.000137) for number in range(400)))

    assert min(run(loop, main())) >= 0.0


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_sleepers_are_woken_twice(loop: str) -> None:
    """Each is told once that its instant is near, and once, not before, that it is here."""

    async def main() -> list[Sleeper]:
        sleepers = armed([number * 0.0004 for number in range(100)])
        await asyncio.sleep(0.06)
        assert all(sleeper.handle is None for sleeper in sleepers)
        return sleepers

    for sleeper in run(loop, main()):
        assert len(sleeper.nears) == len(sleeper.dues) == 1
        assert sleeper.nears[0] >= -EARLY - LOOK - 0.001  # uvloop's timers have whole milliseconds
        assert sleeper.dues[0] >= 0.0


@pytest.mark.slow
def test_one_spinner_for_all() -> None:
    """However many deadlines are near, one callback comes round for all, and ends with the last."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        clock = clock_of(loop)
        spinning = 0
        sleepers = armed([0.004 + number * 0.00001 for number in range(200)])
        while not all(sleeper.dues for sleeper in sleepers):
            ready = [handle for handle in loop._ready if not handle.cancelled()]  # type: ignore[attr-defined]
            spinners = sum(handle._callback == clock._spin for handle in ready)
            spinning += spinners
            assert spinners <= 1
            await asyncio.sleep(0)
        assert spinning > 0 or max(sleeper.nears[0] for sleeper in sleepers) >= 0  # unless the machine paused
        assert clock._heap == []
        await asyncio.sleep(0)
        assert not clock._spinning

    run("asyncio", main())


@pytest.mark.slow
@pytest.mark.parametrize("when", ["waiting", "near"])
def test_disarmed_sleepers_are_not_woken(when: str) -> None:
    """A sleeper disarmed in time sleeps on, also if the spinner has it already; the others are woken."""

    async def main() -> None:
        clock = clock_of(asyncio.get_running_loop())
        sleepers = armed([0.01, 0.01, 0.011])
        if when == "near":
            while not clock._heap and not sleepers[0].dues:
                await asyncio.sleep(0)
            assert sleepers[0].nears
        if not sleepers[0].dues:  # on a machine that paused here there is nothing left to disarm
            clock.disarm(sleepers[0])
            clock.disarm(sleepers[0])
            await asyncio.sleep(0.02)
            assert sleepers[0].dues == []
        await asyncio.sleep(0.02)
        assert [len(sleeper.dues) for sleeper in sleepers[1:]] == [1, 1]
        assert clock._heap == []
        assert not clock._spinning
        assert timers() == []

    run("asyncio", main())


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "virtual"])
def test_a_moved_instant_replaces_the_old_one(loop: str) -> None:
    """Disarmed, moved later and armed again, a sleeper is woken once, at the new instant."""

    async def main() -> None:
        clock = clock_of(asyncio.get_running_loop())
        (sleeper,) = armed([0.2])
        await asyncio.sleep(0.001)
        clock.disarm(sleeper)
        sleeper.wakes_at += 0.2
        clock.arm(sleeper)
        await asyncio.sleep(0.6)
        assert len(sleeper.dues) == 1
        assert sleeper.dues[0] >= 0.0

    run(loop, main())


def test_instants_that_have_passed() -> None:
    """An instant that is past already is due at the next turn, and told as near all the same."""

    async def main() -> None:
        (sleeper,) = armed([-1.0])
        assert sleeper.dues == []
        await asyncio.sleep(0.001)
        assert len(sleeper.nears) == len(sleeper.dues) == 1

    run("virtual", main())
    run("asyncio", main())


def test_a_plain_timer_on_a_virtual_clock() -> None:
    """On a clock that stands still while anything is ready nothing spins; the timer is exact by itself."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        clock = clock_of(loop)
        assert (clock.early, clock.now) == (0.0, loop.time)
        sleepers = armed([1.0, 2.5])
        await asyncio.sleep(9)
        assert [sleeper.dues for sleeper in sleepers] == [[0.0], [0.0]]
        assert clock._heap == []

    run("virtual", main())


class Wound(asyncio.SelectorEventLoop):
    """A loop with an idea of its own of the time."""

    def time(self) -> float:
        return super().time() + 1000.0


class Strict(asyncio.SelectorEventLoop):
    """A loop that takes no attributes it does not know."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "_deadline_clock":
            raise AttributeError(name)
        super().__setattr__(name, value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "early"), [(Wound, 0.0), (Strict, EARLY), (asyncio.SelectorEventLoop, EARLY)]
)
def test_loops_of_all_kinds(make: Callable[[], asyncio.AbstractEventLoop], early: float) -> None:
    """Only a loop known to run on the monotonic clock is spun on; every loop has its deadlines in time."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert clock_of(loop).early == early
        started = loop.time()
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(0.01), deadline(0.01), deadline(5):
                await asyncio.sleep(9)
        assert loop.time() - started >= 0.01
        assert caught.value.elapsed >= 0.01

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(main())


def test_a_loop_has_one_clock() -> None:
    """The clock is kept on the loop; a loop that refuses has one for each question."""
    for make, same in ((asyncio.SelectorEventLoop, True), (VirtualLoop, True), (Strict, False)):
        loop: asyncio.AbstractEventLoop = make()
        try:
            assert (clock_of(loop) is clock_of(loop)) is same
        finally:
            loop.close()


@pytest.mark.slow
def test_a_loop_that_was_blocked() -> None:
    """Deadlines that passed while the loop was blocked: the outermost that is past raises, once."""

    async def main() -> None:
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(5), deadline(0.006) as owner, deadline(0.002), deadline(0.004):
                time.sleep(0.01)  # noqa: ASYNC251  # this is what blocks it
                await asyncio.sleep(9)
        assert caught.value.deadline is owner

    run("asyncio", main())


def test_timers_keep_nobodys_context_alive() -> None:
    """Timers run in an empty context of the clock's own, so they keep no values of the arming task."""

    async def main() -> None:
        (sleeper,) = armed([1.0])
        assert sleeper.handle is not None
        assert list(sleeper.handle._context) == []  # type: ignore[attr-defined]
        sleeper.clock.disarm(sleeper)

    run("virtual", main())


@pytest.mark.parametrize("kind", ["virtual", "asyncio"])
def test_what_moves_on_in_the_last_millisecond_is_seen_where_it_is(kind: str) -> None:
    """The tasks are looked at a little early; the host that has run since is looked at again."""

    async def main() -> list[str]:
        woken = asyncio.Event()

        async def at_the_instant(dl: Deadline) -> None:
            dl.near()
            woken.set()
            for _ in range(3):  # the host moves on
                await asyncio.sleep(0)
            dl.due()

        async def first() -> None:
            await woken.wait()

        async def second() -> None:
            await asyncio.Event().wait()

        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(60.0) as dl:
                helper = asyncio.create_task(at_the_instant(dl))
                await first()
                await second()
        await helper
        return [link.function.rpartition(".")[2] for link in caught.value.report.tasks[0].awaiting]

    assert run(kind, main()) == ["main", "second", "wait"]

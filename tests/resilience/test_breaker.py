"""`Breaker`: a dependency that is down is not asked, and is asked again when it may be up."""

from __future__ import annotations

import asyncio
import inspect
import io
import math
import pickle
import time
import urllib.error
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import anyio
import pytest

from deadline import Breaker, BreakerOpen, DeadlineExceeded, current, deadline, fallback, subscribe
from deadline._resilience.breaker import opens
from deadline._resilience.elapsed import Elapsed
from deadline._resilience.failures import is_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deadline import Event


class DownError(Exception):
    pass


class StatusError(Exception):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.__dict__.update(attributes)


def call(breaker: Breaker, error: BaseException | None = None) -> None:
    """One call, which ends at once; its error is lost."""
    with suppress(*([] if error is None else [type(error)])):
        with breaker:
            if error is not None:
                raise error


def opened(**options: Any) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker("orders", **{"failures": 1, **options})
    call(breaker, DownError())
    assert breaker.state == "open"
    return breaker


@pytest.fixture
def told() -> Iterator[list[Event]]:
    events: list[Event] = []
    unsubscribe = subscribe(lambda event: events.append(event) if event.name.startswith("breaker") else None)
    yield events
    unsubscribe()


# --- opening ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "calls", "failures", "expected"),
    [
        (5, 5, 5, True),
        (4, 4, 5, False),
        (5, 10, 5, True),
        (5, 11, 5, False),
        (50, 101, 5, False),
        (1, 1, 1, True),
    ],
)
def test_it_opens_on_rate_and_volume(failed: int, calls: int, failures: int, expected: bool) -> None:  # noqa: FBT001
    """So many failures at least, and half of all calls."""
    assert opens(failed, calls, failures) is expected


async def test_enough_failures_open_it(virtual_clock: object) -> None:
    """The fifth failure opens it; then calls are refused at once, and not made."""
    breaker = Breaker("orders")
    for _ in range(5):
        assert breaker.state == "closed"
        call(breaker, DownError())
    assert breaker.state == "open"
    made = False
    with pytest.raises(BreakerOpen, match=r"breaker 'orders' is open for another 30.000 s") as caught:
        with breaker:
            made = True
    assert not made
    assert (caught.value.breaker, caught.value.retry_in) == ("orders", 30.0)


async def test_one_bad_call_among_many_does_not_open_it(virtual_clock: object) -> None:
    """Five of eleven are not half."""
    breaker = Breaker("orders")
    for _ in range(6):
        call(breaker)
    for _ in range(5):
        call(breaker, DownError())
    assert breaker.state == "closed"
    call(breaker, DownError())
    assert breaker.state == "open"


async def test_failures_are_forgotten_after_the_window(virtual_clock: object) -> None:
    """What is older than the window does not count."""
    breaker = Breaker("orders", failures=2, window=10.0)
    call(breaker, DownError())
    await asyncio.sleep(10.0)
    call(breaker, DownError())
    assert breaker.state == "closed"
    await asyncio.sleep(8.9)
    call(breaker, DownError())
    assert breaker.state == "open"


# --- what a call says -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DownError(), True),
        (TimeoutError(), True),
        (StatusError(status=503), True),
        (StatusError(status=404), False),
        (StatusError(status_code=429), False),
        (StatusError(response=StatusError(status_code=422)), False),
        (StatusError(response={"ResponseMetadata": {"HTTPStatusCode": 400}}), False),
        (StatusError(response={"ResponseMetadata": {"HTTPStatusCode": 500}}), True),
        (StatusError(response={}), True),
        (StatusError(response="gone"), True),
        (StatusError(code="404"), True),
        (urllib.error.HTTPError("http://x", 404, "no", Mock(), io.BytesIO()), False),
    ],
    ids=repr,
)
def test_what_counts(error: Exception, expected: bool) -> None:  # noqa: FBT001
    """Every error, but an answer of 400 to 499, wherever its library keeps the status."""
    assert is_failure(error) is expected


async def test_an_error_that_does_not_count_is_an_answer(virtual_clock: object) -> None:
    """A dependency that says `not found` is up: a probe that it answers so closes the breaker."""
    breaker = opened(counts=lambda error: not isinstance(error, LookupError))
    await asyncio.sleep(30.0)
    call(breaker, LookupError())
    assert breaker.state == "closed"
    for _ in range(9):
        call(breaker, LookupError())
    assert breaker.state == "closed"


async def cut_by_a_deadline(breaker: Breaker) -> None:
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            with breaker:
                await asyncio.sleep(9.0)


async def cut_by_asyncio(breaker: Breaker) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            with breaker:
                await asyncio.sleep(9.0)


async def cut_by_anyio(breaker: Breaker) -> None:
    with anyio.move_on_after(1.0):
        with breaker:
            await anyio.sleep(9.0)


async def cancelled(breaker: Breaker) -> None:
    async def work() -> None:
        with breaker:
            await asyncio.sleep(9.0)

    task = asyncio.create_task(work())
    await asyncio.sleep(1.0)
    task.cancel()
    await asyncio.wait([task])


async def error_while_cut(breaker: Breaker) -> None:
    """A library that makes an error of its own out of being cut."""
    try:
        async with deadline(1.0):
            with breaker:
                try:
                    await asyncio.sleep(9.0)
                except asyncio.CancelledError:
                    raise ConnectionError from None
    except ConnectionError:
        pass


async def cut_children(breaker: Breaker) -> None:
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            with breaker:
                async with asyncio.TaskGroup() as group:
                    group.create_task(asyncio.sleep(9.0))


async def refused_for_time(breaker: Breaker) -> None:
    async with deadline(1.0) as dl:
        call(breaker, dl.refusal("no time"))


async def not_begun(breaker: Breaker) -> None:
    with pytest.raises(DeadlineExceeded):
        with breaker:
            async with deadline(0):
                pass


async def refused_by_another(breaker: Breaker) -> None:
    call(breaker, BreakerOpen("another"))


async def within_an_unfair_share(breaker: Breaker) -> None:
    async with deadline(0.3):
        answer = await fallback(lambda: slow(breaker), default=None, within="50%")
    assert answer.source == "default"


async def slow(breaker: Breaker) -> None:
    with breaker:
        await asyncio.sleep(9.0)


async def outer_shorter_than_the_limit(breaker: Breaker) -> None:
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            await fallback(lambda: slow(breaker), default=None, within=1.0)


@pytest.mark.parametrize(
    "end",
    [
        cut_by_a_deadline,
        cut_by_asyncio,
        cut_by_anyio,
        cancelled,
        error_while_cut,
        cut_children,
        refused_for_time,
        not_begun,
        refused_by_another,
        within_an_unfair_share,
        outer_shorter_than_the_limit,
    ],
)
async def test_what_says_nothing_neither_opens_nor_closes(virtual_clock: object, end: Any) -> None:
    """An outer cut is not the dependency's fault, however often; nor does it keep a probe's place."""
    breaker = Breaker("orders", failures=1)
    for _ in range(3):
        await end(breaker)
        assert breaker.state == "closed"
    breaker = opened()
    await asyncio.sleep(30.0)
    for _ in range(3):
        await end(breaker)
        assert breaker.state == "half open"
    call(breaker)
    assert breaker.state == "closed"


async def limited_by_a_deadline(breaker: Breaker) -> None:
    with pytest.raises(DeadlineExceeded):
        with breaker:
            async with deadline(1.0):
                await asyncio.sleep(9.0)


async def limited_by_asyncio(breaker: Breaker) -> None:
    with pytest.raises(TimeoutError):
        with breaker:
            async with asyncio.timeout(1.0):
                await asyncio.sleep(9.0)


async def limited_by_fallback(breaker: Breaker) -> None:
    async with deadline(60.0):
        answer = await fallback(lambda: slow(breaker), default="none", within=1.0)
    assert answer.source == "default"


async def limited_by_a_share(breaker: Breaker) -> None:
    async with deadline(60.0):
        async with deadline(30.0):
            await fallback(lambda: slow(breaker), default="none", within="10%")


async def limited_and_turned_into_an_error(breaker: Breaker) -> None:
    async def ask() -> None:
        with breaker:
            try:
                await asyncio.sleep(9.0)
            except asyncio.CancelledError:
                raise ConnectionError from None

    await fallback(ask, default=None, within=1.0)


async def one_of_a_group(breaker: Breaker) -> None:
    async def fail() -> None:
        raise DownError

    with pytest.raises(ExceptionGroup):
        with breaker:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                group.create_task(asyncio.sleep(9.0))


@pytest.mark.parametrize(
    "end",
    [
        limited_by_a_deadline,
        limited_by_asyncio,
        limited_by_fallback,
        limited_by_a_share,
        limited_and_turned_into_an_error,
        one_of_a_group,
    ],
)
async def test_a_limit_of_the_call_that_runs_out_counts(virtual_clock: object, end: Any) -> None:
    """Time that was given to this call alone, and was not enough."""
    breaker = Breaker("orders", failures=2)
    await end(breaker)
    assert breaker.state == "closed"
    await end(breaker)
    assert breaker.state == "open"


async def test_what_a_limited_call_leaves_running_is_limited_no_more(virtual_clock: object) -> None:
    """A task that outlives `fallback` and is cancelled later says nothing."""
    breaker = Breaker("orders", failures=1)
    tasks = []

    async def start() -> None:
        tasks.append(asyncio.create_task(slow(breaker)))

    await fallback(start, within=0.5)
    await asyncio.sleep(1.0)
    tasks[0].cancel()
    await asyncio.wait(tasks)
    assert breaker.state == "closed"


# --- half open --------------------------------------------------------------------------------------------


async def test_a_stampede_meets_one_probe(virtual_clock: object) -> None:
    """Of a thousand calls after the recovery one is made; the others are refused without a wait."""
    breaker = opened()
    await asyncio.sleep(30.0)
    made = 0

    @breaker
    async def ask() -> None:
        nonlocal made
        made += 1
        await asyncio.sleep(1.0)

    ends = await asyncio.gather(*[ask() for _ in range(1000)], return_exceptions=True)
    assert made == 1
    assert sum(isinstance(end, BreakerOpen) and end.retry_in == 0.0 for end in ends) == 999
    assert breaker.state == "closed"


async def test_a_probe_that_fails_opens_again(virtual_clock: object) -> None:
    """For another recovery."""
    breaker = opened()
    await asyncio.sleep(30.0)
    call(breaker, DownError())
    assert breaker.state == "open"
    await asyncio.sleep(29.0)
    with pytest.raises(BreakerOpen):
        call(breaker)
    await asyncio.sleep(1.0)
    call(breaker)
    assert breaker.state == "closed"


async def test_several_probes_one_after_the_other(virtual_clock: object) -> None:
    """With `probes=3` three must do well, and one is out at a time."""
    breaker = opened(probes=3)
    await asyncio.sleep(30.0)
    for _ in range(2):
        with breaker, pytest.raises(BreakerOpen, match="half open, and its probe is out"):
            Context().run(call, breaker)
        assert breaker.state == "half open"
    call(breaker)
    assert breaker.state == "closed"


async def test_what_a_probe_calls_passes(virtual_clock: object) -> None:
    """A function under the same breaker as its caller does not refuse its own probe, nor judges for it."""
    breaker = opened()
    await asyncio.sleep(30.0)

    @breaker
    async def inner(error: Exception | None = None) -> None:
        await asyncio.sleep(0.1)
        if error is not None:
            raise error

    @breaker
    async def outer() -> None:
        await inner()
        assert breaker.state == "half open"
        await asyncio.gather(inner(DownError()), inner(), return_exceptions=True)
        assert breaker.state == "half open"

    await outer()
    assert breaker.state == "closed"


async def test_old_news_does_not_decide(virtual_clock: object) -> None:
    """What began before the breaker opened neither closes it nor fails the probe."""
    breaker = Breaker("orders", failures=1, recovery=1.0)

    async def late(seconds: float, error: Exception | None) -> None:
        with breaker:
            await asyncio.sleep(seconds)
            if error is not None:
                raise error

    old = [asyncio.create_task(late(0.5, None)), asyncio.create_task(late(2.5, DownError()))]
    await asyncio.sleep(0.1)
    call(breaker, DownError())
    await asyncio.sleep(0.5)
    assert breaker.state == "open"
    await asyncio.sleep(1.0)
    with breaker:
        await asyncio.sleep(2.0)
        assert breaker.state == "half open"
    assert breaker.state == "closed"
    await asyncio.gather(*old, return_exceptions=True)
    assert breaker.state == "closed"


async def test_a_probe_that_does_not_come_back_holds_nobody_up(virtual_clock: object) -> None:
    """After another recovery the next one goes; the lost one may still be the one that closes."""
    breaker = opened()
    await asyncio.sleep(30.0)
    lost = asyncio.create_task(slow_for(breaker, 35.0))
    await asyncio.sleep(29.0)
    with pytest.raises(BreakerOpen):
        call(breaker)
    await asyncio.sleep(1.0)
    second = asyncio.create_task(slow_for(breaker, 60.0))
    await lost
    assert breaker.state == "closed"
    await second
    assert breaker.state == "closed"


async def slow_for(breaker: Breaker, seconds: float) -> None:
    with breaker:
        await asyncio.sleep(seconds)


async def test_a_coroutine_that_is_closed_elsewhere_does_no_harm(virtual_clock: object) -> None:
    """A probe that is thrown away by another task: its place is free after another recovery at the latest."""
    breaker = opened()
    await asyncio.sleep(30.0)
    probe = slow(breaker)
    copy_context().run(probe.send, None)
    probe.close()
    await asyncio.sleep(30.0)
    call(breaker)
    assert breaker.state == "closed"


# --- clocks -----------------------------------------------------------------------------------------------


class Clocks:
    """The two clocks of a machine, as tests set them."""

    def __init__(self) -> None:
        self.wall, self.running = 1.7e9, 50.0

    def __call__(self) -> tuple[float, float]:
        return self.wall, self.running


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr("deadline._resilience.elapsed.clocks", clocks)
    return clocks


def test_a_frozen_environment_recovers_by_the_wall_clock(clocks: Clocks) -> None:
    """Its own clock stood still."""
    breaker = opened()
    clocks.wall += 29.0
    with pytest.raises(BreakerOpen):
        call(breaker)
    clocks.wall += 1.0
    call(breaker)
    assert breaker.state == "closed"


def test_a_wall_clock_that_is_set_back_does_not_keep_it_open(clocks: Clocks) -> None:
    """A year back: the running clock goes on, and the wall clock counts from where it is now."""
    breaker = opened()
    clocks.wall -= 3e7
    with pytest.raises(BreakerOpen):
        call(breaker)
    clocks.running += 10.0
    clocks.wall += 10.0
    with pytest.raises(BreakerOpen) as caught:
        call(breaker)
    assert caught.value.retry_in == 20.0
    clocks.wall += 20.0  # frozen
    call(breaker)
    assert breaker.state == "closed"


def test_elapsed_never_goes_back(clocks: Clocks) -> None:
    """Neither when a clock is set, nor when another loop's begins at zero."""
    elapsed = Elapsed()
    clocks.wall, clocks.running = 0.0, 0.0
    assert elapsed() == 0.0
    clocks.running += 1.0
    assert elapsed() == 1.0


def test_real_clocks_outside_of_a_loop() -> None:
    """A breaker works in code without a loop, too."""
    elapsed = Elapsed()
    before = time.monotonic()
    while time.monotonic() < before + 0.002:
        pass
    assert 0.002 <= elapsed() < 5.0


# --- telling ----------------------------------------------------------------------------------------------


async def test_changes_are_events(virtual_clock: object, told: list[Event]) -> None:
    """With what made it open; refusals are for those who want to count them."""
    breaker = Breaker("orders", failures=2, recovery=5.0)
    call(breaker)
    call(breaker, DownError())
    call(breaker, DownError())
    with pytest.raises(BreakerOpen):
        call(breaker)
    await asyncio.sleep(5.0)
    call(breaker)
    assert [(event.name, event.level, dict(event.fields)) for event in told] == [
        (
            "breaker.changed",
            30,
            {"breaker": "orders", "state": "open", "before": "closed", "failed": 2, "calls": 3},
        ),
        ("breaker.refused", 10, {"breaker": "orders", "state": "open", "retry_in": 5.0}),
        (
            "breaker.changed",
            20,
            {"breaker": "orders", "state": "half open", "before": "open", "failed": 0, "calls": 0},
        ),
        (
            "breaker.changed",
            20,
            {"breaker": "orders", "state": "closed", "before": "half open", "failed": 0, "calls": 1},
        ),
    ]


async def test_changes_and_refusals_stand_in_the_report(virtual_clock: object) -> None:
    """In that of every deadline around; a breaker that did nothing special does not."""
    breaker, quiet = Breaker("orders", failures=1, recovery=5.0), Breaker("quiet")
    await asyncio.sleep(100.0)
    with pytest.raises(DeadlineExceeded) as outer:
        async with deadline(10.0):
            with pytest.raises(DeadlineExceeded) as inner:
                async with deadline(4.0):
                    await asyncio.sleep(1.0)
                    call(quiet)
                    call(breaker, DownError())
                    for _ in range(3):
                        with pytest.raises(BreakerOpen):
                            call(breaker)
                    await asyncio.sleep(9.0)
            await asyncio.sleep(2.0)
            call(breaker, DownError())
            await asyncio.sleep(9.0)
    (one,) = inner.value.report.breakers
    assert one == ("orders", "open", 3, (("open", 1.0),))
    (one,) = outer.value.report.breakers
    assert one == ("orders", "open", 3, (("open", 1.0), ("half open", 6.0), ("open", 6.0)))
    assert (
        "breaker 'orders' is open, 3 refused, open at 1.000, half open at 6.000"
        in outer.value.report.render()
    )
    assert outer.value.report.to_dict()["breakers"][0]["changes"][0] == ["open", 1.0]
    assert pickle.loads(pickle.dumps(outer.value)).report == outer.value.report  # noqa: S301  # our own


async def test_the_error_pickles(virtual_clock: object) -> None:
    """As its name and its seconds."""
    again = pickle.loads(pickle.dumps(BreakerOpen("orders", 2.5)))  # noqa: S301  # our own
    assert (again.breaker, again.retry_in) == ("orders", 2.5)
    assert str(again) == "breaker 'orders' is open for another 2.500 s: the call was not made"


# --- ways to use it ---------------------------------------------------------------------------------------


async def test_a_decorated_function_stays_what_it_is(virtual_clock: object) -> None:
    """Arguments, result, name, and being an `async def`."""
    breaker = Breaker("orders")

    @breaker
    async def add(one: int, *, other: int) -> int:
        """Add."""
        return one + other

    assert await add(1, other=2) == 3
    assert (add.__name__, add.__doc__) == ("add", "Add.")
    assert inspect.iscoroutinefunction(add)
    assert repr(breaker) == "<Breaker 'orders' closed>"


async def test_it_leaves_deadlines_alone(virtual_clock: object) -> None:
    """What is cut inside of it is cut as without it."""
    async with deadline(5.0) as dl:
        with Breaker("orders"):
            assert current() is dl


def not_async() -> None:
    pass


async def generator() -> Any:
    yield


_breaker: Any = Breaker


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _breaker(5), r"name: expected a string, got 5"),
        (lambda: _breaker("x", failures=0), r"failures: 0 is too few"),
        (lambda: _breaker("x", failures=0.5), r"failures: expected a whole number, got 0.5"),
        (lambda: _breaker("x", probes=True), r"probes: expected a whole number, got True"),
        (lambda: _breaker("x", window=0), r"window: 0.0 is no time"),
        (lambda: _breaker("x", recovery=math.inf), r"recovery: inf is no time"),
        (lambda: _breaker("x", recovery=-1), r"recovery: -1.0 is negative"),
        (lambda: _breaker("x", window="10"), r"window: expected seconds, got '10'"),
        (lambda: _breaker("x", counts=KeyError()), r"counts: expected a function"),
        (lambda: _breaker("x", counts=KeyError), r"counts: .*KeyError.* is a class.*isinstance"),
        (lambda: _breaker("x")(not_async), r"expected an `async def`, got .*with breaker:"),
        (lambda: _breaker("x")(generator), r"expected an `async def`"),
    ],
)
def test_bad_input_is_refused_by_name(make: Callable[[], Any], message: str) -> None:
    """At the line that gives it."""
    with pytest.raises((TypeError, ValueError), match=message):
        make()


# --- a refusal lets the loop run --------------------------------------------------------------------------


async def test_a_refusal_lets_the_loop_run(virtual_clock: object) -> None:
    """A loop that asks an open breaker again at once keeps no other task from its work."""
    refuse = opened()(asyncio.sleep)
    turns: list[str] = []

    async def ask() -> None:
        for _ in range(3):
            with pytest.raises(BreakerOpen):
                await refuse(0)
            turns.append("refused")

    async def other() -> None:
        for _ in range(3):
            turns.append("other")
            await asyncio.sleep(0)

    await asyncio.gather(ask(), other())
    assert turns[:4] == ["other", "refused", "other", "refused"]


async def test_a_loop_around_a_refusal_can_be_cut() -> None:
    """A deadline cuts a loop that retries what the breaker refuses, long before the first probe."""
    refuse = opened(recovery=600.0)(asyncio.sleep)
    asked = 0
    with pytest.raises(DeadlineExceeded):
        async with deadline(0.05):
            while True:
                asked += 1
                with suppress(Exception):
                    await refuse(0)
    assert asked > 1

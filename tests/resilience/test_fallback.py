"""`fallback`: an answer in time, from the call, the last good one, or the default."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deadline import (
    Answer,
    Breaker,
    BreakerOpen,
    DeadlineExceeded,
    InsufficientTime,
    LastGood,
    current,
    deadline,
    fallback,
    subscribe,
)
from deadline.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deadline import Event


def now() -> float:
    return asyncio.get_running_loop().time()


def answering(value: Any = "fresh", seconds: float = 0.0) -> Any:
    async def call() -> Any:
        await asyncio.sleep(seconds)
        if isinstance(value, Exception):
            raise value
        return value

    return call


@pytest.fixture
def told() -> Iterator[list[Event]]:
    events: list[Event] = []
    unsubscribe = subscribe(lambda event: events.append(event) if event.name.startswith("fallback") else None)
    yield events
    unsubscribe()


# --- which answer -----------------------------------------------------------------------------------------


async def test_an_answer_in_time_is_the_calls(virtual_clock: object, told: list[Event]) -> None:
    """With an age of nothing, and nothing is told."""
    assert await fallback(answering(seconds=0.9), default="default", within=1.0) == ("fresh", "call", 0.0)
    assert now() == pytest.approx(0.9)
    assert not told


async def test_a_call_that_is_late_is_cut_and_answered_for(virtual_clock: object) -> None:
    """At its share, not later."""
    answer = await fallback(answering(seconds=9.0), default="default", within=1.0)
    assert answer == Answer("default", "default", None)
    assert now() == pytest.approx(1.0)


async def test_the_last_good_answer_goes_before_the_default(virtual_clock: object) -> None:
    """By its key, with its age."""
    kept = LastGood()
    await fallback(answering("of ann"), key="ann", cache=kept)
    await asyncio.sleep(60.0)
    late = answering(DownError())
    assert await fallback(late, key="ann", cache=kept, default="nobody") == ("of ann", "cache", 60.0)
    assert await fallback(late, key="bob", cache=kept, default="nobody") == ("nobody", "default", None)
    await asyncio.sleep(1740.0)
    assert (await fallback(late, key="ann", cache=kept, default="nobody")).age == 1800.0
    await asyncio.sleep(0.1)
    assert (await fallback(late, key="ann", cache=kept, default="nobody")).source == "default"
    assert len(kept) == 0


class DownError(Exception):
    pass


async def test_without_a_key_there_is_one_answer_to_keep(virtual_clock: object) -> None:
    """As for a call that has no arguments."""
    kept = LastGood()
    await fallback(answering("rates"), cache=kept)
    assert (await fallback(answering(DownError()), cache=kept)).value == "rates"


@pytest.mark.parametrize("default", [None, 0, "", []])
async def test_any_value_is_a_default(virtual_clock: object, default: Any) -> None:
    """`None` as well."""
    assert await fallback(answering(DownError()), default=default) == (default, "default", None)


async def test_a_function_makes_the_default(virtual_clock: object) -> None:
    """A new one for each answer."""
    one = await fallback(answering(DownError()), default=list[str])
    two = await fallback(answering(DownError()), default=list[str])
    assert one.value == two.value == []
    assert one.value is not two.value


async def test_with_nothing_to_give_the_calls_error_leaves(virtual_clock: object, told: list[Event]) -> None:
    """And so does the cut of its own limit; nothing is told, because it is raised."""
    with pytest.raises(DownError):
        await fallback(answering(DownError()))
    with pytest.raises(DeadlineExceeded, match=r"deadline 'fallback' exceeded: 1.000 s allowed"):
        await fallback(answering(seconds=9.0), within=1.0, cache=LastGood())
    assert not told


async def test_a_default_that_fails_says_what_it_was_for(virtual_clock: object) -> None:
    """The call's error is its context."""

    def default() -> None:
        raise LookupError

    with pytest.raises(LookupError) as caught:
        await fallback(answering(DownError()), default=default)
    assert isinstance(caught.value.__context__, DownError)


async def test_a_default_that_would_have_to_be_waited_for_is_refused(virtual_clock: object) -> None:
    """A lambda hides it until it is called; it must not be given out as the answer."""
    with pytest.raises(TypeError, match=r"default: .*would have to be waited for") as caught:
        await fallback(answering(DownError()), default=lambda: later())  # noqa: PLW0108
    assert isinstance(caught.value.__context__, DownError)


async def test_what_was_hidden_is_told(virtual_clock: object, told: list[Event]) -> None:
    """As a warning, for nobody else tells; what a breaker refused was told when it opened."""
    breaker = Breaker("orders", failures=1)
    ask = breaker(answering(DownError("no route")))
    await fallback(ask, default=None)
    await fallback(ask, default=None)
    first, second = told
    assert first.name == "fallback.answered"
    assert first.level == 30
    assert first.fields["error"] == "DownError('no route')"
    assert (first.fields["source"], first.fields["age"]) == ("default", None)
    assert "answering" in first.fields["call"]
    assert second.level == 20
    assert "BreakerOpen" in second.fields["error"]


# --- how long ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("within", "expected"),
    [
        (2.0, 2.0),
        (timedelta(seconds=3), 3.0),
        ("30%", 3.0),
        ("0.5%", 0.05),
        (None, 5.0),
        (0, 0.0),
    ],
)
async def test_its_share(virtual_clock: object, within: Any, expected: float) -> None:
    """Seconds, or a share of what remains; half of it if nobody says."""
    async with deadline(12.0, margin=2.0):
        answer = await fallback(answering(seconds=60.0), default="default", within=within)
        assert answer.source == "default"
        assert now() == pytest.approx(expected)


async def test_without_a_deadline_there_is_no_limit(virtual_clock: object) -> None:
    """A share of forever is forever."""
    answers = [await fallback(answering(seconds=1e6), within=within) for within in (None, "1%", math.inf)]
    assert {answer.source for answer in answers} == {"call"}


async def test_zero_does_not_ask(virtual_clock: object) -> None:
    """The last good one, at once."""
    asked = False

    async def call() -> None:
        nonlocal asked
        asked = True

    assert (await fallback(call, default="default", within=0)).source == "default"
    assert not asked


async def test_three_dead_parts_in_a_row_are_all_answered(virtual_clock: object) -> None:
    """Each takes half of what is left, and leaves half."""
    async with deadline(8.0):
        for _ in range(3):
            await fallback(answering(seconds=60.0), default=None)
        assert now() == pytest.approx(7.0)


async def test_the_body_is_read_in_the_calls_time(virtual_clock: object) -> None:
    """A head that comes at once and a body that drips is no answer in time."""

    async def call() -> bytes:
        body = b""
        for _ in range(100):
            await asyncio.sleep(0.1)
            body += b"."
        return body

    assert (await fallback(call, default=b"", within=1.0)).source == "default"
    assert now() == pytest.approx(1.0)


async def test_a_page_of_fifty_parts_at_once(virtual_clock: object) -> None:
    """Five are dead: all fifty are answered when the share of those is over, and from where each says."""
    kept = LastGood()
    kept.put(0, "yesterday's")
    async with deadline(1.0):
        answers = await asyncio.gather(
            *[
                fallback(
                    answering(part, 9.0 if part < 5 else 0.1),
                    key=part,
                    cache=kept,
                    default=None,
                    within="20%",
                )
                for part in range(50)
            ]
        )
    assert [answer.source for answer in answers] == ["cache", *["default"] * 4, *["call"] * 45]
    assert [answer.value for answer in answers[5:]] == list(range(5, 50))
    assert now() == pytest.approx(0.2)


# --- deadlines around -------------------------------------------------------------------------------------


@pytest.mark.parametrize("within", [5.0, 1.0, "100%", math.inf])
async def test_a_deadline_around_is_not_hidden(virtual_clock: object, within: Any) -> None:
    """It cuts its block, whatever the fallback's own limit is."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.0) as dl:
            await fallback(answering(seconds=60.0), default="default", within=within)
            pytest.fail("it was hidden")
    assert caught.value.deadline is dl
    assert now() == pytest.approx(1.0)


async def test_a_refusal_on_behalf_of_a_deadline_around_is_not_hidden(virtual_clock: object) -> None:
    """It belongs to that one; a refusal on behalf of the call's own limit is answered for."""

    async def refused() -> None:
        dl = current()
        assert dl is not None
        raise dl.refusal("no time")

    async def refused_in_a_group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(refused())

    async with deadline(1.0) as dl:
        with pytest.raises(InsufficientTime) as caught:
            await fallback(refused, default=None, within=5.0)
        assert caught.value.deadline is dl
        with pytest.raises(ExceptionGroup):
            await fallback(refused_in_a_group, default=None, within=5.0)
        assert (await fallback(refused, default=None, within=0.5)).source == "default"


async def test_an_error_made_of_a_cut_is_not_answered_for(virtual_clock: object) -> None:
    """A library that turns the deadline's cut into an error of its own hides nothing either."""

    async def call() -> None:
        try:
            await asyncio.sleep(60.0)
        except asyncio.CancelledError:
            raise ConnectionError from None

    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0):
            await fallback(call, default="default", within=math.inf)
            pytest.fail("it was hidden")


async def test_a_cancellation_from_outside_goes_through(virtual_clock: object) -> None:
    """It is nobody's answer."""
    task = asyncio.create_task(fallback(answering(seconds=60.0), default="default", within=5.0))
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_deadline_of_the_calls_own_is_answered_for(virtual_clock: object) -> None:
    """It is inside, and over."""

    async def call() -> None:
        async with deadline(0.1):
            await asyncio.sleep(60.0)

    async with deadline(9.0):
        assert (await fallback(call, default=None)).source == "default"


unhurried = settings(deadline=None, derandomize=True, max_examples=200)


@unhurried
@given(
    outer=st.integers(1, 64),
    within=st.integers(1, 64),
    seconds=st.integers(1, 64),
    fails=st.booleans(),
    kept=st.booleans(),
)
def test_exactly_one_thing_happens(outer: int, within: int, seconds: int, fails: bool, kept: bool) -> None:  # noqa: FBT001
    """Whoever is first decides, the outer deadline before the rest where they tie."""

    async def run() -> None:
        known = LastGood()
        if kept:
            known.put(None, "kept")
        ends = min(outer, within, seconds)
        call = answering(DownError() if fails else "fresh", float(seconds))
        try:
            async with deadline(float(outer)):
                answer = await fallback(call, cache=known, default="default", within=float(within))
        except DeadlineExceeded:
            assert outer == ends
        else:
            assert ends < outer or seconds == outer
            expected = "call" if seconds == ends and not fails else "cache" if kept else "default"
            if seconds != within:
                assert answer.source == expected
        assert now() == pytest.approx(ends)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


# --- what is kept -----------------------------------------------------------------------------------------


async def test_what_is_kept_is_bounded(virtual_clock: object) -> None:
    """The one that was refreshed longest ago goes first."""
    kept = LastGood(size=2)
    kept.put("a", 1)
    kept.put("b", 2)
    kept.put("a", 3)
    kept.put("c", 4)
    assert len(kept) == 2
    assert kept.get("b") is None
    assert kept.get("a") == (3, "cache", 0.0)
    kept.clear()
    assert kept.get("a") is None


def test_age_goes_on_while_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the wall clock, when the other one stands still."""
    wall = [100.0]
    monkeypatch.setattr("deadline._resilience.elapsed.clocks", lambda: (wall[0], 5.0))
    kept = LastGood(age=600.0)
    kept.put("a", 1)
    wall[0] += 599.0
    assert kept.get("a") == (1, "cache", 599.0)
    wall[0] += 2.0
    assert kept.get("a") is None


# --- bad input --------------------------------------------------------------------------------------------

_fallback: Any = fallback
_kept: Any = LastGood


async def later() -> list[str]:
    return []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _fallback(later()), r"call: expected a function without arguments, got <coroutine"),
        (lambda: _fallback(None), r"call: expected a function without arguments, got None"),
        (
            lambda: _fallback(later, key="a"),
            r"key: nothing is kept without a cache; write cache=LastGood\(\)",
        ),
        (lambda: _fallback(later, cache={}), r"cache: expected a LastGood, got {}"),
        (lambda: _fallback(later, default=later), r"default: .*would have to be waited for"),
        (lambda: _fallback(later, within="30"), r"within: '30' is no share"),
        (lambda: _fallback(later, within="x%"), r"within: 'x%' is no share"),
        (lambda: _fallback(later, within="0%"), r"within: '0%' is no share"),
        (lambda: _fallback(later, within="101%"), r"within: '101%' is no share"),
        (lambda: _fallback(later, within=-1), r"within: -1.0 is negative"),
        (lambda: _fallback(later, within=math.nan), r"within: NaN"),
        (lambda: _fallback(later, cache=LastGood(), key=[]), r"key: \[\] is not hashable"),
    ],
)
async def test_bad_input_is_refused_by_name(make: Callable[[], Any], message: str) -> None:
    """Whether the call would have answered or not."""
    with pytest.raises((TypeError, ValueError), match=message):
        await make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _kept(size=0), r"size: 0 would keep nothing"),
        (lambda: _kept(size=1.5), r"size: expected a whole number, got 1.5"),
        (lambda: _kept(age=-1), r"age: -1.0 is negative"),
    ],
)
def test_bad_bounds_are_refused_by_name(make: Callable[[], Any], message: str) -> None:
    """At the line that gives them."""
    with pytest.raises((TypeError, ValueError), match=message):
        make()


async def test_a_breaker_inside_is_opened_by_the_fallbacks_limit(virtual_clock: object) -> None:
    """A dead dependency costs its share until the breaker opens, and nothing after."""
    breaker = Breaker("orders", failures=3)
    ask = breaker(answering(seconds=60.0))
    async with deadline(60.0):
        for _ in range(3):
            await fallback(ask, default=None, within=1.0)
        assert now() == pytest.approx(3.0)
        assert breaker.state == "open"
        for _ in range(100):
            assert (await fallback(ask, default=None, within=1.0)).source == "default"
        assert now() == pytest.approx(3.0)
        with pytest.raises(BreakerOpen):
            await fallback(ask, within=1.0)


@unhurried
@given(
    size=st.integers(1, 4),
    happenings=st.lists(
        st.one_of(
            st.integers(0, 5).map(lambda key: ("put", key)), st.integers(1, 8).map(lambda s: ("wait", s))
        ),
        max_size=30,
    ),
)
def test_what_is_kept_is_the_newest_of_the_young(size: int, happenings: list[tuple[str, int]]) -> None:
    """Whatever is put when: never more than `size`, never older than `age`, and always the last one put."""

    async def run() -> None:
        kept = LastGood(size=size, age=10.0)
        put: dict[int, float] = {}
        for number, (what, value) in enumerate(happenings):
            if what == "wait":
                await asyncio.sleep(value)
                continue
            put.pop(value, None)
            put[value] = now()
            kept.put(value, (value, number))
        newest = list(put)[-size:]
        for key in range(6):
            answer = kept.get(key)
            if key in newest and now() - put[key] <= 10.0:
                assert answer is not None
                assert answer.age == now() - put[key]
                assert answer.value[0] == key
            else:
                assert answer is None

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())

"""`each`: items worked off for as long as the next one fits."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deadline import DeadlineExceeded, critical, current, deadline, each, subscribe
from deadline._work.each import REMEMBERED, predicted
from deadline.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from deadline import Event

unhurried = settings(deadline=None, derandomize=True, max_examples=300)


async def sleep(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_what_fits_is_done_and_the_rest_is_not_begun(virtual_clock: object) -> None:
    """The next item is begun if it is predicted to end before soft."""
    async with deadline(10.0, margin=5.5):
        batch = await each(sleep, [1.0] * 10)
    assert [one.result for one in batch.done] == [1.0] * 4
    assert batch.unprocessed == [1.0] * 6
    assert batch.failed == []
    assert now() == pytest.approx(4.0)
    assert repr(batch) == "<Batch: 4 done, 0 failed, 6 unprocessed>"


async def test_without_a_deadline_everything_is_done(virtual_clock: object) -> None:
    """There is nothing to fit into."""
    batch = await each(sleep, range(100))
    assert len(batch.done) == 100


async def test_a_failing_item_does_not_stop_the_rest(virtual_clock: object) -> None:
    """A poison item is `failed`, with its error."""

    async def work(item: int) -> int:
        if item == 2:
            raise LookupError("poison")
        return item

    batch = await each(work, range(5))
    assert [one.item for one in batch.done] == [0, 1, 3, 4]
    ((item, error),) = batch.failed
    assert item == 2
    assert isinstance(error, LookupError)
    assert batch.report == ((0, 1, 3, 4), (2,), ())


async def test_so_many_at_once_and_still_in_order(virtual_clock: object) -> None:
    """`limit` items run at a time; the lists keep the order in which items were given."""
    running, most = 0, 0

    async def work(seconds: float) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(seconds)
        running -= 1

    batch = await each(work, [3.0, 1.0, 2.0, 1.0, 1.0], limit=3)
    assert most == 3
    assert [one.item for one in batch.done] == [3.0, 1.0, 2.0, 1.0, 1.0]
    assert now() == pytest.approx(3.0)


async def test_a_cut_leaves_its_account_in_the_report(virtual_clock: object) -> None:
    """An item slower than all before it may be cut; the report says which were done."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(4.0, margin=1.0):
            await each(sleep, [0.5, 0.5, 9.0, 0.5])
    (report,) = caught.value.report.batches
    assert report == ((0, 1), (), (2, 3))
    assert "batch: 2 done, 0 failed, 2 unprocessed" in caught.value.report.render()
    assert caught.value.report.to_dict()["batches"] == [{"done": [0, 1], "failed": [], "unprocessed": [2, 3]}]


async def test_a_batch_that_has_not_ended_is_told_as_well(virtual_clock: object) -> None:
    """An item that cannot be cut does not hide what was done before it."""
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(3.5):
            working = asyncio.create_task(each(sleep, [1.0, 1.0, 9.0, 1.0]))
            await asyncio.sleep(9.0)
    assert caught.value.report.batches == (((0, 1), (), (2, 3)),)
    await working


async def test_needs_is_a_floor_for_the_prediction(virtual_clock: object) -> None:
    """With nothing known an item is tried, if what it needs at least fits."""
    async with deadline(1.0):
        assert len((await each(sleep, [0.1], 1, timedelta(seconds=2))).unprocessed) == 1
        assert len((await each(sleep, [0.1], needs=None)).done) == 1


async def test_a_refused_item_is_unprocessed_and_the_last(virtual_clock: object) -> None:
    """A refusal for want of time says that no other will fit either."""

    async def work(item: int) -> int:
        dl = current()
        assert dl is not None
        if item == 1:
            raise dl.refusal("no time")
        return item

    async with deadline(5.0):
        batch = await each(work, range(4))
    assert batch.report == ((0,), (), (1, 2, 3))


async def test_a_refusal_among_an_items_own_tasks_is_one(virtual_clock: object) -> None:
    """A task group wraps it, and it says the same."""

    async def work(item: int) -> None:
        dl = current()
        assert dl is not None

        async def call() -> None:
            raise dl.refusal("no time")

        async with asyncio.TaskGroup() as group:
            group.create_task(call())

    async with deadline(5.0):
        batch = await each(work, range(4))
    assert batch.report == ((), (), (0, 1, 2, 3))


async def test_an_item_that_its_own_deadline_refuses_has_failed(virtual_clock: object) -> None:
    """That it had too little time says nothing of the others'."""

    async def work(item: int) -> None:
        async with deadline(1.0):
            async with critical("move", needs=2.0 if item == 1 else 0.5):
                pass

    async with deadline(5.0):
        batch = await each(work, range(3))
    assert batch.report == ((0, 2), (1,), ())


@pytest.mark.parametrize("limit", [1, 2])
async def test_an_item_that_was_cancelled_from_within_has_failed(virtual_clock: object, limit: int) -> None:
    """What it awaited was cancelled by somebody else: that is no reason to stop the rest."""

    async def work(item: int) -> None:
        await asyncio.sleep(0.1)
        if item == 1:
            gone = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone

    batch = await each(work, range(4), limit)
    assert batch.report == ((0, 2, 3), (1,), ())
    assert "it awaited something that was cancelled" in str(batch.failed[0].error)


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("how", ["task", "scope"])
async def test_a_cancellation_from_outside_goes_on(virtual_clock: object, limit: int, how: str) -> None:
    """It is never taken for an item's failure."""

    async def work() -> None:
        with anyio.CancelScope() as scope:
            cancel = (
                scope.cancel if how == "scope" else cast("asyncio.Task[None]", asyncio.current_task()).cancel
            )
            asyncio.get_running_loop().call_later(1.5, cancel)
            await each(sleep, [1.0] * 4, limit)
            raise AssertionError
        assert scope.cancelled_caught
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await work()
    assert now() == pytest.approx(1.5)


async def test_an_open_section_gives_no_more_time_than_it_holds(virtual_clock: object) -> None:
    """Inside of a critical section what is left is what the section has."""
    with pytest.raises(DeadlineExceeded):
        async with deadline(5.2, margin=4.0), critical("all"):
            batch = await each(sleep, [1.0] * 9)
    assert len(batch.done) == 3


# --- sources ----------------------------------------------------------------------------------------------


async def test_an_asynchronous_source(virtual_clock: object) -> None:
    """What was not fetched stays in it."""

    async def numbers() -> AsyncIterator[float]:
        for _ in range(100):
            yield 1.0

    source = numbers()
    async with deadline(3.5):
        batch = await each(sleep, source, limit=2)
    assert len(batch.done) == 6
    assert batch.unprocessed == []
    assert len([one async for one in source]) == 94


async def test_an_endless_iterator_is_left_where_it_is(virtual_clock: object) -> None:
    """One that can be read once only keeps what was not fetched."""
    source = itertools.count()

    async def work(_: int) -> None:
        await asyncio.sleep(1.0)

    async with deadline(3.5):
        batch = await each(work, source)
    assert [one.item for one in batch.done] == [0, 1, 2]
    assert next(source) == 3


@pytest.mark.parametrize("limit", [1, 3])
async def test_what_a_source_raises_leaves_as_it_is(virtual_clock: object, limit: int) -> None:
    """With any `limit`: a group of one would have to be caught in another way."""

    async def numbers() -> AsyncIterator[float]:
        yield 0.1
        raise ConnectionError("the queue is gone")

    with pytest.raises(ConnectionError, match="the queue is gone"):
        await each(sleep, numbers(), limit)


async def test_no_more_is_started_than_there_are_items(virtual_clock: object) -> None:
    """As many at once as there are."""
    batch = await each(sleep, [1.0] * 5, 10**9)
    assert len(batch.done) == 5
    assert now() == pytest.approx(1.0)


# --- groups -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_groups_keep_their_order_and_stop_at_a_failure(virtual_clock: object, limit: int) -> None:
    """One at a time in a group; the first that fails leaves the rest of its group; others go on."""
    began: list[str] = []
    busy: set[str] = set()

    async def work(item: str) -> None:
        assert item[0] not in busy
        busy.add(item[0])
        began.append(item)
        await asyncio.sleep(1.0)
        busy.discard(item[0])
        if item == "a2":
            raise LookupError("poison")

    items = ["a1", "a2", "b1", "a3", "b2", "c1", "a4"]
    batch = await each(work, items, limit, group=lambda item: item[0])
    assert [one.item for one in batch.done] == ["a1", "b1", "b2", "c1"]
    assert [one.item for one in batch.failed] == ["a2"]
    assert batch.unprocessed == ["a3", "a4"]
    assert [item for item in began if item[0] == "a"] == ["a1", "a2"]


async def test_no_group_is_no_order(virtual_clock: object) -> None:
    """`None` belongs to no group."""
    batch = await each(sleep, [1.0] * 4, 4, group=lambda _: None)
    assert len(batch.done) == 4
    assert now() == pytest.approx(1.0)


# --- the prediction ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "expected"),
    [([], 0.0), ([2.0], 2.0), ([1.0, 3.0, 2.0], 3.0), ([1.0] * 19 + [9.0], 9.0), ([1.0] * 63 + [9.0], 1.0)],
)
def test_the_prediction(costs: list[float], expected: float) -> None:
    """The highest of a few, the 95th percentile of many: one slow item does not stop a batch for good."""
    assert predicted(costs) == expected
    assert len(costs) <= REMEMBERED


@unhurried
@given(
    seed=st.integers(0, 2**16),
    budget=st.floats(0.5, 5.0),
    limit=st.integers(1, 5),
    mean=st.floats(0.01, 0.2),
)
def test_nothing_is_lost_and_nothing_twice(seed: int, budget: float, limit: int, mean: float) -> None:
    """Whatever items cost, each is in exactly one list or was cut, and the lists are in order."""
    chance = random.Random(seed)
    costs = [chance.expovariate(1 / mean) for _ in range(60)]
    began: list[int] = []

    async def work(position: int) -> int:
        began.append(position)
        await asyncio.sleep(costs[position])
        return position

    async def run() -> Any:
        try:
            async with deadline(2 * budget, margin=budget):
                return (await each(work, range(60), limit)).report
        except DeadlineExceeded as exceeded:
            return exceeded.report.batches[0]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        report = runner.run(run())
    assert sorted([*report.done, *report.failed, *report.unprocessed]) == list(range(60))
    assert list(report.done) == sorted(report.done)
    assert len(began) == len(set(began))
    assert set(report.done) <= set(began)


def test_work_done_is_nearly_all_that_the_budget_allows() -> None:
    """A hundred items of random cost, many times over: nine tenths of what fits, seldom cut."""

    async def run(seed: int) -> tuple[float, bool]:
        chance = random.Random(seed)
        costs = [chance.uniform(0.01, 0.06) for _ in range(100)]
        try:
            async with deadline(2.5, margin=0.5):
                batch = await each(lambda position: sleep(costs[position]), range(100))
        except DeadlineExceeded as exceeded:
            return sum(costs[position] for position in exceeded.report.batches[0].done), True
        return sum(one.result for one in batch.done), False

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runs = [runner.run(run(seed)) for seed in range(100)]
    assert sum(work for work, _ in runs) / len(runs) >= 0.95 * 2.0
    assert sum(cut for _, cut in runs) <= 10


_each: Any = each


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _each(sleep, 5), r"items: expected an iterable"),
        (
            lambda: _each(sleep, {"Records": []}),
            r"items: .* got {'Records': \[\]} \(dict\); .* event\['Records'\]",
        ),
        (lambda: _each(sleep, "abc"), r"items: expected an iterable .* got 'abc' \(str\)"),
        (lambda: _each(None, []), r"fn: expected an async function .* got None"),
        (lambda: _each(len, ["a"]), r"fn: expected an async function, and it gave 1 \(int\)"),
        (lambda: _each(sleep, [], group="a"), r"group: expected a function .* got 'a'"),
        (lambda: _each(sleep, [], 0), r"limit: 0 would work nothing off"),
        (lambda: _each(sleep, [], 1.5), r"limit: expected a whole number, got 1.5"),
        (lambda: _each(sleep, [], limit=True), r"limit: expected a whole number, got True"),
        (lambda: _each(sleep, [], needs=math.nan), r"needs: NaN"),
    ],
)
async def test_bad_input_is_refused_by_name(make: Callable[[], Any], message: str) -> None:
    """Before anything is begun."""
    with pytest.raises((TypeError, ValueError), match=message):
        await make()


# --- nothing that fails is silent -------------------------------------------------------------------------


@pytest.fixture
def told() -> Iterator[list[Event]]:
    events: list[Event] = []
    unsubscribe = subscribe(lambda event: events.append(event) if event.name == "each.item_failed" else None)
    yield events
    unsubscribe()


async def test_each_failed_item_is_told_and_the_traceback_once_per_kind(
    virtual_clock: object, told: list[Event]
) -> None:
    """The kind is the error's class and the line that raised it; only the first of a kind is a warning."""

    async def work(item: int) -> None:
        if item == 0:
            return
        if item == 3:
            raise LookupError("three")
        raise LookupError(f"item {item}")

    await each(work, range(5))
    assert [event.fields["item"] for event in told] == [1, 2, 3, 4]
    assert [event.level for event in told] == [logging.WARNING, logging.INFO, logging.WARNING, logging.INFO]
    assert told[1].fields == {"item": 2, "error": "LookupError: item 2", "traceback": None}
    assert 'raise LookupError("three")' in told[2].fields["traceback"]
    assert told[2].fields["traceback"].endswith("LookupError: three")


async def test_what_is_unprocessed_is_not_told_as_failed(virtual_clock: object, told: list[Event]) -> None:
    """A refusal for want of time is no failure of the item."""

    async def work(item: int) -> None:
        dl = current()
        assert dl is not None
        raise dl.refusal("no time")

    async with deadline(5.0):
        await each(work, range(4))
    assert told == []


async def test_an_error_that_cannot_be_told_does_not_end_the_batch(
    virtual_clock: object, told: list[Event]
) -> None:
    """Whatever the user's class does, the next item is worked off."""

    class HostileError(Exception):
        def __str__(self) -> str:
            raise LookupError("no words")

        __repr__ = __str__

        def __eq__(self, other: object) -> bool:
            raise LookupError("no comparison")

        def __hash__(self) -> int:
            raise LookupError("no hash")

    async def work(item: int) -> None:
        raise HostileError if item else KeyError("x" * 1_000_000)

    batch = await each(work, range(3))
    assert len(batch.failed) == 3
    assert len(told[0].fields["error"]) == 500
    assert len(told[0].fields["traceback"]) == 16_000
    assert told[1].fields["error"] == "HostileError: (its message could not be made: LookupError)"

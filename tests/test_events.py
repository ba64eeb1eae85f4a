"""What happens is told once, to every subscriber."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from deadline import DeadlineExceeded, Event, deadline, subscribe
from deadline._events import emit, log_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def told() -> Iterator[list[Event]]:
    events: list[Event] = []
    unsubscribe = subscribe(events.append)
    yield events
    unsubscribe()


def test_every_subscriber_is_told(told: list[Event]) -> None:
    """Each event goes to each subscriber, once, in the order of their subscriptions."""
    order: list[str] = []

    def teller(who: str) -> Callable[[Event], None]:
        return lambda event: order.append(f"{who} {event.name}")

    ends = [subscribe(teller("a")), subscribe(teller("b"))]
    try:
        emit("test.happened", logging.INFO, seconds=1.5)
    finally:
        for end in ends:
            end()
    assert order == ["a test.happened", "b test.happened"]
    assert told == [Event("test.happened", logging.INFO, {"seconds": 1.5})]


def test_an_ended_subscription_is_told_nothing() -> None:
    """After the function that `subscribe` returned was called, nothing more is told; twice is harmless."""
    events: list[Event] = []
    end = subscribe(events.append)
    emit("test.before", logging.INFO)
    end()
    emit("test.after", logging.INFO)
    end()
    assert [event.name for event in events] == ["test.before"]


def test_each_subscription_ends_on_its_own() -> None:
    """One function subscribed twice is told twice; ending one subscription leaves the other."""
    events: list[str] = []

    def note(event: Event) -> None:
        events.append(event.name)

    first, second = subscribe(note), subscribe(note)
    emit("test.both", logging.INFO)
    first()
    first()
    emit("test.one", logging.INFO)
    second()
    emit("test.none", logging.INFO)
    assert events == ["test.both", "test.both", "test.one"]


def test_a_subscriber_may_end_its_subscription_while_told() -> None:
    """A subscriber that unsubscribes itself or another does not disturb the round that goes on."""
    events: list[str] = []
    ends: list[Any] = []

    def once(_: Event) -> None:
        events.append("once")
        for end in ends:
            end()

    ends.append(subscribe(once))
    ends.append(subscribe(lambda _: events.append("other")))
    emit("test.first", logging.INFO)
    emit("test.second", logging.INFO)
    assert events == ["once", "other"]


def test_a_failing_subscriber_is_logged_and_harmless(
    told: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    """What a subscriber raises is logged with its traceback; the others are told all the same."""

    def fails(_: Event) -> None:
        raise KeyError("broken")

    last: list[Event] = []
    ends = [subscribe(fails), subscribe(last.append)]
    try:
        with caplog.at_level(logging.ERROR, "deadline"):
            emit("test.happened", logging.INFO)
    finally:
        for end in ends:
            end()
    assert len(told) == len(last) == 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "a subscriber failed on the event test.happened"
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


async def test_a_failing_subscriber_does_not_lose_the_cut(
    virtual_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A subscriber that raises at a cut changes nothing about the cut."""

    def fails(_: Event) -> None:
        raise RuntimeError("broken")

    end = subscribe(fails)
    try:
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(1.0) as dl:
                await asyncio.sleep(9)
    finally:
        end()
    assert caught.value.deadline is dl
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
def test_the_log_has_level_text_and_fields(level: int, caplog: pytest.LogCaptureFixture) -> None:
    """The default subscriber logs at the event's level: text to read, fields to query."""
    with caplog.at_level(logging.DEBUG, "deadline"):
        emit("test.happened", level, seconds=1.23456, name=None, tries=2, why="two words", ok=True)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("deadline", level)
    assert record.getMessage() == ("test.happened seconds=1.235 name=None tries=2 why='two words' ok=True")
    assert record.__dict__["deadline"] == {
        "event": "test.happened",
        "seconds": 1.23456,
        "name": None,
        "tries": 2,
        "why": "two words",
        "ok": True,
    }


def test_a_level_that_is_off_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The logger's level holds."""
    with caplog.at_level(logging.WARNING, "deadline"):
        log_event(Event("test.happened", logging.INFO, {}))
    assert caplog.records == []


def test_an_event_reads_well() -> None:
    """As text an event is its name and its fields, seconds with milliseconds."""
    assert str(Event("a.b", logging.INFO, {})) == "a.b"
    assert str(Event("a.b", logging.INFO, {"x": 0.0005, "n": 3})) == "a.b x=0.001 n=3"


def test_a_name_of_several_lines_forges_none() -> None:
    """Reports, stacks and tracebacks alone stand on lines of their own."""
    event = Event("aws.died", 40, {"step": "a\n[ERROR] forged", "stack": "one\ntwo"})
    assert str(event) == "aws.died step='a\\n[ERROR] forged'\none\ntwo"


async def test_events_are_told_where_they_happen(virtual_clock: object, told: list[Event]) -> None:
    """A subscriber is called in the thread and before the error reaches the edge's caller."""
    threads: list[str] = []
    end = subscribe(lambda _: threads.append(threading.current_thread().name))
    try:
        with pytest.raises(DeadlineExceeded):
            async with deadline(0, name="none"):
                pytest.fail("the body ran")
    finally:
        end()
    assert threads == [threading.current_thread().name]
    assert [(event.name, event.fields["started"], event.fields["deadline"]) for event in told] == [
        ("deadline.exceeded", False, "none")
    ]


async def test_a_block_left_in_time_tells_nothing(virtual_clock: object, told: list[Event]) -> None:
    """Nothing happened, nothing is told: neither for a block left in time nor for an error of its own."""
    async with deadline(1.0):
        await asyncio.sleep(0.5)
    with pytest.raises(KeyError):
        async with deadline(1.0):
            raise KeyError
    assert told == []


async def test_of_nested_deadlines_only_the_owner_tells(virtual_clock: object, told: list[Event]) -> None:
    """A cut is told by the deadline that owns it, not by those it passes through."""
    with pytest.raises(DeadlineExceeded):
        async with deadline(1.0, name="outer"), deadline(1.0, name="inner"), deadline(5.0, name="in it"):
            await asyncio.sleep(9)
    assert [event.fields["deadline"] for event in told] == ["outer"]


def test_a_block_below_the_line_moves_no_terminal(caplog: pytest.LogCaptureFixture) -> None:
    """Terminal sequences and control characters in a report are not logged; its lines stay."""
    with caplog.at_level(logging.WARNING, logger="deadline"):
        emit("aws.exceeded", logging.WARNING, report="one\x1b[2Jtwo\x07\nthree\u202e")
    assert caplog.messages == ["aws.exceeded\nonetwo\nthree"]

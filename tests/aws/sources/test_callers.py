"""Who called: recognition, the caller's clock, and what a handler makes of it."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from events import EVENTS, LOOK_ALIKES, STARTED
from hypothesis import given, settings
from hypothesis import strategies as st

from deadline import DeadlineExceeded, aws, critical, current, deadline
from deadline._core.margin import CALLER_AT_LEAST
from deadline.aws._function.async_invocation import Invocation
from deadline.aws._sources.callers import seconds_left
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from deadline import Event
    from deadline.testing import VirtualClock

# --- recognition ------------------------------------------------------------------------------------------


def test_there_is_an_event_of_every_source() -> None:
    """The table and the events name the same sources, each once."""
    names = [one.name for one in aws.callers]
    assert sorted(names) == sorted(EVENTS)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_of_its_source_alone(name: str) -> None:
    """It is recognised, and nothing but what it is a special case of matches it, too."""
    known = aws.caller(EVENTS[name])
    assert known is not None
    assert known.name == name
    matching = [one.name for one in aws.callers if _matches(one, EVENTS[name])]
    assert set(matching) <= {name, "http-api"}


def _matches(known: aws.Caller, event: Any) -> bool:
    try:
        return known.matches(event)
    except (KeyError, IndexError, TypeError, AttributeError):
        return False


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_a_look_alike_is_unknown(name: str) -> None:
    """What is not of a known shape is of no source, and limits nothing."""
    assert aws.caller(LOOK_ALIKES[name]) is None
    assert aws.caller_left(LOOK_ALIKES[name]) == math.inf


class Odd(dict[str, Any]):
    """What raises at a look."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(key)


def test_no_event_makes_it_raise() -> None:
    """Whatever object the tests of a function pass."""
    assert aws.caller(Odd()) is None
    assert aws.caller_left(Odd()) == math.inf


@pytest.mark.parametrize("known", aws.callers, ids=lambda known: known.name)
def test_an_entry_is_whole(known: aws.Caller) -> None:
    """It says where it is from; who limits, waits; who does not wait, has neither limit nor clock."""
    assert known.source.startswith("https://")
    assert known.title
    assert known.on_error
    assert known.limit is None or known.waits
    assert known.waits is not False or (known.limit is None and known.started is None)


CLOCKS = {"function-url", "http-api", "websocket-api", "rest-api", "alb", "vpc-lattice"}


@pytest.mark.parametrize("name", EVENTS)
def test_the_start_is_read_where_it_is_told(name: str) -> None:
    """In the event's own unit; a queue's, a stream's or a topic's age is no caller's clock."""
    known = aws.caller(EVENTS[name])
    assert known is not None
    assert (known.started is not None) == (name in CLOCKS)
    if known.started is not None:
        exact = 0.001 if name != "alb" else 1.0  # its trace id has whole seconds
        assert known.started(EVENTS[name]) == pytest.approx(STARTED, abs=exact)


# --- the caller's clock -----------------------------------------------------------------------------------


def rest_event(waited: float) -> dict[str, Any]:
    """A request to a REST API that was received so many seconds ago."""
    context = EVENTS["rest-api"]["requestContext"] | {"requestTimeEpoch": int((time.time() - waited) * 1000)}
    return EVENTS["rest-api"] | {"requestContext": context}


@pytest.mark.parametrize(
    ("waited", "left"),
    [(0.0, 29.0), (27.5, 1.5), (-3600.0, 29.0), (28.9, 0.25), (29.5, 0.25), (40.0, 0.25), (3e8, 29.0)],
    ids=["fresh", "waited", "ahead of ours", "nearly over", "over", "long over", "a sample's"],
)
def test_what_is_left_to_the_caller(waited: float, left: float) -> None:
    """The limit less what it waited; a clock ahead of ours lengthens nothing, and no clock leaves nothing."""
    assert aws.caller_left(rest_event(waited)) == pytest.approx(left, abs=0.05)


@pytest.mark.parametrize(
    "told", [None, "soon", True, [], {}, math.nan, math.inf, -math.inf, "", 10**400], ids=repr
)
def test_a_start_that_is_none_counts_from_now(told: Any) -> None:
    """A start that cannot be read is one that is not told."""
    event = rest_event(5.0)
    event["requestContext"]["requestTimeEpoch"] = told
    assert aws.caller_left(event) == 29.0


def test_a_limit_of_ones_own_counts_from_the_request() -> None:
    """An integration timeout that was raised replaces the default, and the start stays the event's."""
    assert aws.caller_left(rest_event(27.5), limit=60.0) == pytest.approx(32.5, abs=0.05)
    assert aws.caller_left({}, limit=7.0) == 7.0
    assert aws.caller_left({}, limit=dt.timedelta(seconds=7)) == 7.0


@pytest.mark.parametrize(
    ("told", "header", "left"),
    [
        ("1", None, math.inf),
        ("1", "Deadline-Remaining-Ms", 0.25),
        ("9000, 40", "deadline-remaining-ms", 0.25),
        ("9000, 400", "deadline-remaining-ms", 0.4),
        ("1000000000", "deadline-remaining-ms", math.inf),
        (",".join(["400"] * 1_000_000), "deadline-remaining-ms", math.inf),
        ("400", "x-left", math.inf),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_header_is_read_only_if_asked_for(told: str, header: str | None, left: float) -> None:
    """It leaves no less than the floor, and a text that is too long is not looked at."""
    event = {"requestContext": {}, "headers": {"Deadline-Remaining-Ms": told}}
    assert aws.caller_left(event, header=header) == left


@pytest.mark.parametrize("header", [b"x", "", "X-Time: 1", 7], ids=repr)
def test_a_header_is_checked(header: Any) -> None:
    """The message names it, where it is given."""
    with pytest.raises((TypeError, ValueError), match="^header: "):
        aws.caller_left({}, header=header)
    with pytest.raises((TypeError, ValueError), match="^header: "):
        aws.handler(header=header)


def test_a_trace_id_is_looked_at_in_its_beginning() -> None:
    """What stands behind a thousand characters is no start."""
    trace = f"Self=1-{int(time.time() - 20):08x}-b"
    event = {"requestContext": {"elb": {"targetGroupArn": "x"}}, "headers": {"x-amzn-trace-id": trace}}
    assert aws.caller_left(event) == pytest.approx(40.0, abs=2.0)
    event["headers"] = {"x-amzn-trace-id": ";" * 1000 + trace}
    assert aws.caller_left(event) == 60.0


@pytest.mark.parametrize("limit", [-1, math.nan, "29", True])
def test_a_limit_of_ones_own_is_checked(limit: Any) -> None:
    """A sum that came out wrong limits nothing to nothing."""
    with pytest.raises((TypeError, ValueError), match="^limit: "):
        aws.caller_left({}, limit=limit)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    limit=st.floats(min_value=0.01, max_value=1e5),
    started=st.none() | st.floats(),
    now=st.floats(min_value=0, max_value=1e10),
)
def test_no_clock_lengthens_or_leaves_nothing(limit: float, started: float | None, now: float) -> None:
    """Whatever the caller's clock says: at most the limit, at least the floor."""
    left = seconds_left(limit, started, now)
    assert min(limit, CALLER_AT_LEAST) <= left <= limit


# --- the core ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margin", "limit", "soft", "answer_by"),
    [
        (1.0, 10.0, 9.0, 10.0),
        (1.0, 1.5, 0.75, 1.5),  # half of a caller's time, at the most
        (8.0, 29.0, 21.0, 29.0),
        (20.0, 29.0, 10.0, 29.0),  # the margin before the hard end is the one that counts
        (1.0, 60.0, 29.0, 30.0),
        (0.0, 2.0, 2.0, 2.0),
    ],
)
async def test_the_callers_end_moves_soft_and_not_hard(
    virtual_clock: VirtualClock, margin: float, limit: float, soft: float, answer_by: float
) -> None:
    """The work is cut a margin before the caller goes; hard stays where it is."""
    async with deadline(30.0, margin=margin, caller_limit=limit) as dl:
        assert (dl.soft, dl.answer_by, dl.hard) == (soft, answer_by, 30.0)


async def test_without_a_hard_end_the_callers_is_the_hard_one(virtual_clock: VirtualClock) -> None:
    """There is nothing that undoing could have until."""
    async with deadline(None, margin=1.0, caller_limit=5.0) as dl:
        assert (dl.soft, dl.answer_by, dl.hard) == (4.0, 5.0, 5.0)


async def test_grace_ends_when_the_caller_goes(virtual_clock: VirtualClock) -> None:
    """What mitigates, answers: its time is the caller's."""
    with pytest.raises(DeadlineExceeded, match="9.000 s allowed for a caller that waits 10.000 s") as caught:
        async with deadline(60.0, margin=1.0, caller_limit=10.0):
            await asyncio.sleep(99)
    assert virtual_clock.time() == 9.0
    async with caught.value.grace() as grace:
        assert grace.hard == 10.0


@pytest.mark.parametrize("limit", [-1, math.nan, True, "soon", "auto"], ids=repr)
def test_a_wrong_limit_is_named(limit: Any) -> None:
    """The message names the argument; "auto" belongs to the handler, and it says so."""
    with pytest.raises((TypeError, ValueError), match="caller_limit"):
        deadline(5.0, caller_limit=limit)


@pytest.mark.parametrize("limit", [-1, 0, math.nan, True, "soon"], ids=repr)
def test_a_handlers_wrong_limit_is_named(limit: Any) -> None:
    """The same where it is an argument of `handler`."""
    with pytest.raises((TypeError, ValueError), match="caller_limit"):
        aws.handler(caller_limit=limit)


# --- the handler ------------------------------------------------------------------------------------------


async def soft_and_ends(event: Any, seconds: float, **options: Any) -> tuple[float, float, float]:
    @aws.handler(**options)
    async def f(event: Any, context: Any) -> Any:
        dl = current()
        assert dl is not None
        return dl.soft, dl.answer_by, dl.hard

    ends: tuple[float, float, float] = await f.invoke(event, FakeContext(seconds))
    return ends


@pytest.mark.parametrize(
    ("options", "soft", "answer_by"),
    [
        ({}, 18.5, 19.0),
        ({"caller_limit": "auto"}, 18.5, 19.0),
        ({"caller_limit": 40}, 29.5, 30.0),
        ({"caller_limit": None}, 59.5, 60.0),
        ({"margin": 2.0}, 17.0, 19.0),
        ({"margin": 30.0}, 9.5, 19.0),
    ],
    ids=str,
)
async def test_a_handler_ends_for_its_caller(
    virtual_clock: VirtualClock, options: dict[str, Any], soft: float, answer_by: float
) -> None:
    """By default as the event says; seconds replace the source's limit, None leaves Lambda's alone."""
    ends = await soft_and_ends(rest_event(10.0), 60.0, **options)
    assert ends == pytest.approx((soft, answer_by, 60.0), abs=0.05)


BACKLOGS = ("sqs", "kinesis", "dynamodb", "sns", "s3", "ses", "eventbridge", "durable")


@pytest.mark.parametrize("name", BACKLOGS)
async def test_a_backlog_limits_nothing(virtual_clock: VirtualClock, name: str) -> None:
    """A message that is years old leaves the function its whole time."""
    assert await soft_and_ends(EVENTS[name], 60.0) == pytest.approx((59.5, 60.0, 60.0), abs=0.05)


async def test_lambdas_timeout_stays_the_sooner_one(virtual_clock: VirtualClock) -> None:
    """A caller that waits longer changes nothing."""
    assert await soft_and_ends(rest_event(0.0), 10.0) == pytest.approx((9.5, 10.0, 10.0), abs=0.05)


async def test_the_mitigation_answers_before_the_caller_goes(virtual_clock: VirtualClock) -> None:
    """It is cut at its share of the caller's time, though Lambda has more."""

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        await asyncio.sleep(99)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        await asyncio.sleep(99)

    with pytest.raises(DeadlineExceeded, match="on_exceeded did not end in time"):
        await f.invoke(rest_event(27.5), FakeContext(60.0))
    assert virtual_clock.time() == pytest.approx(1.48, abs=0.05)


async def test_a_body_that_swallows_its_cut_is_left_in_time(virtual_clock: VirtualClock) -> None:
    """A quarter of the caller's margin, not of Lambda's."""

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        while True:
            try:
                await asyncio.sleep(99)
            except asyncio.CancelledError:
                pass

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return "answered"

    assert await f.invoke(rest_event(19.0), FakeContext(60.0)) == "answered"
    assert virtual_clock.time() < 10.0


async def test_an_undo_goes_on_beside_and_after_the_mitigation(
    virtual_clock: VirtualClock, told: list[Event]
) -> None:
    """The mitigation runs before the caller goes; the undo, which takes longer, completes."""
    happened: dict[str, float] = {}

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        async with critical("move") as section:
            async with section.step("copy", undo=undo):
                pass
            await asyncio.sleep(99)

    async def undo() -> None:
        await asyncio.sleep(20.0)
        happened["undone"] = virtual_clock.time()

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        happened["answered"] = virtual_clock.time()
        return {"sections": [section.status for section in exceeded.report.sections]}

    answer = await f.invoke(rest_event(19.0), FakeContext(60.0))
    assert answer == {"sections": ["partial"]}
    assert happened["answered"] < 10.0
    assert happened["undone"] == pytest.approx(29.75, abs=0.1)
    names = [event.name for event in told]
    assert "aws.answers_late" in names  # a test's `invoke` can only return
    assert "aws.left_behind" not in names


async def test_a_notice_goes_on_when_the_caller_has_gone(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is posted before the caller goes, and the notice has its time until Lambda's end."""
    happened: dict[str, Any] = {}

    async def tell(message: Any) -> None:
        await asyncio.sleep(20.0)
        happened["told"] = virtual_clock.time()

    @aws.handler(notice=tell)
    async def f(event: Any, context: Any) -> Any:
        await asyncio.sleep(99)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return "answered"

    def post(value: Any) -> bool:
        happened["posted"] = value, virtual_clock.time()
        return True

    monkeypatch.setattr(Invocation, "__init__", functools.partialmethod(Invocation.__init__, post_early=post))
    assert await f.invoke(rest_event(19.0), FakeContext(60.0)) == "answered"
    assert happened["posted"] == ("answered", pytest.approx(9.975, abs=0.05))
    assert happened["told"] == pytest.approx(29.5, abs=0.05)


async def test_an_error_is_told_while_the_caller_waits(virtual_clock: VirtualClock) -> None:
    """The notice of it takes no longer than a margin of the caller's time."""

    async def tell(message: Any) -> None:
        await asyncio.sleep(50.0)

    @aws.handler(notice=tell)
    async def f(event: Any, context: Any) -> Any:
        raise LookupError("no such order")

    with pytest.raises(LookupError):
        await f.invoke(rest_event(19.0), FakeContext(60.0))
    assert virtual_clock.time() < 1.0


async def test_an_undo_that_does_not_end_is_left(virtual_clock: VirtualClock, told: list[Event]) -> None:
    """The answer stands, and the invocation ends before Lambda's timeout."""

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        async with critical("move") as section:
            async with section.step("copy", undo=undo):
                pass
            await asyncio.sleep(99)

    async def undo() -> None:
        while True:
            try:
                await asyncio.sleep(3600.0)
            except asyncio.CancelledError:
                pass

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return "answered"

    assert await f.invoke(rest_event(19.0), FakeContext(60.0)) == "answered"
    assert 40.0 < virtual_clock.time() < 60.0
    assert "aws.left_behind" in [event.name for event in told]


async def test_a_section_that_finishes_beside_the_mitigation(virtual_clock: VirtualClock) -> None:
    """A shielded step may still be done when the answer is being made; nothing is lost but the time."""
    happened: list[str] = []

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        async with critical("move") as section:
            async with section.step("copy"):
                with anyio.CancelScope(shield=True):
                    await asyncio.sleep(15.0)
                happened.append("copied")
        return "whole"

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        happened.append("answered")
        return "answered"

    assert await f.invoke(rest_event(19.0), FakeContext(60.0)) == "answered"
    assert happened == ["answered", "copied"]
    assert virtual_clock.time() == pytest.approx(15.0)


async def test_an_undo_ends_with_its_share_of_lambdas_time(virtual_clock: VirtualClock) -> None:
    """It has until three quarters of what is left to Lambda, and no longer."""
    undoing: list[float] = []

    @aws.handler
    async def f(event: Any, context: Any) -> Any:
        async with critical("move") as section:
            async with section.step("copy", undo=undo):
                pass
            await asyncio.sleep(99)

    async def undo() -> None:
        undoing.append(virtual_clock.time())
        try:
            await asyncio.sleep(3600.0)
        finally:
            undoing.append(virtual_clock.time())

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return "answered"

    assert await f.invoke(rest_event(19.0), FakeContext(60.0)) == "answered"
    assert undoing == pytest.approx([9.75, 9.5 + 0.75 * 50.5], abs=0.1)
    assert virtual_clock.time() < 60.0


# --- the page ---------------------------------------------------------------------------------------------


def test_the_page_says_what_the_table_says() -> None:
    """Every source is on it, with its limit."""
    page = (Path(__file__).parents[3] / "docs" / "callers.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for known in aws.callers:
        (row,) = [row for row in rows if f"`{known.name}`" in row.split("|")[1]]
        waits = row.split("|")[3]
        assert known.limit is None or f"{known.limit:g} s" in waits
        assert known.waits is not False or waits.strip() == "no"

"""Deadlines that travel with `Invoke`: what goes into the client context, what a chain of functions sees."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deadline import aws, current, deadline
from deadline._propagation import HEADER
from deadline.aws._calls.invoke_context import LARGEST, with_time_left
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from deadline.testing import InvokeApi, VirtualClock
    from tests.aws.conftest import Connect

FUNCTIONS = str(Path(__file__).parents[2] / "lambda_functions")


def encoded(context: Any) -> str:
    return base64.b64encode(json.dumps(context).encode()).decode()


def decoded(context: str | None) -> Any:
    assert context is not None
    return json.loads(base64.b64decode(context))


# --- what goes out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "new"),
    [
        (None, {"custom": {HEADER: "812"}}),
        ({}, {"custom": {HEADER: "812"}}),
        ({"custom": None}, {"custom": {HEADER: "812"}}),
        (
            {"client": {"app_title": "å"}, "custom": {"a": 1}, "env": {"x": "y"}},
            {"client": {"app_title": "å"}, "custom": {"a": 1, HEADER: "812"}, "env": {"x": "y"}},
        ),
        ({"custom": {HEADER: "900"}}, {"custom": {HEADER: "812"}}),
        ({"custom": {HEADER: "nonsense"}}, {"custom": {HEADER: "812"}}),
    ],
    ids=str,
)
def test_the_users_context_keeps_its_own(context: Any, new: Any) -> None:
    """One key is added to `custom`; nothing else changes."""
    assert decoded(with_time_left(None if context is None else encoded(context), 0.8125)) == new


@pytest.mark.parametrize(
    "context",
    [
        "no base64!",
        base64.b64encode(b"no json").decode(),
        base64.b64encode(b"\xff").decode(),
        encoded([]),
        encoded("text"),
        encoded({"custom": ["a list"]}),
        encoded({"custom": "text"}),
        encoded({"custom": {HEADER: "700"}}),
        encoded({"custom": {"large": "x" * 2640}}),
    ],
)
def test_a_context_that_cannot_take_it_stays_as_it_is(context: str) -> None:
    """What is not of the known form, is full, or says something sooner is the user's business."""
    assert with_time_left(context, 0.8125) is None


@pytest.mark.parametrize("left", [math.inf, 1e9])
def test_nothing_is_told_where_there_is_nothing_to_tell(left: float) -> None:
    """Without a deadline, and where that is further off than anybody means."""
    assert with_time_left(None, left) is None


def test_the_largest_context_still_fits() -> None:
    """Lambda takes 3,583 bytes; one more would fail the user's call."""
    sizes = [
        len(new)
        for size in range(2550, 2650)
        if (new := with_time_left(encoded({"custom": {"large": "x" * size}}), 0.8)) is not None
    ]
    assert LARGEST - 4 < max(sizes) <= LARGEST


# --- what comes in ----------------------------------------------------------------------------------------


class ClientContext:
    """As the runtime client makes it of what came."""

    def __init__(self, custom: Any) -> None:
        self.custom = custom
        self.client = self.env = None


async def answer_by(virtual_clock: VirtualClock, custom: Any, event: Any = None, **options: Any) -> float:
    @aws.handler(**options)
    async def f(event: Any, context: Any) -> Any:
        dl = current()
        assert dl is not None
        return dl.answer_by

    context = FakeContext(60.0)
    context.client_context = ClientContext(custom)  # type: ignore[assignment]
    ends: float = await f.invoke(event or {}, context)
    return ends


@pytest.mark.parametrize(
    ("custom", "ends"),
    [
        ({HEADER: "812"}, 0.812),
        ({HEADER: "59000"}, 59.0),
        ({HEADER: "61000"}, 60.0),
        ({HEADER: "0"}, 60.0),
        ({HEADER: "-5"}, 60.0),
        ({HEADER: 812}, 0.812),  # another language's caller may send a number
        ({"Deadline-Remaining-Ms": "812"}, 0.812),
        ({HEADER: 0}, 60.0),
        ({HEADER: True}, 60.0),
        ({HEADER: 10**12}, 60.0),
        ({HEADER: ["812"]}, 60.0),
        ({HEADER: "812 "}, 60.0),
        ({HEADER: "9" * 5000}, 60.0),
        ({HEADER: None}, 60.0),
        ({}, 60.0),
        (None, 60.0),
        ("812", 60.0),
        ([HEADER], 60.0),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_what_came_can_only_shorten(virtual_clock: VirtualClock, custom: Any, ends: float) -> None:
    """A number of milliseconds that is sooner; whatever else is as if it were not there."""
    assert await answer_by(virtual_clock, custom) == pytest.approx(ends, abs=0.002)


async def test_none_listens_to_nobody(virtual_clock: VirtualClock) -> None:
    """`caller_limit=None` is Lambda's timeout alone."""
    ends = await answer_by(virtual_clock, {HEADER: "812"}, caller_limit=None)
    assert ends == pytest.approx(60.0, abs=0.002)


@pytest.mark.parametrize(
    "headers",
    [
        {"headers": {"Deadline-Remaining-Ms": "812"}},
        {"multiValueHeaders": {"deadline-remaining-ms": ["9000", "812"]}},
        {"headers": {"deadline-remaining-ms": ["812", "900"]}},
        {
            "headers": {"Deadline-Remaining-Ms": "900"},
            "multiValueHeaders": {"Deadline-Remaining-Ms": ["812", "900"]},
        },
    ],
    ids=str,
)
async def test_a_requests_header_counts_if_asked_for(virtual_clock: VirtualClock, headers: Any) -> None:
    """API Gateway and the others pass on what an HTTP client sent, which may be anybody."""
    event = {"httpMethod": "GET", "requestContext": {"stage": "prod"}} | headers
    ends = await answer_by(virtual_clock, None, event, header="Deadline-Remaining-Ms")
    assert ends == pytest.approx(0.812, abs=0.002)


async def test_a_strangers_header_is_not_read(virtual_clock: VirtualClock) -> None:
    """By default the request has what API Gateway leaves it."""
    event = {
        "httpMethod": "GET",
        "requestContext": {"stage": "prod"},
        "headers": {"Deadline-Remaining-Ms": "812"},
    }
    assert await answer_by(virtual_clock, None, event) == pytest.approx(29.0, abs=0.002)
    assert await answer_by(virtual_clock, {HEADER: "812"}, event) == pytest.approx(0.812, abs=0.002)


async def test_a_header_leaves_a_floor(virtual_clock: VirtualClock) -> None:
    """A quarter of a second, whatever it says."""
    event = {"requestContext": {"stage": "prod"}, "headers": {"deadline-remaining-ms": "1"}}
    ends = await answer_by(virtual_clock, None, event, header="deadline-remaining-ms")
    assert ends == pytest.approx(0.25, abs=0.002)


# --- a chain ----------------------------------------------------------------------------------------------


@pytest.fixture
def chain(invoke_api: InvokeApi) -> InvokeApi:
    """Three functions, each of which invokes the next; Lambda gives each of them ten seconds."""
    pytest.importorskip("awslambdaric")
    for name in ("outer", "middle", "inner"):
        invoke_api.add("chain.handler", name=name, path=FUNCTIONS, timeout=10.0)
    return invoke_api


async def invoked(connect: Connect, api: InvokeApi, event: dict[str, Any], **more: Any) -> Any:
    client = await connect("lambda", url=api.url, warm=False, read_timeout=20, retries={"max_attempts": 0})
    answer = await client.invoke(FunctionName="outer", Payload=json.dumps(event).encode(), **more)
    return json.loads(await answer["Payload"].read())


@pytest.mark.slow
async def test_the_innermost_has_what_the_outermost_has_left(connect: Connect, chain: InvokeApi) -> None:
    """Less the margins on the way; shortened, it ends in time; forged values change nothing."""
    chain_of: list[str] = ["middle", "inner"]
    await invoked(connect, chain, {"chain": chain_of})  # they are warm now

    # Nobody waits for the outermost: it has Lambda's ten seconds.
    left = await invoked(connect, chain, {"chain": chain_of})
    assert list(left) == ["outer", "middle", "inner"]
    assert 9.0 < left["outer"] <= 9.5
    assert_in_steps(left)

    # Somebody does.
    async with deadline(4.0):
        left = await invoked(connect, chain, {"chain": chain_of})
    assert left["outer"] <= 3.5
    assert_in_steps(left)

    # The innermost is slow: each answers before the one that waits for it gives up.
    async with deadline(3.0) as dl:
        left = await invoked(connect, chain, {"chain": chain_of, "sleep": 60.0})
        assert dl.remaining() > 0.0
    assert left["exceeded"] == "inner"

    # What somebody makes up is no longer than Lambda's own.
    for forged in ("99999999", "-1", "nan", "", 10**9, ["1"]):
        context = encoded({"custom": {HEADER: forged}})
        left = await invoked(connect, chain, {"chain": chain_of}, ClientContext=context)
        assert 9.0 < left["outer"] <= 9.5, forged


def assert_in_steps(left: dict[str, float]) -> None:
    """Each has less than the one before, by a margin of half a second, and no more than a moment beside."""
    assert 0.5 <= left["outer"] - left["middle"] < 1.2
    assert 0.5 <= left["middle"] - left["inner"] < 1.2


@pytest.mark.slow
async def test_an_event_is_told_nothing(connect: Connect, chain: InvokeApi) -> None:
    """Nobody waits for what is invoked as an event: it has Lambda's whole time."""
    async with deadline(4.0):
        client = await connect("lambda", url=chain.url, warm=False)
        await client.invoke(FunctionName="inner", InvocationType="Event", Payload=b'{"chain": []}')
    await asyncio.to_thread(chain.wait_idle)
    (run,) = chain.log
    assert run.invocation.response["inner"] > 9.0

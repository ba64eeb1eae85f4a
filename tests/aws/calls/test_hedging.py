"""A second request beside a silent one: what is sent, what wins, and what becomes of the other."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.loaders import create_loader
from hypothesis import given
from hypothesis import strategies as st

from deadline import DeadlineExceeded, Event, aws, deadline
from deadline._report.tasks import calls
from deadline.aws._calls.hedging import MOST, READS, SHARE, Budget, budget_of, checked_hedge, hedges
from deadline.aws._calls.latency import Latency
from deadline.testing import Delay, FaultProxy, Stall, throttling

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.aws.conftest import Connect, Script

FAILS = (500, "InternalServerError")
THROTTLES = (400, "ProvisionedThroughputExceededException")
RETRIES = {"mode": "standard", "total_max_attempts": 4}


# --- which operations -------------------------------------------------------------------------------------


def test_the_table_names_operations_that_exist_and_read() -> None:
    """Each name is an operation of the SDK's, with a reason, and none says that it writes."""
    loader: Any = create_loader()
    for name, reason in READS.items():
        service, operation = name.split(".")
        assert operation in loader.load_service_model(service, "service-2")["operations"], name
        assert reason
        assert operation.startswith(("Get", "Head", "List", "Describe", "Query", "BatchGet", "TransactGet"))
    assert "sqs.ReceiveMessage" not in READS


@pytest.mark.parametrize(
    ("asked", "operation", "expected"),
    [
        (False, "dynamodb.GetItem", False),
        (None, "dynamodb.GetItem", False),
        (True, "dynamodb.GetItem", True),
        (True, "dynamodb.PutItem", False),
        (frozenset({"lambda.Invoke"}), "lambda.Invoke", True),
        (frozenset({"lambda.Invoke"}), "dynamodb.GetItem", True),
        (frozenset({"lambda.Invoke"}), "dynamodb.PutItem", False),
        (frozenset(), "dynamodb.GetItem", False),
    ],
)
def test_what_is_hedged(asked: Any, operation: str, expected: bool) -> None:  # noqa: FBT001
    """What is in the table, and what the user named besides, where it was asked for."""
    assert hedges(asked, operation) is expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("dynamodb.GetItem", TypeError),
        (1, TypeError),
        ({"GetItem"}, ValueError),
        ([1], ValueError),
        ({"dynamodb.get_item"}, ValueError),
        ({"DynamoDB.GetItem"}, ValueError),
        ({"s3.GetObject "}, ValueError),
    ],
)
def test_a_wrong_value_is_named(value: Any, kind: type[Exception]) -> None:
    """A wrong `hedge` is refused by its name, wherever it is given."""
    with pytest.raises(kind, match=r"^hedge: "):
        checked_hedge(value)
    with pytest.raises(kind, match=r"^hedge: "):
        aws.install(get_session(), hedge=value)
    with pytest.raises(kind, match=r"^hedge: "):
        with aws.limits(hedge=value):
            pytest.fail("the body ran")


# --- the budget -------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["earn", "spend", "throttled"]), max_size=300))
def test_a_budget_bounds_what_is_added(events: list[str]) -> None:
    """Over any calls, extra requests are a fifth of them at most, and two besides."""
    budget, earned, spent = Budget(), 0, 0
    for event in events:
        if event == "spend":
            spent += budget.spend()
        else:
            earned += event == "earn"
            getattr(budget, event)()
    assert spent <= SHARE * earned + 2


def test_a_budget_saves_up_a_few() -> None:
    """After any number of calls that needed nothing, ten may be had at once and no more."""
    budget = Budget()
    for _ in range(10_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == MOST


def test_after_throttling_there_is_no_budget_for_a_hundred_calls() -> None:
    """A service that asked for less is sent nothing extra until a hundred calls have been made."""
    budget, calls_made = Budget(), 0
    budget.throttled()
    while not budget.spend():
        budget.earn()
        calls_made += 1
    assert 100 <= calls_made <= 101


# --- on the wire ------------------------------------------------------------------------------------------


async def learn(client: Any) -> None:
    """Let a process know how fast it is: twenty calls."""
    async with deadline(30.0):
        for _ in range(20):
            await client.list_tables()


def in_use(client: Any) -> int:
    sessions = client._endpoint.http_session._sessions.values()
    return sum(len(session.connector._acquired) for session in sessions)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
async def test_the_first_answer_wins(
    connect: Connect, fault_proxy: FaultProxy, told: list[Event], mode: str
) -> None:
    """A silent read is joined by another, whose answer is the call's; nothing of the first is left."""
    client = await connect(retries={"mode": mode, "total_max_attempts": 4})
    await learn(client)
    rule = fault_proxy.add(Stall(), times=1)
    before, tasks = len(fault_proxy.log), asyncio.all_tasks()
    async with deadline(2.0) as dl:
        with aws.limits(hedge=True):
            answer = await client.list_tables()
        assert dl.remaining() > 1.3
    assert answer["TableNames"] == []
    assert answer["ResponseMetadata"]["RetryAttempts"] == 0  # of the SDK's, there was none
    assert [bool(exchange.fault) for exchange in fault_proxy.log[before:]] == [True, False]
    assert [event.name for event in told] == ["aws.attempt_hedged"]
    assert told[0].fields["attempt"] == 2
    assert 0.02 <= told[0].fields["seconds"] < 0.6
    assert asyncio.all_tasks() == tasks
    assert calls == {}
    assert in_use(client) == 0
    rule.remove()
    async with deadline(2.0):
        await client.list_tables()


@pytest.mark.slow
@pytest.mark.parametrize("hedge", [False, True])
async def test_a_silent_attempt_tells_how_many_others_were_answered(
    connect: Connect, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, *, hedge: bool
) -> None:
    """The estimate hears what came while an attempt was silent, which its own successor is no part of."""
    heard: list[int] = []
    given_up = Latency.given_up

    def hear(latency: Latency, seconds: float, meanwhile: int) -> None:
        heard.append(meanwhile)
        given_up(latency, seconds, meanwhile)

    monkeypatch.setattr(Latency, "given_up", hear)
    client = await connect(retries=RETRIES)
    await learn(client)
    fault_proxy.add(Stall(), times=1)
    async with deadline(2.0):
        with aws.limits(hedge=hedge):
            await asyncio.gather(*(client.list_tables() for _ in range(4)))
    assert max(heard) == 3  # a busy machine may have another one given up, beside which nothing came


@pytest.mark.slow
async def test_a_slow_first_attempt_may_still_win(connect: Connect, fault_proxy: FaultProxy) -> None:
    """The first is not given up for the second: whichever answers first is the call's."""
    client = await connect(retries=RETRIES)
    await learn(client)
    fault_proxy.add(Delay(0.4), times=1)
    fault_proxy.add(Stall())
    before = len(fault_proxy.log)
    async with deadline(2.0):
        with aws.limits(hedge=True, attempts=2):
            answer = await client.list_tables()
    assert answer["TableNames"] == []
    assert len(fault_proxy.log) - before == 2
    assert in_use(client) == 0


@pytest.mark.slow
async def test_a_throttled_answer_does_not_win(connect: Connect, fault_proxy: FaultProxy) -> None:
    """DynamoDB's is a 400, otherwise the caller's mistake: the request in flight may still answer."""
    client = await connect(retries=RETRIES)
    await learn(client)
    fault_proxy.add(Delay(0.4), times=1)
    fault_proxy.add(throttling(), times=1)
    before = len(fault_proxy.log)
    async with deadline(2.0):
        with aws.limits(hedge=True, attempts=2):
            answer = await client.list_tables()
    assert answer["ResponseMetadata"]["RetryAttempts"] == 0
    assert len(fault_proxy.log) - before == 2


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"whole" * 200, io.BytesIO(b"whole" * 200)], ids=["bytes", "file"])
async def test_a_body_that_is_read_is_never_sent_twice_at_once(
    connect: Connect, fault_proxy: FaultProxy, told: list[Event], body: Any
) -> None:
    """The requests would share what is left of it. It is given up and sent again, whole."""
    client = await connect("s3", retries=RETRIES)
    async with deadline(30.0):
        await client.create_bucket(Bucket="box")
        for _ in range(20):
            await client.put_object(Bucket="box", Key="a", Body=b"first")
    fault_proxy.add(Stall(), times=1)
    async with deadline(3.0):
        with aws.limits(hedge={"s3.PutObject"}):
            await client.put_object(Bucket="box", Key="a", Body=body)
    assert "aws.attempt_hedged" not in {event.name for event in told}
    answer = await client.get_object(Bucket="box", Key="a")
    assert await answer["Body"].read() == b"whole" * 200


@pytest.mark.slow
async def test_a_streamed_answer_is_the_winners(connect: Connect, fault_proxy: FaultProxy) -> None:
    """A body that is streamed comes from the answer that won, and gives its connection back."""
    client = await connect("s3", retries=RETRIES)
    async with deadline(30.0):
        await client.create_bucket(Bucket="box")
        await client.put_object(Bucket="box", Key="a", Body=b"one")
        for _ in range(20):
            await (await client.get_object(Bucket="box", Key="a"))["Body"].read()
    fault_proxy.add(Stall(), times=1)
    before = len(fault_proxy.log)
    async with deadline(2.0):
        with aws.limits(hedge=True):
            answer = await client.get_object(Bucket="box", Key="a")
        assert await answer["Body"].read() == b"one"
    assert len(fault_proxy.log) - before == 2
    assert in_use(client) == 0


@pytest.mark.slow
@pytest.mark.parametrize("hedge", [False, None, True, frozenset({"dynamodb.DescribeTable"})])
async def test_a_write_is_never_sent_beside_itself(
    connect: Connect, fault_proxy: FaultProxy, told: list[Event], hedge: Any
) -> None:
    """Whatever was asked for, an operation that is not known to be safe has one request in flight."""
    client = await connect(retries={"mode": "standard", "total_max_attempts": 2})
    most = 0

    def watch(**_: Any) -> None:
        nonlocal most
        most = max(most, in_use(client))

    fault_proxy.add(Stall())
    client.meta.events.register("before-send.dynamodb", watch)
    before = len(fault_proxy.log)
    with pytest.raises(DeadlineExceeded):
        async with deadline(0.8):
            with aws.limits(hedge=hedge):
                await client.put_item(TableName="t", Item={"id": {"S": "1"}})
    assert most == 0  # nothing was in flight when a request went out
    assert len(fault_proxy.log) - before <= 2
    assert "aws.attempt_hedged" not in {event.name for event in told}


@pytest.mark.slow
async def test_without_asking_nothing_is_hedged(
    connect: Connect, fault_proxy: FaultProxy, told: list[Event]
) -> None:
    """By default a read that stalls is given up and sent again, one request after the other."""
    client = await connect(retries=RETRIES)
    await learn(client)
    fault_proxy.add(Stall(), times=1)
    async with deadline(2.0):
        await client.list_tables()
    assert [event.name for event in told] == ["aws.attempt_timed_out"]


@pytest.mark.slow
async def test_never_more_attempts_than_configured(
    connect: Connect, fault_proxy: FaultProxy, pause: Callable[[float], None]
) -> None:
    """Requests beside one another and after one another count together."""
    for attempts in (1, 2, 3):
        client = await connect(retries={"mode": "legacy", "total_max_attempts": attempts})
        await learn(client)
        rule = fault_proxy.add(Stall())
        before = len(fault_proxy.log)
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(0.7):
                with aws.limits(hedge=True):
                    await client.list_tables()
        assert caught.value.elapsed < 0.8
        assert len(fault_proxy.log) - before <= attempts
        assert calls == {}
        assert in_use(client) == 0
        rule.remove()


@pytest.mark.slow
async def test_a_throttled_service_is_sent_nothing_extra(
    connect: Connect, fault_proxy: FaultProxy, told: list[Event], pause: Callable[[float], None]
) -> None:
    """After a throttled answer a silent read is given up and retried instead of joined."""
    client = await connect(retries=RETRIES)
    await learn(client)
    fault_proxy.add(throttling(), times=1)
    fault_proxy.add(Stall(), times=1)
    async with deadline(2.0):
        with aws.limits(hedge=True):
            await client.list_tables()
            await client.list_tables()
    assert "aws.attempt_hedged" not in {event.name for event in told}


@pytest.mark.slow
async def test_an_error_is_the_calls_if_the_other_fails_too(
    connect: Connect, script: Script, pause: Callable[[float], None]
) -> None:
    """While one is in flight a failure of the other is not the end; the last failure is retried as ever."""
    client = await connect(url=script.url, retries=RETRIES)
    await learn(client)
    script.play(None, FAILS)  # the first stalls, the one beside it fails, the retry is answered
    async with deadline(2.0):
        with aws.limits(hedge=True):
            await client.list_tables()
    assert len(script.requests) == 3


@pytest.mark.slow
async def test_a_cancellation_ends_both(connect: Connect, fault_proxy: FaultProxy) -> None:
    """A call cancelled from outside stays cancelled, and takes all of its requests with it."""
    client = await connect(retries=RETRIES)
    await learn(client)
    fault_proxy.add(Stall())
    before = len(fault_proxy.log)

    async def call() -> None:
        async with deadline(30.0):
            with aws.limits(hedge=True):
                await client.list_tables()

    task = asyncio.create_task(call())
    await asyncio.to_thread(fault_proxy.wait_until, lambda log: len(log) > before + 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls == {}
    assert in_use(client) == 0


@pytest.mark.slow
async def test_a_session_can_be_installed_with_it(fault_proxy: FaultProxy, told: list[Event]) -> None:
    """Clients of a session that was installed with `hedge=True` hedge, and a block may say otherwise."""
    session: Any = aws.install(aws.install(get_session()), hedge=True)
    async with session.create_client("dynamodb", config=AioConfig(retries=RETRIES)) as client:
        await client.list_tables()
        await learn(client)
        fault_proxy.add(Stall(), times=1)
        async with deadline(2.0):
            await client.list_tables()
        assert [event.name for event in told] == ["aws.attempt_hedged"]
        fault_proxy.add(Stall(), times=1)
        async with deadline(2.0):
            with aws.limits(hedge=False):
                await client.list_tables()
        assert told[-1].name == "aws.attempt_timed_out"
        assert aws.install(client) is client
        assert client.deadline_hedge is False


@pytest.mark.slow
async def test_without_a_deadline_nothing_is_hedged(connect: Connect, fault_proxy: FaultProxy) -> None:
    """Where nothing limits the time there is nothing to be gained for it."""
    client = await connect(retries=RETRIES)
    fault_proxy.add(Delay(0.3), times=1)
    before = len(fault_proxy.log)
    with aws.limits(hedge=True):
        await client.list_tables()
        assert len(fault_proxy.log) - before == 1
    assert budget_of(client.meta.endpoint_url).spend()

"""Each fault as aioboto3's clients meet it: what they raise, and what is so upstream afterwards."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.response import AioReadTimeoutError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from deadline.testing import (
    Answer,
    BlackHole,
    Drip,
    Exchange,
    Fault,
    FaultProxy,
    HalfClose,
    LostAnswer,
    Refuse,
    Request,
    Reset,
    service_unavailable,
    throttling,
)

pytestmark = pytest.mark.slow


def is_put(request: Request) -> bool:
    return request.method == "PUT"


def is_get(request: Request) -> bool:
    return request.method == "GET"


def config(attempts: int = 1) -> AioConfig:
    return AioConfig(
        retries={"total_max_attempts": attempts, "mode": "standard"}, read_timeout=0.6, connect_timeout=0.6
    )


@pytest.fixture
async def s3(fault_proxy: FaultProxy, sdk: Any) -> AsyncIterator[Any]:
    async with sdk.client("s3", endpoint_url=fault_proxy.url, config=config()) as client:
        await client.create_bucket(Bucket="box")
        await client.put_object(Bucket="box", Key="old", Body=b"x" * 1000)
        yield client


@pytest.fixture
async def table(fault_proxy: FaultProxy, sdk: Any) -> AsyncIterator[Any]:
    async with sdk.resource("dynamodb", endpoint_url=fault_proxy.url, config=config()) as dynamodb:
        yield await dynamodb.create_table(
            TableName="things",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)


async def last_ended(proxy: FaultProxy) -> Exchange:
    await asyncio.to_thread(proxy.wait_until, lambda log: log[-1].ended is not None)
    return proxy.log[-1]


async def exists(s3: Any, key: str) -> bool:
    try:
        await s3.head_object(Bucket="box", Key=key)
    except ClientError:
        return False
    return True


@pytest.mark.parametrize(
    ("fault", "error", "ending"),
    [
        (BlackHole(0), ReadTimeoutError, ("yes", "client_left")),
        (BlackHole(30), ReadTimeoutError, ("yes", "client_left")),
        (BlackHole(100, "request"), ReadTimeoutError, ("unknown", "client_left")),
        (Refuse(), EndpointConnectionError, ("no", "reset")),
        (Reset(), EndpointConnectionError, ("yes", "reset")),
        (Reset(20), EndpointConnectionError, ("yes", "reset")),
        (HalfClose(), ConnectionClosedError, ("yes", "half_closed")),
        (HalfClose(20), ConnectionClosedError, ("yes", "half_closed")),
        (LostAnswer(), ReadTimeoutError, ("yes", "client_left")),
        (LostAnswer(reset=True), EndpointConnectionError, ("yes", "reset")),
        (Answer(403, b"<Error><Code>AccessDenied</Code></Error>"), ClientError, ("no", "answered")),
        (service_unavailable(), ClientError, ("no", "answered")),
        (throttling(), ClientError, ("no", "answered")),
    ],
    ids=repr,
)
async def test_a_put_fails_as_the_fault_has_it(
    s3: Any, fault_proxy: FaultProxy, fault: Fault, error: type[Exception], ending: tuple[str, str]
) -> None:
    """The client raises that fault's own error, and the log is right about whether the object was made."""
    rule = fault_proxy.add(fault, where=is_put)
    with pytest.raises(error):
        await s3.put_object(Bucket="box", Key="new", Body=b"y" * 1000)
    rule.remove()
    exchange = await last_ended(fault_proxy)
    assert (exchange.fault, exchange.effect, exchange.outcome) == (fault, *ending)
    assert await exists(s3, "new") == (exchange.effect == "yes")


@pytest.mark.parametrize(
    ("fault", "effect"),
    [
        (LostAnswer(), "yes"),
        (BlackHole(0), "yes"),
        (Reset(), "yes"),
        (HalfClose(40), "yes"),
        (Refuse(), "no"),
        (BlackHole(200, "request"), "unknown"),
    ],
    ids=repr,
)
async def test_an_item_is_there_if_the_log_says_so(
    table: Any, fault_proxy: FaultProxy, fault: Fault, effect: str
) -> None:
    """A failed write to DynamoDB has happened where the log says yes, and has not otherwise."""
    rule = fault_proxy.add(fault, where=lambda request: request.operation == "PutItem")
    with pytest.raises(BotoCoreError):
        await table.put_item(Item={"id": "1"})
    rule.remove()
    assert (await last_ended(fault_proxy)).effect == effect
    assert ("Item" in await table.get_item(Key={"id": "1"})) == (effect == "yes")


@pytest.mark.parametrize(
    "fault", [Refuse(), Reset(), HalfClose(), LostAnswer(), LostAnswer(reset=True)], ids=repr
)
async def test_the_second_attempt_heals_a_broken_connection(
    fault_proxy: FaultProxy, sdk: Any, no_pause: None, fault: Fault
) -> None:
    """The SDK takes each of them for a passing failure, and a fault for one time is healed by its retry."""
    fault_proxy.add(fault, times=1)
    async with sdk.client("s3", endpoint_url=fault_proxy.url, config=config(attempts=2)) as s3:
        await s3.list_buckets()
    assert [(e.fault, e.answered) for e in fault_proxy.log] == [(fault, False), (None, True)]


async def test_a_retry_after_a_lost_answer_does_it_twice(
    fault_proxy: FaultProxy, sdk: Any, no_pause: None
) -> None:
    """A message whose answer was lost is sent again: two are in the queue, as the log can tell."""
    async with sdk.client("sqs", endpoint_url=fault_proxy.url, config=config(attempts=2)) as sqs:
        url = (await sqs.create_queue(QueueName="jobs"))["QueueUrl"]
        fault_proxy.add(LostAnswer(), where=lambda request: request.operation == "SendMessage", times=1)
        await sqs.send_message(QueueUrl=url, MessageBody="once")
        received = await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)
    assert [message["Body"] for message in received["Messages"]] == ["once", "once"]
    sent = [e for e in fault_proxy.log if e.request.operation == "SendMessage"]
    assert [(e.effect, e.answered) for e in sent] == [("yes", False), ("yes", True)]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (BlackHole(800), AioReadTimeoutError),
        (Reset(800), aiohttp.ClientPayloadError),
        (HalfClose(800), aiohttp.ClientPayloadError),
    ],
    ids=repr,
)
async def test_a_body_breaks_off_after_its_call(
    s3: Any, fault_proxy: FaultProxy, fault: Fault, error: type[Exception]
) -> None:
    """Where the head passes whole, the call succeeds, and reading the body fails."""
    rule = fault_proxy.add(fault, where=is_get)
    answer = await s3.get_object(Bucket="box", Key="old")
    with pytest.raises(error):
        await answer["Body"].read()
    rule.remove()
    answer["Body"].close()
    exchange = await last_ended(fault_proxy)
    assert (exchange.status, exchange.answered, exchange.bytes_to_client) == (200, False, 800)
    assert len(await (await s3.get_object(Bucket="box", Key="old"))["Body"].read()) == 1000


async def test_a_drip_outlasts_the_read_timeout(s3: Any, fault_proxy: FaultProxy) -> None:
    """Each piece comes in time, so the client's timeout of 0.6 s never fires, and the whole takes longer."""
    fault_proxy.add(Drip(100, every=0.08), where=is_get)
    started = time.monotonic()
    answer = await s3.get_object(Bucket="box", Key="old")
    assert await answer["Body"].read() == b"x" * 1000
    assert time.monotonic() - started > 0.6
    assert fault_proxy.log[-1].outcome == "answered"


async def test_only_a_limit_on_the_whole_ends_a_drip(s3: Any, fault_proxy: FaultProxy) -> None:
    """A call whose answer dribbles in ends when its caller's own time does."""
    fault_proxy.add(Drip(1, every=0.05), where=is_get)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4):
            await s3.get_object(Bucket="box", Key="old")
    exchange = await last_ended(fault_proxy)
    assert 1 < exchange.bytes_to_client < 20
    assert exchange.outcome == "client_left"


async def test_a_service_that_is_away_refuses_connections(s3: Any, fault_proxy: FaultProxy) -> None:
    """While nobody listens, the client cannot connect; afterwards the same client works again."""
    with fault_proxy.refusing():
        with pytest.raises(EndpointConnectionError):
            await s3.head_object(Bucket="box", Key="old")
    assert await exists(s3, "old")


async def test_rules_make_an_outage_of_a_few_requests(s3: Any, fault_proxy: FaultProxy) -> None:
    """Counts and predicates let the third and the fourth object fail, and no other."""
    fault_proxy.add(throttling(), where=is_put, after=2, times=2)
    failed = []
    for number in range(6):
        try:
            await s3.put_object(Bucket="box", Key=str(number), Body=b"z")
        except ClientError as error:
            failed.append((number, error.response["Error"]["Code"]))
    assert failed == [(2, "SlowDown"), (3, "SlowDown")]

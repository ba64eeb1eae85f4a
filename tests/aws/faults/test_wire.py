"""Without a deadline an installed client is, on the wire, a client."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import io
import random
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from deadline import DeadlineExceeded, aws, deadline
from deadline.testing import (
    Answer,
    Delay,
    FaultProxy,
    LostAnswer,
    MotoServer,
    Reset,
    Stall,
    service_unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline.testing import Request

pytestmark = pytest.mark.slow

NOW = dt.datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001  # botocore's own times have no zone
DATE = {"date": "Fri, 02 Jan 2026 03:04:05 GMT"}
SLOW_DOWN = Answer(503, b"<Error><Code>SlowDown</Code><Message>so it says</Message></Error>", DATE)
BROKEN = Answer(500, b"", DATE)  # throttled once, the adaptive mode takes a second for each call
THROTTLED = Answer(400, b'{"__type": "com.amazonaws.dynamodb#ThrottlingException"}', DATE)


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freeze what a request says of time and chance, and let backoffs take none."""
    for module in ("auth", "endpoint", "signers"):
        monkeypatch.setattr(f"botocore.{module}.get_current_datetime", lambda *_, **__: NOW)
    monkeypatch.setattr("uuid.uuid4", lambda: uuid.UUID(int=7))
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.0)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)


async def session_of_calls(session: Any, url: str, mode: str) -> None:
    """What a handler may do in a day, with retries in between."""
    config = AioConfig(retries={"mode": mode, "max_attempts": 4})
    async with contextlib.AsyncExitStack() as stack:

        async def client(service: str) -> Any:
            made = session.create_client(service, endpoint_url=url, config=config)
            return await stack.enter_async_context(made)

        s3, dynamodb, sqs = await client("s3"), await client("dynamodb"), await client("sqs")
        await s3.create_bucket(Bucket="bucket")
        await s3.put_object(Bucket="bucket", Key="old", Body=io.BytesIO(b"a body"))
        await s3.copy_object(Bucket="bucket", Key="new", CopySource="bucket/old")
        assert await (await s3.get_object(Bucket="bucket", Key="new"))["Body"].read() == b"a body"
        await s3.delete_object(Bucket="bucket", Key="old")
        async for page in s3.get_paginator("list_objects_v2").paginate(Bucket="bucket"):
            assert page["KeyCount"] == 1
        with pytest.raises(s3.exceptions.NoSuchKey):
            await s3.get_object(Bucket="bucket", Key="old")
        await dynamodb.create_table(
            TableName="table",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        await dynamodb.get_waiter("table_exists").wait(TableName="table", WaiterConfig={"Delay": 0})
        await dynamodb.put_item(TableName="table", Item={"id": {"S": "1"}})
        assert (await dynamodb.get_item(TableName="table", Key={"id": {"S": "1"}}))["Item"]
        queue = (await sqs.create_queue(QueueName="queue"))["QueueUrl"]
        await sqs.send_message(QueueUrl=queue, MessageBody="hello")


def with_faults(proxy: FaultProxy, mode: str) -> None:
    """Two attempts of several operations fail before one succeeds."""
    slow_down, throttled = (SLOW_DOWN, THROTTLED) if mode != "adaptive" else (BROKEN, BROKEN)
    for wanted in ("PutObject", "GetObject"):
        method = wanted[:3].upper()
        proxy.add(slow_down, where=_object_request(method), times=2)
    for operation in ("PutItem", "GetItem"):
        proxy.add(throttled, where=_operation(operation), times=2)


def _object_request(method: str) -> Callable[[Request], bool]:
    return lambda request: request.method == method and request.path.startswith("/bucket/")


def _operation(name: str) -> Callable[[Request], bool]:
    return lambda request: request.operation == name


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
async def test_without_a_deadline_the_requests_are_the_same(moto_server: MotoServer, mode: str) -> None:
    """Clock and invocation id frozen, the requests with `install` are those without it, byte for byte."""
    recorded = []
    with FaultProxy(moto_server.url) as proxy:
        for session in (get_session(), aws.install(get_session())):
            before = len(proxy.log)
            moto_server.reset()
            proxy.clear()
            with_faults(proxy, mode)
            await session_of_calls(session, proxy.url, mode)
            recorded.append([exchange.request for exchange in proxy.log[before:]])
    plain, installed = recorded
    assert len(plain) >= 18
    assert [request.operation or request.method for request in installed] == [
        request.operation or request.method for request in plain
    ]
    assert installed == plain


FAULTS = (Stall(), Delay(0.3), LostAnswer(), Reset(), service_unavailable())


async def seconds_of_a_call(client: Any, loop: asyncio.AbstractEventLoop) -> float:
    """What a call takes on this machine now, without faults."""
    await client.list_tables()
    started = loop.time()
    for _ in range(20):
        await client.list_tables()
    return (loop.time() - started) / 20


async def test_a_thousand_calls_at_once_each_end_one_way_in_time(moto_server: MotoServer) -> None:
    """A thousand calls on one client, with random deadlines and faults: each ends one way; nothing is left.

    Their pace and their deadlines are multiples of what one call takes on this machine now.
    """
    dice = random.Random(1)
    ended: list[str] = []
    loop = asyncio.get_running_loop()
    with FaultProxy(moto_server.url) as proxy:
        session: Any = aws.install(get_session())
        config = AioConfig(max_pool_connections=50)
        async with session.create_client("dynamodb", endpoint_url=proxy.url, config=config) as client:

            async def one() -> None:
                await asyncio.sleep(dice.uniform(0, 1000 * unit))
                try:
                    async with deadline(dice.uniform(0.5, 100) * unit):
                        await client.list_tables()
                    ended.append("answered")
                except DeadlineExceeded:
                    ended.append("cut")
                except client.exceptions.ClientError:
                    ended.append("refused")
                except OSError:
                    ended.append("broken")
                except Exception as error:  # botocore's connection errors
                    ended.append(type(error).__name__)

            unit = await seconds_of_a_call(client, loop)
            for seed, fault in enumerate(FAULTS):
                proxy.add(fault, probability=0.04, seed=seed)
            await asyncio.gather(*(one() for _ in range(1000)))
            assert len(ended) == 1000
            assert {"answered", "cut"} <= set(ended)
            proxy.clear()
            async with asyncio.timeout(5):
                await asyncio.gather(*(client.list_tables() for _ in range(50)))
    await asyncio.sleep(0)
    assert {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} == set()

"""aioboto3's clients through the fault proxy to moto's server."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import aioboto3
import pytest
from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError

from deadline.testing import Delay, FaultProxy, MotoServer, Request, Stall

pytestmark = pytest.mark.slow


def is_delete(request: Request) -> bool:
    return request.method == "DELETE"


@pytest.fixture
async def s3(fault_proxy: FaultProxy) -> AsyncIterator[Any]:
    async with aioboto3.Session().client("s3", config=AioConfig(retries={"max_attempts": 0})) as client:
        await client.create_bucket(Bucket="box")
        yield client


async def test_s3_objects_come_and_go(s3: Any, fault_proxy: FaultProxy) -> None:
    """Put, copy, get, head, list and delete do through the proxy what they do without."""
    await s3.put_object(Bucket="box", Key="a", Body=b"one", Metadata={"under_score": "Value"})
    await s3.copy_object(Bucket="box", Key="b", CopySource={"Bucket": "box", "Key": "a"})
    answer = await s3.get_object(Bucket="box", Key="b")
    assert await answer["Body"].read() == b"one"
    assert answer["Metadata"] == {"under_score": "Value"}
    assert (await s3.head_object(Bucket="box", Key="a"))["ContentLength"] == 3
    await s3.delete_object(Bucket="box", Key="a")
    listed = await s3.list_objects_v2(Bucket="box")
    assert [item["Key"] for item in listed["Contents"]] == ["b"]
    with pytest.raises(ClientError, match="404"):
        await s3.head_object(Bucket="box", Key="a")
    assert all(exchange.answered and exchange.error is None for exchange in fault_proxy.log)


async def test_large_objects_pass_both_ways(s3: Any) -> None:
    """Six megabytes go up and come down whole, and can be read piece by piece."""
    body = bytes(range(256)) * 24 * 1024
    await s3.put_object(Bucket="box", Key="big", Body=body)
    answer = await s3.get_object(Bucket="box", Key="big")
    digest, pieces = hashlib.sha256(), 0
    async for piece in answer["Body"].iter_chunks(2**16):
        digest.update(piece)
        pieces += 1
    assert digest.digest() == hashlib.sha256(body).digest()
    assert pieces > 1


async def test_dynamodb_operations_are_named(fault_proxy: FaultProxy) -> None:
    """A table's items come back through the proxy, whose log names the operations."""
    async with aioboto3.Session().resource("dynamodb") as dynamodb:
        table = await dynamodb.create_table(
            TableName="things",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        await table.put_item(Item={"id": "1", "text": "hello"})
        answer = await table.get_item(Key={"id": "1"})
    assert answer["Item"] == {"id": "1", "text": "hello"}
    assert [e.request.operation for e in fault_proxy.log] == ["CreateTable", "PutItem", "GetItem"]


async def test_query_services_name_their_operations(fault_proxy: FaultProxy) -> None:
    """A service that sends forms is matched by its operation too."""
    async with aioboto3.Session().client("sns") as sns:
        await sns.create_topic(Name="news")
    assert fault_proxy.log[-1].request.operation == "CreateTopic"


async def test_a_stalled_delete_has_no_effect(s3: Any, fault_proxy: FaultProxy) -> None:
    """A DELETE that stalls is cut by the client's timeout, and the object is still there."""
    await s3.put_object(Bucket="box", Key="a", Body=b"one")
    rule = fault_proxy.add(Stall(), where=is_delete)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await s3.delete_object(Bucket="box", Key="a")
    await asyncio.to_thread(fault_proxy.wait_until, lambda log: log[-1].ended is not None)
    exchange = fault_proxy.log[-1]
    assert exchange.request.path == "/box/a"
    assert exchange.fault == Stall()
    assert not exchange.sent_upstream
    rule.remove()
    assert (await s3.head_object(Bucket="box", Key="a"))["ContentLength"] == 3


async def test_cancelling_the_client_frees_the_stall(s3: Any, fault_proxy: FaultProxy) -> None:
    """A task cancelled in a stalled call ends the exchange, and the client can be used again."""
    fault_proxy.add(Stall(), where=is_delete, times=1)
    calling = asyncio.create_task(s3.delete_object(Bucket="box", Key="a"))
    await asyncio.to_thread(fault_proxy.wait_until, lambda log: log[-1].fault is not None)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await asyncio.to_thread(fault_proxy.wait_until, lambda log: log[-1].ended is not None)
    await s3.delete_object(Bucket="box", Key="a")
    assert [e.sent_upstream for e in fault_proxy.log[-2:]] == [False, True]


async def test_a_delayed_answer_comes_late(s3: Any, fault_proxy: FaultProxy) -> None:
    """A delayed call takes its delay longer and has its effect."""
    fault_proxy.add(Delay(0.2), where=lambda request: request.method == "PUT")
    started = time.monotonic()
    await s3.put_object(Bucket="box", Key="a", Body=b"one")
    assert time.monotonic() - started >= 0.2
    assert await (await s3.get_object(Bucket="box", Key="a"))["Body"].read() == b"one"


async def test_a_broken_rule_is_a_server_error(s3: Any, fault_proxy: FaultProxy) -> None:
    """A mistake in a rule reaches the SDK as a 500, which does not look like success."""
    fault_proxy.add(Stall(), where=lambda _request: 1 / 0)
    with pytest.raises(ClientError, match="500"):
        await s3.delete_object(Bucket="box", Key="a")
    assert "ZeroDivisionError" in str(fault_proxy.log[-1].error)


async def test_each_test_starts_with_an_empty_aws(moto_server: MotoServer) -> None:
    """Resetting forgets everything, and what an earlier test made is gone."""
    async with aioboto3.Session().client("s3") as s3:
        assert (await s3.list_buckets())["Buckets"] == []
        await s3.create_bucket(Bucket="mine")
        moto_server.reset()
        assert (await s3.list_buckets())["Buckets"] == []


def test_a_moto_server_has_an_address_only_while_it_runs() -> None:
    """Outside its block a server says that it is not running."""
    server = MotoServer()
    with pytest.raises(RuntimeError, match="with MotoServer"):
        _ = server.url
    with server:
        assert server.url.startswith("http://127.0.0.1:")
    with pytest.raises(RuntimeError, match="with MotoServer"):
        server.reset()


def test_a_moto_server_is_quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """Requests leave no line in log or output, and werkzeug's logger is left as it was."""
    werkzeug = logging.getLogger("werkzeug")
    before = werkzeug.level
    with MotoServer() as server:
        server.reset()
    assert werkzeug.level == before
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")

"""The batch writer paces itself, and keeps what it could not send."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from deadline import DeadlineExceeded, aws, deadline
from deadline.testing import Answer, FaultProxy, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

aioboto3 = pytest.importorskip("aioboto3", reason="aioboto3 is not installed")

pytestmark = pytest.mark.slow


@pytest.fixture
async def table(fault_proxy: FaultProxy) -> AsyncIterator[Any]:
    """A table of a resource from an installed session."""
    async with aws.install(aioboto3.Session()).resource("dynamodb") as dynamodb:
        made = await dynamodb.create_table(
            TableName="orders",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield made


def is_batch(request: Request) -> bool:
    return request.operation == "BatchWriteItem"


def refusal(count: int) -> Answer:
    """The answer of a table that takes nothing."""
    puts = [{"PutRequest": {"Item": {"id": {"S": str(number)}}}} for number in range(count)]
    body = json.dumps({"UnprocessedItems": {"orders": puts}}).encode()
    return Answer(200, body, {"content-type": "application/x-amz-json-1.0"})


def batches(proxy: FaultProxy) -> int:
    return sum(is_batch(exchange.request) for exchange in proxy.log)


async def test_what_a_table_refuses_is_not_sent_again_at_once(table: Any, fault_proxy: FaultProxy) -> None:
    """A table that takes nothing is asked a few times in half a second, not hundreds of times."""
    fault_proxy.add(refusal(3), where=is_batch)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.5):
            async with table.batch_writer() as batch:
                for number in range(3):
                    await batch.put_item(Item={"id": str(number)})
    assert 2 <= batches(fault_proxy) <= 5
    assert caught.value.report.left_behind == ("batch to orders: 3 not confirmed",)
    assert sorted(request["PutRequest"]["Item"]["id"] for request in batch.unconfirmed) == ["0", "1", "2"]


async def test_a_batch_whose_request_failed_is_kept(table: Any, fault_proxy: FaultProxy) -> None:
    """What was in a failed request can be sent later, nothing is lost."""
    rule = fault_proxy.add(Answer(400, b"{}"), where=is_batch)
    async with deadline(5.0):
        writer = table.batch_writer(flush_amount=2)
        with pytest.raises(table.meta.client.exceptions.ClientError):
            async with writer as batch:
                await batch.put_item(Item={"id": "0"})
                await batch.put_item(Item={"id": "1"})
        assert len(writer.unconfirmed) == 2
        rule.remove()
        await writer.__aexit__(None, None, None)
        assert writer.unconfirmed == []
        assert (await table.scan())["Count"] == 2


async def test_a_healthy_batch_is_written_whole(table: Any, fault_proxy: FaultProxy) -> None:
    """A batch that the table takes is written in as few requests as before."""
    async with deadline(5.0):
        async with table.batch_writer() as batch:
            for number in range(60):
                await batch.put_item(Item={"id": str(number)})
        assert (await table.scan())["Count"] == 60
    assert batches(fault_proxy) == 3


async def test_without_a_deadline_it_is_aioboto3s(table: Any, fault_proxy: FaultProxy) -> None:
    """Without a deadline, what was refused is sent again at once, as before."""
    fault_proxy.add(refusal(1), where=is_batch, times=20)
    async with table.batch_writer() as batch:
        await batch.put_item(Item={"id": "0"})
    assert batches(fault_proxy) == 21

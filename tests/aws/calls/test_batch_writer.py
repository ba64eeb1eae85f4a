"""The batch writer paces itself, and keeps what it could not send."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from deadline import DeadlineExceeded, aws, deadline
from deadline.testing import Answer, FakeContext, FaultProxy, Request, Stall

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


# --- several coroutines that share a writer ---------------------------------------------------------------


async def feed(batch: Any, name: str, count: int = 25) -> None:
    for number in range(count):
        await batch.put_item(Item={"id": f"{name}{number}"})


async def sent(proxy: FaultProxy, count: int = 1) -> None:
    """Wait until so many batches are on the wire."""
    while batches(proxy) < count:  # the proxy runs in a thread and has no event of this loop
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("seconds", [60.0, None])
async def test_a_batch_on_the_wire_is_unconfirmed(
    table: Any, fault_proxy: FaultProxy, seconds: float | None
) -> None:
    """If one coroutine fails while the batch of another is in flight, its items are in `unconfirmed`."""
    fault_proxy.add(Stall(), where=is_batch)

    async def fail() -> None:
        await sent(fault_proxy)
        raise LookupError("a bad row")

    async with deadline(seconds):
        writer = table.batch_writer()
        feeding = asyncio.create_task(feed(writer, "a"))
        with pytest.raises(LookupError):
            async with writer:
                await asyncio.gather(feeding, fail())
        assert len(writer.unconfirmed) == 25
        feeding.cancel()
        await asyncio.wait([feeding])
        assert len(writer.unconfirmed) == 25


async def test_a_batch_in_flight_without_a_deadline_is_unconfirmed(
    table: Any, fault_proxy: FaultProxy
) -> None:
    """What is on the wire counts without a deadline, too."""
    fault_proxy.add(Stall(), where=is_batch)
    writer = table.batch_writer()
    feeding = asyncio.create_task(feed(writer, "a"))
    await sent(fault_proxy)
    assert len(writer.unconfirmed) == 25
    feeding.cancel()
    await asyncio.wait([feeding])


async def test_the_report_counts_what_is_in_flight(
    table: Any, fault_proxy: FaultProxy, own_environment: None
) -> None:
    """A report counts the items that its block has handed over, also those of a task that it has left."""
    fault_proxy.add(Stall(), where=is_batch)
    writers: list[Any] = []

    @aws.handler
    async def handler(event: Any, context: Any) -> None:
        async with table.batch_writer() as batch:
            writers.append(batch)
            with aws.limits(attempts=1):
                feeding = asyncio.create_task(feed(batch, "a"))
            await sent(fault_proxy)
            with aws.limits(attempts=1, min_attempt=0.2):
                await asyncio.gather(feeding, feed(batch, "b"))

    @handler.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return exceeded.report.left_behind, len(writers[0].unconfirmed)

    answer: Any = await handler.invoke({}, FakeContext(1.5))  # type: ignore[func-returns-value]
    assert answer == (("batch to orders: 50 not confirmed",), 50)


async def test_a_report_says_what_is_unconfirmed_when_it_is_made(table: Any, fault_proxy: FaultProxy) -> None:
    """What the outer block confirms after the inner one was cut is not left behind by the outer one."""
    rule = fault_proxy.add(Stall(), where=is_batch)
    with pytest.raises(DeadlineExceeded) as outer:
        async with deadline(1.0), table.batch_writer() as batch:
            with pytest.raises(DeadlineExceeded) as inner:
                async with deadline(0.2):
                    await feed(batch, "a")
            assert inner.value.report.left_behind == ("batch to orders: 25 not confirmed",)
            rule.remove()
            await feed(batch, "b", 1)
            await batch.__aexit__(None, None, None)
            assert batch.unconfirmed == []
            await asyncio.sleep(60)
    assert outer.value.report.left_behind == ()
    assert inner.value.report.left_behind == ("batch to orders: 25 not confirmed",)


async def test_batches_side_by_side_do_not_pause_for_each_other(table: Any, fault_proxy: FaultProxy) -> None:
    """A coroutine that hands over items while another's batch is in flight refuses nothing."""
    async with deadline(60.0), table.batch_writer(flush_amount=2) as batch:
        await asyncio.gather(*(feed(batch, name, 10) for name in "abc"))
        assert batch._pause == pytest.approx(0.05)
    assert (await table.scan())["Count"] == 30


async def test_a_failed_batch_does_not_overwrite_what_was_handed_over_later(
    table: Any, fault_proxy: FaultProxy
) -> None:
    """With `overwrite_by_pkeys` a later item of the same key replaces one whose batch failed."""
    rule = fault_proxy.add(Stall(), where=is_batch)
    async with deadline(60.0):
        writer = table.batch_writer(overwrite_by_pkeys=["id"], flush_amount=1)
        first = asyncio.create_task(writer.put_item(Item={"id": "0", "version": "old"}))
        await sent(fault_proxy)
        writer._flush_amount = 25  # what follows waits in the buffer
        await writer.put_item(Item={"id": "0", "version": "new"})
        assert [one["PutRequest"]["Item"]["version"] for one in writer.unconfirmed] == ["old", "new"]
        first.cancel()
        await asyncio.wait([first])
        assert [one["PutRequest"]["Item"]["version"] for one in writer.unconfirmed] == ["new"]
        rule.remove()
        await writer.__aexit__(None, None, None)
        assert (await table.scan())["Items"] == [{"id": "0", "version": "new"}]

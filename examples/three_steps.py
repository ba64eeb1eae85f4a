"""Copy an S3 object, delete the original, read a DynamoDB item: plainly, and under a deadline.

A Lambda function that is killed between the copy and the delete leaves two objects, and nobody is told. The
second handler ends by itself one second before the kill, and uses that second to say how far it came.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import aioboto3

from deadline import DeadlineExceeded, aws, step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

session = aws.install(aioboto3.Session())


# --- plainly ----------------------------------------------------------------------------------------------


async def _move(event: dict[str, str]) -> dict[str, Any]:
    bucket, key, to = event["bucket"], event["key"], event["to"]
    async with session.client("s3") as s3, session.client("dynamodb") as dynamodb:
        await s3.copy_object(Bucket=bucket, Key=to, CopySource=f"{bucket}/{key}")
        await s3.delete_object(Bucket=bucket, Key=key)
        answer = await dynamodb.get_item(TableName=event["table"], Key={"id": {"S": key}})
    return {"status": "moved", "item": answer["Item"]}


def plain(event: dict[str, str], context: Any) -> dict[str, Any]:
    """The three steps, one after the other."""
    return asyncio.run(_move(event))


# --- under a deadline -------------------------------------------------------------------------------------


class Clients(NamedTuple):
    """Open for the life of the process."""

    s3: Any
    dynamodb: Any
    sqs: Any


@asynccontextmanager
async def clients() -> AsyncIterator[Clients]:
    """Open and warm them before the clock runs."""
    async with AsyncExitStack() as stack:
        opened = Clients(*[await stack.enter_async_context(session.client(name)) for name in Clients._fields])
        await aws.warm_up(*opened)
        yield opened


@aws.handler(margin=1.0, lifespan=clients, eager=True)
async def move(event: dict[str, str], context: Any, clients: Clients) -> dict[str, Any]:
    """The same, cut one second before Lambda would kill."""
    bucket, key, to = event["bucket"], event["key"], event["to"]
    with step("copy"):
        await clients.s3.copy_object(Bucket=bucket, Key=to, CopySource=f"{bucket}/{key}")
    with step("delete"):
        await clients.s3.delete_object(Bucket=bucket, Key=key)
    with step("read"):
        answer = await clients.dynamodb.get_item(TableName=event["table"], Key={"id": {"S": key}})
    return {"status": "moved", "item": answer["Item"]}


@move.on_exceeded
async def _(exceeded: DeadlineExceeded, event: Any, context: Any, clients: Clients | None) -> dict[str, Any]:
    """About a second is left: say how far it came, and answer."""
    if clients is None:  # the time was up before they were open
        raise exceeded
    await clients.sqs.send_message(QueueUrl=os.environ["QUEUE_URL"], MessageBody=exceeded.report.to_json())
    return {"status": "partial", "done": exceeded.report.done, "pending": exceeded.report.pending}

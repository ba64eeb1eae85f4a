"""Copy an S3 object, delete the original, read a DynamoDB item: plainly, and under a deadline.

A Lambda function that is killed between the copy and the delete leaves two objects, and nobody is told. The
second handler ends by itself one second before the kill, and uses that second to say how far it came.
"""

from __future__ import annotations

import os
from typing import Any

import aioboto3

from deadline import DeadlineExceeded, aws, deadline, step

session = aws.install(aioboto3.Session())


async def plain(event: dict[str, str], context: Any) -> dict[str, Any]:
    """The three steps, one after the other."""
    bucket, key, to = event["bucket"], event["key"], event["to"]
    async with session.client("s3") as s3, session.client("dynamodb") as dynamodb:
        await s3.copy_object(Bucket=bucket, Key=to, CopySource=f"{bucket}/{key}")
        await s3.delete_object(Bucket=bucket, Key=key)
        answer = await dynamodb.get_item(TableName=event["table"], Key={"id": {"S": key}})
    return {"status": "moved", "item": answer["Item"]}


async def move(event: dict[str, str], context: Any) -> dict[str, Any]:
    """The same under a deadline, with a second kept back to mitigate."""
    bucket, key, to = event["bucket"], event["key"], event["to"]
    async with (
        session.client("s3") as s3,
        session.client("dynamodb") as dynamodb,
        session.client("sqs") as sqs,
    ):
        try:
            async with deadline(context, margin=1.0, name="move"):
                with step("copy"):
                    await s3.copy_object(Bucket=bucket, Key=to, CopySource=f"{bucket}/{key}")
                with step("delete"):
                    await s3.delete_object(Bucket=bucket, Key=key)
                with step("read"):
                    answer = await dynamodb.get_item(TableName=event["table"], Key={"id": {"S": key}})
                return {"status": "moved", "item": answer["Item"]}
        except DeadlineExceeded as exceeded:  # about one second is left
            print(exceeded.report.render())
            async with exceeded.grace():  # bounded by the hard end
                await sqs.send_message(
                    QueueUrl=os.environ["QUEUE_URL"], MessageBody=exceeded.report.to_json()
                )
            return {"status": "partial", "done": exceeded.report.done, "pending": exceeded.report.pending}

"""A function that receives notices: it records each one, has the work tried again, or mails somebody.

Notices come to it from a queue, a topic, an event bus, or by a plain invocation; `aws.Notice.to` sends any
of these. What it needs of the environment: `TABLE`, whose key is the text `request_id`, and for mails
`MAIL_HOST`, `MAIL_PORT` and `MAIL_TO`.
"""

from __future__ import annotations

import asyncio
import json
import os
import smtplib
from contextlib import AsyncExitStack, asynccontextmanager
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any, Final

import aioboto3
from botocore.exceptions import ClientError

from deadline import aws, step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

RETRIES: Final = 2
COUNTER: Final = "noticed"
"""A key in the event that counts how often it was tried again."""

session = aws.install(aioboto3.Session())


@asynccontextmanager
async def clients() -> AsyncIterator[tuple[Any, Any]]:
    """Open a client for the table and one for invoking."""
    async with AsyncExitStack() as stack:
        dynamodb = await stack.enter_async_context(session.client("dynamodb"))
        functions = await stack.enter_async_context(session.client("lambda"))
        yield dynamodb, functions


@aws.handler(lifespan=clients)
async def handler(event: dict[str, Any], context: Any, clients: tuple[Any, Any]) -> dict[str, int]:
    """Say what became of each notice."""
    done = {"known": 0, "retried": 0, "mailed": 0}
    for notice in notices(event):
        what = await handle(notice, *clients)
        done[what] += 1
    return done


async def handle(notice: dict[str, Any], dynamodb: Any, functions: Any) -> str:
    """Record a notice; then try again what only ran out of time, and mail the rest."""
    with step("record"):
        if not await record(notice, dynamodb):
            return "known"
    if may_be_retried(notice):
        with step("retry"):
            await retry(notice, functions)
        return "retried"
    with step("mail"):
        await asyncio.to_thread(mail, notice)
    return "mailed"


def notices(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Unpack what the different ways wrap the message in."""
    if "Records" not in event:
        yield event.get("detail", event)
        return
    for one in event["Records"]:
        yield json.loads(one["Sns"]["Message"] if "Sns" in one else one["body"])


async def record(notice: dict[str, Any], dynamodb: Any) -> bool:
    """Keep the notice; return whether it is a new one, for queues deliver more than once."""
    item = {"request_id": {"S": notice["request_id"]}, "notice": {"S": json.dumps(notice)}}
    try:
        await dynamodb.put_item(
            TableName=os.environ["TABLE"], Item=item, ConditionExpression="attribute_not_exists(request_id)"
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise
        return False
    return True


def may_be_retried(notice: dict[str, Any]) -> bool:
    """Whether the event is whole, and time is what was missing, for the first few times."""
    event = notice["event"]
    return (
        notice["reason"] == "deadline_exceeded"
        and isinstance(event, dict)
        and "event" not in notice["cut"]
        and not notice["redaction_failed"]
        and event.get(COUNTER, 0) < RETRIES
    )


async def retry(notice: dict[str, Any], functions: Any) -> None:
    """Invoke the function again with its event. The work must be idempotent: half of it may be done."""
    event = {**notice["event"], COUNTER: notice["event"].get(COUNTER, 0) + 1}
    await functions.invoke(
        FunctionName=notice["function"], InvocationType="Event", Payload=json.dumps(event).encode()
    )


def mail(notice: dict[str, Any]) -> None:
    """Tell a person."""
    message = EmailMessage()
    message["From"] = message["To"] = os.environ["MAIL_TO"]
    message["Subject"] = f"{notice['function']}: {notice['reason']}"
    error = notice["error"] or {}
    message.set_content(
        "\n\n".join([notice["message"], str(error.get("traceback") or notice["stack"] or "")])
    )
    with smtplib.SMTP(os.environ["MAIL_HOST"], int(os.environ["MAIL_PORT"]), timeout=5) as server:
        server.send_message(message)

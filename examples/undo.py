"""Move a document in three steps, the last of which never answers: plainly, and with undo.

Copy an S3 object, delete the original, note the new name in DynamoDB. Each handler runs in a local Lambda,
against a moto server and a proxy that lets the table's PutItem stall. The plain one is killed and leaves an
object that no table knows. The other is a critical section: it is cut in the margin, undoes what it did, and
answers.

Run it with `python examples/undo.py` where the extras aws and testing are installed.
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aioboto3

from deadline import DeadlineExceeded, aws, critical

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TIMEOUT: Final = 2.0
BUCKET: Final = "documents"
TABLE: Final = "documents"
OLD: Final = "draft.txt"
NEW: Final = "final.txt"

session = aws.install(aioboto3.Session())


class Clients(NamedTuple):
    """Open for the life of the process."""

    s3: Any
    dynamodb: Any

    async def copy(self, source: str, to: str) -> None:
        """Copy an object."""
        await self.s3.copy_object(Bucket=BUCKET, Key=to, CopySource=f"{BUCKET}/{source}")

    async def delete(self, key: str) -> None:
        """Delete an object."""
        await self.s3.delete_object(Bucket=BUCKET, Key=key)

    async def note(self, key: str) -> None:
        """Have the table say where the document is."""
        await self.dynamodb.put_item(TableName=TABLE, Item={"id": {"S": "document"}, "key": {"S": key}})

    async def remove_copy(self) -> None:
        """Undo the copy, unless it is all that is left: bringing the original back may have failed."""
        await self.s3.head_object(Bucket=BUCKET, Key=OLD)
        await self.delete(NEW)


@asynccontextmanager
async def clients() -> AsyncIterator[Clients]:
    """Open and warm them."""
    async with session.client("s3") as s3, session.client("dynamodb") as dynamodb:
        await aws.warm_up(s3, dynamodb)
        yield Clients(s3, dynamodb)


# --- plainly ----------------------------------------------------------------------------------------------


async def _move() -> dict[str, str]:
    async with clients() as do:
        await do.copy(OLD, NEW)
        await do.delete(OLD)
        await do.note(NEW)
    return {"status": "moved"}


def plain(event: Any, context: Any) -> dict[str, str]:
    """The three steps, one after the other."""
    return asyncio.run(_move())


# --- with undo --------------------------------------------------------------------------------------------


@aws.handler(margin=1.0, lifespan=clients, eager=True)
async def move(event: Any, context: Any, do: Clients) -> dict[str, str]:
    """The same, each step with what undoes it: each may run twice, or where there is nothing to undo."""
    async with critical("move", needs=0.1) as section:
        async with section.step("copy", undo=do.remove_copy):
            await do.copy(OLD, NEW)
        async with section.step("delete", undo=lambda: do.copy(NEW, OLD)):
            await do.delete(OLD)
        async with section.step("note", undo=lambda: do.note(OLD)):
            await do.note(NEW)
    return {"status": "moved"}


@move.on_exceeded
async def _(exceeded: DeadlineExceeded, event: Any, context: Any, do: Clients) -> dict[str, Any]:
    """Say what became of it, step by step."""
    (section,) = exceeded.report.sections
    steps = {step.name: step.fate for step in section.steps}
    return {"status": section.status, "steps": steps, "may land": section.may_land}


# --- both, one after the other ----------------------------------------------------------------------------


def main() -> None:
    """Show both."""
    from deadline.testing import Emulator, FaultProxy, MotoServer, Stall  # noqa: PLC0415

    os.environ.update(
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",  # noqa: S106  # moto takes any
        AWS_DEFAULT_REGION="us-east-1",
    )
    for function in ("plain", "move"):
        with MotoServer() as moto, FaultProxy(moto.url) as proxy:
            moto.reset()
            state = asyncio.run(_set_up(moto.url))
            print(f"{function}\n  before:   {state}")
            proxy.add(Stall(), where=lambda request: NEW.encode() in request.body)
            with Emulator(
                f"undo.{function}",
                path=Path(__file__).parent,
                timeout=TIMEOUT,
                env={"AWS_ENDPOINT_URL": proxy.url},
            ) as emulator:
                result = emulator.invoke({})
            answer = json.dumps(result.response) if result.error is None else result.error.message
            print(f"  answer:   {answer}\n  after:    {asyncio.run(_state(moto.url))}\n")


async def _set_up(url: str) -> str:
    async with (
        session.client("s3", endpoint_url=url) as s3,
        session.client("dynamodb", endpoint_url=url) as dynamodb,
    ):
        await s3.create_bucket(Bucket=BUCKET)
        await s3.put_object(Bucket=BUCKET, Key=OLD, Body=b"a draft")
        await dynamodb.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        await Clients(s3, dynamodb).note(OLD)
    return await _state(url)


async def _state(url: str) -> str:
    """What the services hold, asked past the proxy."""
    async with (
        session.client("s3", endpoint_url=url) as s3,
        session.client("dynamodb", endpoint_url=url) as dynamodb,
    ):
        listed = await s3.list_objects_v2(Bucket=BUCKET)
        noted = await dynamodb.get_item(TableName=TABLE, Key={"id": {"S": "document"}})
    objects = [entry["Key"] for entry in listed.get("Contents", [])]
    key = noted["Item"]["key"]["S"]
    verdict = "" if objects == [key] else "  <- half done"
    return f"the bucket holds {', '.join(objects)}, the table says {key}{verdict}"


if __name__ == "__main__":
    main()

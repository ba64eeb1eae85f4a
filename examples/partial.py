"""The `partial` loop: a function that stops five seconds before its end, and a caller that calls it again.

The handler loads rows into a table until the next one is predicted not to fit, and answers
`{"status": "partial", "next": ...}`. It is not cut in the middle of a row, nor killed. All times are a tenth
of what they would be: a timeout of 15 s with a cushion of 5 s.

Run it with `python examples/partial.py` where the extras aws and testing are installed.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aioboto3

from deadline import aws, each

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TENTH: Final = 0.1
TIMEOUT: Final = 15 * TENTH
CUSHION: Final = 5 * TENTH
WORK: Final = 0.5 * TENTH
ROWS: Final = 50
TABLE: Final = "rows"

session = aws.install(aioboto3.Session())


@asynccontextmanager
async def dynamodb() -> AsyncIterator[Any]:
    """A warm client."""
    async with session.client("dynamodb") as client:
        await aws.warm_up(client)
        yield client


@aws.handler(margin=CUSHION, lifespan=dynamodb, eager=True)
async def handler(event: dict[str, Any], context: Any, dynamodb: Any) -> dict[str, Any]:
    """Load rows for as long as they fit before the cushion."""

    async def load(row: int) -> None:
        await asyncio.sleep(WORK)
        await dynamodb.put_item(TableName=TABLE, Item={"id": {"N": str(row)}})

    batch = await each(load, range(event["next"], event["rows"]))
    if batch.failed:
        raise batch.failed[0].error
    if batch.unprocessed:
        return {"status": "partial", "next": batch.unprocessed[0]}
    return {"status": "done"}


def main() -> None:
    """Call it until it is done."""
    from deadline.testing import Emulator, MotoServer  # noqa: PLC0415

    os.environ.update(
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",  # noqa: S106  # moto takes any
        AWS_DEFAULT_REGION="us-east-1",
    )
    with MotoServer() as moto:
        moto.reset()
        asyncio.run(_create_table(moto.url))
        with Emulator(
            "partial.handler",
            path=Path(__file__).parent,
            timeout=TIMEOUT,
            env={"AWS_ENDPOINT_URL": moto.url},
        ) as emulator:
            answer: Any = {"status": "partial", "next": 0}
            while answer["status"] == "partial":
                result = emulator.invoke({"next": answer["next"], "rows": ROWS})
                if result.error is not None:
                    raise SystemExit(f"{result.error.type}: {result.error.message}")
                print(f"{result.duration:.2f} s of {TIMEOUT:.2f} s: {result.response}")
                answer = result.response
        print(f"the table has {asyncio.run(_count(moto.url))} rows of {ROWS}")


async def _create_table(url: str) -> None:
    async with session.client("dynamodb", endpoint_url=url) as client:
        await client.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "N"}],
            BillingMode="PAY_PER_REQUEST",
        )


async def _count(url: str) -> int:
    async with session.client("dynamodb", endpoint_url=url) as client:
        answer: dict[str, int] = await client.scan(TableName=TABLE, Select="COUNT")
        return answer["Count"]


if __name__ == "__main__":
    main()

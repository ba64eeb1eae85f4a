"""A table that does not answer any more: what it costs each invocation, without a breaker and with one.

Two handlers read one item, and give a default if it does not come within 0.4 s. They run in local Lambdas,
against a moto server behind a proxy that stalls. Without a breaker each invocation waits for its 0.4 s as
long as the table is dead. With one, three do; then calls are refused at once, until the table is back.

Run it with `python examples/breaker.py` where the extras aws and testing are installed.
"""

from __future__ import annotations

import functools
import os
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aioboto3

from deadline import Breaker, aws, fallback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from deadline.testing import Invocation

WITHIN: Final = 0.4
RECOVERY: Final = 1.0
DEAD: Final = 6
TABLE: Final = "greetings"

patient = aws.install(aioboto3.Session())
guarded = aws.install(aioboto3.Session(), breaker=functools.partial(Breaker, failures=3, recovery=RECOVERY))


@asynccontextmanager
async def dynamodb(session: Any) -> AsyncIterator[Any]:
    """A warm client."""
    async with session.client("dynamodb") as client:
        await aws.warm_up(client)
        yield client


async def greeting(client: Any) -> dict[str, Any]:
    """The item, or a default, and which of the two it is."""

    async def read() -> str:
        answer = await client.get_item(TableName=TABLE, Key={"id": {"S": "en"}})
        return str(answer["Item"]["text"]["S"])

    answer = await fallback(read, default="hello", within=WITHIN)
    return {"text": answer.value, "source": answer.source}


@aws.handler(lifespan=functools.partial(dynamodb, patient), eager=True)
async def without(event: Any, context: Any, client: Any) -> dict[str, Any]:
    """Ask each time."""
    return await greeting(client)


@aws.handler(lifespan=functools.partial(dynamodb, guarded), eager=True)
async def with_breaker(event: Any, context: Any, client: Any) -> dict[str, Any]:
    """Ask while there is hope."""
    return await greeting(client)


# --- both, side by side -----------------------------------------------------------------------------------


def main() -> None:
    """Show both."""
    import boto3  # noqa: PLC0415  # not in the functions

    from deadline.testing import Emulator, FaultProxy, MotoServer, Stall  # noqa: PLC0415

    os.environ.update(
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",  # noqa: S106  # nobody checks it
        AWS_DEFAULT_REGION="us-east-1",
    )
    with MotoServer() as moto, FaultProxy(moto.url) as proxy:
        table = boto3.client("dynamodb", endpoint_url=moto.url)
        table.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        table.put_item(TableName=TABLE, Item={"id": {"S": "en"}, "text": {"S": "good morning"}})
        columns = []
        for name in ("without", "with_breaker"):
            with Emulator(
                f"breaker.{name}",
                path=Path(__file__).parent,
                timeout=3.0,
                env={"AWS_ENDPOINT_URL": proxy.url, "AWS_MAX_ATTEMPTS": "1"},
            ) as function:
                cells = [told(function.invoke({}))]
                dead = proxy.add(Stall(), where=lambda request: request.method == "POST")
                cells += [told(function.invoke({})) for _ in range(DEAD)]
                dead.remove()
                time.sleep(RECOVERY)
                columns.append([*cells, told(function.invoke({}))])
    titles = ["the table answers", *["it is dead"] * DEAD, f"it answers again, {RECOVERY:g} s later"]
    print(f"{'seconds, and where the answer is from':<40}{'without':>16}{'with a breaker':>18}")
    for title, one, other in zip(titles, *columns, strict=True):
        print(f"{title:<40}{one:>16}{other:>18}")


def told(result: Invocation) -> str:
    """How long an invocation took, and what it answered."""
    if result.error is not None:
        raise SystemExit(f"{result.error.type}: {result.error.message}")
    return f"{result.duration:.3f} {result.response['source']}"


if __name__ == "__main__":
    main()

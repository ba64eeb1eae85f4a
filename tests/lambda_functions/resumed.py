"""Functions that carry on in their next invocation, for tests that follow their chains."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
import sys
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aioboto3

from deadline import aws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

sys.path.append(str(Path(__file__).parents[2] / "examples"))
import primes

SCRATCH: Final = Path(os.environ.get("SCRATCH", "."))
IN_A_HOP: Final = 1_800
"""Primes, so that there are as many hops on every machine."""


def is_first(name: str) -> bool:
    """Whether nobody was here before under this name, in any process."""
    try:
        (SCRATCH / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def die() -> None:
    """End as for lack of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


# --- primes, killed at random -----------------------------------------------------------------------------

plain_next = primes.next_prime


def paced_next(found: primes.Found) -> primes.Found:
    """Find so many; then be busy until the time is up."""
    began = search.state or primes.FIRST
    while found.position >= began.position + IN_A_HOP:
        pass
    return plain_next(found)


primes.is_prime = lambda number: all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
primes.next_prime = paced_next

search = aws.Resume(primes.Found, hops=15)


@aws.handler(resume=search)
async def killed_at_random(event: dict[str, Any], context: Any) -> dict[str, int]:
    """Die in the first attempt of one hop in five, somewhere on the way."""
    chance = random.Random(f"{event['seed']} {search.hop}")
    if chance.random() < 0.2 and is_first(f"hop-{search.hop}"):
        threading.Timer(chance.uniform(0.0, 0.6), die).start()
    return primes.search(search, event["position"])


# --- a runaway --------------------------------------------------------------------------------------------

endless = aws.Resume(int, hops=3)


@aws.handler(resume=endless)
async def runaway(event: Any, context: Any) -> None:
    """Never come to an end."""
    print("as", context.invoked_function_arn, "in", os.environ["_X_AMZN_TRACE_ID"])  # noqa: T201  # the log is read
    endless.checkpoint(endless.hop)
    await asyncio.sleep(60)


# --- effects ----------------------------------------------------------------------------------------------

session = aioboto3.Session()


@asynccontextmanager
async def clients() -> AsyncIterator[tuple[Any, Any]]:
    async with AsyncExitStack() as stack:
        dynamodb = await stack.enter_async_context(session.client("dynamodb"))
        functions = await stack.enter_async_context(session.client("lambda"))
        yield dynamodb, functions


async def send(event: Any, context: Any, clients: tuple[Any, Any]) -> None:
    """Deliver the next hop, or die on the way, or deliver it twice, as the first event says."""
    began = event["deadline_resume"]
    if began["hop"] - 1 in began["event"].get("die_sending", ()) and is_first(f"sending-{began['hop']}"):
        die()
    for _ in range(began["event"].get("copies", 1)):
        await clients[1].invoke(
            FunctionName=context.invoked_function_arn, InvocationType="Event", Payload=json.dumps(event)
        )


once = aws.Resume(int, to=send, once="hops", key=os.environ.get("SECRET", "0123456789abcdef" * 4))


@aws.handler(resume=once, lifespan=clients, eager=True)
async def effects(event: dict[str, Any], context: Any, clients: tuple[Any, Any]) -> Any:
    """Count each run of each hop in a table, and come to an end after a few."""
    await clients[0].update_item(
        TableName="effects",
        Key={"id": {"S": f"{once.chain}#{once.hop}"}},
        UpdateExpression="ADD times :one",
        ExpressionAttributeValues={":one": {"N": "1"}},
    )
    if once.hop == event["last"]:
        return {"hops": once.hop}
    if once.hop in event.get("die_working", ()) and is_first(f"working-{once.hop}"):
        die()
    once.checkpoint((once.state or 0) + 1)
    return await asyncio.sleep(60, None)

"""A table where one request in ten is never answered: who is done in time?

Twenty times five reads within 0.4 s, one after the other: under a plain `asyncio.timeout`, in a deadline with
an installed session, and with hedging. The reads go to a moto server behind a proxy that stalls.

Run it with `python examples/odds.py` where the extras aws and testing are installed.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import aioboto3

from deadline import aws, deadline

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS: Final = 20
READS: Final = 5
BUDGET: Final = 0.4
HANGS: Final = 0.1


async def work(table: Any) -> None:
    """Five reads."""
    for number in range(READS):
        await table.get_item(TableName="odds", Key={"id": {"S": str(number)}})


async def plain(table: Any) -> None:
    """The call is ended in time, and whatever it was waiting for."""
    async with asyncio.timeout(BUDGET):
        await work(table)


async def planned(table: Any) -> None:
    """A silent attempt is given up while there is time for another."""
    async with deadline(BUDGET):
        await work(table)


async def hedged(table: Any) -> None:
    """Another one joins it: these are reads."""
    async with deadline(BUDGET):
        with aws.limits(hedge=True):
            await work(table)


# --- each of them, twenty times ---------------------------------------------------------------------------


async def in_time(run: Callable[[Any], Any], session: Any) -> list[float]:
    """The seconds of those runs that are done in time."""
    seconds = []
    async with session.client("dynamodb") as table:
        await aws.warm_up(table)
        for _ in range(RUNS):
            started = time.perf_counter()
            with suppress(TimeoutError):
                await run(table)
                seconds.append(time.perf_counter() - started)
    return seconds


def one_in_ten() -> Callable[[object], bool]:
    """Of requests: the same for each who asks."""
    chance = random.Random(1)  # noqa: S311  # nobody is to be surprised
    return lambda _: chance.random() < HANGS


def main() -> None:
    """Show all three."""
    from deadline.testing import FaultProxy, MotoServer, Stall  # noqa: PLC0415

    os.environ.update(
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",  # noqa: S106  # nobody checks it
        AWS_DEFAULT_REGION="us-east-1",
    )
    print(f"{'':<12}{'in time':>10}{'median':>12}{'slowest':>12}{'requests':>12}")
    with MotoServer() as moto, FaultProxy(moto.url) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        sessions = {plain: aioboto3.Session()}
        for run in (planned, hedged):
            sessions[run] = aws.install(aioboto3.Session())
        asyncio.run(create(sessions[plain]))
        for run, session in sessions.items():
            before = len(proxy.log)
            stalls = proxy.add(Stall(), where=one_in_ten())
            seconds = sorted(asyncio.run(in_time(run, session)))
            stalls.remove()
            middle, last = seconds[len(seconds) // 2], seconds[-1]
            print(
                f"{run.__name__:<12}{len(seconds):>4} of {RUNS}{middle:>10.3f} s{last:>10.3f} s"
                f"{len(proxy.log) - before:>12}"
            )


async def create(session: Any) -> None:
    """The table, with nothing in it."""
    async with session.client("dynamodb") as client:
        await client.create_table(
            TableName="odds",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )


if __name__ == "__main__":
    main()

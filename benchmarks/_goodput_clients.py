"""The goodput benchmark for real: aiobotocore clients against a stub whose requests have the same fates."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import random
from typing import TYPE_CHECKING, Any, Final

from _goodput_model import INVOCATIONS, Column
from _goodput_simulator import LOADS, Cell
from _goodput_stub import DEAD, GOOD
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from aiohttp.abc import AbstractResolver
from botocore.loaders import create_loader

from deadline import aws, deadline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from _goodput_simulator import Load

_MODELS: Final = create_loader()
_numbers: Final = itertools.count()


def _fixed(seconds: float, attempts: int) -> dict[str, Any]:
    return {
        "connect_timeout": seconds,
        "read_timeout": seconds,
        "retries": {"total_max_attempts": attempts, "mode": "legacy"},
    }


CLIENTS: Final[dict[str, dict[str, Any]]] = {
    "SDK default, promise race": {},
    "client timeout 1 s x 2": _fixed(1.0, 2),
    "0.5 s x 3": _fixed(0.5, 3),
    "1 s x 3": _fixed(1.0, 3),
    "standard retries": {"retries": {"mode": "standard"}},
    "deadline": {},
    "deadline, hedged": {},
}
"""The configuration of each policy's clients; the names are the simulator's."""


class _Addresses(AbstractResolver):
    """Resolves any name to these."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        return [
            {"hostname": host, "host": address, "port": port, "family": 2, "proto": 0, "flags": 0}
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


@functools.lru_cache(maxsize=8)
def _session(policy: str) -> Any:
    session = get_session()
    session.register_component("data_loader", _MODELS)
    return aws.install(session, hedge="hedged" in policy) if policy.startswith("deadline") else session


def _client(policy: str, url: str, addresses: tuple[str, ...]) -> Any:
    return _session(policy).create_client(
        "dynamodb",
        region_name="eu-west-1",
        endpoint_url=url,
        aws_access_key_id="benchmark",
        aws_secret_access_key="benchmark",  # noqa: S106  # nobody checks it
        verify=False,
        config=AioConfig(
            max_pool_connections=64, connector_args={"resolver": _Addresses(addresses)}, **CLIENTS[policy]
        ),
    )


async def warm_up() -> None:
    """Make a client of each policy: the first one reads the SDK's models, for which nobody waits later on."""
    for policy in CLIENTS:
        async with _client(policy, "http://warm-up.goodput.test", ()):
            pass
    gc.collect()
    gc.freeze()  # what the SDK has loaded is a lot to look through, again and again


def paced(seconds: float) -> Callable[[], Awaitable[None]]:
    """Turns that are so far apart."""
    following = 0.0

    async def turn() -> None:
        nonlocal following
        now = asyncio.get_running_loop().time()
        mine = max(now, following)
        following = mine + seconds
        await asyncio.sleep(mine - now)

    return turn


async def played(
    policy: str,
    column: Column,
    load: Load,
    process: int,
    *,
    draw: int,
    port: int,
    turn: Callable[[], Awaitable[None]] | None = None,
    write: bool = False,
) -> tuple[Cell, int]:
    """One process: its runs, and how many requests went out beside another one of the same call.

    Each run waits for its turn.
    """
    cell, beside, number = Cell(LOADS[load][0]), 0, next(_numbers)
    learns = policy.startswith("deadline")
    for invocation in range(-INVOCATIONS if learns and process % 2 else 0, INVOCATIONS):
        if turn is not None:
            await turn()
        run = f"{number}.{invocation}"
        first = column.first_address(process, invocation)
        pair = (DEAD, GOOD) if first else (GOOD, DEAD)
        addresses = pair if column.dead_address and invocation >= 0 else (GOOD,)
        key = f"{run}|{column.name}|{draw}|{process}|{invocation}"
        async with _client(policy, f"http://process-{number}.goodput.test:{port}", addresses) as client:
            random.seed(f"backoff {process} {invocation}")
            seconds = await _invocation(client, policy, load, key, write=write)
        requests, twice = await _counted(port, run)
        if invocation >= 0:
            cell.add(seconds, requests)
            beside += twice
    return cell, beside


async def _invocation(client: Any, policy: str, load: Load, key: str, *, write: bool) -> float | None:
    calls, budget = LOADS[load]
    loop = asyncio.get_running_loop()

    async def call(number: int) -> None:
        item = {"id": {"S": f"{key}|{number}"}}
        if write:
            await client.put_item(TableName="table", Item=item)
        else:
            await client.get_item(TableName="table", Key=item)

    scope: Any = deadline if policy.startswith("deadline") else asyncio.timeout
    started = loop.time()
    with contextlib.suppress(Exception):  # whatever it is, the run did not make it
        async with scope(budget):
            if load == "5 in a row":
                for number in range(calls):
                    await call(number)
            else:
                async with asyncio.TaskGroup() as group:
                    for number in range(calls):
                        group.create_task(call(number))
        return loop.time() - started
    return None


async def _counted(port: int, run: str) -> tuple[int, int]:
    reader, writer = await asyncio.open_connection(GOOD, port)
    with contextlib.closing(writer):
        writer.write(f"GET {run} HTTP/1.1\r\n\r\n".encode())
        requests, beside = (await reader.readline()).split()
    return int(requests), int(beside)

"""What deadlines add to an AWS call: CPU per warm `head_object`, with and without.

The server answers at once, from a process of its own, over one connection that stays open; what is
counted is this process's CPU time. Rows: a plain client; an installed one without a deadline, inside of
one that is open for the whole batch, and with one for each call; for scale, a plain client with an
`asyncio.timeout` for each call, which bounds the call and nothing in it.

Beside them is what one does without: a client per call, whose `Config` carries timeouts made to fit. Those
are measured after the others, because they leave caches cold and garbage behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import aioboto3
from _harness import Blocks, Criterion, Result, Table, colour, empty, joined, quantile, ratios, spread, turns
from _stub_server import served
from botocore.config import Config

from deadline import aws, deadline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Batch = Callable[[], Awaitable[None]]

SECONDS = 30.0
CALLS = 25
BATCHES = 30
"""Per block and row."""

CLIENTS = 5
"""Clients made per block and row."""

PLAIN = "plain client"
TIMEOUT = "plain client, asyncio.timeout each"
INSTALLED = "installed, no deadline"
ONE = "installed, one deadline for all"
EACH = "installed, a deadline each"
CREATED = "client per call: created and closed"
CALLED = "client per call: with its call"


def _client(session: Any, url: str, config: Config | None = None) -> Any:
    return session.client(
        "s3",
        region_name="eu-west-1",
        endpoint_url=url,
        aws_access_key_id="benchmark",
        aws_secret_access_key="benchmark",  # noqa: S106  # nobody checks it
        config=config,
    )


async def _call(client: Any) -> None:
    await client.head_object(Bucket="bucket", Key="key")


async def _calls(client: Any) -> None:
    for _ in range(CALLS):
        await _call(client)


async def _under_one(client: Any) -> None:
    async with deadline(SECONDS):
        await _calls(client)


async def _under_each(client: Any, scope: Callable[[float], Any]) -> None:
    for _ in range(CALLS):
        async with scope(SECONDS):
            await _call(client)


async def _with_its_own(session: Any, url: str, use: Callable[[Any], Awaitable[None]] | None = None) -> None:
    config = Config(connect_timeout=2, read_timeout=5, retries={"max_attempts": 2})
    async with _client(session, url, config) as client:
        if use is not None:
            await use(client)


async def _measured(url: str) -> dict[str, Blocks]:
    session = aioboto3.Session()
    async with contextlib.AsyncExitStack() as stack:
        plain = await stack.enter_async_context(_client(session, url))
        installed = aws.install(await stack.enter_async_context(_client(session, url)))
        batches: dict[str, tuple[Batch, int]] = {
            PLAIN: (partial(_calls, plain), CALLS),
            TIMEOUT: (partial(_under_each, plain, asyncio.timeout), CALLS),
            INSTALLED: (partial(_calls, installed), CALLS),
            ONE: (partial(_under_one, installed), CALLS),
            EACH: (partial(_under_each, installed, deadline), CALLS),
            CREATED: (partial(_with_its_own, session, url), 1),
            CALLED: (partial(_with_its_own, session, url, _call), 1),
        }
        samples = empty(list(batches))
        for batch, _ in batches.values():
            await batch()
        gc.collect()
        gc.freeze()  # the SDK itself is not to be searched for garbage before each batch
        for names, rounds in (
            ((PLAIN, TIMEOUT, INSTALLED, ONE, EACH), BATCHES),
            ((CREATED, CALLED), CLIENTS),
        ):
            for block, _, name in turns(names, rounds):
                batch, number = batches[name]
                gc.collect()
                started = time.process_time()
                await batch()
                samples[name][block].append((time.process_time() - started) / number * 1e6)
    return samples


def main() -> None:
    """Measure every row."""
    with served("found") as url:
        samples = asyncio.run(_measured(url))
    rows = [
        [name, f"{quantile(joined(blocks), 0.5):.0f}", spread(blocks)] for name, blocks in samples.items()
    ]
    result = Result("aws_hook", "µs", ("aioboto3", "aiobotocore", "botocore"))
    result.tables.append(Table("CPU per call, µs", ("", "p50", "p50 of the blocks"), rows))
    result.criteria = [
        Criterion(f"{name} / {PLAIN}", ratios(samples[name], samples[PLAIN]), limit)
        for name, limit in ((INSTALLED, 1.02), (ONE, 1.05))  # EACH adds a scope's own cost to the hook's
    ]

    def draw(axes: Any) -> None:
        names = list(reversed(samples))
        middles = [quantile(joined(samples[name]), 0.5) / 1e3 for name in names]
        axes[0].barh(
            names, middles, color=[colour("deadline" if "deadline" in name else "") for name in names]
        )
        axes[0].set(xlabel="CPU per call, ms", title="head_object", xscale="log")

    result.publish(draw)


if __name__ == "__main__":
    main()

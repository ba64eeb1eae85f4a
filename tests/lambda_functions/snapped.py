"""A Lambda function for `test_snap_start.py`: it is called while it is imported, as some are to load more."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from aiobotocore.session import get_session
from snapshot_restore_py import register_after_restore, register_before_snapshot

from deadline import Breaker, BreakerOpen, aws
from deadline.aws._calls.latency import latency_of
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TIMEOUT = 10.0
session: Any = aws.install(get_session())
breaker = Breaker("orders", failures=1, recovery=0.3)
entered: list[float] = []
restored = False


class Before:
    """What there was before the snapshot; kept, so that no address is given out again."""

    loops: ClassVar[list[asyncio.AbstractEventLoop]] = []
    clients: ClassVar[list[Any]] = []
    helpers: ClassVar[set[int]] = set()
    sockets: ClassVar[set[str]] = set()
    latencies = 0


def sockets() -> set[str]:
    """The sockets that this process has open."""
    return {
        target
        for name in Path("/proc/self/fd").iterdir()
        if name.exists() and (target := os.readlink(name)).startswith("socket:")  # noqa: PTH115
    }


def children() -> list[int]:
    """The processes that this one has started."""
    return [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


@asynccontextmanager
async def clients() -> AsyncIterator[Any]:
    """A warm client."""
    entered.append(time.time())
    async with session.create_client("sqs") as sqs:
        await sqs.list_queues()
        yield sqs


@register_before_snapshot  # type: ignore[untyped-decorator,unused-ignore]
def _call_again() -> None:
    """Registered before the handler's own hook, it runs after that."""
    call()


@aws.handler(lifespan=clients, eager="EAGER" in os.environ, helper=True)
async def look(event: Any, context: Any, sqs: Any) -> dict[str, Any]:
    """Say what is as it was before the snapshot."""
    began = time.time() + context.get_remaining_time_in_millis() / 1000 - TIMEOUT
    latencies = latency_of.cache_info().currsize
    await sqs.list_queues()
    loop = asyncio.get_running_loop()
    if not restored:
        Before.loops.append(loop)
        Before.clients.append(sqs)
        Before.helpers.update(children())
        Before.sockets |= sockets() - at_first
        Before.latencies = latency_of.cache_info().currsize
        with breaker:
            raise LookupError("it is down")
    with breaker:
        probed = True
    return {
        "entered": entered,
        "began": began,
        "before": {"loops": len(Before.loops), "sockets": len(Before.sockets), "latencies": Before.latencies},
        "helpers before": sorted(Before.helpers),
        "helpers": children(),
        "same": [loop in Before.loops, sqs in Before.clients],
        "open": sum(not loop.is_closed() for loop in Before.loops) + len(Before.sockets & sockets()),
        "latencies": latencies,
        "probed": probed,
    }


def call() -> None:
    """Have all of it loaded, and opened."""
    with suppress(LookupError, BreakerOpen):
        look({}, FakeContext(30.0))


@register_after_restore  # type: ignore[untyped-decorator,unused-ignore]
def _restored() -> None:
    global restored  # noqa: PLW0603
    restored = True


at_first = sockets()
call()

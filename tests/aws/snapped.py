"""A Lambda function for `test_snap_start.py`: it is called while it is imported, as some are to load more."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiobotocore.session import get_session
from snapshot_restore_py import register_before_snapshot

from deadline import Breaker, aws
from deadline.aws._latency import latency_of
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TIMEOUT = 10.0
session: Any = aws.install(get_session())
breaker = Breaker("orders", failures=1, recovery=0.3)
entered: list[float] = []
before: dict[str, Any] = {}


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


@aws.handler(lifespan=clients, eager="EAGER" in os.environ, helper=True)
async def look(event: Any, context: Any, sqs: Any) -> dict[str, Any]:
    """Say what is as it was before the snapshot."""
    began = time.time() + context.get_remaining_time_in_millis() / 1000 - TIMEOUT
    latencies = latency_of.cache_info().currsize
    await sqs.list_queues()
    loop = asyncio.get_running_loop()
    if not before:
        before.update(loop=loop, sqs=sqs, helpers=children(), sockets=sockets() - at_first)
        with breaker:
            raise LookupError("it is down")
    with breaker:
        probed = True
    return {
        "entered": entered,
        "began": began,
        "same loop": loop is before["loop"],
        "loop closed": before["loop"].is_closed(),
        "same client": sqs is before["sqs"],
        "helpers before": before["helpers"],
        "helpers": children(),
        "sockets before": len(before["sockets"]),
        "sockets left": len(before["sockets"] & sockets()),
        "latencies": latencies,
        "latencies before": latencies_before,
        "probed": probed,
    }


at_first = sockets()
try:
    look({}, FakeContext(30.0))
except LookupError:
    pass
latencies_before = latency_of.cache_info().currsize


@register_before_snapshot  # type: ignore[untyped-decorator,unused-ignore]
def _call_again() -> None:
    """A hook that was registered later runs earlier: this one still has the loop."""
    assert not before["loop"].is_closed()

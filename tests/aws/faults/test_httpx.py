"""httpx as the SDK's backend, which its 3.x line offers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from deadline import DeadlineExceeded, deadline
from deadline._report.tasks import calls
from deadline.testing import Stall, service_unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline.testing import FaultProxy
    from tests.aws.conftest import Connect

pytest.importorskip("httpx2", reason="httpx2 is not installed")
backend = pytest.importorskip("aiobotocore.httpxsession", reason="this aiobotocore knows no httpx")

pytestmark = pytest.mark.slow


async def test_a_call_is_cut_and_the_client_goes_on(fault_proxy: FaultProxy, connect: Connect) -> None:
    """A stalled call is given up, retried and cut; the next call on the same client succeeds."""
    client = await connect("s3", http_session_cls=backend.HttpxSession, max_pool_connections=1)
    fault_proxy.add(Stall())
    with pytest.raises(DeadlineExceeded, match=r"HeadBucket attempt [2-5]") as caught:
        async with deadline(0.8):
            await client.head_bucket(Bucket="bucket")
    assert type(caught.value.__cause__).__name__ == "AttemptTimeoutError"
    call = caught.value.report.tasks[0].call
    assert call is not None
    assert call.outcome == "unknown"
    fault_proxy.clear()
    async with asyncio.timeout(1):
        await client.list_buckets()


async def test_a_streaming_body_is_closed(connect: Connect) -> None:
    """A body that nobody read gives its connection back at the cut."""
    client = await connect("s3", http_session_cls=backend.HttpxSession, max_pool_connections=1)
    await client.create_bucket(Bucket="bucket")
    await client.put_object(Bucket="bucket", Key="key", Body=bytes(100_000))
    with pytest.raises(DeadlineExceeded):
        async with deadline(0.3):
            await client.get_object(Bucket="bucket", Key="key")
            await asyncio.sleep(9)
    async with asyncio.timeout(1):
        await client.list_buckets()


async def test_a_call_in_its_backoff_was_answered(
    fault_proxy: FaultProxy, connect: Connect, pause: Callable[[float], None]
) -> None:
    """Between an answer and the next attempt, the call counts as answered."""
    pause(60.0)
    client = await connect(
        "s3", http_session_cls=backend.HttpxSession, retries={"mode": "legacy", "max_attempts": 3}
    )
    fault_proxy.add(service_unavailable())

    async def work() -> None:
        async with deadline(600.0):
            await client.list_buckets()

    task = asyncio.create_task(work())
    while task not in calls or calls[task].attempt == 1:
        await asyncio.sleep(0.01)
    assert calls[task].outcome == "answered"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_call_that_is_being_prepared_was_not_sent(connect: Connect) -> None:
    """Cut before the backend was asked to send, a call has no effect."""
    client = await connect("s3", http_session_cls=backend.HttpxSession)

    async def slow(**_: Any) -> None:
        await asyncio.sleep(60)

    client.meta.events.register("before-call.s3.PutObject", slow)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.5):
            await client.put_object(Bucket="bucket", Key="key", Body=b"x")
    call = caught.value.report.tasks[0].call
    assert call is not None
    assert call.outcome == "not sent"

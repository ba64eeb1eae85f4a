"""What became of a call that was cut: the report agrees with what crossed the wire."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import TYPE_CHECKING

import pytest

from deadline import DeadlineExceeded, aws, critical, deadline
from deadline._report.tasks import calls
from deadline.testing import BlackHole, Delay, Fault, FaultProxy, LostAnswer, Stall, service_unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline.testing import Wire
    from tests.aws.conftest import Connect

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "fault",
    [
        Stall(),  # the request went out; that the proxy kept it, nobody here can know
        LostAnswer(),
        BlackHole(10),
        Delay(5),
    ],
)
async def test_a_call_cut_after_its_request_went_out_is_unknown(
    fault_proxy: FaultProxy, connect: Connect, fault: Fault
) -> None:
    """Once the request is out, nobody here can know whether it had its effect."""
    client = await connect("s3")
    await client.create_bucket(Bucket="bucket")
    fault_proxy.add(fault)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.35):
            await client.put_object(Bucket="bucket", Key="key", Body=b"x")
    call = caught.value.report.tasks[0].call
    assert call is not None
    assert call.outcome == "unknown"
    assert not fault_proxy.log[-1].answered


async def test_a_call_in_its_backoff_was_answered(
    fault_proxy: FaultProxy, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between an answer and the next attempt, the call counts as answered."""
    monkeypatch.setattr("botocore.retryhandler.random.random", lambda: 0.9)
    client = await connect("s3", retries={"mode": "legacy", "max_attempts": 3})
    fault_proxy.add(service_unavailable())

    async def work() -> None:
        async with deadline(5.0):
            await client.list_buckets()

    task = asyncio.create_task(work())
    while task not in calls or calls[task].attempt == 1:
        await asyncio.sleep(0.01)
    assert calls[task].outcome == "answered"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_later_answer_does_not_settle_an_earlier_attempt(
    fault_proxy: FaultProxy, connect: Connect, pause: Callable[[float], None]
) -> None:
    """An attempt that was sent and not answered may have had its effect, whatever the next one is told."""
    pause(3.0)
    client = await connect("s3", retries={"mode": "standard", "total_max_attempts": 4})
    fault_proxy.add(Stall(), times=1)
    fault_proxy.add(service_unavailable())

    async def work() -> None:
        async with deadline(7.0):
            with aws.limits(per_attempt=0.3):
                await client.list_buckets()

    task = asyncio.create_task(work())
    async with asyncio.timeout(5):
        while len(fault_proxy.log) < 3 or not fault_proxy.log[-1].answered:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert calls[task].outcome == "unknown"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_call_that_waits_for_a_connection_was_not_sent(
    fault_proxy: FaultProxy, connect: Connect
) -> None:
    """Waiting for a free connection, a call is cut before anything went out."""
    client = await connect("s3", max_pool_connections=1, retries={"total_max_attempts": 1})
    fault_proxy.add(Stall())

    async def call(name: str) -> None:
        await client.put_object(Bucket="bucket", Key=name, Body=b"x")

    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.35), asyncio.TaskGroup() as group:
            group.create_task(call("first"), name="first")
            await asyncio.sleep(0.05)
            group.create_task(call("second"), name="second")
    outcomes = {task.name: task.call.outcome for task in caught.value.report.tasks if task.call}
    assert outcomes == {"first": "unknown", "second": "not sent"}


class LandsLate(Fault):
    """The request stays on its way when its client has gone, and has its effect when it is let go."""

    needs_http = True

    def __init__(self) -> None:
        self._let_go = threading.Event()

    async def play(self, wire: Wire) -> None:
        try:
            await wire.silence()
        except asyncio.CancelledError:
            await asyncio.to_thread(self._let_go.wait, 10)
            await wire.swallow()

    def let_go(self) -> None:
        self._let_go.set()


async def test_what_lands_after_its_undo_was_told(fault_proxy: FaultProxy, connect: Connect) -> None:
    """A request without an answer may outlive its compensation: it is undone, and the report says so much."""
    client = await connect("s3")
    await client.create_bucket(Bucket="bucket")
    late = LandsLate()
    fault_proxy.add(late, where=lambda request: request.method == "PUT" and request.path == "/bucket/note")

    async def put(name: str) -> None:
        await client.put_object(Bucket="bucket", Key=name, Body=b"x")

    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(2.5, margin=2.0):
            async with critical("move") as section:
                for name in ("copy", "note"):
                    remove = functools.partial(client.delete_object, Bucket="bucket", Key=name)
                    async with section.step(name, undo=remove):
                        await put(name)
    (report,) = caught.value.report.sections
    assert "Contents" not in await client.list_objects_v2(Bucket="bucket")
    assert str(report) == "critical section 'move' undone: copy undone, note undone (may still land)"
    assert report.may_land == ["note"]
    assert report.standing == []

    late.let_go()
    await asyncio.to_thread(
        fault_proxy.wait_until, lambda log: any(one.fault is late and one.upstream_answered for one in log)
    )
    listed = await client.list_objects_v2(Bucket="bucket")
    assert [entry["Key"] for entry in listed["Contents"]] == ["note"]


async def test_a_first_attempt_without_an_answer_may_land_after_the_undo_of_the_second(
    fault_proxy: FaultProxy, connect: Connect, pause: Callable[[float], None]
) -> None:
    """The step is done, and one request of it is still on its way."""
    pause(0.0)
    client = await connect("s3", retries={"mode": "standard", "total_max_attempts": 4})
    await client.create_bucket(Bucket="bucket")
    fault_proxy.add(Stall(), times=1)
    section = critical("move")
    with pytest.raises(ValueError, match="no"):
        async with section:
            async with section.step("note", undo=lambda: None):
                with aws.limits(per_attempt=0.3):
                    await client.put_object(Bucket="bucket", Key="note", Body=b"x")
            assert section.report.steps == (("note", "done", None, True),)
            raise ValueError("no")
    assert section.report.may_land == ["note"]

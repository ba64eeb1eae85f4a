"""What a function may be doing when its time is up: one Lambda function for all, run by `test_rescue.py`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import subprocess
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from deadline import DeadlineExceeded, aws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

if os.environ.get("ROW") == "a synchronous boto3 call":
    from silent import sqs


async def await_for_ever() -> None:
    await asyncio.Event().wait()


async def sleep() -> None:
    time.sleep(30)  # noqa: ASYNC251


async def loop() -> None:
    while True:
        pass


async def loop_that_swallows() -> None:
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


async def backtrack() -> None:
    re.match("(a+)+$", "a" * 50 + "b")


async def power() -> None:
    3 ** (3**17)


async def hold_the_gil() -> None:
    max(range(10**12))


async def derive_a_key() -> None:
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2_000_000_000)


async def swallow() -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass


async def await_in_finally() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(60)


async def block_in_finally() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        time.sleep(30)  # noqa: ASYNC251


async def shield() -> None:
    with anyio.CancelScope(shield=True):
        await asyncio.sleep(60)


async def block_when_closed() -> None:
    with anyio.CancelScope(shield=True):
        await block_in_finally()


async def asyncio_thread() -> None:
    await asyncio.to_thread(threading.Event().wait, 60)


async def anyio_thread() -> None:
    await anyio.to_thread.run_sync(threading.Event().wait, 60)


async def call_sqs() -> None:
    sqs.list_queues()


async def deadlock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


async def run_a_process() -> None:
    subprocess.run(["sleep", "30"], check=True)  # noqa: ASYNC221, S607


async def asyncio_child() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))
        group.create_task(sleep())


async def anyio_child() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(asyncio.sleep, 60)
        group.start_soon(sleep)


async def gathered() -> None:
    await asyncio.gather(sleep(), return_exceptions=True)


async def callback() -> None:
    asyncio.get_running_loop().call_soon(time.sleep, 30)
    await asyncio.sleep(60)


async def starve() -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    spinning = [asyncio.create_task(spin()) for _ in range(100)]
    await asyncio.wait(spinning)


async def leave_a_blocking_task() -> None:
    async def block() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(30)  # noqa: ASYNC251

    asyncio.create_task(block())  # noqa: RUF006
    await asyncio.sleep(0)


async def nothing() -> None:
    """End in time."""


BODIES: dict[str, Callable[[], Awaitable[None]]] = {
    "awaiting for ever": await_for_ever,
    "time.sleep": sleep,
    "a busy loop": loop,
    "a busy loop in except BaseException: pass": loop_that_swallows,
    "a catastrophic regular expression": backtrack,
    "a huge integer power": power,
    "a C loop that holds the GIL": hold_the_gil,
    "pbkdf2_hmac": derive_a_key,
    "a loop that swallows cancellations": swallow,
    "a finally that awaits": await_in_finally,
    "a finally that blocks": block_in_finally,
    "an anyio shield": shield,
    "a shield, and a finally that blocks": block_when_closed,
    "asyncio.to_thread": asyncio_thread,
    "anyio.to_thread": anyio_thread,
    "a synchronous boto3 call": call_sqs,
    "a deadlocked threading.Lock": deadlock,
    "subprocess.run": run_a_process,
    "a blocked child of asyncio's TaskGroup": asyncio_child,
    "a blocked child of anyio's TaskGroup": anyio_child,
    "a blocked task in gather, its error taken": gathered,
    "a blocked plain callback": callback,
    "tasks that starve the loop": starve,
    "a task left behind, which blocks": leave_a_blocking_task,
    "nothing": nothing,
}


async def _work(event: dict[str, Any], context: Any) -> dict[str, Any]:
    await BODIES[event["body"]]()
    return {"status": "done", "number": event.get("number"), "pid": os.getpid()}


@asynccontextmanager
async def resources() -> AsyncIterator[None]:
    entered.append(os.getpid())
    yield


entered: list[int] = []


@asynccontextmanager
async def blocking_resources() -> AsyncIterator[None]:
    entered.append(os.getpid())
    if len(entered) == 1:
        time.sleep(30)  # noqa: ASYNC251
    yield


@aws.handler(lifespan=blocking_resources)
async def blocked_at_first(event: dict[str, Any], context: Any, _: None) -> dict[str, Any]:
    """Have a lifespan that blocks."""
    return await _work(event, context)


@blocked_at_first.on_exceeded
async def _(exceeded: DeadlineExceeded, event: dict[str, Any], context: Any, _: None) -> dict[str, Any]:
    return {"status": "mitigated", "blocked": [link.function for link in exceeded.report.blocked]}


@aws.handler(lifespan=resources, recycle=True)
async def recycled(event: dict[str, Any], context: Any, _: None) -> dict[str, Any]:
    """Begin anew after an interrupt."""
    return {**await _work(event, context), "entered": len(entered)}


@aws.handler(helper="DEADLINE_NOTICE" in os.environ)
async def rescued(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Do what the event names."""
    return await _work(event, context)


@rescued.on_exceeded
async def _(exceeded: DeadlineExceeded, event: dict[str, Any], context: Any) -> dict[str, Any]:
    if "mitigation" in event:
        await BODIES[event["mitigation"]]()
    return {
        "status": "mitigated",
        "left": context.get_remaining_time_in_millis() / 1000,
        "blocked": [link.function for link in exceeded.report.blocked],
    }

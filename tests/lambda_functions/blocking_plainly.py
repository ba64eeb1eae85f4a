"""What a plain function may be doing when its time is up: one Lambda function, run by `test_rescue.py`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from deadline import DeadlineExceeded, aws

if TYPE_CHECKING:
    from collections.abc import Callable

if os.environ.get("ROW") == "a synchronous boto3 call":
    from silent import sqs


def loop() -> None:
    while True:
        pass


def loop_that_swallows() -> None:
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


def deadlock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def call_sqs() -> None:
    sqs.list_queues()


def block_in_finally() -> None:
    try:
        time.sleep(30)
    finally:
        time.sleep(30)


def wait_for_threads() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(time.sleep, 30).result()


async def sleep() -> None:
    await asyncio.sleep(30)


async def block() -> None:
    time.sleep(30)  # noqa: ASYNC251


async def swallow() -> None:
    while True:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            pass


async def thread() -> None:
    await asyncio.to_thread(time.sleep, 30)


async def call_back() -> None:
    asyncio.get_running_loop().call_soon(time.sleep, 30)
    await asyncio.sleep(30)


BODIES: dict[str, Callable[[], object]] = {
    "time.sleep": lambda: time.sleep(30),
    "a busy loop": loop,
    "a busy loop in except BaseException: pass": loop_that_swallows,
    "a catastrophic regular expression": lambda: re.match("(a+)+$", "a" * 50 + "b"),
    "a huge integer power": lambda: 3 ** (3**17),
    "a C loop that holds the GIL": lambda: max(range(10**12)),
    "pbkdf2_hmac": lambda: hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2_000_000_000),
    "a finally that blocks": block_in_finally,
    "a synchronous boto3 call": call_sqs,
    "a deadlocked threading.Lock": deadlock,
    "subprocess.run": lambda: subprocess.run(["sleep", "30"], check=True),  # noqa: S607
    "a pool of threads": wait_for_threads,
    "asyncio.run, which waits": lambda: asyncio.run(sleep()),
    "asyncio.run, which blocks": lambda: asyncio.run(block()),
    "asyncio.run, whose callback blocks": lambda: asyncio.run(call_back()),
    "asyncio.run, which swallows cancellations": lambda: asyncio.run(swallow()),
    "asyncio.run, which waits for a thread": lambda: asyncio.run(thread()),
    "nothing": lambda: None,
}


@aws.handler(helper=True)
def rescued(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Do what the event names."""
    BODIES[event["body"]]()
    return {"status": "done", "number": event.get("number")}


@rescued.on_exceeded
def _(exceeded: DeadlineExceeded, event: dict[str, Any], context: Any) -> dict[str, Any]:
    return {"status": "mitigated", "blocked": [link.function for link in exceeded.report.blocked]}

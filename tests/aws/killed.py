"""A Lambda function that dies in the middle of an invocation, for `test_breadcrumb.py`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

from deadline import DeadlineExceeded, aws, step


async def hold_the_lock() -> None:
    """In C, which does not look for signals."""
    sum(range(10**12))


async def swallow_all() -> None:
    """Whatever is raised here, by whomever."""
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


async def be_killed() -> None:
    """As by the kernel, which sends the same signal for lack of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


async def take_all_memory() -> None:
    """Until the kernel ends whoever has the worst score, which is this process."""
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1024)) * 1024 * 16)


async def leave() -> None:
    """Without a word."""
    os._exit(7)


async def wait() -> None:
    await asyncio.sleep(60)


async def fail() -> None:
    raise LookupError("no such order")


async def nothing() -> None:
    """End in time."""


async def steps() -> None:
    with step("inner"):
        pass
    os._exit(7)


BODIES = {
    "lock": hold_the_lock,
    "swallow": swallow_all,
    "killed": be_killed,
    "memory": take_all_memory,
    "exit": leave,
    "wait": wait,
    "fail": fail,
    "steps": steps,
    "nothing": nothing,
}


async def _work(event: dict[str, Any], context: Any) -> dict[str, Any]:
    if "body" in event:
        with step("fetch"):
            pass
        with step("work"):
            await BODIES[event["body"]]()
    if "sleep" in event:
        await asyncio.sleep(event["sleep"])
    return {"pid": os.getpid()}


async def _mitigate(exceeded: DeadlineExceeded, event: dict[str, Any], context: Any) -> dict[str, Any]:
    if event.get("mitigation") == "swallow":
        with step("mitigate"):
            await swallow_all()
    return {"status": "mitigated"}


def redact(said: dict[str, Any]) -> dict[str, Any]:
    """Take the card out."""
    if said["event"]:
        said["event"].pop("card", None)
    return said


plain = aws.handler(_work)
plain.on_exceeded(_mitigate)
telling = aws.handler(breadcrumb="event", redact=redact)(_work)
helped = aws.handler(helper=True, margin=1.0)(_work)
without = aws.handler(breadcrumb=False)(_work)


def slow_to_die(event: dict[str, Any], context: Any) -> Any:
    """Be called by Lambda, and sleep where no handler is."""
    time.sleep(event.get("sleep", 0.0))
    return plain(event, context)

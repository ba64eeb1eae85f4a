"""Lambda functions for `test_helper_process.py`: what no loop, thread or signal of their process reaches."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from deadline import aws

if TYPE_CHECKING:
    from deadline import DeadlineExceeded


async def _plain_callback() -> None:
    asyncio.get_running_loop().call_soon(time.sleep, 30)
    await asyncio.sleep(60)


async def _hold_the_lock() -> None:
    """In C, which does not look for signals."""
    sum(range(10**12))


async def _swallow_all() -> None:
    """Whatever is raised here, by whomever."""
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


async def _late() -> None:
    """Longer than the helper waits, and in time for an answer; what a signal cannot interrupt."""
    asyncio.get_running_loop().call_soon(time.sleep, 2.6)
    await asyncio.sleep(0.01)


async def _wait() -> None:
    await asyncio.sleep(60)


async def _fail() -> None:
    raise LookupError("no such order")


BODIES: dict[str, Any] = {
    "callback": _plain_callback,
    "lock": _hold_the_lock,
    "swallow": _swallow_all,
    "late": _late,
    "wait": _wait,
    "fail": _fail,
}


def redact(said: dict[str, Any]) -> dict[str, Any]:
    """Take the card out."""
    said["event"].pop("card", None)
    return said


@aws.handler(helper=True, redact=redact, margin=2.0)
async def blocked(event: dict[str, Any], context: Any) -> Any:
    """Do what the event says, and answer with this process's helpers."""
    if "body" in event:
        await BODIES[event["body"]]()
    return {"pid": os.getpid(), "helpers": children()}


@blocked.on_exceeded
async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
    return {"status": "partial"}


def children() -> list[int]:
    """The processes that this one has started."""
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as file:  # noqa: PTH123
        return [int(pid) for pid in file.read().split()]


if __name__ == "__main__":
    # A main process that is killed while its helper lives, with a fork that inherits what it has open.
    from deadline.testing import FakeContext

    answer = blocked({}, FakeContext(60.0))
    os.fork()
    print(answer["helpers"][0], flush=True)  # noqa: T201
    sys.stdin.read()

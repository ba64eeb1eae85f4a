"""Lambda functions for `test_helper_process.py`: what no loop, thread or signal of their process reaches."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from deadline import aws
from deadline.aws._notices.helper_process import Helper
from deadline.aws._runtime.process_record import armed

if TYPE_CHECKING:
    from deadline import DeadlineExceeded


async def _hold_the_lock() -> None:
    """In C, which does not look for signals."""
    sum(range(10**12))


async def _derive_a_key() -> None:
    """In C, which does not look for signals either, and needs no lock."""
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2_000_000_000)


async def _late() -> None:
    """Longer than the helper waits, and in time for an answer; nothing is interrupted here before."""
    asyncio.get_running_loop().call_soon(time.sleep, 2.2)
    await asyncio.sleep(0.01)


async def _wait() -> None:
    await asyncio.sleep(60)


async def _fail() -> None:
    raise LookupError("no such order")


BODIES: dict[str, Any] = {
    "lock": _hold_the_lock,
    "key": _derive_a_key,
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


def stand_by() -> None:
    """Be a main process that has armed its helper, and waits to be killed."""
    helper = Helper(aws.Notice.to(os.environ["DEADLINE_NOTICE"]), None)
    armed().arm(("main", "f", None))
    helper.arm({}, float(sys.argv[2]))
    print(*children(), flush=True)  # noqa: T201
    sys.stdin.read()


def fork() -> None:
    """Fork between arming and disarming; both go on, and neither is disturbed by the other."""
    helper = Helper(aws.Notice.to(os.environ["DEADLINE_NOTICE"]), None)
    armed().arm(("main", "f", None))
    helper.arm({}, 2.0)
    forked = os.fork()
    if forked == 0:
        assert helper.stand_down()  # nothing that is its own is armed
        helper.postpone(60.0)
        assert children() == []
        armed().arm(("fork", "f", None))
        helper.arm({}, 0.5)
    time.sleep(3.0)
    assert not helper.stand_down()
    assert helper.has_sent(5.0)
    helper.kill()
    if forked == 0:
        os._exit(0)
    assert os.waitpid(forked, 0)[1] == 0


if __name__ == "__main__":
    {"stand_by": stand_by, "fork": fork}[sys.argv[1]]()

"""Lambda functions and processes that die in the middle of an invocation, for `test_breadcrumb.py`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadline import Event, aws, step, subscribe
from deadline.aws._rescue.breadcrumb import Breadcrumb

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline import DeadlineExceeded


async def hold_the_lock() -> None:
    """In C, which does not look for signals."""
    sum(range(10**12))


async def derive() -> None:
    """In C without the lock, which does not look for signals either: nothing interrupts it."""
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2_000_000_000)


async def be_killed() -> None:
    """As by the kernel, which sends the same signal for lack of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def join(group: str) -> None:
    Path(group, "cgroup.procs").write_text(str(os.getpid()))


async def take_all_memory() -> None:
    """Of a control group, whose only process the kernel then kills."""
    join(os.environ["MEMORY_GROUP"])
    kept = []
    while True:
        kept.append(b"x" * 10_000_000)


async def leave() -> None:
    """Without a word."""
    os._exit(7)


async def wait() -> None:
    await asyncio.sleep(60)


async def fail() -> None:
    raise LookupError("no such order")


async def nothing() -> None:
    """End in time."""


BODIES = {
    "lock": hold_the_lock,
    "derive": derive,
    "killed": be_killed,
    "memory": take_all_memory,
    "exit": leave,
    "wait": wait,
    "fail": fail,
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
    if event.get("mitigation") == "derive":
        with step("mitigate"):
            await derive()
    return {"status": "mitigated"}


def redact(said: dict[str, Any]) -> dict[str, Any]:
    """Take the card out."""
    if said["event"]:
        said["event"].pop("card", None)
    return said


OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "event": {"breadcrumb": "event", "redact": redact, "margin": 5.0},
    "helper": {"helper": True, "margin": 3.0},
    "none": {"breadcrumb": False},
}
make: Any = aws.handler
function = make(**OPTIONS[os.environ.get("OPTIONS", "")])(_work)
function.on_exceeded(_mitigate)


# --- processes without Lambda -----------------------------------------------------------------------------


class Context:
    """As much of Lambda's as is looked at."""

    function_name = "killed"

    def __init__(self, request_id: str) -> None:
        self.aws_request_id = request_id

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def begin(request_id: str, then: Callable[[Any, Any], Any]) -> list[str]:
    """Begin an invocation in this process, its first. Returns the requests that it tells of."""
    died: list[str] = []

    def listen(event: Event) -> None:
        if event.name == "aws.died":
            died.append(event.fields["request_id"])

    unsubscribe = subscribe(listen)
    Breadcrumb("killed", file=True, event=False).run(
        lambda *_: then(died, request_id), None, Context(request_id)
    )
    unsubscribe()
    return died


def say(*lines: str) -> None:
    """To whoever has started this process."""
    os.write(1, "".join(f"{line}\n" for line in lines).encode())


def die(died: list[str], _: str) -> None:
    """Say who has died, and do the same."""
    say(*died)
    os._exit(1)


def many(lines: str, deaths: str) -> None:
    """Have so many processes die in each of so many lines at once; each tells of those that it finds."""
    for line in range(int(lines)):
        if os.fork() == 0:
            for number in range(int(deaths)):
                if os.fork() == 0:
                    begin(f"{line}-{number}", die)
                os.wait()
            os._exit(0)
    for _ in range(int(lines)):
        os.wait()


def scan() -> None:
    """Open and close every file of the folder in the middle of an invocation, as a backup does."""

    def then(_: list[str], request_id: str) -> None:
        for path in Path(os.environ["TMPDIR"]).glob("*/*"):
            path.read_bytes()
        say("scanned")
        sys.stdin.read()

    begin("main", then)


def fork() -> None:
    """Fork in the middle of an invocation; the fork ends its copy of it, and itself."""

    def then(_: list[str], request_id: str) -> None:
        child = os.fork()
        if child == 0:
            return
        os.waitpid(child, 0)
        say("forked")
        sys.stdin.read()

    begin("main", then)


def last() -> None:
    """Say who has died."""
    say(*begin("last", lambda *_: None))


def full() -> None:
    """Begin where no file can have a byte."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, unlimited[1]))
    died = begin("full", lambda *_: None)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    say(*died)


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {
        "many": many,
        "fork": fork,
        "scan": scan,
        "last": last,
        "full": full,
    }
    commands[sys.argv[1]](*sys.argv[2:])

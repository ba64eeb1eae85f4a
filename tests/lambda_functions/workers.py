"""Lambda functions for `test_managed_instances.py`: what forked workers have, and what nothing frees."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).parent))

from blocking import BODIES
from helped import children

from deadline import DeadlineExceeded, aws, step
from deadline.aws._rescue import worker_exit as _last_resort

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

if "IMPATIENT" in os.environ:  # a test has no time for more
    vars(_last_resort).update(PATIENCE=0.5, TELLING=2.0)

IMPORTER = os.getpid()
opened: list[int] = []


@asynccontextmanager
async def resources() -> AsyncIterator[list[int]]:
    """Note where it is entered."""
    opened.append(os.getpid())
    yield opened


def _lock_twice(library: Any) -> None:
    """A deadlock in C: no signal ends it, and it takes no processor."""
    mutex = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


async def stuck() -> None:
    with step("locking"):
        _lock_twice(ctypes.CDLL(None))


async def stuck_with_the_interpreter() -> None:
    _lock_twice(ctypes.PyDLL(None))


STUCK: dict[str, Any] = {"stuck": stuck, "stuck with the interpreter": stuck_with_the_interpreter}


def _links(pid: int) -> list[str]:
    """What the process has open, of the kinds that a loop and a helper are made of."""
    names = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # the one of this loop is gone
            names.append(str(descriptor.readlink()))
    return [name for name in names if name.startswith("socket:")]


@aws.handler(lifespan=resources, eager=True, helper="HELPED" in os.environ)
async def work(event: dict[str, Any], context: Any, opened: list[int]) -> dict[str, Any]:
    """Do what the event names, and say who did it."""
    await asyncio.sleep(event.get("seconds", 0.0))
    end = time.monotonic() + event.get("computes", 0.0) - 0.02
    while time.monotonic() < end:
        pass
    if "body" in event:
        await (STUCK | BODIES)[event["body"]]()
    return {
        "status": "done",
        "pid": os.getpid(),
        "importer": IMPORTER,
        "opened": opened,
        "helpers": children(),
        "sockets": _links(os.getpid()),
        "sockets of the parent": _links(os.getppid()),
    }


@work.on_exceeded
async def _(exceeded: DeadlineExceeded, event: Any, context: Any, opened: list[int]) -> dict[str, Any]:
    return {"status": "mitigated", "pid": os.getpid()}

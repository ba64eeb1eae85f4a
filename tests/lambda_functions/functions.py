"""Lambda functions for `test_handler_runtime.py`, which runs them under the real runtime client."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from deadline import DeadlineExceeded, aws, critical

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Private(BaseException):
    """Nobody's."""


opened: list[int] = []
acted: list[str] = []


@asynccontextmanager
async def resources() -> AsyncIterator[list[int]]:
    """Count how often it is entered, and keep a task group open."""
    opened.append(os.getpid())
    async with anyio.create_task_group() as group:
        yield opened
        group.cancel_scope.cancel()


async def _act_later(name: str, seconds: float) -> None:
    await asyncio.sleep(seconds)
    acted.append(name)


async def _escape(error: BaseException) -> None:
    raise error


async def _swallow() -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass


async def _never_end() -> None:
    while True:
        try:
            await asyncio.sleep(0.05)
        except BaseException:
            pass


async def _shield() -> None:
    with anyio.CancelScope(shield=True):
        await asyncio.sleep(60)


BODIES: dict[str, Any] = {
    "wait": lambda: asyncio.sleep(60),
    "swallow": _swallow,
    "never end": lambda: asyncio.create_task(_never_end()),
    "shield": _shield,
    "thread": lambda: asyncio.to_thread(threading.Event().wait, 60),
    "cancelled": lambda: _escape(asyncio.CancelledError()),
    "group": lambda: _escape(ExceptionGroup("several", [ValueError("one"), KeyError("two")])),
    "base group": lambda: _escape(BaseExceptionGroup("several", [Private("one"), KeyError("two")])),
    "exit": lambda: _escape(SystemExit(3)),
    "keyboard": lambda: _escape(KeyboardInterrupt()),
    "private": lambda: _escape(Private("mine")),
    "error": lambda: _escape(LookupError("no such order")),
    "exit in a task": lambda: asyncio.create_task(_escape(SystemExit(4))),
}


async def _work(event: dict[str, Any], context: Any) -> dict[str, Any]:
    if "leave" in event:
        asyncio.create_task(_act_later(event["leave"], 0.3), name=event["leave"])  # noqa: RUF006
    if "body" in event:
        await BODIES[event["body"]]()
    return {"number": event.get("number"), "acted": acted, "thread": threading.active_count()}


plain = aws.handler(_work)


@aws.handler(lifespan=resources)
async def with_resources(event: dict[str, Any], context: Any, opened: list[int]) -> Any:
    """Say who opened the resources."""
    return {"opened": opened, "pid": os.getpid()}


@aws.handler
async def mitigated(event: dict[str, Any], context: Any) -> Any:
    """Do what the event says; the mitigation, too."""
    return await _work(event, context)


@mitigated.on_exceeded
async def _(exceeded: DeadlineExceeded, event: dict[str, Any], context: Any) -> Any:
    how = event.get("mitigation", "answer")
    if how == "raise exceeded":
        raise exceeded
    if how == "raise":
        raise LookupError("no queue")
    if how == "overrun":
        await _swallow()
    return {"status": "partial", "left": context.get_remaining_time_in_millis()}


@aws.handler
async def undoes(event: dict[str, Any], context: Any) -> Any:
    """Do one step and wait; its undo takes as long as the event says, and blocks if that says so."""

    async def undo() -> None:
        if event.get("block"):
            time.sleep(event["undo"])  # noqa: ASYNC251  # it is the case
        else:
            await asyncio.sleep(event["undo"])
        print("undone")  # noqa: T201  # for the log
        acted.append("undone")

    if event.get("quick"):
        return {"acted": acted}
    async with critical("move") as section:
        async with section.step("copy", undo=undo):
            pass
        await asyncio.sleep(60)
    return None


@undoes.on_exceeded
async def _(exceeded: DeadlineExceeded, event: dict[str, Any], context: Any) -> Any:
    print("answering")  # noqa: T201
    return {"status": "partial"} if event.get("json", True) else {1, 2}


@aws.handler(caller_limit=1.0, notice=lambda message: time.sleep(message["event"].get("telling", 0.0)))
def told_slowly(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Be a plain function whose notice outlasts its caller."""
    if not event.get("quick"):
        time.sleep(60)
    return {"status": "done"}


@told_slowly.on_exceeded
def partly(exceeded: DeadlineExceeded, event: dict[str, Any], context: Any) -> dict[str, Any]:
    return {"status": "partial"}


def around(event: Any, context: Any) -> Any:
    """What a decorator makes of a handler: it has the last word on the answer."""
    return {"around": undoes(event, context)}


def bare(event: Any, context: Any) -> Any:
    """What a synchronous handler does."""
    return event


def stood_still(event: dict[str, Any], context: Any) -> Any:
    """Run `mitigated` with a monotonic clock that did not move while the environment was frozen."""
    frozen[0] += event.get("frozen", 0.0)
    return mitigated(event, context)


# A monotonic clock that can be held back, for everybody in this process: a real one cannot be stopped.
frozen = [0.0]
if "STAND_STILL" in os.environ:
    _monotonic = time.monotonic
    time.monotonic = lambda: _monotonic() - frozen[0]


if __name__ == "__main__":
    sys.exit("these are run by the tests")

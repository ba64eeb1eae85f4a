"""Lambda functions for `test_init.py` that take their time before the first invocation."""

# ruff: noqa: E402  # it is what the function says for itself that comes first
from __future__ import annotations

from deadline import aws

aws.init_deadline(limit=3.0)

import asyncio
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import slow_import  # type: ignore[import-not-found,unused-ignore]  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

entered = 0


async def connect() -> None:
    """Hang in the way that the environment says, the first time."""
    how = os.environ.get("OPEN") if entered == 1 else None
    if how == "hang":
        await asyncio.sleep(60)
    if how == "block":
        time.sleep(60)  # noqa: ASYNC251  # it is the case
    while how == "swallow":
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
    if how == "fail":
        raise LookupError("no database")


@asynccontextmanager
async def clients() -> AsyncIterator[int]:
    """What is opened in the init phase."""
    global entered  # noqa: PLW0603
    entered += 1
    await connect()
    yield entered


@aws.handler(lifespan=clients, eager=True)
async def handler(event: Any, context: Any, opened: int) -> Any:
    """Say how often the lifespan was entered."""
    return {"entered": opened, "pid": os.getpid()}

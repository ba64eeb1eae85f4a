"""Work that must be done whatever cancels the one that waits for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextvars import Context

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T], context: Context | None = None) -> T:
    """Do `work` in a task of its own and wait for it, through any number of cancellations.

    A shield protects a block's own task and the children of groups. In any other task that the block awaits
    (`gather`, a bare one) anyio cancels again and again through the await, and a task's own `cancel` knows no
    shields. The work must bound itself.

    Raises:
        CancelledError: The last cancellation that came meanwhile, after the work is done.
    """
    task = asyncio.create_task(work, context=context)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as error:  # each one is to be outlasted
                cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()

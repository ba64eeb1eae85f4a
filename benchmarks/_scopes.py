"""The entrants: every way to limit a block's time that is measured beside ours."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import anyio
import async_timeout
import quattro

from deadline import deadline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Scope = Callable[[float], Any]

SCOPES: Final[dict[str, Scope]] = {
    "deadline": deadline,
    "asyncio.timeout": asyncio.timeout,
    "anyio.fail_after": anyio.fail_after,
    "async-timeout": async_timeout.timeout,
    "quattro.fail_after": quattro.fail_after,
}
"""Of asyncio: called with seconds, used with `async with` or `with`, a TimeoutError at the edge."""

DISTRIBUTIONS: Final = ("anyio", "async-timeout", "quattro", "trio")


async def expire(scope: Scope, seconds: float, wait: Callable[[], Awaitable[object]]) -> float:
    """Let a scope expire on `wait()`.

    Returns:
        Seconds from the instant to the first line of the `except`. The instant is the clock's reading
        just before the scope is made, plus `seconds`; every scope reads the clock itself a little later.
    """
    instant = monotonic() + seconds
    try:
        limit = scope(seconds)
        if hasattr(limit, "__aenter__"):
            async with limit:
                await wait()
        else:
            with limit:
                await wait()
    except TimeoutError:
        return monotonic() - instant
    raise AssertionError("the wait ended before its time")


async def expire_wait_for(seconds: float, wait: Callable[[], Awaitable[object]]) -> float:
    """The same for `asyncio.wait_for`."""
    instant = monotonic() + seconds
    try:
        await asyncio.wait_for(wait(), seconds)
    except TimeoutError:
        return monotonic() - instant
    raise AssertionError("the wait ended before its time")

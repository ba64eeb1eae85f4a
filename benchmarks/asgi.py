"""What `asgi.DeadlineMiddleware` adds to a request that is answered in time.

CPU of a plain ASGI application that answers at once, bare and with the middleware: with a budget, and with a
budget and the header that a caller sends; and with `asyncio.timeout` around the call. The server is left out:
it costs the same in each. In batches inside of one task, as in `scope_cost.py`.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING, Any

from _harness import (
    OURS,
    Criterion,
    Result,
    added,
    bars,
    costs,
    measured,
)

from deadline.asgi import DeadlineMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable

TIMES = 500
BATCHES = 10
"""Per block and entrant."""

LIMIT = 30.0
"""Microseconds that the middleware may add."""

BARE = "bare"
WITH_HEADER = "deadline, with header"
_HEADERS = [
    (b"host", b"orders.example.com"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"user-agent", b"python-httpx/0.28"),
    (b"authorization", b"Bearer " + bytes(200)),
    (b"content-type", b"application/json"),
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    (b"x-forwarded-for", b"192.0.2.1"),
]
_TOLD = (b"deadline-remaining-ms", b"4000")


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})


async def _timeout(scope: Any, receive: Any, send: Any) -> None:
    async with asyncio.timeout(5.0):
        await _app(scope, receive, send)


async def _receive() -> dict[str, Any]:
    return {"type": "http.request"}


async def _send(message: Any) -> None:
    pass


_OURS = DeadlineMiddleware(_app, budget=5.0, header="deadline-remaining-ms")
APPS: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    OURS: (_OURS, _HEADERS),
    WITH_HEADER: (_OURS, [*_HEADERS, _TOLD]),
    "asyncio.timeout": (_timeout, _HEADERS),
    BARE: (_app, _HEADERS),
}


async def _cpu(name: str) -> float:
    """Microseconds for one."""
    app, headers = APPS[name]
    scope = {"type": "http", "method": "GET", "path": "/orders/1", "headers": headers}
    gc.collect()
    started = time.process_time_ns()
    for _ in range(TIMES):
        await app(scope, _receive, _send)
    return (time.process_time_ns() - started) / TIMES / 1e3


def main() -> None:
    """Measure."""
    samples = measured(_cpu, list(APPS), BATCHES)
    result = Result("asgi", "µs", ("anyio",))
    result.tables.append(costs("CPU, one request without its server", samples))
    for name in (OURS, WITH_HEADER):
        result.criteria.append(Criterion(f"{name}: added, µs", added(samples[name], samples[BARE]), LIMIT))

    result.publish(bars(samples))


if __name__ == "__main__":
    main()

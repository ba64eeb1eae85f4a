"""A handler with a slow dependency, in two versions: `asyncio-deadline run hello.handler`.

`{"seconds": 60}` makes the dependency hang. `plain` is then killed without a word; `handler` answers.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from deadline import DeadlineExceeded, deadline, step


def plain(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Wait as long as it takes."""
    time.sleep(event.get("seconds", 0.0))
    return {"hello": event.get("name", "world")}


async def greet(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Wait until a second before Lambda would kill."""
    try:
        async with deadline(context, margin=1.0):
            with step("look up"):
                await asyncio.sleep(event.get("seconds", 0.0))
            return {"hello": event.get("name", "world")}
    except DeadlineExceeded as exceeded:
        print(exceeded.report.render())
        return {"hello": "whoever you are", "done": exceeded.report.done}


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Be what Lambda calls, which cannot call a coroutine."""
    return asyncio.run(greet(event, context))

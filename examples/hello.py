"""A handler with a slow dependency, in two versions: `asyncio-deadline run hello.handler`.

`{"seconds": 60}` makes the dependency hang. `plain` is then killed without a word; `handler` answers.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from deadline import DeadlineExceeded, aws, step


def plain(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Wait as long as it takes."""
    time.sleep(event.get("seconds", 0.0))
    return {"hello": event.get("name", "world")}


@aws.handler
async def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Wait until half a second before Lambda would kill."""
    with step("look up"):
        await asyncio.sleep(event.get("seconds", 0.0))
    return {"hello": event.get("name", "world")}


@handler.on_exceeded
async def _(exceeded: DeadlineExceeded, event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Say what there is to say."""
    return {"hello": "whoever you are", "pending": exceeded.report.pending}

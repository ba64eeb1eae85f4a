"""An order behind API Gateway that comes late: the caller is answered in time, the undo completes after that.

API Gateway gives up 29 seconds after it received a request; the function may run for 60. This one has
waited for 27.5 of them, for a cold start say. What was reserved takes longer to release than is left.

Run it with `python examples/gateway.py` where the test extras are installed.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from deadline import DeadlineExceeded, aws, critical

LIMIT = 29.0
WAITED = 27.5


async def release() -> None:
    """Undo the reservation, slowly."""
    await asyncio.sleep(1.0)
    print("released", time.time())


@aws.handler
async def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Reserve, and wait for somebody who charges."""
    if "requestContext" in event:
        async with critical("order") as section:
            async with section.step("reserve", undo=release):
                await asyncio.sleep(0.01)
            await asyncio.sleep(60)
    return {"statusCode": 201}


@handler.on_exceeded
async def _(exceeded: DeadlineExceeded, event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The caller is still there: tell it."""
    print("answering", time.time())
    return {"statusCode": 504, "body": "Try again; nothing was ordered."}


def main() -> None:
    """Show it."""
    from deadline.testing import Emulator  # noqa: PLC0415  # not in the function

    with Emulator("gateway.handler", path=Path(__file__).parent, timeout=60.0) as function:
        function.invoke({})  # warm
        received = time.time() - WAITED
        request = {
            "httpMethod": "POST",
            "requestContext": {"stage": "prod", "requestTimeEpoch": int(received * 1000)},
        }
        ended = function.invoke(request)
    for line in ended.log.splitlines():
        what, _, instant = line.partition(" ")
        if what in {"answering", "released"}:
            print(f"second {float(instant) - received:.1f}: {what}")
    print(f"response: {ended.response}")


if __name__ == "__main__":
    main()

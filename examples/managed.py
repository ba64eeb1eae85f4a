"""Workers that hang and come back: a Lambda Managed Instance of four, where nobody enforces the timeout.

Three invocations hang, each in another way. Under `plain`, with `asyncio.timeout`, their callers get an error
and their workers are gone; under `handler` they answer, and all four serve on.

Run it with `python examples/managed.py` where the extra testing is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from deadline import DeadlineExceeded, aws

WORKERS: Final = 4
TIMEOUT: Final = 1.5
MARGIN: Final = 0.8


async def work(event: dict[str, Any]) -> dict[str, Any]:
    """Do what the event says, and say who has done it."""
    match event.get("hang"):
        case "waiting":
            time.sleep(3600)  # noqa: ASYNC251  # a client that is not async, say
        case "swallowing":
            while True:
                with contextlib.suppress(BaseException):  # somebody wanted to be very safe
                    time.sleep(1)  # noqa: ASYNC251
        case "calling back":
            asyncio.get_running_loop().call_soon(time.sleep, 3600)
    await asyncio.sleep(0.1)
    return {"status": "done", "worker": os.getpid()}


def plain(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Be cut a second before the timeout, if anything can."""

    async def main() -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT - MARGIN):
            return await work(event)

    return asyncio.run(main())


@aws.handler(margin=MARGIN)
async def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The same, and be ended whatever it does."""
    return await work(event)


@handler.on_exceeded
async def _(exceeded: DeadlineExceeded, event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Say what there is to say."""
    return {"status": "partial", "blocked in": exceeded.report.blocked[-1].function}


def main() -> None:
    """Have three of four workers hang, then look who is left."""
    from deadline.testing import Emulator  # noqa: PLC0415

    for name in ("plain", "handler"):
        function = f"managed.{name}"
        with (
            Emulator(function, path=Path(__file__).parent, timeout=TIMEOUT, workers=WORKERS) as emulator,
            ThreadPoolExecutor(WORKERS) as pool,
        ):
            hanging = [{"hang": how} for how in ("waiting", "swallowing", "calling back")]
            print(name)
            for event, result in zip(hanging, pool.map(emulator.invoke, hanging), strict=True):
                print(f"  {event['hang']:14}{result.status:9}{result.response or ''}")
            found = pool.map(emulator.invoke, [{}] * WORKERS * 2)
            workers = {result.response["worker"] for result in found if result.response}
            print(f"  {len(workers)} of {WORKERS} workers left")


if __name__ == "__main__":
    main()

"""The Lambda functions of `rescue.py`: the rows of `tests/lambda_functions/blocking.py` for each entrant."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import anyio

sys.path.append(str(Path(__file__).parent.parent / "tests" / "lambda_functions"))

from blocking import BODIES

from deadline import DeadlineExceeded, aws

MARGIN = 1.0
ROWS = [name for name in BODIES if name != "nothing"]


def _mitigate(context: Any) -> dict[str, Any]:
    left = context.get_remaining_time_in_millis() / 1000
    print(f"mitigated with {left} s left", flush=True)
    return {"status": "mitigated"}


@aws.handler(margin=MARGIN, helper="DEADLINE_NOTICE" in os.environ)
async def ours(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The scope, leaving behind, the interrupt; where there is somebody to tell, the helper process, too."""
    print(f"soft at {time.time() + _allowed(context)}", flush=True)
    await BODIES[event["body"]]()
    return {"status": "done"}


@ours.on_exceeded
async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> dict[str, Any]:
    return _mitigate(context)


def _allowed(context: Any) -> float:
    left: float = context.get_remaining_time_in_millis() / 1000
    return left - MARGIN


def asyncio_timeout(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """As its documentation has it."""

    async def main() -> dict[str, Any]:
        try:
            async with asyncio.timeout(_allowed(context)):
                await BODIES[event["body"]]()
        except TimeoutError:
            return _mitigate(context)
        return {"status": "done"}

    return asyncio.run(main())


def anyio_fail_after(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """As its documentation has it."""

    async def main() -> dict[str, Any]:
        try:
            with anyio.fail_after(_allowed(context)):
                await BODIES[event["body"]]()
        except TimeoutError:
            return _mitigate(context)
        return {"status": "done"}

    return asyncio.run(main())


def signal_alarm(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The recipe that is passed around: an alarm whose handler raises, once, wherever that may be."""

    def ring(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, _allowed(context))
    try:
        asyncio.run(BODIES[event["body"]]())  # type: ignore[arg-type]  # they are all coroutine functions
    except TimeoutError:
        return _mitigate(context)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"status": "done"}

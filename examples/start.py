"""A function whose start hangs, once in an import and once in a lifespan: `python start.py`.

Its limit is two seconds here, so that nobody has to wait for Lambda's ten.
"""

# ruff: noqa: E402  # what is imported after it is what it watches
from __future__ import annotations

from deadline import aws

aws.init_deadline(limit=2.0)

import asyncio
import importlib
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HANGS = os.environ.get("HANGS")

if HANGS == "import":
    importlib.import_module("slow_rates")


@asynccontextmanager
async def database() -> AsyncIterator[str]:
    """Connect; the environment says whether nobody answers, the first time."""
    global HANGS  # noqa: PLW0603  # as a flag of the network's
    if HANGS == "lifespan":
        HANGS = None
        await asyncio.sleep(60)
    yield "connected"


@aws.handler(lifespan=database, eager=True)
async def handler(event: Any, context: Any, connection: str) -> str:
    """Use the connection."""
    return connection


def main() -> None:
    """Start it in an emulated Lambda, which kills what is not ready in time."""
    from deadline.testing import Emulator  # noqa: PLC0415  # the function has no use for it

    for hangs, timeout in (("import", 0.5), ("lifespan", 5.0)):
        print(f"--- the {hangs} hangs")
        with Emulator(
            "start.handler",
            path=Path(__file__).parent,
            timeout=timeout,
            init_timeout=2.0,
            env={"HANGS": hangs},
        ) as function:
            result = function.invoke({})
        print(result.log)
        print(result.response if result.error is None else result.error.message)


if __name__ == "__main__":
    main()

"""A function that is killed in the middle, and the one after it, which tells: `python last_words.py`.

Nothing runs in a process that is killed. What it was doing lies in a file, which the next cold start finds.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from deadline import aws, step


@aws.handler
async def handler(event: dict[str, Any], context: Any) -> str:
    """Make a picture smaller, or have the kernel end the process, as it does for lack of memory."""
    with step("fetch"):
        await asyncio.sleep(0.1)
    with step("resize"):
        if event["megapixels"] > 100:
            os.kill(os.getpid(), signal.SIGKILL)
    return "resized"


def main() -> None:
    """Show what the log has of both."""
    from deadline.testing import Emulator  # noqa: PLC0415  # the function needs no testing kit

    with Emulator("last_words.handler", path=Path(__file__).parent) as function:
        for megapixels in (400, 12):
            print(function.invoke({"megapixels": megapixels}).log)


if __name__ == "__main__":
    main()

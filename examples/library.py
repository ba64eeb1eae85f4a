"""A library that obeys the deadline of its caller: `python library.py`."""

from __future__ import annotations

import asyncio

from deadline import DeadlineExceeded, InsufficientTime, deadline, timeout


async def lookup(key: str) -> str:
    """As a library would: at most five seconds, and less if its caller has less."""
    seconds = timeout(most=5.0)
    return f"{key}: at most {seconds:.1f} s"


async def main() -> None:
    """Without a deadline, within one, and at its end."""
    print(await lookup("alone"))
    async with deadline(2.0, margin=0.0):
        print(await lookup("within"))
    try:
        async with deadline(0.1, margin=0.05):
            try:
                await asyncio.sleep(60)
            finally:
                try:
                    await lookup("late")
                except InsufficientTime:
                    print("late: refused")
    except DeadlineExceeded:
        print("the time is up")


if __name__ == "__main__":
    asyncio.run(main())

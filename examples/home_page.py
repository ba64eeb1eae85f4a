"""A home page of fifty parts, each from a service of its own, of which five are dead: it is there in time.

Each part has 0.2 s, then it is the last good one, or a default. After their first silence the five are not
asked any more. The services are a small HTTP server in this process, on a real socket; one of its paths never
answers, and four more stop.

Run it with `python examples/home_page.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Final

from deadline import Answer, Breaker, LastGood, deadline, fallback

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

PARTS: Final = 50
DEAD: Final = range(5)
WITHIN: Final = 0.2
BUDGET: Final = 0.5

known = LastGood()
# Each part is asked once a visit, so that one silence is half of what is known.
breakers = {part: Breaker(f"part {part}", failures=1) for part in range(PARTS)}


# --- the page ---------------------------------------------------------------------------------------------


async def fetch(port: int, part: int) -> str:
    """One part, its body read to the end."""
    with breakers[part]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            writer.write(f"GET /parts/{part} HTTP/1.0\r\n\r\n".encode())
            answer = await reader.read()
    return answer.partition(b"\r\n\r\n")[2].decode()


async def page(port: int) -> list[Answer[str]]:
    """All parts at once, each in time."""

    async def answer(part: int) -> Answer[str]:
        return await fallback(
            lambda: fetch(port, part), key=part, cache=known, default="nothing today", within=WITHIN
        )

    async with deadline(BUDGET, name="home page"):
        return await asyncio.gather(*[answer(part) for part in range(PARTS)])


# --- the services, and three visits -----------------------------------------------------------------------


class Services:
    """Answers with a part; the dead ones take a request and say nothing."""

    def __init__(self) -> None:
        self.dead: frozenset[int] = frozenset()
        self.asked: Counter[int] = Counter()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One request."""
        with closing(writer):
            part = int((await reader.readuntil(b"\r\n\r\n")).split()[1].rpartition(b"/")[2])
            self.asked[part] += 1
            if part in self.dead:
                await reader.read()  # until the other side hangs up
                return
            await asyncio.sleep(0.02)
            writer.write(f"HTTP/1.0 200 OK\r\n\r\npart {part}".encode())
            await writer.drain()


async def visit(title: str, port: int, services: Services) -> None:
    """Get the page, and say where its parts are from."""
    services.asked.clear()
    started = time.monotonic()
    answers = await page(port)
    took = time.monotonic() - started
    sources = Counter(answer.source for answer in answers)
    told = ", ".join(f"{count} {source}" for source, count in sorted(sources.items()))
    oldest = max(answer.age or 0.0 for answer in answers)
    asked = sum(services.asked[part] for part in DEAD)
    print(f"{title:<28}{took:6.3f} s  {told:<32}{oldest:6.3f} s{asked:>13}")


async def main() -> None:
    """One dead; five dead; five dead, and known to be."""
    services = Services()
    server = await asyncio.start_server(services.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print(f"{'':<28}{'took':>8}  {'answers from':<32}{'oldest':>8}{'dead asked':>13}")
    services.dead = frozenset({DEAD[0]})
    await visit("one is dead from the start", port, services)
    services.dead = frozenset(DEAD)
    await visit("five are dead", port, services)
    await visit("five are dead, second visit", port, services)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())

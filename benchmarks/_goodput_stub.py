"""A DynamoDB in a process of its own, whose requests have the fates of `_goodput_model`.

A request's key says where it belongs: `run|column|drawn|process|invocation|call`; its attempt is how
often that key came. On 127.0.0.1 it is answered as its fate will have it, on 127.0.0.2 it is read and never
answered. `GET <run>` gives how many requests have come for a run, and how many of them beside an earlier
one of the same call.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from _goodput_model import COLUMNS, DRAWN, HEAVY, Kind, Place, drawn

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD, DEAD = "127.0.0.1", "127.0.0.2"

_COLUMNS: Final = {column.name: column for column in (*COLUMNS, HEAVY)}
_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: 2\r\n\r\n{}"
_DRIPS: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: 999\r\n\r\n{"
_ERROR: Final = json.dumps(
    {"__type": "com.amazonaws.dynamodb#ProvisionedThroughputExceededException"}
).encode()
_THROTTLED: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s" % (len(_ERROR), _ERROR)


@contextlib.contextmanager
def served() -> Iterator[int]:
    """Serve in a subprocess; gives the port."""
    command = [sys.executable, str(Path(__file__).resolve())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate()  # closes its stdin, which is what it waits for


@dataclass
class _Run:
    began: float
    requests: int = 0
    beside: int = 0
    attempts: Counter[str] = field(default_factory=Counter)
    latest: dict[str, asyncio.StreamReader] = field(default_factory=dict)


class _Stub:
    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, dead: bool = False
    ) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                if head.startswith("GET "):
                    run = self._runs.pop(head.split()[1], _Run(0.0))
                    writer.write(f"{run.requests} {run.beside}\n".encode())
                    break
                fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
                body = json.loads(await reader.readexactly(int(fields["content-length"])))
                key = (body.get("Key") or body["Item"])["id"]["S"]
                if not await self._answer(key, reader, writer, dead=dead):
                    break

    async def _answer(
        self, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, dead: bool
    ) -> bool:
        """Whether the connection may be used again."""
        loop = asyncio.get_running_loop()
        name, column, draw, process, invocation, call = key.split("|")
        run = self._runs.setdefault(name, _Run(loop.time()))
        run.requests += 1
        run.attempts[call] += 1
        before = run.latest.get(call)
        run.beside += before is not None and not before.at_eof()
        run.latest[call] = reader
        what = drawn(int(draw)) if column == DRAWN else _COLUMNS[column]
        place = Place(int(process), int(invocation), int(call))
        what = what if place.invocation >= 0 else what.before()
        fate = what.fate(place, run.attempts[call], loop.time() - run.began)
        if dead or fate.kind is Kind.SILENCE:
            await reader.read()
            return False
        if fate.kind is not Kind.DRIP:
            await asyncio.sleep(fate.seconds)
        if fate.kind is Kind.RESET:
            writer.transport.abort()
            return False
        writer.write({Kind.ANSWER: _OK, Kind.THROTTLE: _THROTTLED, Kind.DRIP: _DRIPS}[fate.kind])
        while fate.kind is Kind.DRIP and not (reader.at_eof() or writer.is_closing()):
            await asyncio.sleep(0.1)
            writer.write(b" ")
        if run.latest.get(call) is reader:
            del run.latest[call]
        return fate.kind is not Kind.DRIP


async def _main() -> None:
    stub = _Stub()
    good = await asyncio.start_server(stub.serve, GOOD, 0)
    port = good.sockets[0].getsockname()[1]
    await asyncio.start_server(functools.partial(stub.serve, dead=True), DEAD, port)
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())

"""A server in a process of its own, so that its time is not counted.

`silent` never answers; `found` answers every request as S3 does a HEAD.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANSWER = (
    b"HTTP/1.1 200 OK\r\n"
    b"x-amz-id-2: ef8yU9AS1ed4OpIszj7UDNEHGran4f3kYMjyQTrSvrDmpeFIRjkSpLJXgSBOhoq0M\r\n"
    b"x-amz-request-id: 318BC8BC143432E5\r\n"
    b"Date: Wed, 28 Oct 2009 22:32:00 GMT\r\n"
    b"Last-Modified: Sun, 1 Jan 2006 12:00:00 GMT\r\n"
    b'ETag: "fba9dede5f27731c9771645a39863328"\r\n'
    b"x-amz-server-side-encryption: AES256\r\n"
    b"Accept-Ranges: bytes\r\n"
    b"Content-Length: 434234\r\n"
    b"Content-Type: text/plain\r\n"
    b"Server: AmazonS3\r\n\r\n"
)
"""What S3 answers to a HEAD: https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html."""


@contextlib.contextmanager
def served(mode: str) -> Iterator[str]:
    """Serve in a subprocess; gives the URL."""
    command = [sys.executable, str(Path(__file__).resolve()), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.communicate()  # closes its stdin, which is what it waits for


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests have no body, so each ends with the blank line."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_ANSWER)
    writer.close()


async def _keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()


async def _main(mode: str) -> None:
    server = await asyncio.start_server({"silent": _keep_silent, "found": _answer}[mode], "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))

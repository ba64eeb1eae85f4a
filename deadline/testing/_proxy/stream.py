"""A TCP connection with the ways to end it that a fault needs, and how much of an answer may pass."""

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Final, final

READ_SIZE: Final = 2**16

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_SIOCOUTQNSD: Final = 0x894B  # linux/sockios.h: bytes of the send queue that were not sent yet


@final
class Stream:
    """One connection, read and written in bytes."""

    def __init__(self, streams: Streams) -> None:
        self._reader, self._writer = streams

    async def read(self) -> bytes:
        """Return what has come, or nothing at the end."""
        return await self._reader.read(READ_SIZE)

    async def write(self, data: bytes) -> None:
        """Send `data`; waits while the peer is slow to take it."""
        self._writer.write(data)
        await self._writer.drain()

    async def half_close(self) -> None:
        """Send a FIN behind what was written."""
        self._writer.write_eof()

    async def reset(self) -> None:
        """Send a RST behind what was written."""
        await self._sent()
        self.reset_when_closed(on=True)
        self.abort()
        await self.close()

    def reset_when_closed(self, *, on: bool) -> None:
        """Choose how the connection ends, whoever closes it: with a RST, or with a FIN."""
        with contextlib.suppress(OSError):  # it has ended
            connection = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", on, 0))

    async def close(self) -> None:
        """Close behind what was written."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Close at once and drop what is still unsent."""
        self._writer.transport.abort()

    async def _sent(self) -> None:
        """Wait until what was written is on its way: a reset throws away what is still here."""
        self._writer.transport.set_write_buffer_limits(0)
        await self._writer.drain()
        if sys.platform != "linux":
            return
        import fcntl  # noqa: PLC0415  # not on every platform

        connection = self._writer.get_extra_info("socket")
        # Nothing tells when the kernel's queue is empty. It is at once, unless the peer does not read.
        while struct.unpack("i", fcntl.ioctl(connection.fileno(), _SIOCOUTQNSD, b"\0\0\0\0"))[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@final
class Flow:
    """How much of one direction may pass, and how fast.

    Args:
        limit: Bytes that may pass; None means all.
        chunk: Bytes in a piece at most; None means any number.
        every: Seconds between two pieces.
    """

    def __init__(self, limit: int | None = None, chunk: int | None = None, every: float = 0.0) -> None:
        self._left = limit
        self._chunk = chunk
        self._every = every
        self._begun = False

    @property
    def spent(self) -> bool:
        """Whether nothing more may pass."""
        return self._left == 0

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what of `data` may pass; to be awaited before each: `pause`."""
        allowed = len(data) if self._left is None else min(self._left, len(data))
        if self._left is not None:
            self._left -= allowed
        step = self._chunk or READ_SIZE
        for begin in range(0, allowed, step):
            yield data[begin : min(begin + step, allowed)]

    async def pause(self) -> None:
        """Wait for the next piece's turn; the first one's is at once."""
        if self._begun and self._every:
            await asyncio.sleep(self._every)
        self._begun = True

"""The proxy's listening socket, which can stop listening for a while and keep its port.

It is watched by hand: asyncio's own server fails, loudly, on a connection that it accepts in the same
turn of the loop in which it is closed.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final, final

from deadline.testing._proxy.stream import Streams

_HOST: Final = "127.0.0.1"
_BACKLOG: Final = 128


@final
class Listener:
    """Accepts connections on a free port of 127.0.0.1, each served in a task of its own.

    Needs a loop that watches sockets: a selector loop.
    """

    def __init__(self, serve: Callable[[Streams], Coroutine[Any, Any, None]]) -> None:
        self._serve = serve
        self._connections: set[asyncio.Task[None]] = set()
        self._socket = _bound_socket(0)
        self.port: int = self._socket.getsockname()[1]

    async def listen(self) -> None:
        """Accept connections from now on."""
        self._socket.listen(_BACKLOG)
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    async def refuse(self) -> None:
        """Cut every connection and let the kernel refuse new ones."""
        await self.close()
        # Bound and not listening: the port stays ours, and connecting to it fails.
        self._socket = _bound_socket(self.port)

    async def close(self) -> None:
        """Cut every connection and give the port back."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        while self._connections:
            for task in self._connections:
                task.cancel()
            await asyncio.wait(self._connections)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the client has gone already
            connection, _ = self._socket.accept()
            connection.setblocking(False)  # noqa: FBT003  # its only form
            task = asyncio.get_running_loop().create_task(self._handle(connection))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
            # A task that is cut before its first step closes nothing itself.
            task.add_done_callback(lambda _task: connection.close())

    async def _handle(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            await self._serve((reader, writer))
        finally:
            writer.transport.abort()


def _bound_socket(port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is named. With it the second piece of an
    # answer waits for the first one's acknowledgement, up to 40 ms.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it means something else, and is not needed
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)  # noqa: FBT003  # its only form
        bound.bind((_HOST, port))
    except BaseException:
        bound.close()
        raise
    return bound

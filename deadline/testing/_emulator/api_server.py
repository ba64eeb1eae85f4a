"""An HTTP server for an API of Lambda's: on 127.0.0.1, on a free port, in threads, gone after its block."""

import contextlib
import http
import http.server
import json
import socket
import socketserver
import sys
import threading
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, final

Api = TypeVar("Api")


@final
class ApiServer(Generic[Api]):
    """A server for the length of a `with` block.

    Args:
        api: What the connections find as `self.server.api`.
        connection: Handles one connection, in a thread of its own.
        name: Of the thread that accepts.
    """

    def __init__(self, api: Api, connection: "type[Connection[Api]]", name: str) -> None:
        self._server = _Server(api, connection)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name=name, daemon=True
        )

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer, Generic[Api]):
    daemon_threads = False  # so that closing waits for them

    def __init__(self, api: Api, connection: "type[Connection[Api]]") -> None:
        super().__init__(("127.0.0.1", 0), connection)
        self.api = api
        self.open: set[socket.socket] = set()

    def server_bind(self) -> None:
        # HTTPServer's own asks the DNS for this machine's name, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_port = self.server_address[1]

    def hang_up(self) -> None:
        for connection in tuple(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that was killed is no news.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Connection(http.server.BaseHTTPRequestHandler, Generic[Api]):
    """One connection, which stays open for many requests."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave in one segment, or the client waits for a delayed ACK
    server: _Server[Api]

    def setup(self) -> None:
        """Note that it is open."""
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        """Note that it is closed."""
        self.server.open.discard(self.connection)
        super().finish()

    def body(self) -> bytes:
        """Return the request's body."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(
        self, status: http.HTTPStatus, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """Answer the request; without a body, by the status in words."""
        if body is None:
            body = json.dumps({"status": status.phrase}).encode()
        self.send_response(status)
        for name, value in (headers or {"Content-Type": "application/json"}).items():
            self.send_header(name, value)
        if status != http.HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if status != http.HTTPStatus.NO_CONTENT else b"")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

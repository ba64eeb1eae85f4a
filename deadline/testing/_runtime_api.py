"""The Lambda runtime API over HTTP: what the runtime client asks for and posts.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html; the paths begin with the version,
`/2018-06-01`. What SnapStart and response streaming add is left out: awslambdaric does not stream, and
nothing here takes a snapshot.
"""

import contextlib
import http
import http.server
import json
import re
import socket
import socketserver
import sys
import threading
from types import TracebackType
from typing import Any, Final, Protocol, Self, final

from ._invocation import Request

_INVOCATION: Final = re.compile("/2018-06-01/runtime/invocation/([^/]+)/(response|error)")


class Runtime(Protocol):
    """Who answers the calls, each in the thread of the runtime's connection."""

    def next(self) -> Request | None:
        """Wait for an event; None means that there will be none, ever."""

    def post(self, request_id: str, payload: bytes, *, failed: bool) -> http.HTTPStatus:
        """Take a response or an error."""

    def fail_init(self, payload: bytes) -> None:
        """Take an error of the initialisation."""


@final
class RuntimeApi:
    """A server on 127.0.0.1, on a free port, in threads, for the length of a `with` block.

    Set `runtime` to who answers. A call belongs to the runtime that was there when it came in.
    """

    runtime: Runtime

    def __init__(self) -> None:
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="deadline-runtime-api", daemon=True
        )

    @property
    def address(self) -> str:
        """`host:port`, as `AWS_LAMBDA_RUNTIME_API` has it."""
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


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def __init__(self, api: RuntimeApi) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
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


class _Connection(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave in one segment, or the client waits for a delayed ACK
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        if self.path != "/2018-06-01/runtime/invocation/next":
            return self._answer(http.HTTPStatus.NOT_FOUND)
        request = self.server.api.runtime.next()
        if request is None:
            self.close_connection = True
            return None
        return self._answer(http.HTTPStatus.OK, request.event, request.headers())

    def do_POST(self) -> None:
        runtime = self.server.api.runtime
        payload = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/2018-06-01/runtime/init/error":
            runtime.fail_init(payload)
            self._answer(http.HTTPStatus.ACCEPTED)
        elif invocation := _INVOCATION.fullmatch(self.path):
            request_id, what = invocation.groups()
            self._answer(runtime.post(request_id, payload, failed=what == "error"))
        else:
            self._answer(http.HTTPStatus.NOT_FOUND)

    def _answer(
        self, status: http.HTTPStatus, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> None:
        if body is None:
            body = json.dumps({"status": status.phrase}).encode()
        self.send_response(status)
        for name, value in (headers or {"Content-Type": "application/json"}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

"""The Lambda runtime API over HTTP: what the runtime client asks for and posts.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html; the paths begin with the version,
`/2018-06-01`. Of SnapStart there is what awslambdaric asks for around a snapshot, which nothing here takes.
Response streaming is left out: awslambdaric does not stream.
"""

import http
import re
from types import TracebackType
from typing import Final, Protocol, Self, final

from deadline.testing._emulator.api_server import ApiServer, Connection
from deadline.testing._emulator.invocation import Request

_INVOCATION: Final = re.compile("/2018-06-01/runtime/invocation/([^/]+)/(response|error)")


class Runtime(Protocol):
    """Who answers the calls, each in the thread of the runtime's connection."""

    def next(self) -> Request | None:
        """Wait for an event; None means that there will be none, ever."""

    def post(self, request_id: str, payload: bytes, *, failed: bool) -> http.HTTPStatus:
        """Take a response or an error."""

    def fail_init(self, payload: bytes) -> None:
        """Take an error of the initialisation, or of what runs after a restore."""

    def restore(self) -> bool:
        """Wait for the snapshot that may be taken now to be restored; False means that it never will be."""


@final
class RuntimeApi:
    """The API's server, for the length of a `with` block.

    Set `runtime` to who answers. A call belongs to the runtime that was there when it came in.
    """

    runtime: Runtime

    def __init__(self) -> None:
        self._server = ApiServer(self, _Connection, "deadline-runtime-api")

    @property
    def address(self) -> str:
        """`host:port`, as `AWS_LAMBDA_RUNTIME_API` has it."""
        return self._server.address

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)


class _Connection(Connection[RuntimeApi]):
    def do_GET(self) -> None:  # noqa: N802  # http.server calls it
        if self.path == "/2018-06-01/runtime/restore/next":
            if self.server.api.runtime.restore():
                return self.answer(http.HTTPStatus.OK)
            self.close_connection = True
            return None
        if self.path != "/2018-06-01/runtime/invocation/next":
            return self.answer(http.HTTPStatus.NOT_FOUND)
        request = self.server.api.runtime.next()
        if request is None:
            self.close_connection = True
            return None
        return self.answer(http.HTTPStatus.OK, request.event, request.headers())

    def do_POST(self) -> None:  # noqa: N802
        runtime = self.server.api.runtime
        payload = self.body()
        if self.path in {"/2018-06-01/runtime/init/error", "/2018-06-01/runtime/restore/error"}:
            runtime.fail_init(payload)
            self.answer(http.HTTPStatus.ACCEPTED)
        elif invocation := _INVOCATION.fullmatch(self.path):
            request_id, what = invocation.groups()
            self.answer(runtime.post(request_id, payload, failed=what == "error"))
        else:
            self.answer(http.HTTPStatus.NOT_FOUND)

"""moto's server in a thread: an AWS that answers at once and forgets when told to."""

import http.client
import logging
from types import TracebackType
from typing import Any, Self, final

from deadline.testing._extras import missing


@final
class MotoServer:
    """moto's server on 127.0.0.1, on a free port, for the length of a `with` block.

        with MotoServer() as moto:
            session.client("s3", endpoint_url=moto.url)

    It runs in a thread of this process, and so does its state: a second server shares it. While it
    runs, werkzeug logs no line per request.

    Raises:
        ImportError: moto's server is not installed.
    """

    def __init__(self) -> None:
        try:
            from moto.server import ThreadedMotoServer  # noqa: PLC0415
        except ImportError as error:
            raise missing("moto[server]") from error
        self._server: Any = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._address: tuple[str, int] | None = None
        self._log_level = logging.NOTSET

    @property
    def url(self) -> str:
        """The server's address, such as `http://127.0.0.1:40123`.

        Raises:
            RuntimeError: the server is not running.
        """
        host, port = self._running()
        return f"http://{host}:{port}"

    def reset(self) -> None:
        """Forget every bucket, table, queue and so on.

        Raises:
            RuntimeError: the server is not running.
        """
        connection = http.client.HTTPConnection(*self._running(), timeout=30)
        try:
            connection.request("POST", "/moto-api/reset")
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != http.HTTPStatus.OK:
            raise RuntimeError(f"moto did not reset: it answered {status}")

    def __enter__(self) -> Self:
        werkzeug = logging.getLogger("werkzeug")
        self._log_level = werkzeug.level
        werkzeug.setLevel(max(self._log_level, logging.WARNING))
        self._server.start()
        self._address = self._server.get_host_and_port()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._address = None
        self._server.stop()
        logging.getLogger("werkzeug").setLevel(self._log_level)

    def _running(self) -> tuple[str, int]:
        if self._address is None:
            raise RuntimeError("the server is not running: use it inside `with MotoServer() as moto:`")
        return self._address

"""One client's connection passed through as bytes, for upstreams that speak TLS.

The client shakes hands with the upstream itself, so nothing can be read here: the connection is one
exchange, from its first byte to its last.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final, NoReturn, final

from deadline.testing._proxy.journal import Journal
from deadline.testing._proxy.request import Request
from deadline.testing._proxy.rules import Rules
from deadline.testing._proxy.stream import Flow, Stream, Streams
from deadline.testing._proxy.wire import LiveWire, UpstreamError

_READ_AHEAD: Final = 16  # reads of the client's bytes that wait to be sent on


@final
class TunnelConnection:
    """Serves one client until either side hangs up or it is cut."""

    def __init__(self, streams: Streams, upstream: tuple[str, int], rules: Rules, journal: Journal) -> None:
        self._client = Stream(streams)
        self._tunnel = _Tunnel(self._client, upstream, Request("", "", {}), rules, journal)

    async def serve(self) -> None:
        """Play the connection's fault, or pass everything. Who cancels it cuts it."""
        await self._tunnel.run()
        await self._client.close()


@final
class _Tunnel(LiveWire):
    """One connection, up and down."""

    def __init__(
        self, client: Stream, upstream: tuple[str, int], request: Request, rules: Rules, journal: Journal
    ) -> None:
        super().__init__(client, upstream, request, rules, journal)
        self._received: asyncio.Queue[bytes] = asyncio.Queue(_READ_AHEAD)

    async def forward(
        self,
        *,
        request_limit: int | None = None,
        response_limit: int | None = None,
        chunk: int | None = None,
        every: float = 0.0,
    ) -> bool:
        """Connect upstream and pass bytes both ways, until upstream hangs up or a limit is met."""
        upstream = await self._connect()
        if request_limit == 0:
            return False
        ways = (
            asyncio.ensure_future(self._upload(upstream, Flow(request_limit))),
            asyncio.ensure_future(self._download(upstream, Flow(response_limit, chunk, every))),
        )
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            return all(way.result() for way in done)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def swallow(self) -> None:
        """Refuse: there is no answer to be seen."""
        self._refuse("swallow")

    async def answer(
        self,
        status: int,  # noqa: ARG002
        body: bytes = b"",  # noqa: ARG002
        headers: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> None:
        """Refuse: the client would not understand it."""
        self._refuse("answer")

    async def silence(self) -> None:
        """Wait until the client hangs up or the proxy closes; what it sends is dropped."""
        while True:
            await self._received.get()

    def _refuse(self, verb: str) -> NoReturn:
        raise TypeError(f"a fault for TLS cannot {verb}: set needs_http on its class")

    async def _client_hangs_up(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._client.read():
                await self._received.put(data)

    async def _apologize(self, status: int, text: str) -> None:
        """Do nothing: the connection ends, which says it all."""

    async def _upload(self, upstream: Stream, flow: Flow) -> bool:
        while not flow.spent:
            data = await self._received.get()
            try:
                await self._send(upstream, data, flow)
            except OSError as error:
                raise UpstreamError(repr(error)) from error
        return False

    async def _download(self, upstream: Stream, flow: Flow) -> bool:
        while True:
            try:
                data = await upstream.read()
            except OSError as error:
                raise UpstreamError(repr(error)) from error
            if not data:
                self._end("upstream_left")
                return True
            if not await self._pass(data, flow):
                return False

"""One client's connection through the fault proxy: requests in, exchanges played, answers out.

h11 parses and frames both sides, so the proxy knows where a request ends, whether the connection
lives on, and which answers have no body. Each exchange gets an upstream connection of its own: the
client's side alone decides about keep-alive, which werkzeug, hence moto, never grants.
"""

import contextlib
from collections.abc import Mapping
from typing import Final, final

import h11

from deadline.testing._proxy.journal import Journal
from deadline.testing._proxy.request import Request
from deadline.testing._proxy.rules import Rules
from deadline.testing._proxy.stream import Flow, Stream, Streams
from deadline.testing._proxy.wire import LiveWire, UpstreamError, logger

_HEAD_LIMIT: Final = 2**18  # h11 allows 16 KiB, and a session token alone can take several of those

# These are about one connection, not about the message. `Expect` is done with too, once the body is here.
_HOP_BY_HOP: Final = {b"connection", b"keep-alive", b"proxy-connection", b"expect"}


@final
class _Peer:
    """A stream and the HTTP state of it, one for the client's side and one for upstream's."""

    def __init__(self, role: type[h11.CLIENT] | type[h11.SERVER], stream: Stream) -> None:
        self.http = h11.Connection(role, max_incomplete_event_size=_HEAD_LIMIT)
        self.stream = stream

    async def receive(self) -> h11.Event:
        while True:
            if self.http.they_are_waiting_for_100_continue:
                (go_on,) = self.frame(h11.InformationalResponse(status_code=100, headers=[]))
                await self.stream.write(go_on)
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                assert not isinstance(event, type), "each request is answered before the next is read"
                return event
            self.http.receive_data(await self.stream.read())

    async def receive_some(self) -> list[h11.Event]:
        """Return the next event and those that are here already, up to the message's end."""
        events = [await self.receive()]
        while not isinstance(events[-1], h11.EndOfMessage):
            event = self.http.next_event()
            if isinstance(event, type):  # h11's NEED_DATA
                break
            events.append(event)
        return events

    def frame(self, *events: h11.Event) -> list[bytes]:
        """Return the bytes that say each of `events`, which are to be sent next."""
        return [self.http.send(event) or b"" for event in events]


@final
class ClientConnection:
    """Serves one client until it hangs up or is cut."""

    def __init__(self, streams: Streams, upstream: tuple[str, int], rules: Rules, journal: Journal) -> None:
        self._client = _Peer(h11.SERVER, Stream(streams))
        self._upstream = upstream
        self._rules = rules
        self._journal = journal

    async def serve(self) -> None:
        """Serve request after request. Returns when the connection is closed; who cancels it cuts it."""
        try:
            await self._serve()
        except h11.RemoteProtocolError as error:
            logger.warning("a client of the fault proxy sent no complete HTTP request: %s", error)
        except OSError:
            logger.debug("a client of the fault proxy has gone", exc_info=True)
        await self._client.stream.close()

    async def _serve(self) -> None:
        http = self._client.http
        while (received := await self._next_request()) is not None:
            exchange = _Exchange(self._client, self._upstream, received, self._rules, self._journal)
            await exchange.run()
            if not exchange.answered:
                self._client.stream.abort()
                return
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def _next_request(self) -> tuple[h11.Request, Request] | None:
        head = await self._client.receive()
        if not isinstance(head, h11.Request):
            return None
        body = bytearray()
        while isinstance(event := await self._client.receive(), h11.Data):
            body += event.data
        headers: dict[str, str] = {}
        for raw_name, raw_value in head.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return head, Request(head.method.decode(), head.target.decode("latin-1"), headers, bytes(body))


@final
class _Exchange(LiveWire):
    """One request and its answer."""

    def __init__(
        self,
        client: _Peer,
        upstream: tuple[str, int],
        received: tuple[h11.Request, Request],
        rules: Rules,
        journal: Journal,
    ) -> None:
        self._head, request = received
        super().__init__(client.stream, upstream, request, rules, journal)
        self._peer = client

    async def forward(
        self,
        *,
        request_limit: int | None = None,
        response_limit: int | None = None,
        chunk: int | None = None,
        every: float = 0.0,
    ) -> bool:
        """Send the request upstream and relay the answer to the client as it comes."""
        upstream = await self._request_upstream(Flow(request_limit))
        if upstream is None:
            return False
        flow = Flow(response_limit, chunk, every)
        while not self.answered:
            events = await self._hear(upstream)
            if not await self._tell(list(filter(None, map(_passed_on, events))), flow):
                return False
        return True

    async def swallow(self) -> None:
        """Send the request upstream, read the answer to its end and pass none of it on."""
        upstream = await self._request_upstream(Flow())
        assert upstream is not None, "without a limit all of it is sent"
        while not isinstance((await self._hear(upstream))[-1], h11.EndOfMessage):
            pass

    async def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Answer the client from here."""
        lines = list((headers or {}).items())
        if status not in (204, 304):
            lines.append(("Content-Length", str(len(body))))
        head = h11.Response(status_code=status, headers=lines)
        data = [h11.Data(data=body)] if body and self._request.method != "HEAD" else []
        await self._tell([head, *data, h11.EndOfMessage()], Flow())

    async def _client_hangs_up(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._client.read():
                self._peer.http.receive_data(data)

    async def _apologize(self, status: int, text: str) -> None:
        if self._peer.http.our_state is h11.SEND_RESPONSE:  # else half an answer is out: break off
            await self.answer(status, text.encode(), {"Content-Type": "text/plain"})

    async def _request_upstream(self, flow: Flow) -> _Peer | None:
        """Send the request as far as `flow` allows; None if that is not far enough for an answer."""
        upstream = _Peer(h11.CLIENT, await self._connect())
        head = h11.Request(
            method=self._head.method,
            target=self._head.target,
            headers=[*_end_to_end(self._head), (b"Connection", b"close")],
        )
        data = b"".join(upstream.frame(head, h11.Data(data=self._request.body), h11.EndOfMessage()))
        # An upstream may answer and close before it has read everything: the answer still counts.
        with contextlib.suppress(OSError):
            if not await self._send(upstream.stream, data, flow, final=True):
                return None
        return upstream

    async def _hear(self, upstream: _Peer) -> list[h11.Event]:
        try:
            events = await upstream.receive_some()
        except (OSError, h11.RemoteProtocolError) as error:
            raise UpstreamError(repr(error)) from error
        for event in events:
            if isinstance(event, h11.Response):
                self._note(upstream_status=event.status_code)
            elif isinstance(event, h11.EndOfMessage):
                self._note(upstream_answered=True)
        return events

    async def _tell(self, events: list[h11.Event], flow: Flow) -> bool:
        # The end of the message must be among the events as soon as it is known: the client can tell it
        # from the length, and must find it in the log.
        framed = self._peer.frame(*events)
        final = bool(events) and isinstance(events[-1], h11.EndOfMessage)
        head = events[0] if events else None
        if not isinstance(head, h11.Response):
            return await self._pass(b"".join(framed), flow, final=final)
        return await self._pass(
            b"".join(framed), flow, head=len(framed[0]), status=head.status_code, final=final
        )


def _passed_on(event: h11.Event) -> h11.Event | None:
    """Return what the client is told when upstream says `event`."""
    if isinstance(event, h11.InformationalResponse):
        return None
    if isinstance(event, h11.Response):
        return h11.Response(status_code=event.status_code, reason=event.reason, headers=_end_to_end(event))
    return event


def _end_to_end(message: h11.Request | h11.Response) -> list[tuple[bytes, bytes]]:
    """Return the headers that travel on, spelled as they came."""
    return [(name, value) for name, value in message.headers.raw_items() if name.lower() not in _HOP_BY_HOP]

"""The wire that faults play on: what an HTTP exchange and a connection of TLS have in common."""

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod

from deadline.testing._proxy.faults import Wire
from deadline.testing._proxy.journal import Journal, Outcome
from deadline.testing._proxy.request import Request
from deadline.testing._proxy.rules import Rules
from deadline.testing._proxy.stream import Flow, Stream

logger = logging.getLogger("deadline.testing")


class UpstreamError(Exception):
    """The upstream could not be reached, broke off, or spoke no HTTP."""


class LiveWire(Wire, ABC):
    """One exchange that goes on, and its record in the journal."""

    def __init__(
        self, client: Stream, upstream: tuple[str, int], request: Request, rules: Rules, journal: Journal
    ) -> None:
        self._client = client
        self._upstream_address = upstream
        self._request = request
        self._rules = rules
        self._journal = journal
        self._number = journal.open(request)
        self._to_client = 0
        self._to_upstream = 0
        self._over = False
        self._upstreams: list[Stream] = []
        self.answered = False

    @property
    def request(self) -> Request:
        """The request; an empty one where the proxy passes TLS through."""
        return self._request

    async def run(self) -> None:
        """Play the exchange to its end, or until the client hangs up."""
        playing = asyncio.ensure_future(self._play())
        watching = asyncio.ensure_future(self._client_hangs_up())
        outcome: Outcome = "cut"
        try:
            await asyncio.wait((playing, watching), return_when=asyncio.FIRST_COMPLETED)
            if not playing.done():
                outcome = "client_left"
        finally:
            playing.cancel()
            watching.cancel()
            try:
                await asyncio.gather(playing, watching, return_exceptions=True)
            finally:  # the proxy may be closed just while the client leaves
                for upstream in self._upstreams:
                    upstream.abort()
                self._end(outcome)

    async def silence(self) -> None:
        """Wait until the client hangs up or the proxy closes, with the connection open."""
        await asyncio.get_running_loop().create_future()

    async def reset(self) -> None:
        """Reset the client's connection once it was sent what has passed so far."""
        self._end("reset")
        await self._client.reset()

    async def half_close(self) -> None:
        """End our direction of the client's connection behind what has passed so far."""
        self._end("half_closed")
        await self._client.half_close()

    @abstractmethod
    async def _client_hangs_up(self) -> None:
        """Return when the client has gone; keep what it sends until then."""

    @abstractmethod
    async def _apologize(self, status: int, text: str) -> None:
        """Tell the client, if it can be told, that something went wrong that is no fault."""

    async def _play(self) -> None:
        try:
            fault = self._rules.take(self._request)
        except Exception as error:  # noqa: BLE001  # a rule is the user's code, whatever it raises
            return await self._fail(500, f"a rule's where raised {error!r}")
        self._note(fault=fault)
        try:
            await (self.forward() if fault is None else fault.play(self))
        except UpstreamError as error:
            await self._fail(502, f"upstream: {error}")
        except OSError:
            self._end("client_left")
        except Exception as error:  # noqa: BLE001  # a fault that breaks must not look like one that works
            await self._fail(500, f"fault proxy: {error!r}")

    async def _fail(self, status: int, text: str) -> None:
        what = f"{self._request.method} {self._request.path}".strip() or "TLS"
        logger.warning("fault proxy, %s: %s", what, text)
        self._note(error=text)
        with contextlib.suppress(OSError):
            await self._apologize(status, text)
        self._end("upstream_left" if status == 502 else "cut")

    async def _connect(self) -> Stream:
        """Return a new connection upstream, which is cut at the end of the exchange."""
        try:
            upstream = Stream(await asyncio.open_connection(*self._upstream_address))
        except OSError as error:
            raise UpstreamError(repr(error)) from error
        self._upstreams.append(upstream)
        return upstream

    async def _send(self, upstream: Stream, data: bytes, flow: Flow, *, final: bool = False) -> bool:
        """Send `data` upstream as far as `flow` allows; tell whether all of it went."""
        # A request that stays unfinished must not end in a FIN: Python's http.server, hence moto, takes one
        # for the end of the headers, and carries out what it has.
        upstream.reset_when_closed(on=final)
        passed = 0
        for piece in flow.pieces(data):
            await flow.pause()
            passed += len(piece)
            self._to_upstream += len(piece)
            # Noted first, as it may have its effect from now on.
            whole = final and passed == len(data)
            self._note(sent_upstream=True, bytes_upstream=self._to_upstream, sent_whole=whole)
            await upstream.write(piece)
        upstream.reset_when_closed(on=passed < len(data))
        return passed == len(data)

    async def _pass(
        self, data: bytes, flow: Flow, *, head: int = 0, status: int = 0, final: bool = False
    ) -> bool:
        """Pass `data` to the client as far as `flow` allows; tell whether all went and more may.

        Noted first: who has the whole answer must find it in the log.

        Args:
            data: The bytes.
            flow: How many of them, and how fast.
            head: The length of the answer's head, which `data` begins with, or zero.
            status: The status in that head.
            final: Whether the answer ends with `data`.
        """
        passed = 0
        for piece in flow.pieces(data):
            await flow.pause()
            if passed < head <= passed + len(piece):
                self._note(status=status)
            passed += len(piece)
            self._to_client += len(piece)
            self._note(bytes_to_client=self._to_client)
            if final and passed == len(data):
                self._end("answered")
            try:
                await self._client.write(piece)
            except BaseException:  # a cancellation too: it was still being sent
                self._unanswer()
                raise
        if final and not data:
            self._end("answered")
        return passed == len(data) and (final or not flow.spent)

    def _note(self, **changes: object) -> None:
        self._journal.note(self._number, **changes)

    def _end(self, outcome: Outcome) -> None:
        if self._over:
            return
        self._over = True
        self.answered = outcome == "answered"
        self._note(outcome=outcome, answered=self.answered, ended=time.monotonic())

    def _unanswer(self) -> None:
        if self.answered:
            self.answered = self._over = False
            self._note(outcome=None, answered=False, ended=None)

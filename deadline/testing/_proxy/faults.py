"""The ways for an exchange to go wrong. No sockets here.

A fault is a small strategy that plays one exchange on a `Wire`: it calls the wire's verbs in its own
order. A new fault is a new class, and a new verb if none of the present ones will do.
"""

import asyncio
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol, final

from deadline.testing._proxy.request import Request
from deadline.testing._seconds import checked_seconds


class Wire(Protocol):
    """What a fault can do with the exchange it plays.

    All byte counts are of what goes over the connection, heads included.
    """

    @property
    def request(self) -> Request:
        """The request; an empty one where the proxy passes TLS through."""

    async def forward(
        self,
        *,
        request_limit: int | None = None,
        response_limit: int | None = None,
        chunk: int | None = None,
        every: float = 0.0,
    ) -> bool:
        """Send the request upstream and relay the answer to the client as it comes.

        Args:
            request_limit: So many bytes are sent upstream at most. None means all.
            response_limit: So many bytes are passed to the client at most. None means all.
            chunk: The answer is passed on in pieces of so many bytes at most.
            every: Seconds to wait between two pieces.

        Returns:
            Whether all has passed: False as soon as a limit keeps something back. The connections
            are still open then, and nothing more passes unless the fault says so.
        """

    async def swallow(self) -> None:
        """Send the request upstream, read the answer to its end and pass none of it on. HTTP only."""

    async def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Answer the client from here. HTTP only."""

    async def silence(self) -> None:
        """Wait until the client hangs up or the proxy closes, with the connection open."""

    async def reset(self) -> None:
        """Reset the client's connection (a TCP RST) once it was sent what has passed so far."""

    async def half_close(self) -> None:
        """End our direction of the client's connection (a TCP FIN) behind what has passed so far."""


class Fault(ABC):
    """A way for an exchange to go wrong. Subclass it for ways of your own.

    Attributes:
        needs_http: Whether it reads requests or writes answers, which cannot be done to TLS.
    """

    needs_http: ClassVar[bool] = False

    @abstractmethod
    async def play(self, wire: Wire) -> None:
        """Play one exchange. Cancelled when the client hangs up or the proxy closes.

        A client that has not been answered whole when this returns is cut.
        """


@final
@dataclasses.dataclass(frozen=True)
class Delay(Fault):
    """The answer comes later: the request waits in the proxy, then goes upstream as usual.

    A client that hangs up while it waits keeps the request from being sent upstream at all.

    Args:
        seconds: How long the request waits, in real seconds, from when it was read completely.
            Zero is allowed.

    Raises:
        TypeError: `seconds` is no number.
        ValueError: `seconds` is negative, NaN or infinite.
    """

    seconds: float

    def __post_init__(self) -> None:
        checked_seconds("seconds", self.seconds)

    async def play(self, wire: Wire) -> None:
        """Wait, then forward."""
        await asyncio.sleep(self.seconds)
        await wire.forward()


@final
@dataclasses.dataclass(frozen=True)
class Stall(Fault):
    """The request is read and never answered, nor sent upstream: it has no effect there.

    The connection stays open until the client hangs up or the proxy closes.
    """

    async def play(self, wire: Wire) -> None:
        """Wait for ever."""
        await wire.silence()


@final
@dataclasses.dataclass(frozen=True)
class BlackHole(Fault):
    """So many bytes pass, then there is silence for ever on an open connection.

    In the direction `"response"` the request goes upstream whole and has its effect; the client gets
    the answer's first bytes, and waits for the rest. In the direction `"request"` upstream gets the
    request's first bytes and waits for the rest; so does the client, for an answer. What the client
    sends in the meantime is taken and dropped. A message that ends within so many bytes passes whole,
    and nothing goes wrong.

    Args:
        after: Bytes that pass, heads included. Zero is allowed.
        direction: Which way the bytes go that are counted and held back.

    Raises:
        TypeError, ValueError: `after` is no whole number from zero, or `direction` is neither.
    """

    after: int
    direction: Literal["response", "request"] = "response"

    def __post_init__(self) -> None:
        _check_count("after", self.after)
        if self.direction not in ("response", "request"):
            raise ValueError(f'direction must be "response" or "request", not {self.direction!r}')

    async def play(self, wire: Wire) -> None:
        """Forward so much, then wait for ever."""
        if self.direction == "request":
            passed = await wire.forward(request_limit=self.after)
        else:
            passed = await wire.forward(response_limit=self.after)
        if not passed:
            await wire.silence()


@final
@dataclasses.dataclass(frozen=True)
class Drip(Fault):
    """The request goes upstream and has its effect; the answer dribbles in, slowly but surely.

    Each piece comes in time for the client's read timeout, if that is longer than `every`: only a limit
    on the whole call ends it.

    Args:
        chunk: Bytes in a piece, at most; the head is cut up like the rest.
        every: Real seconds between two pieces; the first comes at once. Zero is allowed.

    Raises:
        TypeError, ValueError: `chunk` is no whole number from one, or `every` is no number of seconds.
    """

    chunk: int
    every: float

    def __post_init__(self) -> None:
        _check_count("chunk", self.chunk, least=1)
        checked_seconds("every", self.every)

    async def play(self, wire: Wire) -> None:
        """Forward, piece by piece."""
        await wire.forward(chunk=self.chunk, every=self.every)


@final
@dataclasses.dataclass(frozen=True)
class Refuse(Fault):
    """The connection is reset instead of an answer; nothing is sent upstream, so there is no effect.

    The client has connected by then, and gets `ECONNRESET` once its request was read (where TLS is
    passed through: at once). For connections that are refused in the first place, with
    `ECONNREFUSED`, there is `FaultProxy.refusing`.
    """

    async def play(self, wire: Wire) -> None:
        """Reset."""
        await wire.reset()


@final
@dataclasses.dataclass(frozen=True)
class Reset(Fault):
    """The request goes upstream and has its effect; the connection is reset in the answer.

    The client reads the answer's first bytes, then gets `ECONNRESET`. An answer that ends within so
    many bytes passes whole, and nothing goes wrong.

    Args:
        after: Bytes of the answer that pass, its head included. Zero: the reset comes instead of the
            answer, when upstream begins to give one.

    Raises:
        TypeError, ValueError: `after` is no whole number from zero.
    """

    after: int = 0

    def __post_init__(self) -> None:
        _check_count("after", self.after)

    async def play(self, wire: Wire) -> None:
        """Forward so much, then reset."""
        if not await wire.forward(response_limit=self.after):
            await wire.reset()


@final
@dataclasses.dataclass(frozen=True)
class HalfClose(Fault):
    """The request goes upstream and has its effect; the connection ends in mid-answer, politely.

    The client reads the answer's first bytes, then the end of the stream (a FIN), which looks like
    the end of an answer that does not tell its length. The proxy goes on listening until the client
    hangs up. An answer that ends within so many bytes passes whole, and nothing goes wrong.

    Args:
        after: Bytes of the answer that pass, its head included. Zero: the end comes instead of the
            answer, when upstream begins to give one.

    Raises:
        TypeError, ValueError: `after` is no whole number from zero.
    """

    after: int = 0

    def __post_init__(self) -> None:
        _check_count("after", self.after)

    async def play(self, wire: Wire) -> None:
        """Forward so much, then close our direction."""
        if not await wire.forward(response_limit=self.after):
            await wire.half_close()
            await wire.silence()


@final
@dataclasses.dataclass(frozen=True)
class LostAnswer(Fault):
    """The request goes upstream, has its effect and is answered, but the answer is lost on the way.

    The client gets nothing at all: the classic case of a call that may be retried only if it is
    idempotent.

    Args:
        reset: Whether the connection is reset once upstream has answered. Otherwise it stays open and
            silent until the client hangs up or the proxy closes.
    """

    reset: bool = False
    needs_http: ClassVar[bool] = True

    async def play(self, wire: Wire) -> None:
        """Forward, read the answer, and keep it."""
        await wire.swallow()
        await (wire.reset() if self.reset else wire.silence())


@final
@dataclasses.dataclass(frozen=True)
class Answer(Fault):
    """The client gets an answer of your own; nothing is sent upstream, so there is no effect.

    Args:
        status: A final status, 200 to 599.
        body: Its length is sent along. The answer to a HEAD request leaves it out.
        headers: Further headers. The proxy frames the body itself.

    Raises:
        TypeError, ValueError: an argument is nothing that HTTP could send, or `headers` frame the body.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    needs_http: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_status(self.status)
        if not isinstance(self.body, bytes):
            raise TypeError(f'body must be bytes, such as body=b"sorry", not {self.body!r}')
        if self.body and self.status in (204, 304):
            raise ValueError(f"body must be empty with status {self.status}, which never has one")
        for name, value in self.headers.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f'headers must map text to text, such as {{"Retry-After": "1"}}: {name!r}')
            if name.lower() in ("content-length", "transfer-encoding"):
                raise ValueError(f"headers must leave out {name}, which the proxy sends by itself")
            if not name.isascii() or not name or any(c in f"{name}{value}" for c in "\r\n\0"):
                raise ValueError(f"headers must be lines of HTTP, not {name!r}: {value!r}")

    async def play(self, wire: Wire) -> None:
        """Answer."""
        await wire.answer(self.status, self.body, self.headers)


def _check_count(name: str, value: object, *, least: int = 0) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number of bytes, such as {name}=100, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more bytes, such as {name}=100, not {value!r}")


def _check_status(status: object) -> None:
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"status must be a final HTTP status, such as status=503, not {status!r}")

"""Each fault at the level of bytes, between raw sockets."""

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from deadline.testing import (
    Answer,
    BlackHole,
    Delay,
    Drip,
    Exchange,
    Fault,
    FaultProxy,
    HalfClose,
    LostAnswer,
    Refuse,
    Request,
    Reset,
    Stall,
    Wire,
    throttling,
)
from deadline.testing._proxy.journal import Journal
from deadline.testing._proxy.rules import Rules
from deadline.testing._proxy.stream import Flow, Stream
from deadline.testing._proxy.wire import LiveWire

pytestmark = pytest.mark.slow

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
PUT = b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
GET = b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n"

Dial = Callable[[str], socket.socket]
Silent = Callable[[socket.socket], None]


@pytest.fixture
def upstream(byte_server: Callable[[bytes], Any]) -> Any:
    return byte_server(HELLO)


@pytest.fixture
def proxy(upstream: Any) -> Iterator[FaultProxy]:
    with FaultProxy(upstream.url) as running:
        yield running


def read_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := connection.recv(count - len(data))):
        data += piece
    return data


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(2**16), b""))


def ended(proxy: FaultProxy) -> Exchange:
    proxy.wait_until(lambda log: log and log[-1].ended is not None, 10)
    return proxy.log[-1]


def test_nothing_wrong_is_logged_in_full(proxy: FaultProxy, upstream: Any, dial: Dial) -> None:
    """Without a fault the log counts the bytes both ways and says that the answer was received."""
    client = dial(proxy.url)
    client.sendall(PUT)
    assert read_exactly(client, len(HELLO)) == HELLO
    exchange = proxy.log[-1]
    assert (exchange.sent_upstream, exchange.sent_whole, exchange.effect) == (True, True, "yes")
    assert exchange.bytes_upstream == len(upstream.received[0])
    assert (exchange.upstream_status, exchange.upstream_answered) == (200, True)
    assert (exchange.status, exchange.bytes_to_client, exchange.outcome) == (200, len(HELLO), "answered")


@pytest.mark.parametrize("after", [0, 7, len(HELLO) - 1])
def test_a_black_hole_swallows_the_rest_of_an_answer(
    proxy: FaultProxy, dial: Dial, nothing_comes: Silent, after: int
) -> None:
    """So many bytes of the answer come, then nothing, on an open connection."""
    proxy.add(BlackHole(after))
    client = dial(proxy.url)
    client.sendall(PUT)
    assert read_exactly(client, after) == HELLO[:after]
    nothing_comes(client)
    exchange = proxy.log[-1]
    assert (exchange.effect, exchange.bytes_to_client, exchange.outcome) == ("yes", after, None)
    assert exchange.status == (200 if after > 7 else None)
    client.close()
    exchange = ended(proxy)
    assert (exchange.answered, exchange.outcome) == (False, "client_left")


@pytest.mark.parametrize("after", [0, 10, 70])
def test_a_black_hole_swallows_the_rest_of_a_request(
    proxy: FaultProxy, upstream: Any, dial: Dial, nothing_comes: Silent, after: int
) -> None:
    """So many bytes of the request reach upstream, which waits for the rest while the client waits too."""
    proxy.add(BlackHole(after, direction="request"))
    client = dial(proxy.url)
    client.sendall(PUT.replace(b"4\r\n\r\nbody", b"100\r\n\r\n" + b"." * 100))
    upstream.wait_until(lambda received: received and len(received[0]) == after)
    nothing_comes(client)
    exchange = proxy.log[-1]
    assert (exchange.sent_upstream, exchange.sent_whole) == (after > 0, False)
    assert exchange.bytes_upstream == after
    assert exchange.effect == ("unknown" if after else "no")
    client.close()
    assert ended(proxy).outcome == "client_left"
    assert len(upstream.received[0]) == after


@pytest.mark.parametrize(
    "fault", [BlackHole(10_000), BlackHole(10_000, "request"), Reset(len(HELLO)), HalfClose(10_000)], ids=repr
)
def test_what_ends_within_the_limit_passes_whole(proxy: FaultProxy, dial: Dial, fault: Fault) -> None:
    """A message shorter than the fault's bytes is left alone, and so is the next on the connection."""
    proxy.add(fault, times=1)
    client = dial(proxy.url)
    for request in (PUT, GET):
        client.sendall(request)
        assert read_exactly(client, len(HELLO)) == HELLO
    assert [(e.fault, e.outcome) for e in proxy.log] == [(fault, "answered"), (None, "answered")]


def test_an_answer_drips_in_pieces(proxy: FaultProxy, dial: Dial) -> None:
    """The answer comes whole, so many bytes at a time, with the pauses in between."""
    proxy.add(Drip(10, every=0.03))
    client = dial(proxy.url)
    started = time.monotonic()
    client.sendall(PUT)
    pieces: list[bytes] = []
    while len(b"".join(pieces)) < len(HELLO):
        pieces.append(client.recv(2**16))
    assert b"".join(pieces) == HELLO
    assert max(map(len, pieces)) <= 20  # two, if this thread was late
    assert time.monotonic() - started >= 0.03 * (len(HELLO) // 10)
    assert proxy.log[-1].outcome == "answered"


def test_a_client_may_leave_a_drip(proxy: FaultProxy, dial: Dial) -> None:
    """A client that hangs up between two pieces ends the exchange, with the bytes that it got."""
    proxy.add(Drip(1, every=30))
    client = dial(proxy.url)
    client.sendall(PUT)
    assert client.recv(100) == b"H"
    client.close()
    exchange = ended(proxy)
    assert (exchange.bytes_to_client, exchange.answered, exchange.effect) == (1, False, "yes")


def test_refusing_resets_before_anything_is_sent(proxy: FaultProxy, upstream: Any, dial: Dial) -> None:
    """The client's connection is reset, and upstream never hears of the request."""
    proxy.add(Refuse())
    client = dial(proxy.url)
    client.sendall(PUT)
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    exchange = ended(proxy)
    assert (exchange.outcome, exchange.effect, exchange.bytes_to_client) == ("reset", "no", 0)
    assert upstream.received == []


@pytest.mark.parametrize("after", [0, 20])
def test_a_reset_comes_behind_its_bytes(proxy: FaultProxy, dial: Dial, after: int) -> None:
    """The answer's first bytes can be read, then the connection is reset rather than closed."""
    proxy.add(Reset(after))
    client = dial(proxy.url)
    client.sendall(PUT)
    assert read_exactly(client, after) == HELLO[:after]
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    exchange = ended(proxy)
    assert (exchange.outcome, exchange.effect, exchange.bytes_to_client) == ("reset", "yes", after)


def test_a_reset_waits_for_a_slow_reader(byte_server: Callable[[bytes], Any], dial: Dial) -> None:
    """Every byte that was let pass arrives before the reset, also where they fill the buffers."""
    size = 2**24
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + os.urandom(size)
    with FaultProxy(byte_server(answer).url) as proxy:
        proxy.add(Reset(size))
        client = dial(proxy.url)
        client.sendall(PUT)
        proxy.wait_until(lambda log: log and log[0].status == 200)
        assert read_exactly(client, size) == answer[:size]
        with pytest.raises(ConnectionResetError):
            client.recv(100)


@pytest.mark.parametrize("after", [0, 20, len(HELLO) - 1])
def test_a_half_close_ends_the_stream_early(proxy: FaultProxy, dial: Dial, after: int) -> None:
    """The answer's first bytes come, then the end; the client's own direction stays open."""
    proxy.add(HalfClose(after))
    client = dial(proxy.url)
    client.sendall(PUT)
    assert read_all(client) == HELLO[:after]
    exchange = proxy.log[-1]
    assert (exchange.outcome, exchange.effect, exchange.bytes_to_client) == ("half_closed", "yes", after)
    client.sendall(b"still")
    client.sendall(b"here")


def test_a_lost_answer_was_given(proxy: FaultProxy, upstream: Any, dial: Dial, nothing_comes: Silent) -> None:
    """Upstream takes the request and answers whole, and the client hears nothing."""
    proxy.add(LostAnswer())
    client = dial(proxy.url)
    client.sendall(PUT)
    proxy.wait_until(lambda log: log and log[0].upstream_answered)
    nothing_comes(client)
    exchange = proxy.log[-1]
    assert (exchange.effect, exchange.sent_whole, exchange.upstream_status) == ("yes", True, 200)
    assert (exchange.answered, exchange.bytes_to_client, exchange.outcome) == (False, 0, None)
    assert upstream.received[0].endswith(b"body")
    client.close()
    assert ended(proxy).outcome == "client_left"


def test_a_lost_answer_may_end_in_a_reset(proxy: FaultProxy, dial: Dial) -> None:
    """Where so asked, the connection is reset once upstream has answered."""
    proxy.add(LostAnswer(reset=True))
    client = dial(proxy.url)
    client.sendall(PUT)
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    exchange = ended(proxy)
    assert (exchange.outcome, exchange.upstream_answered, exchange.effect) == ("reset", True, "yes")


def test_an_answer_of_ones_own_is_framed(proxy: FaultProxy, upstream: Any, dial: Dial) -> None:
    """The client gets status, headers and body as given, on a connection that lives on."""
    proxy.add(Answer(418, b"teapot", {"X-Kind": "short"}), times=1)
    client = dial(proxy.url)
    client.sendall(PUT)
    expected = b"HTTP/1.1 418 \r\nX-Kind: short\r\nContent-Length: 6\r\n\r\nteapot"
    assert read_exactly(client, len(expected)) == expected
    client.sendall(GET)
    assert read_exactly(client, len(HELLO)) == HELLO
    assert len(upstream.received) == 1
    assert [(e.status, e.outcome, e.effect) for e in proxy.log] == [
        (418, "answered", "no"),
        (200, "answered", "yes"),
    ]


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 503), (b"GET", 204), (b"GET", 304)])
def test_answers_without_a_body_leave_the_connection_usable(
    proxy: FaultProxy, dial: Dial, method: bytes, status: int
) -> None:
    """An answer that has no body by its nature ends with its head."""
    proxy.add(Answer(status, b"sorry" if method == b"HEAD" else b""), times=1)
    client = dial(proxy.url)
    client.sendall(GET.replace(b"GET", method))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    assert head.startswith(b"HTTP/1.1 %d" % status)
    client.sendall(GET)
    assert read_exactly(client, len(HELLO)) == HELLO


def test_an_answer_may_end_with_its_connection(byte_server: Callable[[bytes], Any], dial: Dial) -> None:
    """Where neither side knows the length in advance, the connection's end is the answer's."""
    with FaultProxy(byte_server(b"HTTP/1.0 200 OK\r\n\r\nhello").url) as proxy:
        client = dial(proxy.url)
        client.sendall(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        assert read_all(client).endswith(b"\r\n\r\nhello")
        exchange = ended(proxy)
    assert (exchange.outcome, exchange.answered, exchange.error) == ("answered", True, None)


async def test_an_answer_that_is_stuck_was_not_received() -> None:
    """An answer whose last bytes were still being sent when the proxy closed counts as cut."""
    writing = asyncio.Event()

    class StuckStream:
        async def write(self, data: bytes) -> None:
            writing.set()
            await asyncio.get_running_loop().create_future()

    class OneAnswer(LiveWire):
        async def forward(self, **limits: Any) -> bool:
            return await self._pass(HELLO, Flow(), head=38, status=200, final=True)

        async def swallow(self) -> None: ...

        async def answer(self, *args: Any) -> None: ...

        async def _client_hangs_up(self) -> None:
            await asyncio.get_running_loop().create_future()

        async def _apologize(self, status: int, text: str) -> None: ...

    journal, stuck = Journal(), cast("Stream", StuckStream())
    wire = OneAnswer(stuck, ("", 0), Request("GET", "/", {}), Rules(), journal)
    running = asyncio.create_task(wire.run())
    await writing.wait()
    assert journal.read()[0].answered
    running.cancel()
    await asyncio.wait([running])
    (exchange,) = journal.read()
    assert (exchange.outcome, exchange.answered, wire.answered) == ("cut", False, False)


def test_an_upstream_that_breaks_off_is_named(byte_server: Callable[[bytes], Any], dial: Dial) -> None:
    """Half an answer from upstream is half an answer for the client, and the log says whose doing it was."""
    with FaultProxy(byte_server(HELLO[:-2]).url) as proxy:
        client = dial(proxy.url)
        client.sendall(PUT)
        with contextlib.suppress(ConnectionResetError):
            assert read_all(client) == HELLO[:-2]
        exchange = ended(proxy)
    assert (exchange.outcome, exchange.upstream_answered, exchange.answered) == (
        "upstream_left",
        False,
        False,
    )
    assert exchange.bytes_to_client == len(HELLO) - 2


def test_users_write_faults_of_their_own(proxy: FaultProxy, upstream: Any, dial: Dial) -> None:
    """A fault can look at its request, and send it upstream twice."""
    seen: list[Request] = []

    class Twice(Fault):
        async def play(self, wire: Wire) -> None:
            seen.append(wire.request)
            await wire.swallow()
            await wire.forward()

    proxy.add(Twice())
    client = dial(proxy.url)
    client.sendall(PUT)
    assert read_exactly(client, len(HELLO)) == HELLO
    assert [request.path for request in seen] == ["/x"]
    assert len(upstream.received) == 2
    assert proxy.log[-1].bytes_upstream == sum(map(len, upstream.received))


@pytest.mark.parametrize("raises", ["raises", ""])
def test_a_fault_that_breaks_does_not_look_like_success(
    proxy: FaultProxy, dial: Dial, caplog: pytest.LogCaptureFixture, raises: str
) -> None:
    """A fault of one's own that raises is a 500; one that forgets to answer cuts the client."""

    class Broken(Fault):
        async def play(self, wire: Wire) -> None:
            if raises:
                raise LookupError("oh")

    proxy.add(Broken())
    client = dial(proxy.url)
    client.sendall(PUT)
    if raises:
        assert client.recv(100).startswith(b"HTTP/1.1 500 ")
        assert proxy.log[-1].error == "fault proxy: LookupError('oh')"
    else:
        assert client.recv(100) == b""
        assert ended(proxy).outcome == "cut"


def test_nobody_is_there_while_refusing(proxy: FaultProxy, dial: Dial) -> None:
    """Connecting is refused within the block, open connections are cut, and the address is kept."""
    url = proxy.url
    idle, stalled = dial(url), dial(url)
    proxy.add(Stall(), times=1)
    stalled.sendall(PUT)
    proxy.wait_until(lambda log: log and log[0].fault)
    with proxy.refusing():
        assert proxy.log[0].outcome == "cut"
        for client in (idle, stalled):
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                dial(url)
        with pytest.raises(RuntimeError, match="refusing already"), proxy.refusing():
            pass
    client = dial(url)
    client.sendall(GET)
    assert read_exactly(client, len(HELLO)) == HELLO
    assert proxy.url == url
    with proxy.refusing(), pytest.raises(ConnectionRefusedError):
        dial(url)


def test_closing_while_refusing_is_allowed(upstream: Any) -> None:
    """A proxy that is closed while it refuses stays closed, and one that does not run cannot refuse."""
    with contextlib.ExitStack() as stack:
        with FaultProxy(upstream.url) as proxy:
            stack.enter_context(proxy.refusing())
    with pytest.raises(RuntimeError, match="not running"), proxy.refusing():
        pass


EVERY_FAULT = [
    Delay(30),
    Stall(),
    BlackHole(3),
    BlackHole(3, "request"),
    Drip(1, 30),
    Refuse(),
    Reset(3),
    HalfClose(3),
    LostAnswer(),
    LostAnswer(reset=True),
    Answer(200, b"ok"),
    throttling(),
]


@pytest.mark.parametrize("fault", EVERY_FAULT, ids=repr)
def test_closing_in_the_middle_frees_everything(
    upstream: Any, dial: Dial, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    """Whatever the proxy is at when it is closed, exchanges end, threads are gone and nothing is said."""
    with FaultProxy(upstream.url) as proxy:
        proxy.add(fault)
        clients = [dial(proxy.url) for _ in range(3)]
        for client in clients:
            client.sendall(PUT)
        proxy.wait_until(lambda log: len(log) == 3 and all(e.fault for e in log))
    for client in clients:
        with contextlib.suppress(ConnectionResetError):
            read_all(client)
    assert all(exchange.ended is not None and exchange.outcome for exchange in proxy.log)
    assert not [thread for thread in threading.enumerate() if thread.name == "deadline-fault-proxy"]
    assert [r for r in caplog.records if r.name == "deadline.testing" or r.levelno >= logging.ERROR] == []

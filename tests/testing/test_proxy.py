"""The fault proxy at the level of HTTP, between raw sockets."""

import asyncio
import contextlib
import http.client
import logging
import socket
import threading
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterator

import pytest

from deadline.testing import Delay, FaultProxy, Request, Stall
from deadline.testing._proxy.listener import Listener

pytestmark = pytest.mark.slow

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
BROKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"


def a_get(*headers: str, path: str = "/x", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a.example", *headers, "", ""]).encode()


LAST_GET = a_get("Connection: close")


class Upstream:
    """A server that gives every request the same bytes, hangs up, and keeps what it was sent."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.seen: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b""
        if b"chunked" in head:
            body = await reader.readuntil(b"0\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                body = await reader.readexactly(int(line.partition(b":")[2]))
        self.seen.append(head + body)
        writer.write(self._answer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def between(answer: bytes) -> AsyncIterator[tuple[FaultProxy, Upstream]]:
    upstream = Upstream(answer)
    async with await asyncio.start_server(upstream.serve, "127.0.0.1", 0) as server:
        upstream.url = "http://{}:{}".format(*server.sockets[0].getsockname())
        with FaultProxy(upstream.url) as proxy:
            yield proxy, upstream


@contextlib.asynccontextmanager
async def connected(
    proxy: FaultProxy,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    parts = urllib.parse.urlsplit(proxy.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def talk(proxy: FaultProxy, sent: bytes) -> bytes:
    """Return all that the proxy says until it hangs up."""
    async with connected(proxy) as (reader, writer):
        writer.write(sent)
        return await reader.read()


async def log_shows_end(proxy: FaultProxy) -> None:
    await asyncio.to_thread(proxy.wait_until, lambda log: log and all(e.ended is not None for e in log))


async def log_shows_fault(proxy: FaultProxy) -> None:
    await asyncio.to_thread(proxy.wait_until, lambda log: log and log[-1].fault is not None)


async def test_messages_pass_unchanged() -> None:
    """Target, host and other headers reach the upstream as they were sent, and the answer the client."""
    async with between(b"HTTP/1.1 201 Made\r\nX-Odd-Case: 1\r\nContent-Length: 2\r\n\r\nok") as (
        proxy,
        upstream,
    ):
        request = a_get("X-Amz-Meta-a_B: c", "Content-Length: 3", "Connection: close", path="/a%20b?c=d&e")
        answer = await talk(proxy, request + b"abc")
    assert upstream.seen[0].startswith(
        b"GET /a%20b?c=d&e HTTP/1.1\r\nHost: a.example\r\nX-Amz-Meta-a_B: c\r\n"
    )
    assert upstream.seen[0].endswith(b"\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 201 Made\r\nX-Odd-Case: 1\r\n")
    assert answer.endswith(b"\r\n\r\nok")


async def test_the_log_tells_what_passed() -> None:
    """An exchange without a fault is logged with its request, its status and its two instants."""
    before = time.monotonic()
    async with between(HELLO) as (proxy, _):
        await talk(proxy, a_get("Content-Length: 3", "Connection: close", "X-A: 1", "X-A: 2") + b"abc")
        await log_shows_end(proxy)
        (exchange,) = proxy.log
    assert exchange.request == Request(
        "GET",
        "/x",
        {"host": "a.example", "content-length": "3", "connection": "close", "x-a": "1, 2"},
        b"abc",
    )
    assert (exchange.fault, exchange.status, exchange.error) == (None, 200, None)
    assert exchange.sent_upstream
    assert exchange.answered
    assert exchange.ended is not None
    assert before <= exchange.started <= exchange.ended <= time.monotonic()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_has_the_answer_finds_it_in_the_log(method: str) -> None:
    """The log is never behind what the client knows."""
    async with between(HELLO) as (proxy, _), connected(proxy) as (reader, writer):
        for count in range(1, 101):
            writer.write(a_get(method=method))
            await reader.readuntil(b"\r\n\r\n" if method == "HEAD" else b"hello")
            log = proxy.log
            assert len(log) == count
            assert log[-1].answered
            assert log[-1].ended is not None


async def test_a_connection_serves_many_requests() -> None:
    """The client's connection lives on although the upstream closes its own after each answer."""
    async with between(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello") as (
        proxy,
        up,
    ):
        async with connected(proxy) as (reader, writer):
            for _ in range(3):
                writer.write(a_get())
                head = await reader.readuntil(b"\r\n\r\n")
                assert b"close" not in head
                assert await reader.readexactly(5) == b"hello"
        assert len(up.seen) == 3


async def test_requests_sent_ahead_are_answered_in_order() -> None:
    """A client may send its next request before it has the answer to the last."""
    async with between(HELLO) as (proxy, upstream):
        answer = await talk(proxy, a_get(path="/1") + a_get(path="/2") + LAST_GET)
    assert answer.count(b"hello") == 3
    assert [seen.split()[1] for seen in upstream.seen] == [b"/1", b"/2", b"/x"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO,
    ],
    ids=["chunked", "until-close", "http-1.0", "after-100"],
)
async def test_answers_of_every_framing_arrive_whole(answer: bytes) -> None:
    """However the upstream marks the end of its answer, the client can tell it too."""
    async with between(answer) as (proxy, _):
        body, status = await asyncio.to_thread(fetch, proxy.url)
    assert (body, status) == (b"hello", 200)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("DELETE", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_end_with_their_head(method: str, answer: bytes) -> None:
    """After an answer that has no body by its nature, the connection is ready for the next request."""
    async with between(answer) as (proxy, _), connected(proxy) as (reader, writer):
        for _ in range(2):
            writer.write(a_get(method=method))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(answer[:12])
        await log_shows_end(proxy)
        assert [exchange.answered for exchange in proxy.log] == [True, True]


async def test_chunked_requests_pass() -> None:
    """A request in chunks is put together for the log and reaches the upstream in chunks."""
    async with between(HELLO) as (proxy, upstream):
        request = a_get("Transfer-Encoding: chunked", "Connection: close", method="PUT")
        await talk(proxy, request + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
        assert proxy.log[0].request.body == b"abc"
    assert upstream.seen[0].endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


async def test_a_client_that_expects_100_gets_it() -> None:
    """The proxy asks for the body itself, so that a rule can look at it."""
    async with between(HELLO) as (proxy, upstream), connected(proxy) as (reader, writer):
        writer.write(a_get("Expect: 100-continue", "Content-Length: 3", method="PUT"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"abc")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert upstream.seen[0].endswith(b"\r\n\r\nabc")


async def test_a_stalled_request_is_never_sent_nor_answered() -> None:
    """A stall holds the connection until the client hangs up, which ends the exchange."""
    async with between(HELLO) as (proxy, upstream):
        proxy.add(Stall())
        async with connected(proxy) as (_reader, writer):
            writer.write(a_get())
            await log_shows_fault(proxy)
            assert proxy.log[0].ended is None
        await log_shows_end(proxy)
        (exchange,) = proxy.log
    assert upstream.seen == []
    assert exchange.fault == Stall()
    assert not exchange.sent_upstream
    assert not exchange.answered
    assert exchange.status is None
    assert exchange.error is None


async def test_a_client_that_resets_ends_its_exchange() -> None:
    """A connection that is reset rather than closed frees the proxy as well."""
    async with between(HELLO) as (proxy, _):
        proxy.add(Stall())
        async with connected(proxy) as (_reader, writer):
            writer.write(a_get())
            await log_shows_fault(proxy)
            writer.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0"
            )
            writer.transport.abort()
        await log_shows_end(proxy)


async def test_a_delayed_request_is_sent_after_the_delay() -> None:
    """The upstream sees the request, and the client the answer, when the delay is over."""
    async with between(HELLO) as (proxy, upstream):
        proxy.add(Delay(0.15))
        async with connected(proxy) as (reader, writer):
            writer.write(LAST_GET)
            await log_shows_fault(proxy)
            assert not proxy.log[0].sent_upstream
            assert upstream.seen == []
            assert (await reader.read()).endswith(b"hello")
        await log_shows_end(proxy)
        (exchange,) = proxy.log
    assert exchange.ended is not None
    assert exchange.ended - exchange.started >= 0.15
    assert exchange.answered


async def test_hanging_up_during_a_delay_keeps_the_request_back() -> None:
    """A request whose client has gone before the delay is over never reaches the upstream."""
    async with between(HELLO) as (proxy, upstream):
        proxy.add(Delay(30))
        async with connected(proxy) as (_reader, writer):
            writer.write(a_get())
            await log_shows_fault(proxy)
        await log_shows_end(proxy)
        assert not proxy.log[0].sent_upstream
    assert upstream.seen == []


async def test_rules_choose_their_requests() -> None:
    """Only the requests that `where` is true of meet the fault; a rule may be taken back."""
    async with between(HELLO) as (proxy, _):
        rule = proxy.add(Delay(0), where=lambda request: request.path == "/a")
        proxy.add(Delay(0.0), where=lambda request: request.body == b"b", times=1)
        await talk(proxy, a_get(path="/a") + LAST_GET)
        rule.remove()
        await talk(proxy, a_get(path="/a") + LAST_GET)
        await talk(proxy, 2 * (a_get("Content-Length: 1") + b"b") + LAST_GET)
        proxy.add(Stall())
        proxy.clear()
        await talk(proxy, LAST_GET)
        met = [exchange.fault is not None for exchange in proxy.log]
    assert met == [True, False, False, False, True, False, False, False]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_rule_that_raises_is_a_500(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """A mistake in `where` is told to the client, the log and the logger, and the proxy goes on."""
    async with between(HELLO) as (proxy, upstream):
        proxy.add(Stall(), where=lambda request: request.headers["absent"])
        answer = await talk(proxy, a_get("Connection: close", method=method))
        (exchange,) = proxy.log
        proxy.clear()
        assert (await talk(proxy, LAST_GET)).endswith(b"hello")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert (b"KeyError" in answer) == (method == "GET")
    assert (exchange.status, exchange.sent_upstream, exchange.fault) == (500, False, None)
    assert exchange.error == "a rule's where raised KeyError('absent')"
    assert exchange.error in caplog.text
    assert len(upstream.seen) == 1


async def test_an_upstream_that_is_away_is_a_502(caplog: pytest.LogCaptureFixture) -> None:
    """A request that cannot be sent on is answered so, and nothing is said to have been sent."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with FaultProxy(f"http://127.0.0.1:{port}") as proxy:
        answer = await talk(proxy, LAST_GET)
        (exchange,) = proxy.log
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert not exchange.sent_upstream
    assert exchange.error is not None
    assert "ConnectionRefusedError" in exchange.error


async def test_an_upstream_that_hangs_up_is_a_502(caplog: pytest.LogCaptureFixture) -> None:
    """A request that was sent and not answered is told apart from one that was never sent."""
    async with between(b"") as (proxy, _):
        answer = await talk(proxy, LAST_GET)
        (exchange,) = proxy.log
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert exchange.sent_upstream


async def test_an_answer_that_breaks_off_breaks_off_for_the_client(caplog: pytest.LogCaptureFixture) -> None:
    """Half an answer is not passed off as a whole one: the connection is cut."""
    async with between(BROKEN) as (proxy, _):
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            await asyncio.to_thread(fetch, proxy.url)
        await log_shows_end(proxy)
        (exchange,) = proxy.log
    assert exchange.status == 200
    assert not exchange.answered
    assert exchange.error is not None


async def test_a_client_that_speaks_no_http_is_cut_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Noise on one connection is logged as a warning and hurts no other."""
    async with between(HELLO) as (proxy, _):
        with contextlib.suppress(ConnectionError):
            assert await talk(proxy, b"\x16\x03\x01 noise\r\n\r\n") == b""
        assert (await talk(proxy, LAST_GET)).endswith(b"hello")
    assert "no complete HTTP request" in caplog.text


async def test_closing_frees_everything(caplog: pytest.LogCaptureFixture) -> None:
    """Closing cuts stalled, delayed and idle connections and ends the thread, without a word."""
    async with contextlib.AsyncExitStack() as clients:
        with FaultProxy("http://127.0.0.1:9") as proxy:
            proxy.add(Stall(), times=1)
            proxy.add(Delay(30))
            streams = [await clients.enter_async_context(connected(proxy)) for _ in range(3)]
            for _reader, writer in streams[:2]:
                writer.write(a_get())
            await asyncio.to_thread(
                proxy.wait_until, lambda log: {e.fault for e in log} == {Stall(), Delay(30)}
            )
        for reader, _writer in streams:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
    assert len(proxy.log) == 2
    assert all(exchange.ended is not None for exchange in proxy.log)
    assert not [thread for thread in threading.enumerate() if thread.name == "deadline-fault-proxy"]
    # asyncio's debug mode may find a callback slow, which is none of our business
    assert [r for r in caplog.records if r.name == "deadline.testing" or r.levelno >= logging.ERROR] == []


async def test_closing_does_not_wait_for_a_client_that_does_not_read() -> None:
    """An answer that is stuck half way to its client is dropped when the proxy closes."""
    size = 2**25
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with between(answer) as (proxy, _), connected(proxy) as (_reader, writer):
        writer.write(a_get())
        await asyncio.to_thread(proxy.wait_until, lambda log: log and log[0].status == 200)
    assert not proxy.log[0].answered
    assert proxy.log[0].ended is not None


async def test_hanging_up_on_a_request_that_was_sent_ends_it_upstream_too() -> None:
    """When the client gives up waiting for the upstream, the upstream sees that it has."""
    with FaultProxy("http://127.0.0.1:9") as upstream, FaultProxy(upstream.url) as proxy:
        upstream.add(Stall())
        async with connected(proxy) as (_reader, writer):
            writer.write(a_get())
            await log_shows_fault(upstream)
        await log_shows_end(upstream)
        await log_shows_end(proxy)
        (exchange,) = proxy.log
    assert exchange.sent_upstream
    assert not exchange.answered


def test_it_works_while_the_clients_loop_is_blocked(hello_url: str) -> None:
    """The proxy has a thread of its own: a client that blocks is served."""
    with FaultProxy(hello_url) as proxy:
        assert fetch(proxy.url) == (b"hello", 200)


def test_an_unused_proxy_opens_and_closes() -> None:
    """A proxy nobody talks to leaves nothing behind."""
    with FaultProxy("http://127.0.0.1:9") as proxy:
        assert proxy.url.startswith("http://127.0.0.1:")
        assert proxy.log == []


def test_it_has_an_address_only_while_it_runs() -> None:
    """Asking for the address too early or too late, and entering twice, says what is wrong."""
    proxy = FaultProxy("http://127.0.0.1:9/")
    with pytest.raises(RuntimeError, match="the proxy is not running"):
        _ = proxy.url
    with proxy, pytest.raises(RuntimeError, match="a proxy runs once"):
        proxy.__enter__()
    with pytest.raises(RuntimeError, match="the proxy is not running"):
        _ = proxy.url


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1:1", "127.0.0.1:80", "http://", "http://h/path", "http://h?q", ""]
)
def test_only_http_and_https_upstreams_are_taken(url: str) -> None:
    """An upstream the proxy cannot speak to is refused by name, with an example of one it can."""
    with pytest.raises(ValueError, match="upstream_url must be http or https"):
        FaultProxy(url)


@pytest.fixture
def hello_url() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(2**16)
                connection.sendall(HELLO)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def fetch(url: str) -> tuple[bytes, int]:
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.read(), answer.status
    finally:
        connection.close()


async def test_no_piece_of_an_answer_waits_for_an_acknowledgement() -> None:
    """Nagle's algorithm is off: it would hold the second piece back for up to 40 ms."""
    at_once: list[int] = []

    async def serve(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        connection = streams[1].get_extra_info("socket")
        at_once.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    listener = Listener(serve)
    await listener.listen()
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    await reader.read()
    writer.close()
    await listener.close()
    assert at_once == [1]

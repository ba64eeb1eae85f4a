"""Faults on connections of TLS, which the proxy passes through without reading them."""

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aioboto3
import pytest
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError

from deadline.testing import (
    Answer,
    BlackHole,
    Delay,
    Drip,
    Fault,
    FaultProxy,
    HalfClose,
    LostAnswer,
    MotoServer,
    Refuse,
    Request,
    Reset,
    Stall,
    Wire,
    throttling,
)

pytestmark = pytest.mark.slow

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
GET = b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n"

Dial = Callable[[str], socket.socket]
Silent = Callable[[socket.socket], None]


@pytest.fixture
def upstream(byte_server: Callable[..., Any], server_tls: ssl.SSLContext) -> Any:
    return byte_server(HELLO, server_tls)


@pytest.fixture
def proxy(upstream: Any) -> Iterator[FaultProxy]:
    with FaultProxy(upstream.url) as running:
        yield running


def shake_hands(client: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(client, server_hostname="127.0.0.1")


def get(client: socket.socket, context: ssl.SSLContext) -> bytes:
    with shake_hands(client, context) as secure:
        secure.sendall(GET)
        return b"".join(iter(lambda: secure.recv(100), b""))


def ended(proxy: FaultProxy) -> Any:
    proxy.wait_until(lambda log: log and log[-1].ended is not None, 10)
    return proxy.log[-1]


@pytest.mark.parametrize("fault", [None, Delay(0.05), Drip(500, 0.001), Reset(10_000)], ids=repr)
def test_tls_passes_through(
    proxy: FaultProxy, upstream: Any, dial: Dial, client_tls: ssl.SSLContext, fault: Fault | None
) -> None:
    """The client sees upstream's own certificate and answer, however slowly, and the log the bytes."""
    if fault:
        proxy.add(fault)
    assert proxy.url.startswith("https://127.0.0.1:")
    assert get(dial(proxy.url), client_tls) == HELLO
    exchange = ended(proxy)
    assert bytes(upstream.received[0]) == GET
    assert exchange.request == Request("", "", {})
    assert (exchange.fault, exchange.sent_upstream, exchange.error) == (fault, True, None)
    assert exchange.bytes_upstream > len(GET)
    assert exchange.bytes_to_client > len(HELLO)
    assert exchange.outcome in ("client_left", "upstream_left")
    assert (exchange.status, exchange.answered, exchange.effect) == (None, False, "unknown")


@pytest.mark.parametrize(
    "fault", [Stall(), BlackHole(0), BlackHole(5), BlackHole(0, "request"), BlackHole(5, "request")], ids=repr
)
def test_silence_stops_the_handshake(
    proxy: FaultProxy, dial: Dial, client_tls: ssl.SSLContext, fault: Fault
) -> None:
    """A connection that falls silent stays open, and the client never gets through its handshake."""
    proxy.add(fault)
    client = dial(proxy.url)
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        shake_hands(client, client_tls)
    client.close()
    exchange = ended(proxy)
    assert exchange.fault == fault
    if isinstance(fault, BlackHole) and fault.direction == "request":
        assert (exchange.bytes_upstream, exchange.bytes_to_client) == (fault.after, 0)
    else:
        assert exchange.bytes_to_client == getattr(fault, "after", 0)
    assert exchange.outcome == "client_left"
    assert exchange.sent_upstream == (fault not in (Stall(), BlackHole(0, "request")))


def test_refusing_resets_at_once(proxy: FaultProxy, upstream: Any, dial: Dial) -> None:
    """The connection is reset as soon as it is there, before the client has said a word."""
    proxy.add(Refuse())
    with pytest.raises(ConnectionResetError):
        dial(proxy.url).recv(1)
    exchange = ended(proxy)
    assert (exchange.outcome, exchange.sent_upstream) == ("reset", False)
    assert upstream.received == []


@pytest.mark.parametrize("after", [0, 5])
def test_a_reset_breaks_the_handshake(
    proxy: FaultProxy, dial: Dial, client_tls: ssl.SSLContext, after: int
) -> None:
    """So many bytes from upstream come, then the connection is reset."""
    proxy.add(Reset(after))
    with pytest.raises(ConnectionResetError):
        shake_hands(dial(proxy.url), client_tls)
    exchange = ended(proxy)
    assert (exchange.outcome, exchange.bytes_to_client, exchange.sent_upstream) == ("reset", after, True)


def test_a_half_close_cuts_the_handshake_short(
    proxy: FaultProxy, dial: Dial, client_tls: ssl.SSLContext
) -> None:
    """The client sees the end of the stream where it expects more, which TLS notices."""
    proxy.add(HalfClose(5))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        shake_hands(dial(proxy.url), client_tls)
    exchange = ended(proxy)
    assert (exchange.outcome, exchange.bytes_to_client) == ("half_closed", 5)


def test_rules_count_connections(proxy: FaultProxy, dial: Dial, client_tls: ssl.SSLContext) -> None:
    """With TLS a connection is what a rule counts."""
    proxy.add(Refuse(), times=1, after=1)
    assert get(dial(proxy.url), client_tls) == HELLO
    with pytest.raises(ConnectionResetError):
        dial(proxy.url).recv(1)
    assert get(dial(proxy.url), client_tls) == HELLO
    assert [exchange.fault for exchange in proxy.log] == [None, Refuse(), None]


@pytest.mark.parametrize("fault", [Answer(200), LostAnswer(), throttling()], ids=repr)
def test_what_needs_http_is_refused(proxy: FaultProxy, fault: Fault) -> None:
    """A fault that reads or writes HTTP cannot be added, nor a predicate that would read it."""
    with pytest.raises(ValueError, match=r"fault must work on bytes with an https upstream, such as Reset"):
        proxy.add(fault)
    with pytest.raises(ValueError, match=r"where must be None with an https upstream.*times, after"):
        proxy.add(Stall(), where=lambda request: request.method == "GET")


@pytest.mark.parametrize("verb", ["answer", "swallow"])
def test_a_fault_that_forgot_to_say_that_it_needs_http(
    proxy: FaultProxy, dial: Dial, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    """A user's fault that calls such a verb all the same cuts the connection, and the log says why."""

    class Chatty(Fault):
        async def play(self, wire: Wire) -> None:
            await (wire.answer(200) if verb == "answer" else wire.swallow())

    proxy.add(Chatty())
    assert dial(proxy.url).recv(1) == b""
    assert f"a fault for TLS cannot {verb}: set needs_http" in ended(proxy).error


def test_an_upstream_that_is_away_cuts_the_client(dial: Dial, caplog: pytest.LogCaptureFixture) -> None:
    """The connection ends without a byte, and the log says that upstream could not be reached."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with FaultProxy(f"https://127.0.0.1:{port}") as proxy:
        assert dial(proxy.url).recv(1) == b""
        exchange = ended(proxy)
    assert (exchange.outcome, exchange.sent_upstream) == ("upstream_left", False)
    assert "ConnectionRefusedError" in exchange.error


@pytest.mark.parametrize(
    "fault", [None, Delay(30), Stall(), BlackHole(5), BlackHole(5, "request"), Drip(1, 30)], ids=repr
)
def test_closing_in_the_middle_frees_everything(
    upstream: Any, dial: Dial, caplog: pytest.LogCaptureFixture, fault: Fault | None
) -> None:
    """Whatever a connection is at when the proxy is closed, it ends, and nothing is said."""
    with FaultProxy(upstream.url) as proxy:
        if fault:
            proxy.add(fault)
        client = dial(proxy.url)
        client.sendall(b"\x16\x03\x01 not quite a hello")
        proxy.wait_until(lambda log: log and log[0].fault == fault)
    with contextlib.suppress(ConnectionResetError):
        while client.recv(100):
            pass
    assert proxy.log[0].outcome in ("cut", "upstream_left")
    assert not [thread for thread in threading.enumerate() if thread.name == "deadline-fault-proxy"]
    assert [r for r in caplog.records if r.name == "deadline.testing" or r.levelno >= logging.ERROR] == []


async def test_a_real_client_speaks_tls_through_it(
    proxy: FaultProxy, certificate: Path, moto_server: MotoServer
) -> None:
    """An S3 client that checks certificates works, and each kind of failure reaches it as its error."""
    config = AioConfig(retries={"total_max_attempts": 1}, read_timeout=0.3, connect_timeout=0.3)
    session = aioboto3.Session()
    async with session.client("s3", endpoint_url=proxy.url, verify=str(certificate), config=config) as s3:
        for fault in (Refuse(), Stall(), Reset()):
            rule = proxy.add(fault)
            with pytest.raises(BotoCoreError):
                await s3.get_object(Bucket="box", Key="a")
            rule.remove()
        answer = await s3.get_object(Bucket="box", Key="a")
        assert await answer["Body"].read() == b"hello"
    assert [exchange.fault for exchange in proxy.log] == [Refuse(), Stall(), Reset(), None]

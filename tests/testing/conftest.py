"""Servers and clients that speak bytes, for tests where bytes matter."""

import contextlib
import datetime as dt
import ipaddress
import socket
import socketserver
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aioboto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class ByteServer(socketserver.ThreadingTCPServer):
    """Gives every complete request the same bytes, then hangs up; keeps what each connection sent."""

    def __init__(self, answer: bytes, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.tls = tls
        self.received: list[bytearray] = []
        self.changed = threading.Condition()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_address[1]}"

    def wait_until(self, predicate: Callable[[list[bytearray]], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: predicate(self.received), 10), self.received


class _Handler(socketserver.BaseRequestHandler):
    server: ByteServer

    def handle(self) -> None:
        data = bytearray()
        with self.server.changed:
            self.server.received.append(data)
            self.server.changed.notify_all()
        with contextlib.suppress(OSError):
            if self.server.tls is not None:
                self.request = self.server.tls.wrap_socket(self.request, server_side=True)
            while piece := self.request.recv(2**16):
                with self.server.changed:
                    data += piece
                    self.server.changed.notify_all()
                if is_complete(data):
                    self.request.sendall(self.server.answer)
                    break

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            self.request.shutdown(socket.SHUT_WR)
        self.request.close()


def is_complete(data: bytes | bytearray) -> bool:
    head, end, body = bytes(data).partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            length = int(value)
    return bool(end) and len(body) >= length


@pytest.fixture
def byte_server() -> Iterator[Callable[..., ByteServer]]:
    """Make servers that give every request the same bytes."""
    with contextlib.ExitStack() as stack:

        def make(answer: bytes, tls: ssl.SSLContext | None = None) -> ByteServer:
            server = stack.enter_context(ByteServer(answer, tls))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return server

        yield make


@pytest.fixture
def dial() -> Iterator[Callable[[str], socket.socket]]:
    """Connect a blocking socket to a URL; closed at the end."""
    with contextlib.ExitStack() as stack:

        def connect(url: str) -> socket.socket:
            parts = urllib.parse.urlsplit(url)
            assert parts.hostname is not None
            assert parts.port is not None
            return stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=10))

        yield connect


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate, signed by itself, for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fault proxy tests")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path: Path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(scope="session")
def server_tls(certificate: Path) -> ssl.SSLContext:
    """The TLS of a server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(scope="session")
def client_tls(certificate: Path) -> ssl.SSLContext:
    """The TLS of a client that trusts it and no other."""
    return ssl.create_default_context(cafile=certificate)


@pytest.fixture(scope="session")
def sdk() -> Any:
    """One session of the SDK for all tests: loading its models takes longer than most tests do."""
    return aioboto3.Session("testing", "testing", region_name="us-east-1")


@pytest.fixture
def nothing_comes() -> Callable[[Any], None]:
    """Check that a connection is open and silent."""

    def check(connection: socket.socket) -> None:
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(10)

    return check

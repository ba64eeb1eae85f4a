"""The fault proxy: a thread with a loop of its own, between a client and a server."""

import asyncio
import concurrent.futures
import contextlib
import threading
import urllib.parse
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, final

from deadline.testing._extras import missing
from deadline.testing._proxy.faults import Fault
from deadline.testing._proxy.journal import Exchange, Journal
from deadline.testing._proxy.listener import Listener
from deadline.testing._proxy.rules import Rule, Rules, Where
from deadline.testing._proxy.tunnel import TunnelConnection


class _Connection(Protocol):
    async def serve(self) -> None: ...


@final
class FaultProxy:
    """A proxy on 127.0.0.1 that lets go wrong what you choose, between a client and a server.

        with MotoServer() as moto, FaultProxy(moto.url) as proxy:
            proxy.add(Stall(), where=lambda request: request.method == "DELETE")
            async with session.client("s3", endpoint_url=proxy.url) as s3: ...

    It runs in a thread with an event loop of its own and in real time, so it goes on while the
    client's loop is blocked, and serves clients in other processes. Every method and property may
    be used from any thread. What it does not understand as a fault it passes on: the `Host` header
    and with it signatures, `Expect: 100-continue`, chunked bodies, answers without a body. Requests
    are read completely before they are matched; answers are relayed as they come.

    TLS is passed through: the client shakes hands with the upstream itself, whose certificate has to be
    good for 127.0.0.1, or not be checked. Nothing can be read of it, so a fault is played on a whole
    connection, `where` has nothing to look at, and the log has connections with an empty request.

    Args:
        upstream_url: Where requests go: `http://host:port`, or `https://host:port` for TLS. Without a
            port, it is the scheme's own.

    Raises:
        ImportError: h11 is not installed.
        ValueError: `upstream_url` is anything else.
    """

    def __init__(self, upstream_url: str) -> None:
        self._tls, self._upstream = _host_and_port(upstream_url)
        self._connection = _tunnel() if self._tls else _http()
        self._rules = Rules()
        self._journal = Journal()
        self._lock = threading.Lock()
        self._refusing = False
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] = lambda: None

    @property
    def url(self) -> str:
        """The proxy's address for clients, such as `http://127.0.0.1:40123`.

        Raises:
            RuntimeError: the proxy is not running.
        """
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._running().port}"

    @property
    def log(self) -> list[Exchange]:
        """A copy of the exchanges so far, those that go on included, in the order they came."""
        return self._journal.read()

    def add(
        self,
        fault: Fault,
        where: Where | None = None,
        times: int | None = None,
        *,
        after: int = 0,
        probability: float = 1.0,
        seed: int | None = None,
        between: tuple[float, float] | None = None,
    ) -> Rule:
        """Play `fault` on the requests that `where` is true of.

        All conditions must hold, and are asked in this order: `between`, `where`, `after`,
        `probability`, `times`. Of several rules that match a request, the one added first is played,
        alone; the others are not asked, and do not count it. Where the proxy passes TLS through, read
        "connection" for "request".

        Args:
            fault: Such as `Stall()` or `Delay(0.5)`.
            where: Is called with each `Request`, in the proxy's thread, so it should be quick. None
                means every request. If it raises, the client gets a 500 and the exchange in the
                log an `error`.
            times: After so many requests with the fault the rule is spent. None means never.
            after: So many requests that match are let pass first.
            probability: The fault is played on so large a part of the requests that are left, by chance.
            seed: What that chance begins with: with the same seed, the same requests are hit, if they
                come in the same order. None means the number of rules added before, so that a rule's
                luck is the same in each run, and no two rules of a proxy have the same.
            between: Two numbers of seconds since this call: the rule is asked from the first on, until
                just before the second, which may be infinite. None means always.

        Returns:
            The rule, whose `remove()` takes it out of force.

        Raises:
            TypeError: `fault` is no fault, `where` cannot be called, or `seed` is no whole number.
            ValueError: another argument is out of its range, or, where the proxy passes TLS through,
                `where` is given or `fault` needs to understand HTTP.
        """
        if self._tls and where is not None:
            raise ValueError(
                "where must be None with an https upstream: TLS hides the requests. Each connection counts "
                "as one; choose with times, after, probability or between"
            )
        if self._tls and isinstance(fault, Fault) and fault.needs_http:
            raise ValueError(
                f"fault must work on bytes with an https upstream, such as Reset(after=0), not {fault!r}: "
                "TLS hides the requests"
            )
        return self._rules.add(
            fault, where, times, after=after, probability=probability, seed=seed, between=between
        )

    def clear(self) -> None:
        """Take every rule out of force. Exchanges that have met one go on."""
        self._rules.clear()

    def wait_until(self, predicate: Callable[[Sequence[Exchange]], object], timeout: float = 5.0) -> None:
        """Block this thread until `predicate` is true of the log; asked again at every change.

        In a coroutine: `await asyncio.to_thread(proxy.wait_until, lambda log: len(log) == 2)`.

        Args:
            predicate: Is called with the exchanges so far. It must not use the proxy.
            timeout: Real seconds from the call. Zero asks once.

        Raises:
            TimeoutError: it was not true in time; the message holds the log.
            TypeError, ValueError: `timeout` is no number, negative, NaN or infinite.
        """
        self._journal.wait_until(predicate, timeout)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Be away for the length of a `with` block: connecting fails with `ECONNREFUSED`.

        On entry the listening socket is closed and every open connection cut, idle ones included. At the
        end the proxy listens again, at the same address. Nothing of it is in the log, save the
        exchanges that were cut. Both ends block this thread for a moment, as entering the proxy does.

        Raises:
            RuntimeError: the proxy is not running, or is refusing already.
        """
        listener = self._running()
        with self._lock:
            if self._refusing:
                raise RuntimeError("the proxy is refusing already: leave the first refusing() before")
            self._refusing = True
        try:
            self._wait_for(listener.refuse())
            yield
        finally:
            with self._lock:
                self._refusing = False
            if self._listener is not None:
                self._wait_for(listener.listen())

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError("a proxy runs once: make a new FaultProxy")
        started: concurrent.futures.Future[Listener] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="deadline-fault-proxy", daemon=True
        )
        self._thread.start()
        self._listener = started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None, "entered before it is left"
        self._listener = None
        self._stop()
        self._thread.join()

    def _running(self) -> Listener:
        if self._listener is None:
            raise RuntimeError("the proxy is not running: use it inside `with FaultProxy(url) as proxy:`")
        return self._listener

    def _wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self, started: concurrent.futures.Future[Listener]) -> None:
        # The plain loop, whatever policy the process has: a virtual or a debugging one has no business here.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            try:
                runner.run(self._serve(started))
            except Exception as error:
                if started.done():
                    raise
                started.set_exception(error)

    async def _serve(self, started: concurrent.futures.Future[Listener]) -> None:
        self._loop, stop = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: self._loop.call_soon_threadsafe(stop.set)
        listener = Listener(
            lambda streams: self._connection(streams, self._upstream, self._rules, self._journal).serve()
        )
        await listener.listen()
        started.set_result(listener)
        await stop.wait()
        await listener.close()


def _http() -> Callable[..., _Connection]:
    try:
        from deadline.testing._proxy.http import ClientConnection  # noqa: PLC0415
    except ImportError as error:
        raise missing("h11") from error
    return ClientConnection


def _tunnel() -> Callable[..., _Connection]:
    return TunnelConnection


def _host_and_port(url: str) -> tuple[bool, tuple[str, int]]:
    """Return whether `url` is one of TLS, and where it leads."""
    parts = urllib.parse.urlsplit(url)
    plain = parts.scheme in ("http", "https") and parts.path in ("", "/") and not parts.query
    if not plain or parts.hostname is None:
        raise ValueError(
            f"upstream_url must be http or https without a path, such as http://127.0.0.1:5000, not {url!r}"
        )
    tls = parts.scheme == "https"
    return tls, (parts.hostname, parts.port or (443 if tls else 80))

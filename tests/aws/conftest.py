"""Installed clients, and a server that answers what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import threading
import tracemalloc
import uuid
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import boto3
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.loaders import create_loader

from deadline import Event, aws, subscribe
from deadline.aws._calls.hedging import budget_of
from deadline.aws._calls.latency import latency_of
from deadline.aws._rescue import breadcrumb as _breadcrumb
from deadline.aws._runtime import event_loop as _environment
from deadline.aws._runtime import process_record as _armed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from deadline.testing import MotoServer

# Sessions of their own would each read the SDK's models of services again: most of these tests' time.
_MODELS = create_loader()
_WARM_UP = {"dynamodb": "list_tables", "s3": "list_buckets", "sts": "get_caller_identity"}


@pytest.fixture(autouse=True)
def nothing_learnt() -> None:
    """What calls of other tests took is not known."""
    latency_of.cache_clear()
    budget_of.cache_clear()


class Script:
    """A service that plays a script: each request gets the next answer, and `{}` when there is none left.

    It stands in for DynamoDB, whose errors are JSON, which the fault proxy cannot make up.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[str] = []
        self.latency = 0.0
        self._answers: deque[tuple[int, bytes] | None] = deque()
        self._serving: set[asyncio.Task[None]] = set()

    def play(self, *answers: tuple[int, str] | None) -> None:
        """Answer with these from now on, as (status, error code), and forget the requests so far.

        `None` is no answer at all.
        """
        self.requests.clear()
        self._answers.clear()
        for answer in answers:
            text = (
                {"__type": f"com.amazonaws.dynamodb#{answer[1]}", "message": "so it says"} if answer else {}
            )
            self._answers.append((answer[0], json.dumps(text).encode()) if answer else None)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def close(self) -> None:
        """Close every connection."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until the client hangs up."""
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
                await reader.readexactly(int(fields.get("content-length", "0")))
                self.requests.append(fields.get("x-amz-target", ""))
                answer = self._answers.popleft() if self._answers else (200, b"{}")
                await asyncio.sleep(self.latency)
                if answer is None:
                    await reader.read()
                    break
                status, body = answer
                writer.write(b"HTTP/1.1 %d Answer\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)


class Connect(Protocol):
    """Make a client."""

    async def __call__(
        self, service: str = ..., *, url: str | None = ..., warm: bool = ..., **config: Any
    ) -> Any: ...


@pytest.fixture
async def script(moto_server: MotoServer) -> AsyncIterator[Script]:
    """A scripted DynamoDB; moto's server is there for the clean environment."""
    listener = socket.create_server(("127.0.0.1", 0))
    script = Script(f"http://127.0.0.1:{listener.getsockname()[1]}")
    server = await asyncio.start_server(script.accept, sock=listener)
    yield script
    server.close()
    await script.close()


@pytest.fixture
async def connect(moto_server: MotoServer) -> AsyncIterator[Connect]:
    """Clients of an installed aiobotocore session, closed after the test.

    They are warm: the first call, which builds an SSL context, has been made outside of any deadline.
    """
    session: Any = aws.install(get_session())
    session.register_component("data_loader", _MODELS)
    async with contextlib.AsyncExitStack() as stack:

        async def connect(
            service: str = "dynamodb", *, url: str | None = None, warm: bool = True, **config: Any
        ) -> Any:
            client = await stack.enter_async_context(
                session.create_client(service, endpoint_url=url, config=AioConfig(**config))
            )
            if warm:
                await getattr(client, _WARM_UP[service])()
            return client

        yield connect


class Queue:
    """Where notices go."""

    def __init__(self, sqs: Any, name: str) -> None:
        self._sqs = sqs
        self.url: str = sqs.create_queue(QueueName=name)["QueueUrl"]

    def another(self) -> Queue:
        """One beside this one."""
        return Queue(self._sqs, uuid.uuid4().hex)

    def received(self) -> list[dict[str, Any]]:
        """All that is there; and it is gone."""
        messages = []
        while got := self._sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            for one in got:
                messages.append(json.loads(one["Body"]))
                self._sqs.delete_message(QueueUrl=self.url, ReceiptHandle=one["ReceiptHandle"])
        return messages


@pytest.fixture
def queue(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """The queue that every handler sends its notices to."""
    queue = Queue(boto3.client("sqs"), "lost")
    monkeypatch.setenv("DEADLINE_NOTICE", queue.url)
    return queue


@pytest.fixture
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment of its own, and a temporary folder, for a test that calls a handler as Lambda does."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    _environment.replace_environment()
    yield
    _breadcrumb._forget()
    _armed._forget()
    made = _environment._environment
    if made is not None:
        made.close()
    _environment._environment = _environment._why_replaced = None
    for kept in _environment._kept:
        if not kept.loop.is_closed() and not asyncio.all_tasks(kept.loop):
            kept.loop.close()


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let every retry mode wait so long: `pause(seconds)`, for clients made while it is used.

    The SDK's own backoffs have chance in them.
    """
    seconds = [0.0]
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: seconds[0])
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda _backoff, _context: seconds[0]
    )

    def set_pause(value: float) -> None:
        seconds[0] = value

    return set_pause


@pytest.fixture
def told() -> Iterator[list[Event]]:
    """The events about AWS calls, as they are told."""
    events: list[Event] = []
    unsubscribe = subscribe(lambda event: events.append(event) if event.name.startswith("aws.") else None)
    yield events
    unsubscribe()


@pytest.fixture
def leaves_nothing() -> Callable[[Callable[[int], None]], None]:
    """Fails if a thousand shots leave a descriptor, a thread or a megabyte, after a hundred that warm up."""

    def opened() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    def check(shoot: Callable[[int], None]) -> None:
        shoot(101)
        gc.collect()
        before = opened()
        tracemalloc.start()
        held = tracemalloc.get_traced_memory()[0]
        shoot(1000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - held
        tracemalloc.stop()
        assert grown < 1_000_000
        assert opened() == before

    return check

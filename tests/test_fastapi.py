"""`asgi.DeadlineMiddleware` around FastAPI under uvicorn, with a real client and real sockets; on Lambda."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from deadline import aws
from deadline._core.margin import CALLER_AT_LEAST
from deadline.asgi import DeadlineMiddleware
from deadline.testing import Stall

fastapi: Any = pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
aioboto3 = pytest.importorskip("aioboto3")

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from deadline.testing import Emulator, FaultProxy

pytestmark = pytest.mark.slow

EXAMPLES = str(Path(__file__).parent.parent / "examples")
MOMENT = 0.05
"""Seconds by which an answer may be late, beside what its loop is."""


class Timed:
    """Measures, in the server, how long each request takes to its response."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        began = time.monotonic()

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"took", b"%.4f" % (time.monotonic() - began))]
            await send(message)

        await self._app(scope, receive, sending)


def slow_resolver(port: int) -> Any:
    """One that takes 0.3 s for every name, as a task that all who ask share."""
    from aiohttp.abc import AbstractResolver

    class SlowResolver(AbstractResolver):
        asked: ClassVar[list[str]] = []

        async def resolve(self, host: str, port: int = port, family: Any = socket.AF_INET) -> Any:
            self.asked.append(host)
            await asyncio.sleep(0.3)
            return [
                {
                    "hostname": host,
                    "host": "127.0.0.1",
                    "port": port,
                    "family": family,
                    "proto": 0,
                    "flags": 0,
                }
            ]

        async def close(self) -> None:
            pass

    return SlowResolver()


async def beat(state: Any) -> None:
    """Measure how late the server's loop is at the worst."""
    while True:
        due = time.monotonic() + 0.005
        await asyncio.sleep(0.005)
        state.lag = max(state.lag, time.monotonic() - due)


async def background() -> Any:
    """Answer, and go on."""
    tasks = fastapi.BackgroundTasks()
    tasks.add_task(asyncio.sleep, 60)
    return fastapi.Response(background=tasks)


def make_app(aws_port: int) -> Any:
    """An application whose requests share an S3 client and a session."""
    import aiohttp

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        session = aws.install(aioboto3.Session())
        connector = aiohttp.TCPConnector(resolver=slow_resolver(aws_port), ttl_dns_cache=None, limit=0)
        async with (
            session.client("s3", endpoint_url=f"http://localhost:{aws_port}") as app.state.s3,
            aiohttp.ClientSession(connector=connector) as app.state.session,
        ):
            app.state.lag = 0.0
            heart = asyncio.create_task(beat(app.state))
            yield
            heart.cancel()

    app = fastapi.FastAPI(lifespan=lifespan)
    app.add_middleware(DeadlineMiddleware, budget=20.0, header="Deadline-Remaining-Ms")
    app.add_middleware(Timed)

    async def head(key: str) -> str:
        answer = await app.state.s3.list_objects_v2(Bucket="bucket", Prefix=key)
        return str(answer["KeyCount"])

    async def named() -> int:
        async with app.state.session.get(f"http://service.test:{aws_port}/bucket") as answer:
            return int(answer.status)

    async def sleep(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    def thread(seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    async def stream() -> Any:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield b"more "
                await asyncio.sleep(0.05)

        return fastapi.responses.StreamingResponse(chunks())

    endpoints = {
        "/background": background,
        "/object/{key}": head,
        "/named": named,
        "/sleep": sleep,
        "/thread": thread,
        "/stream": stream,
    }
    for path, endpoint in endpoints.items():
        app.add_api_route(path, endpoint)
    return app


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Run an application under uvicorn, in a thread; return its address."""
    running: list[tuple[Any, threading.Thread]] = []

    def run(app: Any) -> str:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield run
    for server, thread in running:
        server.should_exit = True
        thread.join()


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Any]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30.0, trust_env=False) as opened:
        yield opened


@pytest.fixture
async def port(fault_proxy: FaultProxy) -> int:
    """Of an S3 with one bucket, which never answers for keys that begin with `stalled`."""
    async with aioboto3.Session().client("s3") as s3:
        await s3.create_bucket(Bucket="bucket")
        await s3.put_object(Bucket="bucket", Key="there", Body=b"")
    fault_proxy.add(Stall(), where=lambda request: "prefix=stalled" in request.path)
    return int(fault_proxy.url.rpartition(":")[2])


async def test_each_of_200_requests_ends_in_its_own_time(serve: Callable[[Any], str], port: int) -> None:
    """Mixed budgets and one shared client: the expiry of one harms no other."""
    chance = random.Random(8)
    kinds = {
        "/object/there": (15.0, 20.0),  # is answered
        "/object/stalled": (0.2, 1.2),  # is cut
        "/sleep?seconds=0.4": (15.0, 20.0),  # is answered
        "/sleep?seconds=60": (0.2, 1.2),  # is cut
        "/named?long": (15.0, 20.0),  # asks for a name with those that are cut
        "/named?short": (0.05, 0.25),  # is cut while it asks for the name
    }
    requests = [(path, chance.uniform(*kinds[path])) for path in kinds for _ in range(34)][:200]
    chance.shuffle(requests)
    # Whoever asks for the name first starts the task that all others share: one that will be cut.
    requests.sort(key=lambda request: request[0] != "/named?short")
    app = make_app(port)
    async with client(serve(app)) as http:

        async def ask(path: str, budget: float) -> Any:
            await asyncio.sleep(0.0 if path.startswith("/named") else chance.uniform(0.0, 0.5))
            return await http.get(path, headers={"Deadline-Remaining-Ms": str(int(budget * 1000))})

        answers = await asyncio.gather(*(ask(*request) for request in requests))
        after = await http.get("/object/there")
    assert len(answers) == 200
    late = MOMENT + 5 * app.state.lag
    for (path, budget), answer in zip(requests, answers, strict=True):
        is_cut = budget < 2.0
        budget = max(budget, CALLER_AT_LEAST)  # noqa: PLW2901  # a header leaves no less
        took, margin = float(answer.headers["took"]), min(0.5, budget / 4)
        assert answer.status_code == (504 if is_cut else 200), (path, answer.text)
        if is_cut:
            assert took < budget + late, (path, budget)
            # An AWS call whose next attempt cannot fit is refused before the time is up.
            assert path == "/object/stalled" or took >= budget - margin - 0.002, (path, budget)
    assert after.json() == "1"


async def test_a_stream_is_broken_off(serve: Callable[[Any], str], port: int) -> None:
    """The client can tell that it is not whole; the next request on the server is fine."""
    async with client(serve(make_app(port))) as http:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete|without sending complete"):
            await http.get("/stream", headers={"Deadline-Remaining-Ms": "400"})
        assert (await http.get("/sleep?seconds=0")).status_code == 200


async def test_a_background_task_that_is_cut_leaves_the_connection(
    serve: Callable[[Any], str], port: int
) -> None:
    """Another request has it by then."""
    async with client(serve(make_app(port))) as http:
        first = await http.get("/background", headers={"Deadline-Remaining-Ms": "400"})
        second = await http.get("/sleep?seconds=0.6")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.extensions["network_stream"] is second.extensions["network_stream"]


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["nothing", "BaseHTTPMiddleware"])
async def test_a_def_endpoint_is_answered_for(serve: Callable[[Any], str], inside: str) -> None:
    """`on_exceeded` answers while its thread goes on, also around a `BaseHTTPMiddleware`."""
    from starlette.middleware.base import BaseHTTPMiddleware

    free, ended = threading.Event(), threading.Event()

    def thread() -> dict[str, int]:
        free.wait(30)
        ended.set()
        return {"ok": 1}

    async def through(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    async def too_late(exceeded: Any, scope: Any) -> Any:
        return fastapi.responses.JSONResponse({"late": scope["path"]}, status_code=503)

    app = fastapi.FastAPI()
    app.add_api_route("/thread", thread)
    if inside == "BaseHTTPMiddleware":
        app.add_middleware(BaseHTTPMiddleware, dispatch=through)
    app.add_middleware(DeadlineMiddleware, budget=0.5, on_exceeded=too_late)
    async with client(serve(app)) as http:
        answer = await http.get("/thread")
        assert not ended.is_set()
        free.set()
    assert (answer.status_code, answer.json()) == (503, {"late": "/thread"})


@pytest.mark.slow
async def test_an_endpoint_that_blocks_the_loop_leaves_on_exceeded_its_time(
    serve: Callable[[Any], str],
) -> None:
    """Behind a `BaseHTTPMiddleware` it is cut when the loop is free, and `on_exceeded` answers."""
    from starlette.middleware.base import BaseHTTPMiddleware

    async def block() -> None:
        time.sleep(0.8)  # noqa: ASYNC251  # longer than the whole budget
        await asyncio.sleep(60)

    async def through(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    async def too_late(exceeded: Any, scope: Any) -> Any:
        return fastapi.responses.JSONResponse({"late": scope["path"]}, status_code=503)

    app = fastapi.FastAPI()
    app.add_api_route("/block", block)
    app.add_middleware(BaseHTTPMiddleware, dispatch=through)
    app.add_middleware(DeadlineMiddleware, budget=0.5, margin=0.2, on_exceeded=too_late)
    async with client(serve(app)) as http:
        answer = await http.get("/block")
    assert (answer.status_code, answer.json()) == (503, {"late": "/block"})


def test_the_example_on_lambda(emulator: Callable[..., Emulator]) -> None:
    """Under Mangum it is answered before the function is killed, and in time if there is time."""
    pytest.importorskip("awslambdaric")
    pytest.importorskip("mangum")
    function = emulator("web.handler", path=EXAMPLES, timeout=1.5)
    assert function.invoke(request("seconds=0")).response["statusCode"] == 200
    ended = function.invoke(request("seconds=60"))
    assert ended.status == "success", ended.log
    assert ended.response["statusCode"] == 504
    assert ended.response["body"] == '{"path":"/orders/1","pending":["look up"]}'


def request(query: str) -> dict[str, Any]:
    """An HTTP API's."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/orders/1",
        "rawQueryString": query,
        "headers": {"host": "api.example.com"},
        "requestContext": {
            "http": {"method": "GET", "path": "/orders/1", "sourceIp": "192.0.2.1"},
            "stage": "$default",
            "timeEpoch": int(time.time() * 1000),
        },
        "isBase64Encoded": False,
    }

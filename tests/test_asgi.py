"""`asgi.DeadlineMiddleware`: plain ASGI on a virtual clock, and what frameworks make of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from typing import TYPE_CHECKING, Any

import pytest

from deadline import (
    Deadline,
    DeadlineExceeded,
    InsufficientTime,
    _events,
    critical,
    current,
    deadline,
    deadline_header,
    remaining,
    subscribe,
)
from deadline.asgi import DeadlineMiddleware
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from deadline.testing import VirtualClock


HEADER = b"deadline-remaining-ms"
TOLD: dict[str, Any] = {"header": "Deadline-Remaining-Ms"}
"""An application that believes its callers."""


def request(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    """The scope of a request."""
    return {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"here"), *headers], **more}


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


class Sent(list[Any]):
    """What the server was sent."""

    async def __call__(self, message: Any) -> None:
        await asyncio.sleep(0)
        self.append(message)

    @property
    def status(self) -> int:
        return int(self[0]["status"])


async def serve(app: Any, scope: Any) -> Sent:
    sent = Sent()
    await app(scope, receive, sent)
    return sent


async def ok(send: Any, body: bytes = b"fine") -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def app_that(work: Callable[[], Awaitable[object]]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await work()
        await ok(send)

    return app


def sleeping(seconds: float) -> Any:
    return app_that(lambda: asyncio.sleep(seconds))


# --- the limits -------------------------------------------------------------------------------------------


async def test_a_request_in_time_is_left_alone(virtual_clock: VirtualClock) -> None:
    """Its messages pass as they are."""
    sent = await serve(DeadlineMiddleware(sleeping(1), budget=5.0), request())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent.status == 200


async def test_a_request_that_takes_too_long_is_answered_504(virtual_clock: VirtualClock) -> None:
    """The margin before the budget: half a second, at most a quarter."""
    sent = await serve(DeadlineMiddleware(sleeping(60), budget=5.0), request())
    assert sent.status == 504
    assert dict(sent[0]["headers"])[b"content-length"] == str(len(sent[1]["body"])).encode()
    assert virtual_clock.time() == 4.5


@pytest.mark.parametrize(
    ("options", "headers", "soft"),
    [
        ({"budget": 5.0}, (), 4.5),
        ({"budget": 1.0}, (), 0.75),
        ({"budget": 5.0, "margin": 1.0}, (), 4.0),
        ({"budget": 5.0, "margin": 0}, (), 5.0),
        (TOLD, ((HEADER, b"1000"),), 0.75),
        ({"budget": 5.0, **TOLD}, ((HEADER, b"1000"),), 0.75),
        ({"budget": 0.4, **TOLD}, ((HEADER, b"1000"),), 0.3),
        ({"budget": 5.0, "margin": 3.0, **TOLD}, ((HEADER, b"1000"),), 0.5),
        ({"budget": 5.0, "header": "X-Left"}, ((b"x-left", b"1000"),), 0.75),
        (TOLD, ((HEADER, b"9000"), (HEADER, b"1000")), 0.75),
        ({"budget": 5.0, "header": None}, ((HEADER, b"1000"),), 4.5),
        ({"budget": 5.0}, ((HEADER, b"1000"),), 4.5),  # nobody asked for it
        ({"budget": 5.0, "margin": 0, **TOLD}, ((HEADER, b"1"),), 0.25),  # the floor
        ({"budget": 0.1, "margin": 0, **TOLD}, ((HEADER, b"1"),), 0.1),  # which is none for a budget
    ],
    ids=str,
)
async def test_the_sooner_of_budget_and_header_counts(
    virtual_clock: VirtualClock, options: dict[str, Any], headers: tuple[Any, ...], soft: float
) -> None:
    """The header can only shorten; without a limit there is none."""
    await serve(DeadlineMiddleware(sleeping(60), **options), request(*headers))
    assert virtual_clock.time() == pytest.approx(soft)


FORGED = [
    b"", b"0", b"00", b"-5", b"+5", b"1.5", b"1e3", b"nan", b"inf", b" 5", b"5 ", b"5;", b"0x10", b"1_000",
    b"1000000000", b"0" * 5000 + b"5", b"0000000005", b"9" * 5000, b"\xff", b"\xd9\xa1", b"5\n",
]  # fmt: skip


@pytest.mark.parametrize("value", FORGED, ids=repr)
async def test_what_is_no_number_of_milliseconds_is_ignored(
    virtual_clock: VirtualClock, value: bytes
) -> None:
    """Malformed, absurd or hostile: as if it were not there."""
    await serve(DeadlineMiddleware(sleeping(60), budget=5.0, **TOLD), request((HEADER, value)))
    assert virtual_clock.time() == 4.5


async def test_without_any_limit_there_is_none(virtual_clock: VirtualClock) -> None:
    """The deadline is there, so that it can be asked."""
    seen: list[float] = []

    async def look() -> None:
        seen.append(remaining())

    await serve(DeadlineMiddleware(app_that(look)), request())
    assert seen == [math.inf]


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_other_connections_pass_through(virtual_clock: VirtualClock, kind: str) -> None:
    """A websocket lives on, and so does the lifespan; no deadline is in force."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)
        seen.append((current(), send))

    sent = Sent()
    await DeadlineMiddleware(app, budget=1.0)({"type": kind}, receive, sent)
    assert seen == [(None, sent)]


async def takes_one(exceeded: DeadlineExceeded) -> Any:
    """The scope is missing."""


@pytest.mark.parametrize(
    "options",
    [
        {"budget": -1},
        {"budget": 0},
        {"budget": "5"},
        {"margin": -1},
        {"header": b"x"},
        {"header": ""},
        {"header": "X-Time: 1"},
        {"header": "Zeit-\u20ac"},
        {"on_exceeded": lambda *_: None},
        {"on_exceeded": takes_one},
    ],
    ids=lambda options: " ".join(f"{name} {getattr(one, '__name__', one)}" for name, one in options.items()),
)
def test_wrong_arguments_are_named(options: dict[str, Any]) -> None:
    """The message begins with the argument."""
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(options))}: "):
        DeadlineMiddleware(sleeping(0), **options)


# --- the answer -------------------------------------------------------------------------------------------


async def test_on_exceeded_answers_in_the_margin(virtual_clock: VirtualClock) -> None:
    """It gets the error and the scope, and what it returns is the response."""
    seen: list[Any] = []

    async def on_exceeded(exceeded: DeadlineExceeded, scope: Any) -> Any:
        await asyncio.sleep(0.2)
        seen.append((exceeded.report.pending, scope["path"], remaining()))
        return app_that(lambda: asyncio.sleep(0))

    sent = await serve(DeadlineMiddleware(sleeping(60), budget=4.0, on_exceeded=on_exceeded), request())
    assert sent.status == 200
    assert seen == [([], "/", pytest.approx(0.5 - 0.2 - 0.025))]


@pytest.mark.parametrize(
    "how", ["raises", "raises exceeded", "overruns", "returns nothing", "fails", "hangs"]
)
async def test_a_mitigation_that_fails_is_504(virtual_clock: VirtualClock, how: str) -> None:
    """The client gets an answer, before the budget is over."""

    async def on_exceeded(exceeded: DeadlineExceeded, scope: Any) -> Any:
        if how == "raises":
            raise KeyError(how)
        if how == "raises exceeded":
            raise exceeded
        if how == "overruns":
            await asyncio.sleep(60)
        return None if how == "returns nothing" else answer

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if how == "hangs":
            await asyncio.sleep(60)
        raise FileNotFoundError("late.html")

    sent = await serve(DeadlineMiddleware(sleeping(60), budget=4.0, on_exceeded=on_exceeded), request())
    assert sent.status == 504
    assert virtual_clock.time() <= 4.0


async def test_an_answer_that_streams_too_long_is_broken_off(virtual_clock: VirtualClock) -> None:
    """When the budget is over: it has the whole margin, and no more."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"more", "more_body": True})
            await asyncio.sleep(0.1)

    async def on_exceeded(exceeded: DeadlineExceeded, scope: Any) -> Any:
        return answer

    sent = Sent()
    with pytest.raises(DeadlineExceeded):
        await DeadlineMiddleware(sleeping(60), budget=4.0, on_exceeded=on_exceeded)(request(), receive, sent)
    assert virtual_clock.time() == 4.0
    assert all(message.get("more_body", True) for message in sent)


async def test_an_answer_that_fails_half_way_is_broken_off(virtual_clock: VirtualClock) -> None:
    """As the application's own would be."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        raise FileNotFoundError("late.html")

    async def on_exceeded(exceeded: DeadlineExceeded, scope: Any) -> Any:
        return answer

    sent = Sent()
    with pytest.raises(FileNotFoundError):
        await DeadlineMiddleware(sleeping(60), budget=4.0, on_exceeded=on_exceeded)(request(), receive, sent)
    assert [message["type"] for message in sent] == ["http.response.start"]


async def test_a_response_that_has_started_is_broken_off(virtual_clock: VirtualClock) -> None:
    """Nothing more is sent, and the error leaves, for the server to end the connection."""
    cleaned: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"more", "more_body": True})
                await asyncio.sleep(1)
        finally:
            cleaned.append(virtual_clock.time())

    sent = Sent()
    with pytest.raises(DeadlineExceeded):
        await DeadlineMiddleware(app, budget=4.0)(request(), receive, sent)
    assert cleaned == [3.5]
    assert all(message.get("more_body", True) for message in sent)


async def test_a_response_that_is_complete_stands(virtual_clock: VirtualClock) -> None:
    """An application that finishes although it was cut has answered."""

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await stubborn()
        for message in (
            {"type": "http.response.start", "status": 200, "headers": []},
            {"type": "http.response.body"},
        ):
            sent.append(message)

    sent = Sent()
    await DeadlineMiddleware(app, budget=4.0)(request(), receive, sent)
    assert sent.status == 200


async def test_what_is_cut_after_a_whole_response_harms_no_connection(
    virtual_clock: VirtualClock,
) -> None:
    """The server would close it for an error, and the client may have sent the next request on it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ok(send)
        await asyncio.sleep(60)  # a background task

    names: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.callback(subscribe(lambda event: names.append(event.name)))
        sent = await serve(DeadlineMiddleware(app, budget=4.0), request())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert virtual_clock.time() == 3.5
    assert names == ["deadline.exceeded", "asgi.exceeded"]


async def test_a_last_part_that_is_not_sent_makes_no_whole_response(virtual_clock: VirtualClock) -> None:
    """It waits for a client that does not read."""

    async def full(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    with pytest.raises(DeadlineExceeded):
        await DeadlineMiddleware(sleeping(1), budget=4.0)(request(), receive, full)


async def deaf(virtual_clock: VirtualClock, until: float) -> None:
    """Go on through every cancellation, as a worker thread does."""
    while virtual_clock.time() < until:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(until - virtual_clock.time())


async def test_an_application_that_does_not_end_is_answered_for(virtual_clock: VirtualClock) -> None:
    """`on_exceeded` answers after a quarter of the margin; what the application sends later is dropped."""
    said: list[Any] = []

    async def on_exceeded(exceeded: DeadlineExceeded, scope: Any) -> Any:
        said.append((virtual_clock.time(), exceeded.report.tasks[0].awaiting[-1].function))
        return app_that(lambda: asyncio.sleep(0.1))

    names: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.callback(subscribe(lambda event: names.append(event.name)))
        app = app_that(lambda: deaf(virtual_clock, 9.0))
        sent = await serve(DeadlineMiddleware(app, budget=4.0, on_exceeded=on_exceeded), request())
    assert said == [(3.625, "sleep")]
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert virtual_clock.time() == 9.0  # the call ends with the application
    assert names.count("asgi.exceeded") == 1


async def test_an_application_that_ends_while_it_is_answered_for(virtual_clock: VirtualClock) -> None:
    """The answer that has begun is finished, and there is one."""

    async def on_exceeded(exceeded: DeadlineExceeded, scope: Any) -> Any:
        await asyncio.sleep(0.2)
        return app_that(lambda: asyncio.sleep(0))

    app = app_that(lambda: deaf(virtual_clock, 3.7))
    sent = await serve(DeadlineMiddleware(app, budget=4.0, on_exceeded=on_exceeded), request())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert virtual_clock.time() == pytest.approx(3.825)


async def test_an_answer_beside_that_cannot_begin_is_given_at_the_end(
    virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the callback raises goes to the loop's exception handler; the request is answered when it ends."""
    told: list[Any] = []

    def fails(self: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(Deadline, "account", fails)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

    async def late() -> None:
        await deaf(virtual_clock, 3.8)
        await asyncio.sleep(60)

    sent = await serve(DeadlineMiddleware(app_that(late), budget=4.0), request())
    assert sent.status == 504
    assert virtual_clock.time() == 3.8
    assert [type(error) for error in told] == [MemoryError]
    assert (await serve(DeadlineMiddleware(sleeping(60), budget=1.0), request())).status == 504


async def test_an_open_section_keeps_its_time_and_its_answer(virtual_clock: VirtualClock) -> None:
    """It may last for half of the margin, and is not answered for before its undo had a chance."""

    async def order() -> None:
        async with critical("order") as section, section.step("charge"):
            await asyncio.sleep(4.2)

    sent = await serve(DeadlineMiddleware(app_that(order), budget=5.0, margin=2.0), request())
    assert sent.status == 504  # held until 4.0, and undone
    assert virtual_clock.time() == 4.0

    async def quick() -> None:
        async with critical("order") as section, section.step("charge"):
            await asyncio.sleep(3.9)

    sent = await serve(DeadlineMiddleware(app_that(quick), budget=5.0, margin=2.0), request())
    assert sent.status == 504
    assert virtual_clock.time() == pytest.approx(7.9)  # cut as soon as the section was left


async def test_on_exceeded_has_its_time_after_a_blocked_loop(virtual_clock: VirtualClock) -> None:
    """The server still waits: as long as the margin, from when the loop is free."""
    left: list[float] = []

    async def on_exceeded(exceeded: DeadlineExceeded, scope: Any) -> Any:
        left.append(remaining())
        return app_that(lambda: asyncio.sleep(0))

    async def block() -> None:
        loop: Any = asyncio.get_running_loop()
        loop._set_now(6.0)  # the clock moves on without a turn of the loop
        await asyncio.sleep(1)

    await serve(DeadlineMiddleware(app_that(block), budget=4.0, on_exceeded=on_exceeded), request())
    assert left == [pytest.approx(0.475)]


async def test_a_flood_of_requests_writes_a_line_a_second(
    virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each kind, at any level; the next line says how many were left out; subscribers hear of each."""
    monkeypatch.setattr(_events, "_logged", {})
    monkeypatch.setattr(time, "monotonic", virtual_clock.time)
    app = DeadlineMiddleware(sleeping(60), budget=5.0, margin=0, **TOLD)
    heard: list[str] = []
    with caplog.at_level(logging.DEBUG, "deadline"), contextlib.ExitStack() as stack:
        stack.callback(subscribe(lambda event: heard.append(event.name)))
        for _ in range(9):
            await serve(app, request((HEADER, b"1"), (HEADER, b"nonsense")))
    assert heard.count("asgi.exceeded") == heard.count("deadline.travel_ignored") == 9
    lines = [record.getMessage().splitlines()[0] for record in caplog.records]
    for kind in ("asgi.exceeded", "deadline.exceeded", "deadline.travel_ignored"):
        mine = [line for line in lines if line.startswith(kind)]
        assert len(mine) == 3, lines  # in 2.25 s
        assert [line.rpartition("left_out=")[2] for line in mine[1:]] == ["3", "3"]


async def test_a_path_of_any_length_is_a_short_line(
    virtual_clock: VirtualClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 characters of it, and nothing that moves a terminal's cursor."""
    monkeypatch.setattr(_events, "_logged", {})
    path = "/" + "x\n\x1b[31m" * 8000
    await serve(DeadlineMiddleware(sleeping(60), budget=1.0), request(path=path))
    (record,) = [one for one in caplog.records if one.getMessage().startswith("asgi.exceeded")]
    assert len(record.__dict__["deadline"]["path"]) == 200
    first = record.getMessage().splitlines()[0]
    assert len(first) < 1000
    assert "\x1b" not in record.getMessage()


async def test_a_coupon_is_not_redeemed_twice_by_a_header(virtual_clock: VirtualClock) -> None:
    """A stranger's header does not cut between two steps that belong together."""
    used: list[str] = []
    balance: list[int] = []

    async def redeem() -> None:
        if not used:
            await asyncio.sleep(0.02)
            balance.append(10)
            await asyncio.sleep(0.05)
            used.append("coupon")

    app = DeadlineMiddleware(app_that(redeem), budget=5.0)
    for _ in range(20):
        await serve(app, request((HEADER, b"60")))
    assert sum(balance) == 10


async def test_a_refusal_is_answered_too(virtual_clock: VirtualClock) -> None:
    """A piece of work that does not fit into the request's time is the request's timeout."""

    async def refuse() -> None:
        dl = current()
        assert dl is not None
        raise dl.refusal("a call")

    async def refuse_in_a_group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(refuse())

    for work in (refuse, refuse_in_a_group):
        assert (await serve(DeadlineMiddleware(app_that(work), budget=4.0), request())).status == 504


async def test_an_error_of_the_applications_is_its_own(virtual_clock: VirtualClock) -> None:
    """It leaves as it is, for whoever handles it."""

    async def fail() -> None:
        raise KeyError("order")

    with pytest.raises(KeyError, match="order"):
        await serve(DeadlineMiddleware(app_that(fail), budget=4.0), request())


async def test_a_deadline_of_the_applications_own_is_its_own(virtual_clock: VirtualClock) -> None:
    """Whoever sets one handles it."""

    async def own() -> None:
        async with deadline(1.0):
            await asyncio.sleep(60)

    with pytest.raises(DeadlineExceeded):
        await serve(DeadlineMiddleware(app_that(own), budget=4.0), request())
    assert not issubclass(DeadlineExceeded, InsufficientTime)


async def test_an_outer_middleware_answers_for_itself(virtual_clock: VirtualClock) -> None:
    """Mounted applications may have a shorter budget, and cannot have a longer one."""
    inner = DeadlineMiddleware(sleeping(60), budget=10.0)
    assert (await serve(DeadlineMiddleware(inner, budget=4.0), request())).status == 504
    assert virtual_clock.time() == 3.5


async def test_a_server_that_cancels_is_obeyed(virtual_clock: VirtualClock) -> None:
    """A cancellation from outside stays one."""
    task = asyncio.create_task(serve(DeadlineMiddleware(sleeping(60), budget=4.0), request()))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_deadline_travels_over_a_chain(virtual_clock: VirtualClock) -> None:
    """Each server has what its caller has left, less a margin of its own; the innermost ends first."""
    ends: list[float] = []

    def calls(app: Any) -> Any:
        async def work() -> None:
            dl = current()
            assert dl is not None
            ends.append(dl.soft)
            await asyncio.sleep(0.1)
            headers = [(name.encode(), value.encode()) for name, value in deadline_header().items()]
            await serve(app, request(*headers))

        return DeadlineMiddleware(app_that(work), budget=60.0, **TOLD)

    innermost = DeadlineMiddleware(sleeping(100), budget=60.0, **TOLD)
    sent = await serve(calls(calls(innermost)), request((b"deadline-remaining-ms", b"4000")))
    assert sent.status == 200
    # 4 s less half a second; 3.4 s less half a second; 2.8 s less half a second.
    assert ends == pytest.approx([3.5, 3.0], abs=0.002)
    assert virtual_clock.time() == pytest.approx(2.5, abs=0.003)


# --- Lambda -----------------------------------------------------------------------------------------------


async def test_under_mangum_lambdas_context_is_the_hard_end(virtual_clock: VirtualClock) -> None:
    """And the source of the event limits the answer, as in a handler."""
    seen: list[tuple[float, float]] = []

    async def look() -> None:
        dl = current()
        assert dl is not None
        seen.append((dl.answer_by, dl.hard))

    app = DeadlineMiddleware(app_that(look))
    scope = {"aws.context": FakeContext(60.0)}
    await serve(app, request(**scope))  # which also imports what is needed
    epoch = int((time.time() - 9) * 1000)
    event = {"httpMethod": "GET", "requestContext": {"stage": "prod", "requestTimeEpoch": epoch}}
    await serve(app, request(**scope, **{"aws.event": event}))
    await serve(app, request(**{"aws.context": {}, "aws.event": {}}))
    assert seen == [
        (pytest.approx(60.0, abs=0.01), pytest.approx(60.0, abs=0.01)),
        (pytest.approx(20.0, abs=0.05), pytest.approx(60.0, abs=0.01)),
        (math.inf, math.inf),
    ]

"""Plain functions as handlers: what an `async def` gets, without a loop. `test_rescue.py` has the matrix."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import signal
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio
import boto3
import pytest
from anyio.from_thread import start_blocking_portal
from mangum import Mangum

from deadline import DeadlineExceeded, InsufficientTime, aws, critical, current, deadline, remaining, step
from deadline._core import scope as _scope
from deadline._interrupt.alarm import alarm
from deadline.aws._notices.blocking_client import TIMEOUTS
from deadline.aws._runtime import event_loop as _environment
from deadline.testing import FakeContext, Stall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deadline import Event
    from deadline.testing import FaultProxy
    from tests.aws.conftest import Queue

slow = pytest.mark.slow
LONG = 10.0
"""Longer than any test may take: what lasts so long was not cut."""


@pytest.fixture(autouse=True)
def _nobody_makes_a_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In none of these tests the handler has a loop, and after each nobody holds the alarm."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("a plain function's handler made a loop")

    monkeypatch.setattr(_environment, "environment", refuse)
    before = signal.getsignal(signal.SIGALRM)
    yield
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert not alarm._targets


class OutOfStock(Exception):
    """A user's error."""


def block(*_: Any) -> None:
    time.sleep(LONG)


def fail(event: Any, context: Any) -> None:
    raise OutOfStock("no more of it")


def called(function: Any, event: Any = None, seconds: float = 0.3) -> Any:
    """The response, or what Lambda would be told."""
    try:
        return function(event, FakeContext(seconds))
    except Exception as error:
        return error


def telling_ends() -> None:
    """Wait for notices that outlast their invocations."""
    for thread in threading.enumerate():
        if thread.name == "notice":
            thread.join(LONG)


def named(told: list[Event], name: str) -> list[Event]:
    return [event for event in told if event.name == name]


# --- the answer -------------------------------------------------------------------------------------------


def test_a_plain_function_stays_one() -> None:
    """With its name and docstring; there is nothing to await, and so no `invoke`."""

    @aws.handler
    def orders(event: Any, context: Any) -> Any:
        """Take orders."""
        dl = current()
        assert dl is not None
        return remaining(), dl.margin, dl.name

    assert (orders.__name__, orders.__doc__) == ("orders", "Take orders.")
    assert not hasattr(orders, "invoke")
    left, margin, name = orders({}, FakeContext(3.0))
    assert 2.0 < left <= 2.5
    assert (margin, name) == (pytest.approx(0.5), "orders")
    assert current() is None


def test_no_loop_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for the body nor for the mitigation nor for the notice."""
    for name in ("new_event_loop", "get_event_loop", "run"):
        monkeypatch.delattr(asyncio, name)
    messages: list[Any] = []
    function = aws.handler(margin=0.1, notice=messages.append)(block)
    function.on_exceeded(lambda exceeded, event, context: "partial")
    assert called(function, seconds=0.15) == "partial"
    assert len(messages) == 1


def test_without_a_context_there_is_no_limit() -> None:
    """And seconds may stand for one."""

    @aws.handler
    def f(event: Any, context: Any) -> Any:
        return remaining()

    assert f({}, None) == float("inf")
    assert 3.0 < f({}, 5.0) <= 4.5


def test_callables_of_other_kinds_do() -> None:
    """A method, a partial, an object that can be called."""

    class Shop:
        def orders(self, event: Any, context: Any) -> Any:
            return event

        def __call__(self, event: Any, context: Any) -> Any:
            return event

    for function in (Shop().orders, Shop(), functools.partial(Shop.orders, Shop())):
        assert called(aws.handler(function), 7) == 7


def test_what_the_body_puts_into_its_context_stays_there() -> None:
    """The next invocation begins as the first one did, and so does the mitigation."""
    order: ContextVar[Any] = ContextVar("order", default=None)

    @aws.handler
    def f(event: Any, context: Any) -> Any:
        before = order.get()
        order.set(event)
        return before

    assert [f(1, FakeContext(3.0)), f(2, FakeContext(3.0))] == [None, None]


def test_disabled_it_is_the_bare_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """`DEADLINE_DISABLED` passes straight through."""
    monkeypatch.setattr(_scope, "DISABLED", True)

    @aws.handler
    def f(event: Any, context: Any) -> Any:
        assert not alarm._targets
        return current(), context.get_remaining_time_in_millis()

    assert f({}, FakeContext(0.0)) == (None, 0)


# --- expiry -----------------------------------------------------------------------------------------------


@slow
def test_what_blocks_is_interrupted_and_the_mitigation_answers(told: list[Event]) -> None:
    """At the soft instant, never before; the report says where it was, and in which step."""
    function: Any = aws.handler(margin=0.2, name="orders")(lambda event, context: work())

    def work() -> None:
        with step("look up"):
            pass
        with step("book"):
            block()

    def mitigate(exceeded: DeadlineExceeded, event: Any, context: FakeContext) -> Any:
        return event, exceeded, remaining(), context.get_remaining_time_in_millis()

    function.on_exceeded(mitigate)

    event, exceeded, left, left_ms = called(function, {"order": 1}, 0.3)
    assert event == {"order": 1}
    assert exceeded.allowed <= exceeded.elapsed < exceeded.allowed + 0.1
    assert 0.1 < left < 0.18
    assert left < left_ms / 1000
    report = exceeded.report
    assert (report.done, report.pending) == (["look up"], ["book"])
    assert [link.function.rpartition(".")[2] for link in report.blocked] == ["<lambda>", "work", "block"]
    assert "deadline 'orders' exceeded" in str(exceeded)
    assert "cut in step 'book', blocked in block (" in str(exceeded)
    assert [event.name for event in told] == ["aws.exceeded", "aws.interrupted"]
    assert told[0].fields["on_exceeded"] is True
    assert "blocked" in str(report.to_dict())


@slow
def test_it_is_never_early() -> None:
    """Bodies that end around the soft instant answer, or are struck past it."""
    late: list[float] = []

    @aws.handler(margin=0.05)
    def f(event: float, context: Any) -> Any:
        dl = current()
        assert dl is not None
        try:
            while time.monotonic() < dl.soft + event:
                pass
        except BaseException:
            late.append(time.monotonic() - dl.soft)
            raise
        return "in time"

    answers = [called(f, (number - 20) / 10_000, 0.1) for number in range(40)]
    assert "in time" in answers
    assert min(late) >= 0.0
    cut = [answer for answer in answers if answer != "in time"]
    assert all(isinstance(error, DeadlineExceeded) and error.elapsed >= error.allowed for error in cut)


@slow
def test_without_mitigation_it_fails_with_its_error() -> None:
    """The error is the class that was asked for, which is the name that Lambda is told."""

    class MoveTimeout(DeadlineExceeded):
        pass

    error = called(aws.handler(error=MoveTimeout, name="move", margin=0.1)(block))
    assert type(error) is MoveTimeout
    assert str(error).startswith("deadline 'move' exceeded: 0.19")
    assert "s allowed with a margin of 0.100 s, blocked in block (" in str(error)


@slow
def test_raising_exceeded_fails_after_mitigating() -> None:
    """And any other error of the mitigation keeps it as its cause."""
    seen = []
    function: Any = aws.handler(margin=0.1)(block)

    def mitigate(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        seen.append(exceeded)
        raise exceeded if event else OutOfStock("no more of it")

    function.on_exceeded(mitigate)

    assert called(function, 1) is seen[0]
    error = called(function, 0)
    assert type(error).__name__ == "OutOfStock"
    assert "caused by DeadlineExceeded: deadline 'block' exceeded" in str(error)
    assert seen[1] in (error.__cause__, getattr(error.__cause__, "__cause__", None))


@slow
def test_a_mitigation_that_blocks_is_cut_at_its_share(told: list[Event]) -> None:
    """The last twentieth is for the answer, which is what happened, with a note."""
    function: Any = aws.handler(margin=0.4)(block)
    function.on_exceeded(block)
    started = time.monotonic()
    error = called(function, seconds=0.5)
    assert 0.1 + 0.38 - 0.002 <= time.monotonic() - started < 0.5
    assert isinstance(error, DeadlineExceeded)
    assert "on_exceeded did not end in time" in str(error)
    assert called(aws.handler(lambda event, context: 7)) == 7
    (interrupted,) = named(told, "aws.interrupted")
    assert interrupted.fields["interrupts"] == alarm.raised


def test_with_nothing_left_the_body_does_not_run() -> None:
    """Nor does the mitigation, and the error says so."""
    function: Any = aws.handler(block)
    function.on_exceeded(block)
    error = called(function, seconds=0.0)
    assert isinstance(error, DeadlineExceeded)
    assert not error.started
    assert "on_exceeded had no time to begin" in str(error)


@slow
def test_a_caller_that_gives_up_is_answered() -> None:
    """The deadline moves soft, and bounds the mitigation, as it does for an `async def`."""
    function: Any = aws.handler(caller_limit=0.4)(block)

    def mitigate(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return exceeded.allowed, remaining()

    function.on_exceeded(mitigate)

    allowed, left = called(function, seconds=30.0)
    assert allowed == pytest.approx(0.3, abs=0.01)
    assert left < 0.1


@slow
def test_a_shorter_deadline_inside_is_an_error_like_any_other() -> None:
    """Of a loop that the function runs; one that ends with the invocation is the invocation's."""

    async def work(seconds: Any) -> None:
        async with deadline(seconds, margin=0.1):
            await asyncio.sleep(LONG)

    function: Any = aws.handler(margin=0.1)(lambda event, context: asyncio.run(work(event or context)))
    function.on_exceeded(lambda exceeded, event, context: "mitigated")
    assert isinstance(called(function, 0.15, 1.0), DeadlineExceeded)
    assert called(function) == "mitigated"


def test_a_refusal_for_want_of_its_time_ends_in_the_mitigation() -> None:
    """As from a section, an AWS call, or a `dl.refusal` of one's own."""

    def refuse(event: Any, context: Any) -> None:
        dl = current()
        assert dl is not None
        raise dl.refusal("too little")

    function: Any = aws.handler(refuse)
    function.on_exceeded(lambda exceeded, event, context: exceeded)
    assert isinstance(called(function), InsufficientTime)


@slow
@pytest.mark.parametrize("times", [1, 3])
def test_a_swallowed_interrupt_is_raised_again_and_the_result_does_not_stand(times: int) -> None:
    """The deadline remembers it, whatever the code returns."""
    struck = []

    @aws.handler(margin=0.2)
    def f(event: Any, context: Any) -> Any:
        for _ in range(times):
            try:
                block()
            except BaseException as error:
                struck.append(error)
        return "all is well"

    assert isinstance(called(f), DeadlineExceeded)
    assert len(struck) == times


@slow
@pytest.mark.parametrize("mitigated", [True, False])
def test_a_real_error_after_the_interrupt_is_an_expiry(*, mitigated: bool) -> None:
    """One that is raised while the interrupt unwinds is its cause: the time ran out all the same."""

    @aws.handler(margin=0.1)
    def f(event: Any, context: Any) -> Any:
        try:
            block()
        except BaseException:
            raise OutOfStock("no more of it") from None

    if mitigated:
        f.on_exceeded(lambda exceeded, event, context: exceeded)

    error = called(f)
    assert isinstance(error, DeadlineExceeded)
    if mitigated:
        assert isinstance(error.__cause__, OutOfStock)
    else:
        assert "caused by OutOfStock: no more of it" in str(error)


def test_a_real_error_before_the_interrupt_is_no_expiry() -> None:
    """An error within the time fails the invocation, and nobody is asked."""

    @aws.handler(margin=0.1)
    def f(event: Any, context: Any) -> Any:
        raise OutOfStock("no more of it")

    f.on_exceeded(lambda exceeded, event, context: exceeded)
    assert type(called(f)) is OutOfStock


@slow
def test_what_cleans_up_has_a_tenth_of_the_margin() -> None:
    """A `finally` that ends a child process is not struck itself; one that blocks is."""
    done = []

    @aws.handler(margin=1.0)
    def f(event: float, context: Any) -> Any:
        try:
            block()
        finally:
            time.sleep(event)
            done.append(event)

    for seconds in (0.05, LONG):
        assert isinstance(called(f, seconds, 1.05), DeadlineExceeded)
    assert done == [0.05]


@pytest.mark.parametrize("error", [SystemExit("done"), GeneratorExit(), OutOfStock("no more")], ids=repr)
def test_nothing_but_an_exception_leaves(error: BaseException) -> None:
    """Under the class name of what was raised."""

    @aws.handler
    def f(event: Any, context: Any) -> None:
        raise error

    assert type(called(f)).__name__ == type(error).__name__


@slow
def test_one_inside_of_another_ends_with_the_one_around() -> None:
    """If that one's time is up first, which it then says itself."""
    inner = aws.handler(margin=0.1)(block)
    outer: Any = aws.handler(margin=0.1)(lambda event, context: inner(event, FakeContext(LONG)))
    outer.on_exceeded(lambda exceeded, event, context: "mitigated")
    assert called(outer) == "mitigated"
    longer: Any = aws.handler(lambda event, context: called(inner))
    assert isinstance(called(longer, seconds=LONG), DeadlineExceeded)


# --- a loop of the function's own -------------------------------------------------------------------------


async def sleeps() -> None:
    await asyncio.sleep(LONG)


async def blocks() -> None:
    block()


async def gathers() -> str:
    await asyncio.gather(blocks(), return_exceptions=True)
    return "all is well"


async def in_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(sleeps)
        group.start_soon(blocks)


async def swallows() -> None:
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(LONG)


async def in_thread() -> None:
    await asyncio.to_thread(time.sleep, 1.0)


async def calls_back() -> None:
    try:
        await asyncio.sleep(LONG)
    finally:
        asyncio.get_running_loop().call_soon(int)
        await asyncio.sleep(0.001)


@slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a loop is left by force
@pytest.mark.parametrize("run", [asyncio.run, lambda work: anyio.run(lambda: work)], ids=["asyncio", "anyio"])
@pytest.mark.parametrize("work", [sleeps, blocks, gathers, in_group, swallows, in_thread, calls_back])
def test_a_loop_that_the_function_runs_is_ended(run: Any, work: Any) -> None:
    """Be it idle or blocked; the next invocations are right."""
    function: Any = aws.handler(margin=0.2)(lambda event, context: run(event()))
    function.on_exceeded(lambda exceeded, event, context: exceeded)
    started = time.monotonic()
    exceeded = called(function, work)
    assert time.monotonic() - started < 0.29
    assert isinstance(exceeded, DeadlineExceeded)
    if work is sleeps:
        assert not exceeded.report.blocked
        assert exceeded.report.tasks[0].awaiting[-1].function == "sleep"

    async def answer() -> Any:
        await asyncio.sleep(0.001)
        return len(asyncio.all_tasks())

    assert [called(function, answer) for _ in range(3)] == [1, 1, 1]
    del exceeded
    gc.collect()  # what was left by force complains here, and in no other test


@slow
@pytest.mark.parametrize("limits", [1, 2])
def test_a_critical_section_in_such_a_loop_holds_the_clock_and_is_undone(limits: int) -> None:
    """As under an `async def`: cut at half of the margin, and its undo may wait until three quarters."""
    undone = []

    async def undo() -> None:
        await asyncio.sleep(0.2)
        undone.append(1)

    async def work(seconds: float) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(limits - 1):
                await stack.enter_async_context(deadline(LONG))
            async with critical("move") as section, section.step("copy", undo=undo):
                await asyncio.sleep(seconds)

    function: Any = aws.handler(margin=1.0)(lambda event, context: asyncio.run(work(event)))
    function.on_exceeded(lambda exceeded, event, context: exceeded)
    (held,) = called(function, 0.3, 1.1).report.sections
    (cut,) = called(function, LONG, 1.1).report.sections
    assert str(held) == "critical section 'move' done: copy done"
    assert str(cut) == "critical section 'move' undone: copy undone"
    assert undone == [1]


@slow
def test_a_result_of_tasks_that_were_cut_does_not_stand() -> None:
    """An ASGI adapter that answers 500 for whatever leaves the application does not answer here."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(LONG)

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    function: Any = aws.handler(margin=0.2)(Mangum(app, lifespan="off"))
    function.on_exceeded(lambda exceeded, event, context: {"statusCode": 504, "at": exceeded.report.tasks})
    request = {"identity": {"sourceIp": "127.0.0.1"}, "httpMethod": "GET", "path": "/", "resourcePath": "/"}
    event: dict[str, Any] = {
        "resource": "/",
        "path": "/",
        "httpMethod": "GET",
        "headers": {},
        "requestContext": request,
    }
    event |= {"multiValueHeaders": {}, "queryStringParameters": None, "body": None, "isBase64Encoded": False}
    try:
        answer = called(function, event)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    assert answer["statusCode"] == 504
    assert answer["at"][0].awaiting[-1].function == "sleep"


@slow
def test_a_result_that_was_there_before_the_cut_stands() -> None:
    """A loop that ends by itself, in time, has its answer."""

    async def answer() -> str:
        await asyncio.sleep(0.001)
        return "in time"

    function: Any = aws.handler(margin=0.1)(lambda event, context: asyncio.run(answer()))
    assert called(function) == "in time"


@slow
def test_a_loop_in_another_thread_is_ended_by_its_portal() -> None:
    """The main thread waits for it; what leaves the portal's block cancels its tasks."""
    ended = []

    async def work() -> None:
        try:
            await sleeps()
        finally:
            ended.append(1)

    def f(event: Any, context: Any) -> Any:
        with start_blocking_portal() as portal:
            portal.call(work)

    assert isinstance(called(aws.handler(margin=0.2)(f)), DeadlineExceeded)
    assert ended == [1]


@slow
def test_a_loop_that_stays_has_nothing_of_the_invocation_left() -> None:
    """What it runs for somebody else goes on."""
    loop = asyncio.new_event_loop()
    ticks = []

    async def tick() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0.001)

    async def some() -> None:
        asyncio.ensure_future(asyncio.sleep(LONG))  # noqa: RUF006
        await asyncio.sleep(event_seconds)

    function: Any = aws.handler(margin=0.2)(lambda event, context: loop.run_until_complete(some()))
    ticking = loop.create_task(tick())
    event_seconds = LONG
    assert isinstance(called(function, seconds=0.25), DeadlineExceeded)
    assert [task for task in asyncio.all_tasks(loop) if not task.cancelling()] == [ticking]
    before, event_seconds = len(ticks), 0.01
    assert called(function) is None
    assert len(ticks) > before
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


# --- the notice -------------------------------------------------------------------------------------------


@slow
def test_an_expiry_is_told_beside_the_mitigation(told: list[Event]) -> None:
    """From its start on, in a thread; with event, report and request id; once."""
    messages: list[Any] = []
    going_on = threading.Event()

    def tell(said: dict[str, Any]) -> None:
        going_on.set()
        messages.append((said, remaining()))

    function: Any = aws.handler(notice=tell, margin=0.4)(block)

    def mitigate(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return going_on.wait(LONG)

    function.on_exceeded(mitigate)

    assert called(function, {"order": 1}, 0.45) is True
    ((said, left),) = messages
    assert (said["reason"], said["event"], said["sent_by"]) == ("deadline_exceeded", {"order": 1}, "handler")
    assert said["report"]["blocked"][-1]["function"] == "block"
    assert 0.2 < left < 0.38
    assert [event.name for event in told] == ["aws.exceeded", "aws.notice_sent", "aws.interrupted"]


@slow
def test_a_notice_is_sent_although_the_mitigation_blocks(queue: Queue) -> None:
    """To a real queue; the error is what happened. The client is kept: the first notice has opened it."""
    function: Any = aws.handler(margin=1.0)(lambda event, context: fail(event, context) if event else block())
    function.on_exceeded(block)
    assert isinstance(called(function, "an order", 9.0), OutOfStock)
    assert isinstance(called(function, seconds=1.1), DeadlineExceeded)
    said = {one["reason"]: one for one in queue.received()}
    assert said["error"]["event"] == "an order"
    assert said["deadline_exceeded"]["report"]["blocked"][-1]["function"] == "block"


@slow
@pytest.mark.parametrize(("body", "ends"), [(block, 0.1 + 0.38), (fail, 0.38)])
def test_a_notice_that_hangs_delays_no_further_than_its_share(
    told: list[Event], body: Any, ends: float
) -> None:
    """Then it is left alone, and told as failed; the thread is no one's to wait for."""
    release = threading.Event()
    function: Any = aws.handler(notice=lambda said: release.wait(LONG), margin=0.4)(body)
    started = time.monotonic()
    assert isinstance(called(function, seconds=0.5), DeadlineExceeded if body is block else OutOfStock)
    assert ends - 0.002 <= time.monotonic() - started < ends + 0.1
    (failed,) = named(told, "aws.notice_failed")
    assert failed.fields["error"] == "TimeoutError('it did not end in time')"
    (thread,) = [one for one in threading.enumerate() if one.name == "notice"]
    assert thread.daemon
    release.set()
    thread.join()


@slow
def test_an_error_is_told_unless_switched_off(told: list[Event]) -> None:
    """Type, message, traceback; the error is the answer all the same."""
    messages: list[dict[str, Any]] = []
    assert isinstance(called(aws.handler(notice=messages.append, notice_errors=False)(fail)), OutOfStock)
    assert messages == []
    assert isinstance(called(aws.handler(notice=messages.append)(fail), seconds=5.0), OutOfStock)
    (said,) = messages
    assert (said["reason"], said["message"]) == ("error", "OutOfStock: no more of it")
    assert "in fail" in said["error"]["traceback"]
    assert [event.fields["reason"] for event in named(told, "aws.notice_sent")] == ["error"]


@slow
def test_a_notice_that_fails_hides_nothing(told: list[Event]) -> None:
    """The error is the body's; the event says what became of the notice."""

    def tell(said: dict[str, Any]) -> None:
        raise ConnectionError("no route")

    def redact(said: dict[str, Any]) -> dict[str, Any]:
        return said["nothing"]  # type: ignore[no-any-return]

    assert isinstance(called(aws.handler(notice=tell, redact=redact)(fail), seconds=5.0), OutOfStock)
    (failed,) = named(told, "aws.notice_failed")
    assert (failed.level, failed.fields["error"]) == (logging.WARNING, "ConnectionError('no route')")
    assert len(named(told, "aws.redaction_failed")) == 1


@slow
def test_a_notice_begins_no_attempt_when_its_time_is_up(
    fault_proxy: FaultProxy, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one got no answer; a second would be sent in another invocation."""
    monkeypatch.setitem(TIMEOUTS, "read_timeout", 0.6)
    queue_url = f"{fault_proxy.url}/123456789012/there-is-none"
    function: Any = aws.handler(notice=queue_url, margin=0.4)(fail)
    assert isinstance(called(function, seconds=30.0), OutOfStock)  # it opens the client
    telling_ends()
    fault_proxy.add(Stall())
    before = len(fault_proxy.log)
    assert isinstance(called(function, seconds=30.0), OutOfStock)
    assert len(named(told, "aws.notice_failed")) == 2
    telling_ends()
    assert len(fault_proxy.log) == before + 1


# --- the signal -------------------------------------------------------------------------------------------


@slow
def test_the_users_handler_and_the_rest_of_the_timer_come_back() -> None:
    """After an invocation that was interrupted, too."""
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    mine = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 60.0, 7.0)
    assert isinstance(called(aws.handler(margin=0.1)(block), seconds=0.15), DeadlineExceeded)
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    assert signal.signal(signal.SIGALRM, before) is mine
    assert 59.0 < left < 60.0 - 0.04
    assert (interval, rung) == (7.0, [])


@slow
def test_in_another_thread_it_is_said_once_and_only_looked_at_at_the_edge(
    told: list[Event], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What finishes late keeps its answer there, with a warning."""
    monkeypatch.setattr(alarm, "_refused", set())

    @aws.handler(margin=0.05)
    def f(event: Any, context: Any) -> Any:
        time.sleep(0.05)
        return "late"

    answers: list[Any] = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: answers.append(called(f, seconds=0.07)))
        thread.start()
        thread.join()
    assert answers == ["late", "late"]
    assert caplog.text.count("deadline.interrupt_unavailable reason='not in the main thread'") == 1
    assert caplog.text.count("deadline.overran") == 2


@slow
def test_it_can_be_switched_off() -> None:
    """`interrupt=False`: then it only says what is left."""

    @aws.handler(margin=0.05, interrupt=False)
    def f(event: Any, context: Any) -> Any:
        assert not alarm._targets
        time.sleep(0.05)
        return remaining()

    assert called(f, seconds=0.07) == 0.0


# --- bad input --------------------------------------------------------------------------------------------

_handler: Any = aws.handler


async def _async(*_: Any) -> None: ...


@functools.wraps(_async)
def _around_async(*arguments: Any) -> Any:
    return _async(*arguments)


class _AsyncObject:
    async def __call__(self, event: Any, context: Any) -> None: ...


async def _async_generator(event: Any, context: Any) -> Any:
    yield


def _generator(event: Any, context: Any) -> Any:
    yield


def _plain(event: Any, context: Any) -> None: ...


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _handler(_around_async), "function: .* around an `async def`.*handler is the lowest"),
        (lambda: _handler(_AsyncObject()), "function: .* around an `async def`"),
        (lambda: _handler(_async_generator), "function: .* around an `async def`"),
        (lambda: _handler(_generator), "function: .* makes a generator.* without `yield`"),
        (lambda: _handler(int), "function: expected a plain function, got <class 'int'>"),
        (lambda: _handler(lambda event: None), r"function: .* is called with \(event, context\)"),
        (
            lambda: _handler(lifespan=_async)(_plain),
            "lifespan: _plain is a plain function.* imported, or wri",
        ),
        (lambda: _handler(eager=True)(_plain), "eager: _plain is a plain function"),
        (lambda: _handler(recycle=True)(_plain), "recycle: _plain is a plain function.* leave it out"),
        (lambda: _handler(resume=aws.Resume(dict))(_plain), "resume: _plain is a plain function"),
        (lambda: _handler(notice=_async)(_plain), "notice: no loop runs .* write it as a plain `def`"),
        (lambda: _handler(notice=3)(_plain), "notice: expected .* or a plain function that takes"),
        (
            lambda: _handler(_plain).on_exceeded(_async),
            "on_exceeded: the handler is a plain function.* `def`",
        ),
        (lambda: _handler(_plain).on_exceeded(_plain), r"on_exceeded: _plain is called with \(exceeded, ev"),
    ],
)
def test_bad_input_is_refused_by_name(make: Callable[[], Any], message: str) -> None:
    """Where it is written, with what to write instead."""
    with pytest.raises(TypeError, match=message):
        make()


def test_a_coroutine_is_no_answer() -> None:
    """Of a wrapper that does not say what it is around: at the first invocation, and nobody is warned."""
    error = called(_handler(lambda event, context: _async()))
    assert isinstance(error, TypeError)
    assert "returned a coroutine, which nothing runs; decorate the `async def` itself" in str(error)


# --- many -------------------------------------------------------------------------------------------------


@slow
def test_a_thousand_invocations_leave_nothing(
    leaves_nothing: Callable[[Callable[[int], None]], None],
) -> None:
    """No threads, no descriptors; under a megabyte of memory."""
    messages: list[Any] = []

    @aws.handler(margin=0.1, notice=lambda said: messages.append(said["request_id"]))
    def f(event: int, context: Any) -> Any:
        if event % 100 == 0:
            block()
        return event

    def mitigate(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return exceeded.report.to_json()

    f.on_exceeded(mitigate)

    def shoot(count: int) -> None:
        for number in range(count):
            with contextlib.suppress(DeadlineExceeded):  # a mitigation that was kept waiting
                f(number, FakeContext(0.11 if number % 100 == 0 else 3.0))

    leaves_nothing(shoot)
    assert 0 < len(messages) == len(set(messages)) <= 12


@slow
def test_a_client_of_the_module_works_after_interrupts(fault_proxy: FaultProxy) -> None:
    """Its pool has lost the connections that were in use, and no more."""
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="box")

    @aws.handler(margin=0.1)
    def f(event: Any, context: Any) -> Any:
        return [s3.list_buckets()["Buckets"][0]["Name"] for _ in range(2)]

    for _ in range(5):
        fault_proxy.add(Stall())
        assert isinstance(called(f, seconds=0.2), DeadlineExceeded)
        fault_proxy.clear()
        assert called(f, seconds=5.0) == ["box", "box"]

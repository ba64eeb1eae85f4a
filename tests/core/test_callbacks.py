"""Every callback and signal handler of ours, and the test that breaks it.

`CALLBACKS` is the list. A test below compares it with the source, so that a new callback is not forgotten.
Those of `deadline.testing` are left out: they run in tests.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import logging
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
import pytest

import deadline as package
from deadline import DeadlineExceeded, Event, aws, deadline, subscribe
from deadline._core.cut import UNWINDING
from deadline._core.timer import Clock, clock_of
from deadline._events import emit
from deadline._interrupt.alarm import alarm
from deadline.asgi import DeadlineMiddleware
from deadline.aws._calls.attempt_timer import AttemptTimer
from deadline.aws._function.async_invocation import _invocation
from deadline.aws._rescue.close_tasks import abandon
from deadline.aws._runtime.event_loop import environment
from deadline.testing import FakeContext, VirtualLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

slow = pytest.mark.slow


class Callback(NamedTuple):
    """One place where something of ours is handed to a loop, a signal, a thread or the interpreter.

    Attributes:
        module: Where.
        registered: By what.
        called: What is called.
        broken_by: The test, here; or why an exception in it can do no harm.
    """

    module: str
    registered: str
    called: str
    broken_by: str


CALLBACKS: Final = (
    Callback("_core.timer", "call_at", "Clock._look, Clock._strike", "test_a_look_that_raises_loses_no_cut"),
    Callback("_core.timer", "call_at", "Clock._approach", "test_an_approach_that_raises_costs_no_other"),
    Callback("_core.timer", "call_soon", "Clock._spin, begun", "test_a_due_that_raises_costs_no_other"),
    Callback("_core.timer", "call_soon", "Clock._spin, again", "test_a_due_that_raises_costs_no_other"),
    Callback("_core.cut", "call_at", "Deadline._cancel_always", "test_a_delivery_that_raises_is_repeated"),
    Callback(
        "_core.cut",
        "call_soon",
        "Deadline._cancel_once",
        "test_an_object_that_refuses_is_left_and_the_block_is_cut",
    ),
    Callback(
        "asgi", "call_at", "DeadlineMiddleware._stand_in", "its error goes to the loop's handler (test_asgi)"
    ),
    Callback("asgi", "call_at", "DeadlineMiddleware._stand_in, later", "the same"),
    Callback("aws._runtime.thread_pool", "add_done_callback", "Pool._forget", "its body removes from a set"),
    Callback("_core.cancel", "call_later", "_deliver", "test_a_delivery_that_raises_is_repeated"),
    Callback("_core.cancel", "call_soon", "asyncio's wake-up of a task", "asyncio's own"),
    Callback("_core.cancel", "call_soon", "_raise", "raises SystemExit or KeyboardInterrupt by intent"),
    Callback("_interrupt.alarm", "signal", "Alarm._rings", "test_a_ring_that_raises"),
    Callback("_interrupt.alarm", "signal", "the user's handler, given back", "the user's own"),
    Callback("_interrupt.alarm", "call_soon_threadsafe", "Alarm._answered", "test_a_cut_inside_that_raises"),
    Callback("_interrupt.alarm", "settrace", "_trace_nothing", "its body is empty"),
    Callback("_interrupt.alarm", "settrace", "nothing", "it ends the tracing"),
    Callback(
        "aws._calls.attempt_timer", "call_at", "AttemptTimer._ring", "test_a_look_at_an_attempt_that_raises"
    ),
    Callback(
        "aws._rescue.close_tasks", "add_done_callback", "_retrieve", "test_what_is_abandoned_may_refuse"
    ),
    Callback("aws._rescue.close_tasks", "add_done_callback", "asyncio's wake-up of a task", "asyncio's own"),
    Callback(
        "aws._function.async_invocation",
        "set_asyncgen_hooks",
        "Invocation._begins",
        "test_a_hook_that_raises",
    ),
    Callback(
        "aws._function.async_invocation", "set_asyncgen_hooks", "the loop's, given back", "asyncio's own"
    ),
    Callback(
        "aws._notices.thread_sender",
        "Thread",
        "BackgroundSend._run",
        "its error is told by aws.notice_failed",
    ),
    Callback(
        "aws._runtime.init_phase", "Thread", "Watch._look_on", "a thread of its own that nothing waits for"
    ),
    Callback("aws._rescue.worker_exit", "Thread", "LastResort._watch", "its end is os._exit, in a `finally`"),
    Callback("aws._notices.helper_process", "signal", "SIG_DFL", "C code, in the helper process"),
    Callback("aws._notices.helper_process", "signal", "SIG_IGN", "C code, in the helper process"),
    Callback(
        "aws._notices.helper_process", "register_at_fork", "_forget_all", "Python prints it, and goes on"
    ),
    Callback("aws._rescue.breadcrumb", "register_at_fork", "_forget", "Python prints it, and goes on"),
    Callback("aws._runtime.process_record", "register_at_fork", "_forget", "Python prints it, and goes on"),
    Callback("aws._rescue.worker_exit", "register_at_fork", "_forget", "Python prints it, and goes on"),
    Callback(
        "aws._runtime.event_loop", "register_at_fork", "replace_environment", "Python prints it, and goes on"
    ),
    Callback("aws._runtime.event_loop", "register", "close_environment", "Python prints it, and exits"),
    Callback("aws._notices.helper_process", "register", "faulthandler's", "C code"),
    Callback("aws._rescue.stack_timer", "register", "faulthandler's", "C code"),
)

REGISTER: Final = {callback.registered for callback in CALLBACKS} | {"finalize", "add_signal_handler"}
REGISTER_WITH: Final = {"register": {"atexit", "faulthandler"}, "signal": {"signal"}}


def registered() -> Counter[tuple[str, str]]:
    """What the source hands to a loop, a signal, a thread or the interpreter, by module."""
    found: Counter[tuple[str, str]] = Counter()
    root = Path(package.__file__).parent
    for file in root.rglob("*.py"):
        module = ".".join(file.relative_to(root).with_suffix("").parts)
        if module.partition(".")[0] not in {"testing", "audit"}:
            found.update((module, name) for name in _names(ast.parse(file.read_text())))
    return found


def _names(tree: ast.Module) -> Iterator[str]:
    decorators = [one for node in ast.walk(tree) for one in getattr(node, "decorator_list", ())]
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for called in (*calls, *decorators):
        if isinstance(called, ast.Attribute) and called.attr in REGISTER:
            of = REGISTER_WITH.get(called.attr)
            if of is None or getattr(called.value, "id", None) in of:
                yield called.attr


def test_the_list_is_whole() -> None:
    """It names every callback that the source registers, and each test that it names is here."""
    assert registered() == Counter((callback.module, callback.registered) for callback in CALLBACKS)
    tests = [callback.broken_by for callback in CALLBACKS if callback.broken_by.startswith("test_")]
    assert set(tests) <= set(globals())


# --- broken, one by one -----------------------------------------------------------------------------------


class Odd(BaseException):
    """No `Exception`."""


ERRORS: Final = (RuntimeError, MemoryError, RecursionError, asyncio.CancelledError, Odd)


@pytest.fixture
def told() -> Iterator[list[Event]]:
    """The events."""
    events: list[Event] = []
    end = subscribe(events.append)
    yield events
    end()


@pytest.fixture
async def complaints() -> list[dict[str, Any]]:
    """What the loop's exception handler is told."""
    heard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    return heard


class Sleeper:
    """Raises when it is woken."""

    def __init__(self, clock: Clock, seconds: float, *, near: Any = None, due: Any = None) -> None:
        self.handle: asyncio.TimerHandle | None = None
        self.wakes_at = clock.now() + seconds
        self.woken: list[str] = []
        self._errors = {"near": near, "due": due}
        clock.arm(self)

    def _wake(self, which: str) -> None:
        self.woken.append(which)
        if self._errors[which] is not None:
            raise self._errors[which]

    def near(self) -> None:
        self._wake("near")

    def due(self) -> None:
        self._wake("due")


BOTH = ["near", "due"]


async def woken(clock: Clock, *sleepers: Sleeper) -> None:
    """Come round the loop until they are."""
    while any("due" not in one.woken for one in sleepers):  # the timer is what is tested
        await asyncio.sleep(0.001)
    del clock


async def _test_sleepers(complaints: list[dict[str, Any]], **errors: BaseException) -> None:
    clock = clock_of(asyncio.get_running_loop())
    before = Sleeper(clock, 0.01)
    bad = Sleeper(clock, 0.01, **errors)
    others = [Sleeper(clock, seconds) for seconds in (0.01, 0.0101, 0.02)]
    await woken(clock, before, bad, *others)
    later = Sleeper(clock, 0.005)
    await woken(clock, later)
    assert all(one.woken == BOTH for one in (before, bad, *others, later))
    assert [context["exception"] for context in complaints] == list(errors.values())


@slow
@pytest.mark.parametrize("error", ERRORS)
async def test_a_due_that_raises_costs_no_other(
    error: type[BaseException], complaints: list[dict[str, Any]]
) -> None:
    """Whatever one expiry raises, every other sleeper is woken, and so is one that comes later."""
    await _test_sleepers(complaints, due=error())


@slow
@pytest.mark.parametrize("error", ERRORS)
async def test_a_look_that_raises_loses_no_cut(
    error: type[BaseException], complaints: list[dict[str, Any]]
) -> None:
    """What looking at the tasks raises is told, and the instant comes."""
    await _test_sleepers(complaints, near=error())


@slow
@pytest.mark.parametrize("error", ERRORS)
async def test_an_approach_that_raises_costs_no_other(
    error: type[BaseException], complaints: list[dict[str, Any]]
) -> None:
    """An instant that has passed already is due in the first callback, which bears the same."""
    clock = clock_of(asyncio.get_running_loop())
    failure = error()
    bad, good = Sleeper(clock, -1.0, due=failure), Sleeper(clock, -1.0)
    await woken(clock, bad, good)
    assert [context["exception"] for context in complaints] == [failure]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_loop_ends_it_and_no_deadline(error: type[BaseException]) -> None:
    """SystemExit leaves the loop at once; run on, the loop wakes the other sleepers."""
    loop = asyncio.new_event_loop()
    clock = clock_of(loop)
    bad, good = Sleeper(clock, 0.005, due=error()), Sleeper(clock, 0.005)
    with pytest.raises(error):
        loop.run_until_complete(woken(clock, bad, good))
    loop.run_until_complete(woken(clock, good))
    assert good.woken == BOTH
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


# --- what a cut meets -------------------------------------------------------------------------------------


class Old(asyncio.Future[Any]):
    """Its `cancel` is Python 3.8's."""

    def cancel(self) -> bool:  # type: ignore[override]
        return super().cancel()


class Refusing(asyncio.Future[Any]):
    """It must not be cancelled."""

    def cancel(self, msg: Any | None = None) -> bool:
        raise RuntimeError("this must not be cancelled")


class Unseen(Refusing):
    """And it must not be looked at."""

    def __repr__(self) -> str:
        raise RuntimeError("this must not be looked at")


async def cut(seconds: float, work: Callable[[], Any]) -> float:
    """Cut `work` after so many seconds; return how late that was."""
    dl = deadline(seconds, name="cut")
    with pytest.raises(DeadlineExceeded) as caught:
        async with dl:
            await work()
    assert caught.value.deadline is dl
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    return asyncio.get_running_loop().time() - dl.soft


@pytest.mark.usefixtures("virtual_clock")
@pytest.mark.parametrize("kind", [Old, Refusing, Unseen])
async def test_an_object_that_refuses_is_left_and_the_block_is_cut(
    kind: type[asyncio.Future[Any]], told: list[Event], complaints: list[dict[str, Any]]
) -> None:
    """Its block leaves at its instant as others do, the object is not touched, and the cause is told once."""
    awaited = kind()

    async def wait() -> None:
        await awaited

    async def sleep() -> None:
        await asyncio.sleep(9)

    late = await asyncio.gather(cut(0.1, wait), *(cut(seconds, sleep) for seconds in (0.05, 0.1, 0.3)))
    assert late == [0.0] * 4
    assert not awaited.done()
    assert [event.fields["deadline"] for event in told if event.name == "deadline.cut_failed"] == ["cut"]
    assert len(complaints) == 1
    assert isinstance(complaints[0]["exception"], TypeError if kind is Old else RuntimeError)


@pytest.mark.usefixtures("virtual_clock", "complaints")
async def test_the_other_children_of_the_block_are_cut() -> None:
    """One child of a group awaits an object that refuses; all children end at the instant."""
    ended: list[float] = []

    async def child(work: Callable[[], Any]) -> None:
        try:
            await work()
        finally:
            ended.append(asyncio.get_running_loop().time())

    async def groups() -> None:
        async with anyio.create_task_group() as group:
            for work in (lambda: asyncio.sleep(9), Refusing, lambda: asyncio.sleep(9), Old):
                group.start_soon(child, work)

    start = asyncio.get_running_loop().time()
    assert await cut(1.0, groups) == 0.0
    assert ended == [start + 1.0] * 4


@pytest.mark.usefixtures("virtual_clock", "complaints")
async def test_a_body_that_goes_back_to_a_refusing_object_is_cut_again() -> None:
    """A delivery that was taken over is repeated until the block is left, once unwinding has had its time."""
    swallowed: list[int] = []

    async def swallows() -> None:
        for turn in range(3):
            try:
                await Refusing()
            except asyncio.CancelledError:
                swallowed.append(turn)
        await Refusing()

    assert await cut(1.0, swallows) == pytest.approx(UNWINDING, abs=0.01)
    assert swallowed == [0, 1, 2]


@pytest.mark.usefixtures("virtual_clock")
async def test_a_delivery_that_raises_is_repeated(
    monkeypatch: pytest.MonkeyPatch, complaints: list[dict[str, Any]]
) -> None:
    """The next one is set before anything is cancelled."""
    failures = [MemoryError(), MemoryError()]

    def has_begun(_: Any) -> bool:
        raise failures.pop() if failures else asyncio.CancelledError

    async def swallows() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await Refusing()
        await Refusing()

    monkeypatch.setattr(
        "deadline._core.cancel._is_to_cancel", lambda *_, **__: has_begun(None) if failures else True
    )
    assert await cut(1.0, swallows) == pytest.approx(UNWINDING, abs=0.01)
    assert failures == []
    assert len(complaints) == 2


@slow
@pytest.mark.usefixtures("complaints")
def test_a_thousand_nested_scopes_are_cut_and_cost_no_other() -> None:
    """anyio's delivery goes by recursion, and fails; the outermost deadline of them raises all the same."""

    async def nests() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(1100):
                await stack.enter_async_context(deadline(60))
            await asyncio.sleep(9)

    async def main() -> list[float]:
        return await asyncio.gather(
            cut(1.0, nests), *(cut(seconds, lambda: asyncio.sleep(9)) for seconds in (0.5, 1.0, 1.5))
        )

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert max(runner.run(main())) < 0.01


@pytest.mark.usefixtures("complaints")
async def test_a_refusing_object_in_a_request_costs_no_other_request() -> None:
    """The middleware answers 504 in time, and does so for each request after it."""

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        await (Old() if scope["path"] == "/old" else asyncio.sleep(9))

    async def request(path: str) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request"}

        await middleware({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send)
        status: int = sent[0]["status"]
        return status

    middleware = DeadlineMiddleware(app, budget=0.02)
    assert [await request(path) for path in ("/", "/old", "/", "/")] == [504] * 4


def test_a_refusing_object_in_an_invocation_costs_no_other_invocation() -> None:
    """A deadline inside of a handler is cut in each invocation; what is left awaiting is ended."""

    @aws.handler
    async def handler(event: Any, _context: Any) -> str:
        if event:
            asyncio.create_task(_awaits(Refusing()))  # noqa: RUF006  # it is left behind
            await asyncio.sleep(0)
        try:
            async with deadline(0.02):
                await (Old() if event else asyncio.sleep(9))
        except DeadlineExceeded:
            return "cut"
        return "not cut"

    environment().loop.set_exception_handler(lambda *_: None)
    assert [handler(event, FakeContext(timeout=3.0)) for event in ({}, {"old": 1}, {}, {})] == ["cut"] * 4


async def _awaits(awaited: Any) -> None:
    await awaited


# --- the alarm --------------------------------------------------------------------------------------------


class Hostile:
    """A hook of the collector that cannot be asked for its code."""

    def __call__(self, *_: Any) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


@slow
def test_the_alarm_asks_no_object_of_the_users() -> None:
    """What blocks is interrupted although a hook of the collector and a module's name are hostile."""
    hook = Hostile()
    names: dict[str, Any] = {"__name__": hook, "time": time}
    exec("def block(end):\n    while time.monotonic() < end: pass", names)  # noqa: S102

    async def main() -> None:
        async with deadline(0.02, interrupt=True):
            names["block"](time.monotonic() + 5)

    gc.callbacks.append(hook)
    try:
        with pytest.raises(DeadlineExceeded):
            asyncio.run(main())
    finally:
        gc.callbacks.remove(hook)


@slow
@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_a_ring_that_raises(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, told: list[Event]
) -> None:
    """The code that runs goes on, the alarm rings on, and the cause is told when it is disarmed."""
    rings: list[int] = []
    look = alarm._look

    def fails(frame: Any) -> None:
        rings.append(1)
        if len(rings) < 3:
            raise error("hostile")
        look(frame)

    monkeypatch.setattr(alarm, "_look", fails)

    async def main() -> None:
        async with deadline(0.02, interrupt=True):
            end = time.monotonic() + 5
            while time.monotonic() < end:
                pass

    with pytest.raises(DeadlineExceeded):
        asyncio.run(main())
    assert [event.fields for event in told if event.name == "deadline.interrupt_failed"] == [
        {"error": f"{error.__name__}('hostile')"}
    ]


def test_a_cut_inside_that_raises(told: list[Event]) -> None:
    """Where a loop runs inside of a plain function's deadline, one cut that raises costs no other."""

    class Target:
        interrupt_after = 0.0
        margin_span = (0.0, 1.0)

        def covers(self, _: Any) -> bool:
            return False

        def on_interrupt(self, *_: Any, **__: Any) -> None:
            """Nothing."""

    cuts: list[str] = []

    def fails() -> None:
        cuts.append("bad")
        raise RuntimeError("hostile")

    targets = Target(), Target()
    try:
        alarm.arm(targets[0], None, fails)
        alarm.arm(targets[1], None, lambda: cuts.append("good"))
        alarm._answered()
    finally:
        for target in targets:
            alarm.disarm(target)
    assert cuts == ["bad", "good"]
    assert [event.name for event in told] == ["deadline.interrupt_failed"]


# --- calls, generators, what is left behind ---------------------------------------------------------------


class Looked:
    """Raises when it is looked at."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.at = 0
        self._error = error

    def look(self, now: float) -> float:
        self.at += 1
        if self._error is not None:
            raise self._error
        return now + 1.0


@pytest.mark.usefixtures("virtual_clock")
@pytest.mark.parametrize("error", ERRORS)
async def test_a_look_at_an_attempt_that_raises(
    error: type[BaseException], complaints: list[dict[str, Any]]
) -> None:
    """It is told, and looked at no more; the others are looked at in their time."""
    loop = asyncio.get_running_loop()
    lookout, bad, good = AttemptTimer(loop), Looked(error()), Looked()
    for watched in (bad, good):
        lookout.begin(watched, loop.time() + 1.0)
    await asyncio.sleep(3.5)
    lookout.end(good)
    assert (bad.at, good.at) == (1, 3)
    assert len(complaints) == 1


@pytest.mark.usefixtures("virtual_clock")
async def test_what_is_abandoned_may_refuse() -> None:
    """A coroutine that awaits an object that refuses is closed, and its task is ended."""
    task = asyncio.create_task(_awaits(Refusing()))
    await asyncio.sleep(0)
    assert await abandon([task]) == []
    assert task.done()


def test_a_hook_that_raises() -> None:
    """The hook of an invocation lets generators begin that it cannot keep account of."""

    class Full:
        def add(self, _: Any) -> None:
            raise MemoryError

        def __iter__(self) -> Iterator[Any]:
            return iter(())

    async def generate() -> AsyncIterator[int]:
        yield 1

    @aws.handler
    async def handler(_event: Any, _context: Any) -> int:
        invocation = _invocation.get()
        assert invocation is not None
        invocation._generators = Full()  # type: ignore[assignment]
        return sum([number async for number in generate()])

    assert handler({}, FakeContext(timeout=3.0)) == 1


@pytest.mark.parametrize("error", ERRORS)
def test_a_subscriber_and_the_log_may_raise(error: type[BaseException]) -> None:
    """Whatever a subscriber raises goes no further, also if a handler of the log raises as well."""

    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError(record.name)

    def raises(_: Event) -> None:
        raise error

    handler, logger = Raises(), logging.getLogger("deadline")
    heard: list[Event] = []
    ends = [subscribe(raises), subscribe(heard.append)]
    logger.addHandler(handler)
    try:
        emit("test.happened", logging.ERROR)
    finally:
        logger.removeHandler(handler)
        for end in ends:
            end()
    assert [event.name for event in heard] == ["test.happened"]

"""Looking at tasks: what each was awaiting, without delaying the cut.

Looking costs time that belongs to the mitigation, so it is split in three:

- `TaskSnapshot` walks the awaits in the millisecond before the instant, and stores pairs of (code,
  position): a few microseconds a task;
- at the instant only the host's chain and the calls in flight are walked again;
- lines, names and the tasks left behind are worked out when somebody first asks for the report.

Tasks are found along what the host awaits: a task, `gather`, a task group it is inside of. Those are the ones
that a cut ends, so they must be seen before it. Tasks that outlive the cut (bare ones, the inside of
a `shield`) are found by their context afterwards, when there is time: looking through 10,000 tasks
takes 4 to 13 ms.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import sys
from collections import deque
from contextvars import Context
from operator import attrgetter
from types import AsyncGeneratorType, CodeType, CoroutineType, GeneratorType, MethodType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio.abc

from deadline._report.data import Await, CallReport, Effect, Outcome, TaskReport
from deadline._report.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from deadline._report.threads import Link

MOST_TASKS: Final = 64
"""Tasks looked at, at most: 110 to 140 µs for 50 with chains of ten awaits, 3 ms for 1,000."""

LEAST_TASKS: Final = 4
"""Tasks looked at besides the host even if there is no time left for it: the loop was blocked until late."""

_MOST_AWAITS: Final = 100


class Call:
    """A call in flight, kept up to date by whoever makes it.

    Attributes:
        error: Makes the last error that the service or the connection gave, `None` if there was none yet.
        status: The HTTP status of the last answer, 0 before there was one.
        succeeded: Whether it was answered to its caller's satisfaction.
    """

    __slots__ = ("attempt", "error", "operation", "outcome", "service", "started", "status", "succeeded")

    def __init__(self, service: str, operation: str, started: float) -> None:
        self.service = service
        self.operation = operation
        self.started = started
        self.attempt = 1
        self.outcome: Outcome = "not sent"
        self.error: Callable[[], BaseException] | None = None
        self.status = 0
        self.succeeded = False

    @property
    def effect(self) -> Effect:
        """Whether it had its effect: `done`, `not done`, `unknown`.

        An error of 400 to 499, and 503, says that nothing was done. A service that failed with another status
        may have failed after it did what it was asked.
        """
        if self.succeeded:
            return "done"
        refused = 400 <= self.status <= 499 or self.status == SERVICE_UNAVAILABLE
        if self.outcome == "not sent" or (self.outcome == "answered" and refused):
            return "not done"
        return "unknown"


SERVICE_UNAVAILABLE: Final = 503

calls: dict[asyncio.Task[Any], Call] = {}
"""The call that each task is in. Whoever enters one removes it again."""

Position: TypeAlias = tuple[CodeType, int]


class _Sighted:
    """One task, seen once: nothing here keeps the task's frames or values alive."""

    __slots__ = ("call", "chain", "error", "host", "name")

    def __init__(self, task: asyncio.Task[Any], chain: list[Link], now: float, *, host: bool) -> None:
        self.name = task.get_name()
        self.chain = chain
        self.host = host
        self.see_call(task, now)

    def see_call(self, task: asyncio.Task[Any], now: float) -> None:
        """Note the call that the task is in."""
        call = calls.get(task)
        self.call = self.error = None
        if call is not None:
            seconds = now - call.started
            self.call = CallReport(call.service, call.operation, call.attempt, seconds, call.outcome)
            self.error = call.error

    def report(self) -> TaskReport:
        return TaskReport(self.name, self.host, tuple(map(locate, self.chain)), self.call)


class TaskSnapshot:
    """What a host and the tasks it waits for were doing.

    Args:
        host: The task that entered the deadline.
        belongs: Tells by a task's context whether it was started inside of the deadline.
        now: Reads the clock.
        until: When to stop looking at further tasks, on that clock. The host and the first few are
            always looked at.
    """

    __slots__ = ("_host", "_others", "_waiter", "sheltered")

    def __init__(
        self,
        host: asyncio.Task[Any],
        belongs: Callable[[Context], bool],
        now: Callable[[], float],
        until: float,
    ) -> None:
        self._others: list[tuple[asyncio.Task[Any], _Sighted]] = []
        self.sheltered: tuple[asyncio.Task[Any], ...] = ()
        seen: set[Any] = {host}
        self._waiter = _waiter(host)
        threads = Threads()
        chain, below = _look(host, threads, further=True)
        self._host = _Sighted(host, chain, now(), host=True)
        # Behind a queue, as in managed transfers, tasks hang off nothing that is awaited. Calls are known.
        calling = (task for task in list(calls) if task is not host and belongs(context_of(task)))
        queue = deque(itertools.chain(below, itertools.islice(calling, MOST_TASKS)))
        while queue and len(seen) < MOST_TASKS and (len(self._others) < LEAST_TASKS or now() < until):
            task = queue.popleft()
            if task in seen or task.done():
                continue
            seen.add(task)
            chain, below = _look(task, threads, further=True)
            self._others.append((task, _Sighted(task, chain, now(), host=False)))
            queue.extend(below)

    def refresh(self, host: asyncio.Task[Any], now: float) -> None:
        """Look at the host again, at the instant itself; forget the others that have ended since."""
        if self._waiter is not None and self._waiter is _waiter(host):  # it has not run since
            self._host.see_call(host, now)
        else:
            self._host = _Sighted(host, _look(host, Threads(), further=False)[0], now, host=True)
        self._others = [(task, sighted) for task, sighted in self._others if not task.done()]
        waiting = (host, *(task for task, _ in self._others))
        self.sheltered = tuple(task for one in waiting for task in _behind_shield(_waiter(one)))

    def _all(self) -> Iterator[_Sighted]:
        yield self._host
        for _, sighted in self._others:
            yield sighted

    def call(self) -> CallReport | None:
        """The first call in flight."""
        return next((sighted.call for sighted in self._all() if sighted.call), None)

    def errors(self) -> Iterator[Callable[[], BaseException]]:
        """What makes the last error of each call in flight that had one."""
        return (sighted.error for sighted in self._all() if sighted.error)

    def reports(self) -> tuple[TaskReport, ...]:
        """As plain data."""
        return tuple(sighted.report() for sighted in self._all())


def _waiter(task: asyncio.Task[Any]) -> object:
    """The future that a task waits for; `None` if it is about to run, or if that cannot be told."""
    waiter = getattr(task, "_fut_waiter", None)  # private; anyio reads it as well
    return None if waiter is None or waiter.done() else waiter


def _look(
    task: asyncio.Task[Any], threads: Threads, *, further: bool
) -> tuple[list[Link], list[asyncio.Task[Any]]]:
    """The links of a task's chain of awaits, into a thread as well, and, if asked, the tasks it waits for."""
    chain: list[Link] = []
    below: list[asyncio.Task[Any]] = []
    for link in _links(task.get_coro()):
        if isinstance(link, asyncio.Future):
            chain.extend(threads.awaited(link, chain[-1] if chain else None))
            if further:
                below.extend(_waited_for(link))
            continue
        frame = _PARTS[type(link)][0](link)
        if frame is not None:
            chain.append((frame.f_code, frame.f_lasti))
            if further:
                below.extend(_groups_and_waits(link, frame.f_code))
    return chain, below


def _links(link: Any) -> Iterator[Any]:
    """The coroutines and generators of a chain of awaits, outermost first, and the future at its end."""
    for _ in range(_MOST_AWAITS):
        if type(link) in _PARTS:
            yield link
            link = _PARTS[type(link)][1](link)
        elif isinstance(link, asyncio.Future):
            yield link
            return
        elif link is None:
            return
        else:  # a C object in between (`async_generator_asend`, `anext_awaitable`, a future's iterator)
            link = next((one for one in gc.get_referents(link) if _is_link(one)), None)


_PARTS: Final[dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]]] = {
    CoroutineType: (attrgetter("cr_frame"), attrgetter("cr_await")),
    AsyncGeneratorType: (attrgetter("ag_frame"), attrgetter("ag_await")),
    GeneratorType: (attrgetter("gi_frame"), attrgetter("gi_yieldfrom")),
}
_LINKS: Final = (*_PARTS, asyncio.Future)


def _is_link(value: object) -> bool:
    """Whether it may be awaited; a C object in between may be inside another: `anext(generator, default)`."""
    return issubclass(type(value), _LINKS) or hasattr(type(value), "__await__")


# By identity: hashing a code object goes through all of its bytes.
_WAITING_CODE: Final = frozenset(
    id(function.__code__)
    for function in (asyncio.wait_for, getattr(asyncio.tasks, "_wait", None))
    if function is not None
)


def _waited_for(future: Any) -> Iterable[asyncio.Task[Any]]:
    """The tasks behind a future: itself, or what `gather` gathers."""
    if isinstance(future, asyncio.Task):
        return (future,)
    return [child for child in getattr(future, "_children", ()) if isinstance(child, asyncio.Task)]


def _behind_shield(future: object) -> Iterator[asyncio.Task[Any]]:
    """The task that `asyncio.shield` holds, if `future` is what that function returned."""
    for callback, _ in getattr(future, "_callbacks", None) or ():
        if getattr(callback, "__code__", None) in _SHIELD:
            held = (cell.cell_contents for cell in callback.__closure__)
            yield from (one for one in held if isinstance(one, asyncio.Task))


_SHIELD: Final = frozenset(
    one
    for one in asyncio.shield.__code__.co_consts
    if isinstance(one, CodeType) and one.co_name == "_outer_done_callback"
)
"""The code of what `shield` has called when its future is done, and which refers to the task inside."""


def _groups_and_waits(link: Any, code: CodeType) -> Iterator[asyncio.Task[Any]]:
    """Tasks of the groups that a function is inside of, or that `wait` and `wait_for` hold.

    Children of a group hang off no future that the host awaits. What a suspended coroutine refers to
    includes its locals and the `__aexit__` of each `async with` it is inside of, named or not; reading
    `f_locals` would copy them and miss the unnamed.
    """
    if _holds_no_groups(code.co_filename):
        return
    waiting = id(code) in _WAITING_CODE
    for held in gc.get_referents(link):
        owner = held.__self__ if type(held) is MethodType else held
        if _is_group(type(owner)):  # type: ignore[arg-type]  # mypy: a type is not hashable
            yield from _members(owner)
        elif waiting:
            for one in held if type(held) is set else (held,):
                if issubclass(type(one), asyncio.Future):
                    yield from _waited_for(one)


@functools.lru_cache(maxsize=1024)
def _holds_no_groups(file: str) -> bool:
    """Whether it is one of the SDK's own layers: a dozen of them lie in the chain of each call."""
    return not _GROUPLESS.isdisjoint(file.replace("\\", "/").split("/"))


_GROUPLESS: Final = frozenset({"aiobotocore", "aiohttp", "botocore", "httpcore", "httpx"})


@functools.lru_cache(maxsize=1024)
def _is_group(kind: type) -> bool:
    """Asked of the type: a proxy among the locals may claim another class, or run code to say which."""
    return issubclass(kind, asyncio.TaskGroup | anyio.abc.TaskGroup)


def _members(group: Any) -> list[asyncio.Task[Any]]:
    # Private in both, and looked at for the report only: if it moves, the report is shorter.
    return list(getattr(group, "_tasks", ()))[:MOST_TASKS]


def left_running(
    loop: asyncio.AbstractEventLoop | None,
    belongs: Callable[[Context], bool],
    now: float,
    host: asyncio.Task[Any] | None,
) -> tuple[TaskReport, ...]:
    """The unfinished tasks of a loop whose context says that they belong, without this one and the host.

    `None` is the running loop, if there is one.
    """
    try:
        others = asyncio.all_tasks(loop) - {asyncio.current_task(loop), host}
        found = [task for task in others if belongs(context_of(task))]
    except RuntimeError:  # the set of tasks changed under us: we are in another thread
        return ()
    threads = Threads()
    return tuple(filter(None, (_seen(task, threads, now) for task in found[:MOST_TASKS])))


def _seen(task: asyncio.Task[Any], threads: Threads, now: float) -> TaskReport | None:
    """What a task is doing; `None` if looking at its objects fails: a report is made without it."""
    try:
        return _Sighted(task, _look(task, threads, further=False)[0], now, host=False).report()
    except Exception:  # noqa: BLE001  # they are anybody's
        return None


def running_inside(
    belongs: Callable[[Context], bool], now: float
) -> tuple[tuple[TaskReport, ...], list[asyncio.Task[Any]]]:
    """What the running loop does for a plain function's deadline: the tasks, and what they await."""
    tasks = [task for task in asyncio.all_tasks() if belongs(context_of(task))]
    return left_running(None, belongs, now, None), tasks


def context_of(task: asyncio.Task[Any]) -> Context:
    """The context that a task runs in; an empty one if it cannot be told."""
    if sys.version_info >= (3, 12):
        return task.get_context()
    return next((one for one in gc.get_referents(task) if isinstance(one, Context)), Context())


def locate(position: Link) -> Await:
    """A position in words."""
    if isinstance(position, Await):
        return position
    code, lasti = position
    return Await(code.co_qualname, code.co_filename, _line(code, lasti))


@functools.lru_cache(maxsize=1024)
def _line(code: CodeType, lasti: int) -> int:
    for start, end, line in code.co_lines():
        if line is not None and start <= lasti < end:
            return line
    return code.co_firstlineno

"""Invocations that end around their soft instant while they block the loop in all sorts of ways.

    python tests/harness/false_alarms.py 2000
    python tests/harness/false_alarms.py 2000 1 "last third" uvloop

Each must end in exactly one of response and mitigation, and leave nothing behind: no lock held, no signal
handler, no exception where nobody awaits it. Prints how many ended how, and what went wrong, as JSON.

In the last third of the margin less is spared: locks may stay, and a mitigation may come too late. What is
looked for there is that the loop and its tasks are as they were, whoever swallows or calls back.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib
import io
import json
import logging
import queue
import random
import re
import signal
import sys
import threading
import time
import weakref
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from deadline import DeadlineExceeded, aws
from deadline._interrupt.alarm import alarm
from deadline._interrupt.interrupted import Interrupted
from deadline.aws._runtime.event_loop import environment
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALLOWED = 0.012
MARGIN = 1.0
EARLIEST, LATEST = -0.005, 0.015
"""When an invocation ends, in seconds after the soft instant, or after what blocks is interrupted."""

LAST_THIRD = "last third" in sys.argv
if LAST_THIRD:
    MARGIN = LATEST = 0.15

wrong: list[str] = []
logger = logging.getLogger("false alarms")
logger.propagate = False
logger.addHandler(logging.StreamHandler(io.StringIO()))
lock, condition, jobs = threading.Lock(), threading.Condition(), queue.Queue[int]()


def import_modules() -> None:
    """Modules of pure Python and of C."""
    for name in ("colorsys", "this_is_not_there", "xml.dom.minidom", "_bisect", "wave"):
        sys.modules.pop(name, None)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            pass


def log() -> None:
    """Through a handler with a lock."""
    logger.warning("a %s", "line")


class Node:
    """Part of a cycle that is long in dying."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        for _ in range(50):
            self.me = None  # type: ignore[assignment]


def collect() -> None:
    """Cycles with `__del__`, weak references in sets and with finalizers."""
    nodes = [Node() for _ in range(20)]
    known, table = weakref.WeakSet(nodes), weakref.WeakKeyDictionary(dict.fromkeys(nodes, 1))
    for node in nodes[:5]:
        weakref.finalize(node, list)
    del node, nodes
    gc.collect(0)
    del known, table


def call_c() -> None:
    """C code, some of which looks for signals."""
    re.sub("(a|b)+c", "", "ab" * 200)
    json.loads(json.dumps([{"key": list(range(20))}] * 20))
    sorted(range(2000), key=str)
    zlib.compress(b"abc" * 5000)
    pow(3, 20_000)


def lock_and_wait() -> None:
    """`with` on locks of C and of Python, a queue."""
    with lock:
        pow(3, 100)
    with condition:
        condition.notify_all()
    jobs.put(1)
    jobs.get()


@contextmanager
def managed(held: list[int]) -> Iterator[None]:
    """Hold something."""
    held.append(1)
    try:
        yield
    finally:
        held.pop()


def manage() -> None:
    """Context managers."""
    held: list[int] = []
    with managed(held):
        sum(range(100))


BLOCKING: list[Callable[[], None]] = [import_modules, log, collect, call_c, lock_and_wait, manage]


async def use_asyncio() -> None:
    """Tasks, futures, timers, queues."""
    channel: asyncio.Queue[int] = asyncio.Queue()
    async with asyncio.timeout(1):
        await asyncio.gather(channel.put(1), channel.get())
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        group.create_task(asyncio.sleep(0.0001))


async def use_anyio() -> None:
    """Task groups and scopes."""
    with anyio.move_on_after(1):
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)


async def stream() -> None:
    """An asynchronous generator that is left half-way."""

    async def numbers() -> Any:
        for number in range(10):
            yield number
            await asyncio.sleep(0)

    async for number in numbers():
        if number == 3:
            break


AWAITING = [use_asyncio, use_anyio, stream]
SPARED = [import_modules, log, collect, lock_and_wait]
"""Not in the last third any more: a lock may stay, and what a weak reference calls is lost."""


async def called_back(event: dict[str, Any]) -> None:
    """Block the loop in a plain callback."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def called_back() -> None:
        try:
            until_it_ends(event)
        finally:
            if not done.cancelled():
                done.set_result(None)

    loop.call_soon(called_back)
    await done


async def in_a_burst(event: dict[str, Any]) -> None:
    """Keep the loop in itself, by a turn of very many callbacks that do nothing: of Python, and of C."""
    loop: Any = asyncio.get_running_loop()
    handles = [asyncio.Handle(does, [], loop, contextvars.Context()) for does in (nothing, dict)]
    loop._ready.extend(handles * 200_000)  # `call_soon` would itself be what blocks
    await asyncio.sleep(0)


def nothing() -> None:
    """Return."""


async def swallowed(event: dict[str, Any]) -> None:
    """Take whatever is raised."""
    while time.monotonic() < event["end"]:
        try:
            until_it_ends(event)
        except BaseException:
            pass


async def in_tasks(event: dict[str, Any]) -> None:
    """Take turns."""
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(in_turns(event))


async def in_turns(event: dict[str, Any]) -> None:
    """Block, or await."""
    while time.monotonic() < event["end"]:
        for one in event["does"]:
            if one in BLOCKING:
                one()
            else:
                await one()


def until_it_ends(event: dict[str, Any]) -> None:
    """Block."""
    while time.monotonic() < event["end"]:
        for one in event["does"]:
            one()


@aws.handler(margin=MARGIN)
async def work(event: dict[str, Any], context: Any) -> str:
    """Do what the event names until it is to end; in tasks or without, in the loop's turns or in one."""
    await event["how"](event)
    return "response"


@work.on_exceeded
async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> str:
    if not LAST_THIRD:
        log()
    await use_asyncio()
    return "mitigation"


def shoot(chance: random.Random) -> str:
    """One invocation."""
    ways: list[Any] = [in_turns, in_turns, in_tasks]
    kinds: list[Any] = [*BLOCKING, *AWAITING]
    if LAST_THIRD:
        ways = [called_back, swallowed, in_turns, in_tasks]
        ways += [] if "uvloop" in sys.argv else [in_a_burst]
        kinds = [one for one in kinds if one not in SPARED]
    how = chance.choice(ways)
    if how in {called_back, swallowed}:
        kinds = [one for one in kinds if one in BLOCKING]
    soft = time.monotonic() + ALLOWED
    event: dict[str, Any] = {
        "how": how,
        "does": chance.sample(kinds, min(len(kinds), chance.choice([1, 1, 1, 2, 3]))),
        "end": soft + chance.choice((0.0, MARGIN / 10)) + chance.uniform(EARLIEST, LATEST),
    }
    what = [one.__name__ for one in (how, *event["does"])]
    try:
        ending: str = work(event, FakeContext(ALLOWED + MARGIN))
    except BaseException as error:
        ending = "error"
        if not (LAST_THIRD and isinstance(error, DeadlineExceeded)):
            wrong.append(f"{what}: {error!r}")
    if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL or signal.getitimer(signal.ITIMER_REAL)[0]:
        wrong.append(f"{what}: the signal's handler or timer stayed")
    if sys.gettrace() is not None:
        wrong.append(f"{what}: the trace function stayed")
    if left := asyncio.all_tasks(environment().loop):
        wrong.append(f"{what}: {left}")
    return ending


def is_callback(handle: str) -> bool:
    """Whether it is one of ours."""
    return any(name in handle for name in ("called_back", "nothing"))


def in_the_loop(about: dict[str, Any]) -> None:
    """It bears what is raised in a plain callback, and says so."""
    if not (isinstance(about.get("exception"), Interrupted) and is_callback(repr(about.get("handle")))):
        wrong.append(f"in the loop: {about}")


def held() -> list[str]:
    """The locks that another thread cannot take."""
    names = []
    locks: dict[str, Any] = {
        "lock": lock,
        "condition": condition,
        "queue": jobs.mutex,
        "log": logger.handlers[0].lock,
    }

    def look() -> None:
        for name, one in locks.items():
            if one is not None and one.acquire(timeout=0.5):
                one.release()
            else:
                names.append(name)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return names


def main(count: int) -> None:
    """Shoot, and print."""
    if "uvloop" in sys.argv:
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    logging.getLogger("deadline").setLevel(logging.CRITICAL)
    environment().loop.set_exception_handler(lambda _, about: in_the_loop(about))
    sys.unraisablehook = lambda about: wrong.append(f"unraisable: {about.exc_value!r} in {about.object!r}")
    for one in BLOCKING:  # what it imports is there: the first invocation is like the others
        one()
    chance = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    endings: dict[str, int] = {}
    for _ in range(count):
        ending = shoot(chance)
        endings[ending] = endings.get(ending, 0) + 1
    gc.collect()
    wrong.extend(f"held: {name}" for name in ([] if LAST_THIRD else held()))
    print(json.dumps({"endings": endings, "interrupts": alarm.raised, "wrong": wrong}))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""Objects of users that raise wherever the core touches them: no other deadline is late, and none is lost.

Each run has its own loop, ordinary blocks, and among them blocks that await, hold or are named by hostile
objects. `DEADLINE_FUZZ_RUNS` sets the number of runs, 300 by default; `pytest -s` shows the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import math
import os
import random
import sys
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from deadline import DeadlineExceeded, critical, deadline, step, subscribe
from deadline._core.cut import UNWINDING
from deadline._core.timer import EARLY, clock_of
from deadline.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

RUNS: Final = int(os.environ.get("DEADLINE_FUZZ_RUNS", "300"))

UNIT: Final = 0.005
"""Seconds of virtual time by which a cut may be late: each reading of the clock costs some."""

READING: Final = 0.000002
"""Seconds that a reading of the clock takes, where it moves while callbacks run."""


class Odd(BaseException):
    """No `Exception`."""


ERRORS: Final = (RuntimeError, TypeError, KeyError, MemoryError, RecursionError, CancelledError, Odd)


def raises(rng: random.Random) -> Callable[..., Any]:
    """A method that raises one of `ERRORS`."""
    error = rng.choice(ERRORS)

    def method(*_: Any, **__: Any) -> Any:
        raise error("hostile")

    return method


def without_message(kind: type) -> Callable[..., Any]:
    """A `cancel` as before Python 3.9."""

    def cancel(self: Any) -> Any:
        return kind.cancel(self)  # type: ignore[attr-defined]

    return cancel


def hostile(rng: random.Random, kind: type, *names: str) -> Any:
    """A subclass that raises in some of these methods; in its `cancel` always, if that is one."""
    chosen = [name for name in names if name == "cancel" or rng.random() < 0.4]
    body: dict[str, Any] = {name: raises(rng) for name in chosen}
    if "cancel" in body and rng.random() < 0.3:
        body["cancel"] = without_message(kind)
    if "__eq__" in body and "__hash__" not in body:
        body["__hash__"] = kind.__hash__
    for name in ("__class__", "_children"):
        if name in body:
            body[name] = property(body[name])
    return type("Hostile", (kind,), body)


def future(rng: random.Random) -> Any:
    names = (
        "cancel",
        "done",
        "__repr__",
        "__eq__",
        "__del__",
        "__class__",
        "_children",
        "remove_done_callback",
    )
    return hostile(rng, asyncio.Future, *names)()


def text(rng: random.Random) -> Any:
    names = "__repr__", "__str__", "__format__", "__eq__", "__len__", "__getitem__"
    return hostile(rng, str, *names)("hostile")


def error(rng: random.Random) -> Any:
    return hostile(rng, DeadlineExceeded, "__init__", "__setattr__", "__repr__", "__str__", "add_note")


def thing(rng: random.Random) -> Any:
    names = "__repr__", "__eq__", "__hash__", "__del__", "__class__", "__getattr__", "__bool__"
    return hostile(rng, object, *names)()


variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")


class Comparing:
    """A callback that refuses to be compared."""

    def __call__(self, _: Any) -> None:
        """Do nothing."""

    def __eq__(self, _: object) -> bool:
        raise RuntimeError("hostile")

    __hash__ = None  # type: ignore[assignment]


# --- what a block may do ----------------------------------------------------------------------------------


async def waits(rng: random.Random) -> None:
    await future(rng)


async def sleeps(_: random.Random) -> None:
    await asyncio.sleep(9)


async def holds(rng: random.Random) -> None:
    held = [thing(rng), thing(rng)]
    await asyncio.sleep(9)
    del held


async def is_compared(rng: random.Random) -> None:
    awaited = future(rng)
    awaited.add_done_callback(Comparing())
    await awaited


async def groups(rng: random.Random) -> None:
    async with anyio.create_task_group() as group:
        for child in rng.sample([waits, holds, sleeps], 2):
            group.start_soon(child, rng)
        await asyncio.sleep(9)


async def gathers(rng: random.Random) -> None:
    awaited = hostile(rng, asyncio.Future, "cancel", "__repr__", "__del__")()
    await asyncio.gather(awaited, asyncio.sleep(9))


async def awaits_a_task(rng: random.Random) -> None:
    names = "cancel", "get_name", "__repr__", "get_coro", "get_context"
    await hostile(rng, asyncio.Task, *names)(asyncio.sleep(9), loop=asyncio.get_running_loop())


async def nests(rng: random.Random) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(rng.choice([3, 30, 1100]) if rng.random() < 0.05 else 3):
            await stack.enter_async_context(deadline(60))
        await future(rng)


async def steps(rng: random.Random) -> None:
    with step(text(rng)):
        await future(rng)


async def holds_the_clock(rng: random.Random) -> None:
    async with critical(needs=0.0, name="hostile"):
        await future(rng)


async def carries(rng: random.Random) -> None:
    variable.set(thing(rng))
    await asyncio.create_task(waits(rng))


async def swallows(rng: random.Random) -> None:
    for _ in range(3):
        with contextlib.suppress(CancelledError):
            await future(rng)
    await future(rng)


BLOCKS: Final = (
    waits,
    holds,
    is_compared,
    groups,
    gathers,
    awaits_a_task,
    nests,
    steps,
    holds_the_clock,
    carries,
    swallows,
)


# --- one run ----------------------------------------------------------------------------------------------


async def hostile_block(rng: random.Random, seconds: float, ended: list[str]) -> None:
    work: Callable[[random.Random], Awaitable[None]] = rng.choice(BLOCKS)
    try:
        async with deadline(seconds, name=text(rng), error=error(rng)) as dl:
            await work(rng)
    except DeadlineExceeded:
        late = asyncio.get_running_loop().time() - dl.soft
        most = UNWINDING + 0.1 if work is swallows else 0.1
        ended.append("cut" if late < most else f"{work.__name__} was cut {late:.3f} s late")
    except BaseException as other:
        ended.append(f"{work.__name__} left by {type(other).__name__}")
        raise
    else:
        ended.append(f"{work.__name__} ended")


async def good_block(seconds: float, late: list[float]) -> None:
    dl = deadline(seconds)
    try:
        async with dl:
            await asyncio.sleep(9)
    except DeadlineExceeded:
        late.append(asyncio.get_running_loop().time() - dl.soft)
    else:
        late.append(math.inf)


def make_spin(loop: VirtualLoop) -> None:
    """Have the clock of this loop move with each reading, and its deadlines be spun for."""
    clock = clock_of(loop)

    def now() -> float:
        loop._set_now(loop.time() + READING)
        return loop.time()

    clock.early, clock.now = EARLY, now


async def main(rng: random.Random, *, spins: bool) -> tuple[list[float], list[str]]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    if spins:
        make_spin(loop)
    loop.set_exception_handler(raises(rng) if rng.random() < 0.3 else lambda *_: None)
    instants = [rng.choice([0.1, 0.2, rng.uniform(0.05, 0.4)]) for _ in range(8)]
    late: list[float] = []
    ended: list[str] = []
    bad = [
        asyncio.create_task(hostile_block(rng, rng.choice(instants), ended)) for _ in range(rng.randint(1, 4))
    ]
    await asyncio.gather(*(good_block(seconds, late) for seconds in instants))
    await good_block(0.05, late)  # one that begins after all of it
    await asyncio.wait(bad, timeout=2 * UNWINDING)
    ended += ["was not cut" for task in bad if not task.done()]
    return late, ended


class Refusing(logging.Handler):
    """A handler of the log that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.name)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """What dies noisily is no matter here; the log has a handler that raises, and is heard by nobody else."""
    logger, handler = logging.getLogger("deadline"), Refusing()
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", True)
    logger.addHandler(handler)
    yield logger
    gc.collect()  # now, while what dies may raise
    logger.removeHandler(handler)


def attempt(seed: int) -> tuple[list[float], list[str]]:
    """One run."""
    rng = random.Random(seed)
    end = subscribe(raises(rng)) if rng.random() < 0.3 else lambda: None
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main(rng, spins=seed % 2 == 0))
    finally:
        end()
        loop.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("quiet")
def test_hostile_objects_keep_no_other_deadline_from_its_instant() -> None:
    """Among hostile blocks every ordinary one is cut at its instant, and each hostile one is cut as well."""
    latest, blocks, cut = 0.0, 0, 0
    for seed in range(RUNS):
        late, ended = attempt(seed)
        assert len(late) == 9, f"seed {seed}: one was lost"
        assert max(late) <= UNIT, f"seed {seed}: {max(late):.4f} s late, beside {ended}"
        assert min(late) >= 0.0, f"seed {seed}: one was early"
        assert set(ended) == {"cut"}, f"seed {seed}: {ended}"
        latest, blocks, cut = max(latest, *late), blocks + len(late), cut + len(ended)
    figures = f"{RUNS} runs; {blocks} ordinary blocks, the latest {latest * 1000:.3f} ms; {cut} hostile ones"
    sys.stdout.write(f"\n{figures}\n")

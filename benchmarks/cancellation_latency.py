"""How late a deadline cuts: from its instant to the first line of the `except`.

The instant is the monotonic clock's reading just before the scope is made, plus the scope's seconds. The
block awaits something that never comes; the clock is read again on the first line of the `except`. Both
readings are made the same way for every entrant.

Durations have random fractions of a millisecond, in one sequence that every entrant gets. An event loop
on Linux hands its timers to epoll, which counts in milliseconds and rounds up, so a timer's lateness
depends on where in a millisecond it falls: a duration of whole milliseconds, begun just before the wait,
would hide that or show its worst. The condition "whole ms" has those, so that nobody need wonder.

Conditions:

- idle: nothing else happens on the loop;
- whole ms: the same, with durations of whole milliseconds;
- busy: a callback blocks the loop for 1 ms, rests for 1 ms, and so on, from a random phase;
- S3: an aioboto3 `get_object` is in flight to a server that never answers. Ours has `aws.install`ed
  clients, the others plain ones. trio has no such client;
- uvloop: idle, on uvloop. trio does not run on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from time import monotonic
from typing import TYPE_CHECKING, Any

import trio
import uvloop
from _harness import (
    OURS,
    Blocks,
    Criterion,
    Result,
    Table,
    best_peer,
    colour,
    empty,
    joined,
    quantile,
    ratios,
    spread,
    turns,
)
from _scopes import DISTRIBUTIONS, SCOPES, expire, expire_wait_for
from _stub_server import served

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Wait = Callable[[], Awaitable[object]]
    Entrant = Callable[[list[float]], list[float]]
    """Lets a batch of durations expire, one after the other; gives the lateness of each in seconds."""

BATCH = 10
BATCHES = 10
"""Per block and entrant."""

MEASURED_EARLY = -1e-6
"""Seconds. Event loops run a timer that is due within their clock's resolution, 1 ns."""

BUSY = 0.001
"""Seconds for which the loop is blocked, and then rests."""


def _fractional(chance: random.Random) -> float:
    return chance.uniform(0.004, 0.007)


def _whole(chance: random.Random) -> float:
    return chance.randint(4, 7) / 1000


def _for_a_request(chance: random.Random) -> float:
    return chance.uniform(0.021, 0.023)  # by default an installed client sends nothing with under 20 ms left


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


def _on_asyncio(
    runner: asyncio.Runner, name: str, wait: Wait = _never, around: Callable[[], Any] = contextlib.nullcontext
) -> Entrant:
    async def batch(durations: list[float]) -> list[float]:
        with around():
            if name == "wait_for":
                return [await expire_wait_for(seconds, wait) for seconds in durations]
            return [await expire(SCOPES[name], seconds, wait) for seconds in durations]

    return lambda durations: runner.run(batch(durations))


async def _trio_batch(durations: list[float], *, busy: bool = False) -> list[float]:
    late = []
    async with trio.open_nursery() as nursery:
        if busy:
            nursery.start_soon(_blocking_task)
        for seconds in durations:
            instant = monotonic() + seconds
            try:
                with trio.fail_after(seconds):
                    await trio.sleep_forever()
            except trio.TooSlowError:
                late.append(monotonic() - instant)
        nursery.cancel_scope.cancel()
    return late


def _block() -> None:
    end = monotonic() + BUSY
    while monotonic() < end:
        pass


async def _blocking_task() -> None:
    while True:
        _block()
        await trio.sleep(BUSY)


@contextlib.contextmanager
def _blocking_callbacks() -> Iterator[None]:
    loop = asyncio.get_running_loop()
    stopped = False

    def again() -> None:
        _block()
        if not stopped:
            loop.call_later(BUSY, again)

    loop.call_later(random.uniform(0, 2 * BUSY), again)
    yield
    stopped = True


@contextlib.contextmanager
def _idle() -> Iterator[dict[str, Entrant]]:
    with asyncio.Runner() as runner:
        yield {
            **{name: _on_asyncio(runner, name) for name in (*SCOPES, "wait_for")},
            "trio.fail_after": lambda durations: trio.run(_trio_batch, durations),
        }


@contextlib.contextmanager
def _busy() -> Iterator[dict[str, Entrant]]:
    async def on_trio(durations: list[float]) -> list[float]:
        return await _trio_batch(durations, busy=True)

    with asyncio.Runner() as runner:
        yield {
            **{name: _on_asyncio(runner, name, around=_blocking_callbacks) for name in (*SCOPES, "wait_for")},
            "trio.fail_after": lambda durations: trio.run(on_trio, durations),
        }


@contextlib.contextmanager
def _uvloop() -> Iterator[dict[str, Entrant]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield {name: _on_asyncio(runner, name) for name in (*SCOPES, "wait_for")}


@contextlib.contextmanager
def _s3() -> Iterator[dict[str, Entrant]]:
    import aioboto3

    from deadline import aws

    with served("silent") as url, asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()

        def client_of(session: Any) -> Wait:
            opened = session.client(
                "s3",
                region_name="eu-west-1",
                endpoint_url=url,
                aws_access_key_id="benchmark",
                aws_secret_access_key="benchmark",  # noqa: S106  # nobody checks it
            )
            client: Any = runner.run(stack.enter_async_context(opened))
            return lambda: client.get_object(Bucket="bucket", Key="key")

        ours, plain = client_of(aws.install(aioboto3.Session())), client_of(aioboto3.Session())
        yield {
            name: _on_asyncio(runner, name, ours if name == OURS else plain) for name in (*SCOPES, "wait_for")
        }
        runner.run(stack.aclose())


CONDITIONS = {
    "idle": (_idle, _fractional),
    "whole ms": (_idle, _whole),
    "busy": (_busy, _fractional),
    "S3": (_s3, _for_a_request),
    "uvloop": (_uvloop, _fractional),
}


def _measured(entrants: dict[str, Entrant], duration: Callable[[random.Random], float]) -> dict[str, Blocks]:
    samples = empty(list(entrants))
    for entrant in entrants.values():
        entrant([0.01, 0.01])  # imports, caches, connections
    for block, turn, name in turns(list(entrants), BATCHES):
        chance = random.Random(block * BATCHES + turn)
        gc.collect()
        samples[name][block] += entrants[name]([duration(chance) for _ in range(BATCH)])
    return samples


def _early(blocks: Blocks) -> int:
    return sum(value < MEASURED_EARLY for value in joined(blocks))


def _table(condition: str, samples: dict[str, Blocks]) -> Table:
    rows = []
    for name, blocks in samples.items():
        values = [value * 1e6 for value in joined(blocks)]
        rows.append(
            [
                name,
                *(f"{quantile(values, share):.0f}" for share in (0.5, 0.9, 0.99, 1)),
                str(_early(blocks)),
                spread([[value * 1e6 for value in block] for block in blocks]),
            ]
        )
    columns = ("", "p50", "p90", "p99", "max", "early", "p50 of the blocks")
    number = len(joined(next(iter(samples.values()))))
    return Table(f"{condition}: µs after the instant, {number} expiries each", columns, rows)


def _criteria(samples: dict[str, dict[str, Blocks]]) -> Iterator[Criterion]:
    def against_best(condition: str, share: float, limit: float, allowance: float = 0.0) -> Criterion:
        entrants = samples[condition]
        peer = best_peer(entrants, share)
        less = f" less {allowance * 1e6:.0f} µs" if allowance else ""
        values = ratios(entrants[OURS], entrants[peer], share, allowance=allowance)
        return Criterion(f"{condition}: p{share * 100:.0f}{less} / {peer}'s", values, limit)

    yield against_best("idle", 0.5, 0.1)
    yield against_best("idle", 0.99, 1.0)
    yield against_best("busy", 0.5, 1.1, 50e-6)
    yield against_best("busy", 0.99, 1.1, 50e-6)
    for condition, entrants in samples.items():
        yield Criterion(f"{condition}: expiries that were early", [_early(entrants[OURS])], 0)


def _draw(samples: dict[str, dict[str, Blocks]]) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        for axis, (condition, entrants) in zip(axes, samples.items(), strict=True):
            for at, (name, blocks) in enumerate(reversed(entrants.items())):
                values = [max(10, value * 1e6) for value in joined(blocks)]  # some peers' are early on uvloop
                low, middle, high = (quantile(values, share) for share in (0.5, 0.9, 0.99))
                axis.plot([low, high], [at, at], color=colour(name), linewidth=2)
                axis.plot([low, middle, high], [at] * 3, "o", color=colour(name), markersize=5)
            axis.set_yticks(range(len(entrants)), reversed(list(entrants)))
            axis.set(xscale="log", xlim=(9, 10_000))
            axis.set_title(condition)
            axis.set_xlabel("µs after the instant: p50, p90, p99")

    return draw


def main() -> None:
    """Measure under each condition."""
    samples = {}
    result = Result("cancellation_latency", "µs", (*DISTRIBUTIONS, "uvloop", "aioboto3"))
    for condition, (entrants_of, duration) in CONDITIONS.items():
        with entrants_of() as entrants:
            samples[condition] = _measured(entrants, duration)
        result.tables.append(_table(condition, samples[condition]))
    result.criteria += _criteria(samples)
    result.publish(_draw(samples), panels=len(samples))


if __name__ == "__main__":
    main()

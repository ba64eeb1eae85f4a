"""Pools of real drivers, cut at any instant: whole afterwards, with nothing left to do at the server.

`asyncio.timeout` is the reference: what it lets clean up is cleaned up under a deadline with a margin, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
import pytest
from psycopg_pool import AsyncConnectionPool
from redis.asyncio import BlockingConnectionPool, Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from deadline import aws, deadline
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from tests.databases.conftest import Cache, Database

    Job = Callable[[Any], Awaitable[Any]]
    Opened = Callable[[], AbstractAsyncContextManager[Any]]
    Limited = Callable[[Job, float], bool]

CUTS = int(os.environ.get("DEADLINE_TEST_CUTS", "60"))
"""How many cuts at random instants each pool takes; 1000 for a thorough run."""

LEFT = 2 + CUTS // 100
"""How many of them may leave a query or a connection at the server, whatever cuts.

PostgreSQL ignores a request to cancel that overtakes its query, and the drivers send but one. SQLAlchemy
forgets a connection of psycopg that is cut while it is made. With `asyncio.timeout` there were 3 queries of
2,000 cuts, and 2 connections of 1,000.
"""

SIZE = 3
LONG = 600  # seconds that no test waits
UNCUT = 20.0  # seconds in which a whole pool gives its connections


# What cuts


@contextlib.contextmanager
def in_loop(opened: Opened, scope: Callable[[float], AbstractAsyncContextManager[Any]]) -> Iterator[Limited]:
    """Jobs in one loop and with one pool, each under a scope; whether one came to its end."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        pool = runner.run(stack.enter_async_context(opened()))

        async def limited(job: Job, seconds: float) -> bool:
            try:
                async with scope(seconds):
                    await job(pool)
            except TimeoutError:
                return False
            return True

        try:
            yield lambda job, seconds: runner.run(limited(job, seconds))
        finally:
            runner.run(stack.aclose())


@contextlib.contextmanager
def by_timeout(opened: Opened, margin: float) -> Iterator[Limited]:
    with in_loop(opened, asyncio.timeout) as limited:
        yield limited


@contextlib.contextmanager
def by_scope(opened: Opened, margin: float) -> Iterator[Limited]:
    with in_loop(opened, lambda seconds: deadline(seconds + margin, margin=margin)) as limited:
        yield limited


@contextlib.contextmanager
def by_handler(opened: Opened, margin: float) -> Iterator[Limited]:
    @aws.handler(lifespan=opened, margin=margin)
    async def handler(job: Any, context: Any, pool: Any) -> bool:
        await job(pool)
        return True

    @handler.on_exceeded
    async def _(exceeded: Any, event: Any, context: Any, pool: Any) -> bool:
        return False

    yield lambda job, seconds: bool(handler(job, FakeContext(seconds + margin)))


LIMITS = {"asyncio.timeout": by_timeout, "deadline": by_scope, "handler": by_handler}


@pytest.fixture(params=LIMITS)
def limit(request: pytest.FixtureRequest) -> Any:
    """What cuts; the first is the reference."""
    return LIMITS[request.param]


def margin_of(server: Any) -> float:
    """Seconds whose first quarter is enough to cancel a query and roll back, also on a slow machine."""
    return 4 * max(1.0, 1000 * float(server.round_trip))


# What is cut


class Driver(NamedTuple):
    """A driver's pool, and a transaction on a connection of it: it gives what runs a statement."""

    opened: Callable[[str, int], AbstractAsyncContextManager[Any]]
    begin: Callable[[Any], AbstractAsyncContextManager[Callable[[str], Awaitable[Any]]]]


@contextlib.asynccontextmanager
async def asyncpg_opened(url: str, size: int) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(url, min_size=size, max_size=size) as pool:
        yield pool


@contextlib.asynccontextmanager
async def asyncpg_begin(pool: Any) -> AsyncIterator[Any]:
    async with pool.acquire() as connection, connection.transaction():
        yield connection.fetchval


@contextlib.asynccontextmanager
async def psycopg_opened(url: str, size: int) -> AsyncIterator[Any]:
    async with AsyncConnectionPool(url, min_size=size, max_size=size, open=False) as pool:
        yield pool


@contextlib.asynccontextmanager
async def psycopg_begin(pool: Any) -> AsyncIterator[Any]:
    async with pool.connection() as connection:

        async def run(sql: str) -> Any:
            return (await (await connection.execute(sql)).fetchone())[0]

        yield run


def sqlalchemy_over(driver: str) -> Callable[[str, int], AbstractAsyncContextManager[Any]]:
    @contextlib.asynccontextmanager
    async def opened(url: str, size: int) -> AsyncIterator[Any]:
        engine = create_async_engine(
            url.replace("postgresql", f"postgresql+{driver}", 1), pool_size=size, max_overflow=0
        )
        try:
            yield engine
        finally:
            await engine.dispose()

    return opened


@contextlib.asynccontextmanager
async def sqlalchemy_begin(engine: Any) -> AsyncIterator[Any]:
    async with engine.begin() as connection:
        yield lambda sql: connection.scalar(text(sql))


DRIVERS = {
    "asyncpg": Driver(asyncpg_opened, asyncpg_begin),
    "psycopg": Driver(psycopg_opened, psycopg_begin),
    "sqlalchemy+asyncpg": Driver(sqlalchemy_over("asyncpg"), sqlalchemy_begin),
    "sqlalchemy+psycopg": Driver(sqlalchemy_over("psycopg"), sqlalchemy_begin),
}


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    return DRIVERS[request.param]


async def come_round(chance: random.Random) -> None:
    """Let a cut fall between two steps: a context tells whole milliseconds, and a step takes less."""
    for _ in range(chance.randrange(100)):
        await asyncio.sleep(0)


# Queries at the server


def test_cut_queries_end_at_the_server(database: Database, driver: Driver, limit: Any) -> None:
    """A query whose waiting was cut is not executed any longer a second later."""

    async def query(pool: Any) -> None:
        async with driver.begin(pool) as run:
            await run(f"SELECT pg_sleep({LONG})")

    with limit(lambda: driver.opened(database.url, SIZE), margin_of(database)) as limited:
        ends = [limited(query, max(0.1, 100 * database.round_trip)) for _ in range(4)]
        assert (ends, database.becomes(database.active, 0)) == ([False] * 4, 0)


def test_a_pool_of_one_serves_after_cuts(database: Database, driver: Driver, limit: Any) -> None:
    """A pool of one connection serves the next to come after its only connection was cut."""

    def query(seconds: float) -> Job:
        async def job(pool: Any) -> None:
            async with driver.begin(pool) as run:
                await run(f"SELECT pg_sleep({seconds})")

        return job

    with limit(lambda: driver.opened(database.url, 1), margin_of(database)) as limited:
        cut = max(0.1, 100 * database.round_trip)
        turns = [(0.01, UNCUT), (LONG, cut), (LONG, cut), (0.01, UNCUT), (0.01, UNCUT)]
        ends = [limited(query(seconds), allowed) for seconds, allowed in turns]
        assert ends == [True, False, False, True, True]
        assert database.becomes(database.active, 0) == 0


def test_transactions_cut_at_random_leave_a_whole_pool(
    database: Database, driver: Driver, limit: Any, request: pytest.FixtureRequest
) -> None:
    """After cuts at random instants the pool is whole, no query runs, each transaction is whole or absent."""
    chance = random.Random(request.node.name)
    database.observer.execute("CREATE TABLE halves (number int, half int)")
    held: set[int] = set()

    def write(number: int, seconds: float) -> Job:
        async def job(pool: Any) -> None:
            await come_round(chance)
            async with driver.begin(pool) as run:
                await run(f"INSERT INTO halves VALUES ({number}, 1) RETURNING half")  # noqa: S608
                await run(f"SELECT pg_sleep({seconds})")
                await run(f"INSERT INTO halves VALUES ({number}, 2) RETURNING half")  # noqa: S608

        return job

    async def hold_all(pool: Any) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(SIZE):
                run = await stack.enter_async_context(driver.begin(pool))
                assert await run("SELECT 1") == 1
                held.add(await run("SELECT pg_backend_pid()"))

    with limit(lambda: driver.opened(database.url, SIZE), margin_of(database)) as limited:
        began = time.monotonic()
        done = {-n for n in range(1, 11) if limited(write(-n, 0), UNCUT)}
        assert len(done) == 10
        usual = (time.monotonic() - began) / 10
        for number in range(CUTS):
            seconds = chance.choice((0, LONG))
            if limited(write(number, seconds), chance.uniform(0, 2 * usual)):
                done.add(number)
        assert database.becomes(database.active, 0) <= LEFT
        assert limited(hold_all, UNCUT), "the pool does not give all its connections"
        assert len(held) == SIZE
        assert SIZE <= database.becomes(database.connections, SIZE) <= SIZE + LEFT
        assert database.becomes(database.in_transaction, 0) == 0
    halves = dict(database.ask("SELECT number, count(*) FROM halves GROUP BY number"))
    assert {number for number, count in halves.items() if count != 2} == set()
    assert done <= set(halves)


# Redis


def test_commands_cut_at_random_leave_a_whole_redis_pool(
    cache: Cache, limit: Any, request: pytest.FixtureRequest
) -> None:
    """After cuts at random instants Redis' pool is whole, and no answer has gone to another command."""
    chance = random.Random(request.node.name)
    wrong: list[tuple[str, Any]] = []
    held: set[int] = set()

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        pool = BlockingConnectionPool.from_url(cache.url, max_connections=SIZE)
        async with Redis.from_pool(pool) as client:
            yield client

    async def echo(client: Any, said: str) -> None:
        if (answer := await client.echo(said)) != said.encode():
            wrong.append((said, answer))

    def ask(number: int, *, waits: bool) -> Job:
        async def job(client: Any) -> None:
            await come_round(chance)
            await asyncio.gather(*(echo(client, f"{number} {n}") for n in range(2 * SIZE)))
            async with client.pipeline(transaction=True) as pipeline:
                await pipeline.incr("one").incr("other").execute()
            if waits:
                await client.blpop("never filled", timeout=0)

        return job

    async def hold_all(client: Any) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for n in range(SIZE):
                one = await stack.enter_async_context(client.client())
                await echo(one, f"held {n}")
                held.add(await one.client_id())

    with limit(opened, margin_of(cache)) as limited:
        began = time.monotonic()
        assert all(limited(ask(-n, waits=False), UNCUT) for n in range(1, 11))
        usual = (time.monotonic() - began) / 10
        for number in range(CUTS):
            # The driver swallows a cancellation now and then, and the reference gives but one.
            waits = chance.choice((False, True)) and limit is not by_timeout
            limited(ask(number, waits=waits), chance.uniform(0, 2 * usual))
        assert cache.becomes(cache.blocked, 0) == 0
        assert limited(hold_all, UNCUT), "the pool does not give all its connections"
        assert (len(held), cache.becomes(cache.connections, SIZE)) == (SIZE, SIZE)
    assert cache.observer.get("one") == cache.observer.get("other")
    assert wrong == []

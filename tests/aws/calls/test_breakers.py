"""Breakers of installed clients: one for each endpoint and operation."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, ReadTimeoutError

from deadline import (
    Breaker,
    BreakerOpen,
    DeadlineExceeded,
    InsufficientTime,
    LastGood,
    aws,
    deadline,
    fallback,
)
from deadline.testing import Drip, FaultProxy, Stall

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline.testing import MotoServer
    from tests.aws.conftest import Connect, Script

pytestmark = pytest.mark.slow

FAILS = (500, "InternalServerError")
THROTTLED = (400, "ThrottlingException")
ONCE = {"total_max_attempts": 1}


def making(**options: Any) -> tuple[Callable[[str], Breaker], dict[str, Breaker]]:
    """What makes breakers, and those that it has made."""
    made: dict[str, Breaker] = {}

    def make(name: str) -> Breaker:
        made[name] = Breaker(name, **options)
        return made[name]

    return make, made


@pytest.mark.parametrize("under", [True, False], ids=["deadline", "no deadline"])
async def test_an_operation_that_fails_is_not_sent_any_more(
    connect: Connect, script: Script, *, under: bool
) -> None:
    """Others at the same endpoint are; a recovery later one probe is, and closes it."""
    make, made = making(failures=2, recovery=0.3)
    client = aws.install(await connect(url=script.url, retries=ONCE), breaker=make)
    script.play(FAILS, FAILS)
    async with deadline(20.0 if under else None):
        for _ in range(2):
            with pytest.raises(ClientError):
                await client.list_tables()
        started = time.monotonic()
        with pytest.raises(BreakerOpen, match=r"breaker 'dynamodb.ListTables 127.0.0.1:\d+' is open"):
            await client.list_tables()
        assert time.monotonic() - started < 0.02
        await client.describe_limits()
        assert script.requests == ["dynamodb_20120810.listtables"] * 2 + ["dynamodb_20120810.describelimits"]
        await asyncio.sleep(0.3)
        script.latency = 0.05
        ends = await asyncio.gather(*[client.list_tables() for _ in range(20)], return_exceptions=True)
        assert sum(isinstance(end, BreakerOpen) for end in ends) == 19
        assert script.requests.count("dynamodb_20120810.listtables") == 3
        await client.list_tables()
    assert {breaker.state for breaker in made.values()} == {"closed"}


async def test_an_answer_of_400_to_499_does_not_count(connect: Connect, script: Script) -> None:
    """The service is there."""
    make, made = making(failures=1)
    client = aws.install(await connect(url=script.url, retries=ONCE), breaker=make)
    script.play(*[THROTTLED] * 5)
    for _ in range(5):
        with pytest.raises(ClientError):
            await client.list_tables()
    assert [breaker.state for breaker in made.values()] == ["closed"] * len(made)
    assert len(script.requests) == 5


async def test_a_call_counts_once_with_all_its_attempts(
    connect: Connect, script: Script, pause: Callable[[float], None]
) -> None:
    """One that did well in the end did well."""
    pause(0.001)
    make, made = making(failures=1)
    client = aws.install(await connect(url=script.url), breaker=make)
    script.play(FAILS, FAILS, FAILS)
    await client.list_tables()
    assert len(script.requests) == 4
    assert [breaker.state for breaker in made.values()] == ["closed"] * len(made)


async def test_an_outer_cut_does_not_count_an_attempt_given_up_does(
    connect: Connect, fault_proxy: FaultProxy
) -> None:
    """A deadline says nothing of a service that had one attempt; one whose attempt had its limit failed."""
    make, made = making(failures=1)
    once = aws.install(await connect(url=fault_proxy.url, retries=ONCE), breaker=make)
    make_too, made_too = making(failures=1)
    twice = aws.install(await connect(url=fault_proxy.url), breaker=make_too)
    fault_proxy.add(Stall())
    for client in (once, twice):
        with pytest.raises(DeadlineExceeded):
            async with deadline(0.8):
                await client.list_tables()
    assert {breaker.state for breaker in made.values()} == {"closed"}
    assert sorted(breaker.state for breaker in made_too.values()) == ["closed", "open"]
    with pytest.raises(BreakerOpen):
        await twice.list_tables()


async def test_a_refused_call_lets_the_loop_run(connect: Connect, script: Script) -> None:
    """A loop that asks an open breaker again at once keeps no other task from its work."""
    make, _ = making(failures=1)
    client = aws.install(await connect(url=script.url, retries=ONCE), breaker=make)
    script.play(FAILS)
    with pytest.raises(ClientError):
        await client.list_tables()
    turns: list[str] = []

    async def other() -> None:
        while turns.count("refused") < 3:
            turns.append("other")
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    for _ in range(3):
        with pytest.raises(BreakerOpen):
            await client.list_tables()
        turns.append("refused")
    await beside
    assert turns[:6] == ["other", "refused"] * 3


async def test_a_limit_for_each_attempt_counts(connect: Connect, fault_proxy: FaultProxy) -> None:
    """`per_attempt` is the call's own, and so is what `fallback` gives it."""
    make, made = making(failures=2)
    client = aws.install(await connect(url=fault_proxy.url), breaker=make)
    fault_proxy.add(Stall())
    with aws.limits(attempts=1, per_attempt=0.05):
        with pytest.raises(ReadTimeoutError):
            await client.list_tables()
        assert (await fallback(client.list_tables, default={}, within=0.03)).source == "default"
        with pytest.raises(BreakerOpen):
            await client.list_tables()
    assert sorted(breaker.state for breaker in made.values()) == ["closed", "open"]


async def test_a_call_without_useful_time_says_nothing(connect: Connect, script: Script) -> None:
    """It is refused before, whatever its breaker thinks."""
    make, made = making(failures=1)
    client = aws.install(await connect(url=script.url), breaker=make)
    async with deadline(0.015):
        with pytest.raises(InsufficientTime):
            await client.list_tables()
    assert {breaker.state for breaker in made.values()} == {"closed"}


async def test_clients_of_one_session_share_their_breakers(moto_server: MotoServer, script: Script) -> None:
    """Those of the last `install`; one without them has none."""
    make, made = making(failures=1)
    session = get_session()
    aws.install(session)
    aws.install(session, breaker=make)
    script.play((503, "Unavailable"))
    async with (
        session.create_client("dynamodb", endpoint_url=script.url) as one,
        session.create_client("dynamodb", endpoint_url=script.url) as two,
        session.create_client("dynamodb") as elsewhere,
    ):
        with aws.limits(attempts=1), pytest.raises(ClientError):
            await one.list_tables()
        with pytest.raises(BreakerOpen):
            await two.list_tables()
        await elsewhere.list_tables()
        aws.install(session)
        script.play((503, "Unavailable"))
        async with session.create_client("dynamodb", endpoint_url=script.url) as three:
            with aws.limits(attempts=1), pytest.raises(ClientError):
                await three.list_tables()
            await three.list_tables()
    assert len([name for name in made if "ListTables" in name]) == 2


async def test_the_abort_of_an_upload_goes_out_all_the_same(
    connect: Connect, fault_proxy: FaultProxy
) -> None:
    """What cleans up is never refused."""
    client = aws.install(await connect("s3"), breaker=functools.partial(Breaker, failures=1, recovery=60.0))
    for _ in range(2):
        with pytest.raises(ClientError, match="NoSuchUpload|NoSuchBucket"):
            await client.abort_multipart_upload(Bucket="none", Key="none", UploadId="none")


async def test_a_body_that_drips_is_answered_for(connect: Connect, fault_proxy: FaultProxy) -> None:
    """Its head came at once; what counts is when it has been read. The last good body is given again."""
    s3 = await connect("s3", url=fault_proxy.url)
    await s3.create_bucket(Bucket="box")
    await s3.put_object(Bucket="box", Key="key", Body=b"x" * 20_000)
    kept = LastGood()

    async def read() -> bytes:
        answer = await s3.get_object(Bucket="box", Key="key")
        body: bytes = await answer["Body"].read()
        return body

    assert (await fallback(read, cache=kept, within=5.0)).source == "call"
    fault_proxy.add(Drip(1_000, every=0.2), where=lambda request: request.method == "GET")
    started = time.monotonic()
    async with deadline(5.0):
        answer = await fallback(read, cache=kept, within=0.5)
    assert 0.5 <= time.monotonic() - started < 0.8
    assert (answer.source, len(answer.value)) == ("cache", 20_000)


async def test_breakers_come_to_an_installed_client(connect: Connect, script: Script) -> None:
    """Breakers may be added to what is installed already, one client at a time."""
    client = await connect(url=script.url, retries=ONCE)
    script.play(FAILS, FAILS)
    with pytest.raises(ClientError):
        await client.list_tables()
    aws.install(client, breaker=functools.partial(Breaker, failures=1))
    with pytest.raises(ClientError):
        await client.list_tables()
    with pytest.raises(BreakerOpen):
        await client.list_tables()


_install: Any = aws.install


@pytest.mark.parametrize("breaker", [True, Breaker("orders"), "orders", str.upper], ids=repr)
def test_what_makes_no_breaker_is_refused(breaker: Any) -> None:
    """With what to write instead."""
    with pytest.raises(TypeError, match=r"breaker: expected what makes a breaker .* write breaker=Breaker"):
        _install(get_session(), breaker=breaker)


@pytest.mark.parametrize("under", [True, False], ids=["deadline", "no deadline"])
async def test_a_call_that_was_never_sent_says_nothing(
    connect: Connect, script: Script, *, under: bool
) -> None:
    """A wrong parameter is the caller's own mistake, and must not close the door on the others."""
    make, made = making(failures=2)
    client = aws.install(await connect(url=script.url), breaker=make)
    async with deadline(20.0 if under else None):
        wrong: list[dict[str, Any]] = [{"TableName": 3, "Key": {}}, {"TableName": "t", "Key": {"a": 3}}, {}]
        for parameters in wrong:
            for _ in range(2):
                with pytest.raises(BotoCoreError):
                    await client.get_item(**parameters)
        await client.get_item(TableName="t", Key={"a": {"S": "b"}})
    assert script.requests.count("dynamodb_20120810.getitem") == 1
    assert [made[name].state for name in made if "GetItem" in name] == ["closed"]


@pytest.mark.parametrize("under", [True, False], ids=["deadline", "no deadline"])
async def test_a_connection_that_is_refused_counts(
    connect: Connect, unused_tcp_port: int, *, under: bool
) -> None:
    """That nobody listens is the dependency's failure, though nothing was sent."""
    make, made = making(failures=2)
    url = f"http://127.0.0.1:{unused_tcp_port}"
    client = aws.install(await connect(url=url, warm=False, retries=ONCE), breaker=make)
    async with deadline(20.0 if under else None):
        for _ in range(2):
            with pytest.raises(EndpointConnectionError):
                await client.list_tables()
    assert [made[name].state for name in made if "ListTables" in name] == ["open"]

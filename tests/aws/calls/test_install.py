"""What `install` covers, what it leaves alone and what it refuses."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

import deadline as deadline_package
from deadline import DeadlineExceeded, Event, InsufficientTime, aws, current, deadline
from deadline.aws._calls.attempt import send_attempt
from deadline.aws._calls.call import configured_attempts
from deadline.aws._calls.client_hook import DeadlineClient, Gate
from deadline.aws._calls.latency import latency_of
from deadline.testing import Delay, FaultProxy, MotoServer, Stall

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.aws.conftest import Connect, Script

pytestmark = pytest.mark.slow

MODES = pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
FAILS = (500, "InternalServerError")
KEYS = [{"AttributeName": "id", "KeyType": "HASH"}]
ATTRIBUTES = [{"AttributeName": "id", "AttributeType": "S"}]


@pytest.fixture
def aioboto3() -> Any:
    return pytest.importorskip("aioboto3", reason="aioboto3 is not installed")


async def is_cut(call: Callable[[], Any], proxy: FaultProxy) -> bool:
    """Whether a call that stalls, on a warm client, obeys the deadline to the end: by a limited attempt."""
    latency_of.cache_clear()  # what stalled before is not to be waited for longer
    rule = proxy.add(Stall())
    before, started = len(proxy.log), time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.41):
            await call()
    rule.remove()
    assert 0.41 <= time.monotonic() - started < 0.51
    return len(proxy.log) - before >= 2 and caught.value.report.tasks[0].call is not None


def retry_handler(client: Any) -> Any:
    service = client.meta.service_model.service_id.hyphenize()
    return client.meta.events._emitter._unique_id_handlers[f"retry-config-{service}"]["handler"]


# --- what it covers ---------------------------------------------------------------------------------------


async def test_clients_of_an_aiobotocore_session(fault_proxy: FaultProxy) -> None:
    """Every client made from an installed session obeys, with a configuration of its own or without."""
    session = get_session()
    assert aws.install(session) is session
    for config in (None, AioConfig(max_pool_connections=3, retries={"mode": "standard"})):
        async with session.create_client("dynamodb", config=config) as client:
            await client.list_tables()
            assert await is_cut(client.list_tables, fault_proxy)


async def test_clients_and_resources_of_an_aioboto3_session(aioboto3: Any, fault_proxy: FaultProxy) -> None:
    """Every client and resource made from an installed session obeys."""
    session = aioboto3.Session()
    assert aws.install(session) is session
    async with session.client("dynamodb", config=AioConfig(retries={"mode": "standard"})) as client:
        await client.create_table(
            TableName="things",
            KeySchema=KEYS,
            AttributeDefinitions=ATTRIBUTES,
            BillingMode="PAY_PER_REQUEST",
        )
        assert await is_cut(client.list_tables, fault_proxy)
    async with session.resource("dynamodb") as dynamodb:
        table = await dynamodb.Table("things")
        await table.put_item(Item={"id": "1"})
        assert await is_cut(lambda: table.get_item(Key={"id": "1"}), fault_proxy)


async def test_a_client_that_exists(fault_proxy: FaultProxy) -> None:
    """One client can be covered by itself, and is the same object and of its own class afterwards."""
    async with get_session().create_client("dynamodb") as client:
        await client.list_tables()
        kind, tables = type(client), client.list_tables
        assert aws.install(client) is client
        assert isinstance(client, kind)
        assert type(client).__name__ == kind.__name__
        assert await is_cut(client.list_tables, fault_proxy)
        assert await is_cut(tables, fault_proxy)  # a method that was taken before is covered too
        assert (await client.list_tables())["TableNames"] == []


async def test_a_resource_that_exists(aioboto3: Any, fault_proxy: FaultProxy) -> None:
    """One resource can be covered by itself; what was made from it before is covered with it."""
    async with aioboto3.Session().resource("s3") as s3:
        bucket = await s3.Bucket("box")
        await bucket.create()
        assert aws.install(s3) is s3
        assert await is_cut(bucket.create, fault_proxy)


async def test_installing_one_client_leaves_the_others(fault_proxy: FaultProxy) -> None:
    """A client covered by itself says nothing about its session's others."""
    session: Any = get_session()
    async with session.create_client("dynamodb") as one, session.create_client("dynamodb") as other:
        aws.install(one)
        assert DeadlineClient in type(one).__mro__
        assert DeadlineClient not in type(other).__mro__
        async with deadline(5.0):
            with aws.limits(min_attempt=9.0):
                assert (await other.list_tables())["TableNames"] == []
                with pytest.raises(InsufficientTime):
                    await one.list_tables()


async def test_clients_made_before_a_session_was_installed_are_not_covered(fault_proxy: FaultProxy) -> None:
    """A session's installation is for clients made from then on; an older one goes on as it was."""
    session = get_session()
    async with session.create_client("dynamodb") as client:
        await client.list_tables()
        aws.install(session)
        before = len(fault_proxy.log)
        async with deadline(5.0):
            with aws.limits(min_attempt=9.0):
                await client.list_tables()
        assert len(fault_proxy.log) == before + 1
        assert aws.install(client) is client
        assert await is_cut(client.list_tables, fault_proxy)


# --- twice ------------------------------------------------------------------------------------------------


@MODES
async def test_twice_does_no_harm(
    script: Script, connect: Connect, pause: Callable[[float], None], told: list[Event], mode: str
) -> None:
    """Installed again and again there is one wrapped send and one gate, and one request per attempt."""
    session = aws.install(aws.install(get_session()))
    config = AioConfig(retries={"mode": mode, "total_max_attempts": 3})
    async with session.create_client("dynamodb", endpoint_url=script.url, config=config) as client:
        assert type(client).__mro__.count(DeadlineClient) == 1
        for _ in range(2):
            script.play(*[FAILS] * 5)
            async with deadline(5.0):
                with pytest.raises(client.exceptions.InternalServerError):
                    await client.list_tables()
            assert len(script.requests) == 3
            assert aws.install(client) is client
        assert type(client).__mro__.count(DeadlineClient) == 1
        http: Any = client._endpoint.http_session  # type: ignore[attr-defined]  # it is private
        send, gate = http.send, retry_handler(client)
        assert send.func is send_attempt
        assert not isinstance(send.args[0], functools.partial)
        assert isinstance(gate, Gate)
        assert not isinstance(gate._handler, Gate)
    assert told == []


# --- without a deadline -----------------------------------------------------------------------------------


@MODES
async def test_without_a_deadline_nothing_changes(
    script: Script, connect: Connect, pause: Callable[[float], None], mode: str
) -> None:
    """Retries, errors and their metadata are the configuration's, before a deadline and after it."""
    client = await connect(url=script.url, retries={"mode": mode, "total_max_attempts": 3})

    async def check() -> None:
        script.play(*[FAILS] * 9)
        with pytest.raises(client.exceptions.InternalServerError) as caught:
            await client.list_tables()
        assert len(script.requests) == 3
        assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 2
        assert caught.value.response["ResponseMetadata"]["MaxAttemptsReached"] is True
        assert not hasattr(caught.value, "__notes__")
        script.play(FAILS)
        answer = await client.list_tables()
        assert answer["ResponseMetadata"]["RetryAttempts"] == 1

    await check()
    assert not isinstance(retry_handler(client), Gate)
    async with deadline(5.0):
        await client.list_tables()
    assert isinstance(retry_handler(client), Gate)
    await check()


async def test_a_stalled_call_without_a_deadline_ends_at_the_clients_own_timeout(
    connect: Connect, fault_proxy: FaultProxy
) -> None:
    """Without a deadline the client's read timeout is what ends an attempt."""
    client = await connect(read_timeout=0.2, retries={"mode": "standard", "total_max_attempts": 1})
    async with deadline(5.0):
        await client.list_tables()
    fault_proxy.add(Stall())
    started = time.monotonic()
    with pytest.raises(Exception, match="Read timeout on endpoint URL"):
        await client.list_tables()
    assert 0.2 <= time.monotonic() - started < 0.4


async def test_the_clients_own_timeouts_hold_in_a_deadline(connect: Connect, fault_proxy: FaultProxy) -> None:
    """A client's read timeout that is shorter than the deadline's share ends an attempt as ever."""
    client = await connect(read_timeout=0.1, retries={"mode": "standard", "total_max_attempts": 1})
    fault_proxy.add(Stall())
    started = time.monotonic()
    async with deadline(5.0):
        with pytest.raises(Exception, match="Read timeout on endpoint URL"):
            await client.list_tables()
    assert 0.1 <= time.monotonic() - started < 0.3


@MODES
@pytest.mark.parametrize("when", ["before a deadline", "after one"])
async def test_a_users_own_retry_handler_still_works(
    script: Script, connect: Connect, mode: str, when: str
) -> None:
    """A `needs-retry` handler registered by the user is asked, and what it wants is done, as without us."""
    client = await connect(url=script.url, retries={"mode": mode, "total_max_attempts": 3})
    if when == "after one":
        async with deadline(5.0):
            await client.list_tables()
    asked: list[int] = []

    def once_more(attempts: int, response: Any, **_: Any) -> float | None:
        asked.append(attempts)
        return 0.01 if response and response[0].status_code == 418 else None

    client.meta.events.register("needs-retry.dynamodb.ListTables", once_more)
    for source in (None, 5.0):
        for context in (False, True):
            script.play((418, "Teapot"), (418, "Teapot"))
            asked.clear()
            if context:
                async with deadline(source):
                    await client.list_tables()
            else:
                await client.list_tables()
            assert len(script.requests) == 3
            assert asked == [1, 2, 3]


# --- the switch -------------------------------------------------------------------------------------------


async def test_switched_off_it_is_a_pass_through(
    connect: Connect, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With DEADLINE_DISABLED an installed client calls as without a deadline, however late it is."""
    monkeypatch.setattr("deadline._core.scope.DISABLED", True)
    client = await connect()
    fault_proxy.add(Delay(0.15))
    async with deadline(0.01):
        assert current() is None
        assert (await client.list_tables())["TableNames"] == []
    assert not isinstance(retry_handler(client), Gate)


# --- what it refuses --------------------------------------------------------------------------------------


async def test_what_is_no_session_or_client_is_refused(moto_server: MotoServer) -> None:
    """For boto3's clients, contexts that were not entered and anything else the message has the fix."""
    context = get_session().create_client("sts")
    for wrong in (boto3.client("sts"), boto3.Session(), context, None, object(), get_session):
        with pytest.raises(TypeError, match=r"^session_or_client: .*async with session.client\('s3'\) as s3"):
            aws.install(wrong)
    async with context as entered:  # so that its coroutine is awaited
        assert aws.install(entered) is entered


async def test_an_aioboto3_context_that_was_not_entered_is_refused(
    aioboto3: Any, moto_server: MotoServer
) -> None:
    """`session.client("s3")` and `session.resource("s3")` are no clients before `async with`."""
    session = aioboto3.Session()
    client, resource = session.client("s3"), session.resource("s3")
    for wrong in (client, resource, aioboto3.Session):
        with pytest.raises(TypeError, match=r"^session_or_client: .*boto3 itself blocks the loop"):
            aws.install(wrong)
    for context in (client, resource):  # so that their coroutines are awaited
        async with context as entered:
            assert aws.install(entered) is entered


def test_without_an_sdk_it_says_what_to_install() -> None:
    """Where neither SDK is installed, the error names the extras that bring one."""
    program = "import sys; sys.modules['aiobotocore'] = None; from deadline import aws; aws.install(object())"
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(deadline_package.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stderr
    assert 'pip install "asyncio-deadline[aws]" for aioboto3' in printed
    assert '"asyncio-deadline[aiobotocore]" for aiobotocore alone' in printed


# --- the seams to the SDK ---------------------------------------------------------------------------------


async def test_a_client_without_a_retry_handler_is_covered(connect: Connect, fault_proxy: FaultProxy) -> None:
    """If the SDK's retry handler cannot be found there is no gate; calls are cut and refused all the same."""
    client = await connect()
    client.meta.events.unregister("needs-retry.dynamodb", unique_id="retry-config-dynamodb")
    async with deadline(5.0):
        await client.list_tables()
    fault_proxy.add(Stall())
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.06):
            await client.list_tables()
    assert caught.value.elapsed < 0.16
    with pytest.raises(InsufficientTime):
        async with deadline(0.01):
            await client.list_tables()


@MODES
@pytest.mark.parametrize("service", ["dynamodb", "dynamodbstreams", "sqs"])
async def test_the_default_number_of_attempts_is_the_sdks(connect: Connect, service: str, mode: str) -> None:
    """What we take to be the number of attempts is what the SDK's handler has."""
    client = await connect(service, warm=False, retries={"mode": mode})
    handler = retry_handler(client)
    if mode == "legacy":
        attempts = handler._checker._max_attempts
    else:
        attempts = handler.__self__._retry_policy._retry_checker._max_attempts_checker._max_attempts
    assert configured_attempts(client) == attempts


@pytest.mark.parametrize("retries", [{"max_attempts": 2}, {"total_max_attempts": 3, "mode": "adaptive"}])
async def test_the_configured_number_of_attempts(connect: Connect, retries: dict[str, Any]) -> None:
    """Whether retries or attempts were configured, we count attempts."""
    assert configured_attempts(await connect(warm=False, retries=retries)) == 3


async def test_a_client_is_wired_at_its_first_call_in_a_deadline(connect: Connect) -> None:
    """A client that never meets a deadline is left as the SDK made it; the next changes nothing."""
    client = await connect()
    assert not isinstance(client._endpoint.http_session.send, functools.partial)
    async with deadline(5.0):
        await client.list_tables()
    send, gate = client._endpoint.http_session.send, retry_handler(client)
    async with deadline(5.0):
        await client.list_tables()
    assert client._endpoint.http_session.send is send
    assert retry_handler(client) is gate

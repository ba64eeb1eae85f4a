"""Calls of installed clients in a deadline: real clients, real sockets, real time."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import logging
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from aiobotocore.credentials import AioRefreshableCredentials
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from deadline import DeadlineExceeded, Event, InsufficientTime, aws, deadline
from deadline._report.tasks import Call, calls
from deadline.aws._calls.attempt import AttemptTimeoutError
from deadline.testing import Delay, Exchange, FaultProxy, Stall

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.aws.conftest import Connect, Script

pytestmark = pytest.mark.slow

LATE = 0.1
"""Seconds after its instant in which a cut must come."""

MODES = pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
FAILS = (500, "InternalServerError")
THROTTLES = (400, "ProvisionedThroughputExceededException")
RETRIES = {"mode": "standard", "total_max_attempts": 4}


def names(events: Sequence[Event]) -> list[str]:
    return [event.name for event in events]


def in_use(client: Any) -> int:
    """Count the connections that the client's pool has given out."""
    sessions = client._endpoint.http_session._sessions.values()
    return sum(len(session.connector._acquired) for session in sessions)


# --- the whole call ---------------------------------------------------------------------------------------


@MODES
async def test_a_stalled_call_is_cut_at_soft(
    connect: Connect, fault_proxy: FaultProxy, told: list[Event], mode: str
) -> None:
    """A dead service costs the deadline and no more; the error's cause is the attempt that was given up."""
    client = await connect(retries={"mode": mode, "total_max_attempts": 4})
    fault_proxy.add(Stall())
    before, started = len(fault_proxy.log), time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.5, name="all") as dl:
            await client.list_tables()
    assert 0.5 <= time.monotonic() - started < 0.5 + LATE
    assert caught.value.deadline is dl
    assert not isinstance(caught.value, InsufficientTime)
    cause = caught.value.__cause__
    assert isinstance(cause, AttemptTimeoutError)
    facts: dict[str, Any] = {**cause.kwargs}
    sent = len(fault_proxy.log) - before
    assert 2 <= sent <= 4
    assert facts["attempt"] == sent - 1
    assert 0.05 <= facts["seconds"] <= 0.25
    assert names(told) == ["aws.attempt_timed_out"] * (sent - 1)
    assert told[-1].fields == {
        "service": "dynamodb",
        "operation": "ListTables",
        "attempt": sent - 1,
        "seconds": facts["seconds"],
    }


async def test_the_report_names_the_call(connect: Connect, fault_proxy: FaultProxy) -> None:
    """Message and report have service, operation, attempt and seconds, and the awaits down to the SDK's."""
    client = await connect(retries={"mode": "standard", "total_max_attempts": 2})
    fault_proxy.add(Stall())

    async def outer() -> None:
        await client.describe_table(TableName="things")

    with pytest.raises(DeadlineExceeded, match=r"awaiting dynamodb\.DescribeTable attempt 2, 0\.5") as caught:
        async with deadline(0.5):
            await outer()
    (task,) = caught.value.report.tasks
    assert task.host
    assert task.call is not None
    assert (task.call.service, task.call.operation, task.call.attempt) == ("dynamodb", "DescribeTable", 2)
    assert task.call.seconds == pytest.approx(0.5, abs=0.05)
    functions = [link.function for link in task.awaiting]
    assert functions[0] == "test_the_report_names_the_call"
    assert functions[1].endswith("outer")
    assert "DeadlineClient._make_api_call" in functions
    assert functions.index("AIOHTTPSession.send") > functions.index("_sent")
    assert caught.value.report.tasks[0].awaiting[0].file == __file__


@MODES
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (FAILS, "InternalServerError"),
        (THROTTLES, "ProvisionedThroughputExceededException"),
        ((503, "ServiceUnavailable"), "ClientError"),
    ],
)
async def test_the_cause_is_the_services_last_error(
    connect: Connect,
    script: Script,
    pause: Callable[[float], None],
    *,
    mode: str,
    answer: tuple[int, str],
    error: str,
) -> None:
    """A cut after failed attempts says what the service answered last, in its modeled class."""
    client = await connect(url=script.url, retries={"mode": mode, "total_max_attempts": 3})
    script.play((503, "Earlier"), answer, None)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.3):
            await client.list_tables()
    cause = caught.value.__cause__
    assert isinstance(cause, getattr(client.exceptions, error))
    assert isinstance(cause, ClientError)
    assert cause.response["Error"]["Code"] == answer[1]
    assert cause.operation_name == "ListTables"


async def test_a_first_attempt_that_is_cut_has_no_cause_of_its_own(
    connect: Connect, fault_proxy: FaultProxy
) -> None:
    """Where the service gave no error yet, the cause is the cancellation and not an invention."""
    client = await connect()
    fault_proxy.add(Stall())
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.1):
            await client.list_tables()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


@MODES
async def test_a_dead_connection_does_not_eat_the_budget(
    connect: Connect, fault_proxy: FaultProxy, told: list[Event], mode: str
) -> None:
    """One attempt that stalls is given up while there is time, and the next one succeeds within the rest."""
    client = await connect(retries={"mode": mode, "total_max_attempts": 4})
    fault_proxy.add(Stall(), times=1)
    before, started = len(fault_proxy.log), time.monotonic()
    async with deadline(0.6):
        answer = await client.list_tables()
    assert answer["TableNames"] == []
    assert answer["ResponseMetadata"]["RetryAttempts"] == 1
    assert 0.05 <= time.monotonic() - started < 0.3 + LATE
    assert [bool(exchange.fault) for exchange in fault_proxy.log[before:]] == [True, False]
    assert names(told) == ["aws.attempt_timed_out"]


async def test_a_slow_last_attempt_is_not_cut_short(connect: Connect, fault_proxy: FaultProxy) -> None:
    """The last attempt has no limit but the deadline: an answer that comes shortly before it counts."""
    client = await connect(retries={"mode": "standard", "total_max_attempts": 1})
    fault_proxy.add(Delay(0.4))
    async with deadline(0.6):
        assert (await client.list_tables())["TableNames"] == []


async def test_the_limit_covers_the_body(connect: Connect, script: Script) -> None:
    """An answer whose body never ends is given up like one that never begins."""
    client = await connect(url=script.url, retries=RETRIES)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        dripping = await connect(url=f"http://127.0.0.1:{port}", warm=False, retries=RETRIES)
        with aws.limits(per_attempt=0.1), pytest.raises(AttemptTimeoutError):
            async with deadline(5.0):
                with aws.limits(attempts=1):
                    await dripping.list_tables()
        await dripping.close()
    assert (await client.list_tables())["ResponseMetadata"]["HTTPStatusCode"] == 200


@MODES
async def test_without_a_limit_a_call_is_retried_as_configured(
    connect: Connect, script: Script, pause: Callable[[float], None], mode: str
) -> None:
    """`deadline(None)` leaves attempts and backoff to the client's configuration."""
    client = await connect(url=script.url, retries={"mode": mode, "total_max_attempts": 3})
    script.play(*[FAILS] * 9)
    async with deadline(None):
        with pytest.raises(client.exceptions.InternalServerError) as caught:
            await client.list_tables()
    assert len(script.requests) == 3
    assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 2
    assert not hasattr(caught.value, "__notes__")


# --- retries that do not fit ------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (FAILS, "InternalServerError"),
        (THROTTLES, "ProvisionedThroughputExceededException"),
        ((503, "ServiceUnavailable"), "ClientError"),
    ],
)
async def test_a_retry_that_cannot_fit_is_refused_at_once(
    connect: Connect,
    script: Script,
    pause: Callable[[float], None],
    *,
    told: list[Event],
    mode: str,
    answer: tuple[int, str],
    error: str,
) -> None:
    """The service's own modeled error reaches the caller, with a note that says why and the time saved."""
    pause(5.0)
    client = await connect(url=script.url, retries={"mode": mode, "total_max_attempts": 4})
    script.play(answer)
    started = time.monotonic()
    async with deadline(0.6) as dl:
        with pytest.raises(getattr(client.exceptions, error)) as caught:
            await client.list_tables()
        assert time.monotonic() - started < 0.3
        assert dl.remaining() > 0.3
    assert caught.value.response["Error"]["Code"] == answer[1]
    (note,) = caught.value.__notes__
    assert note.startswith("deadline: no retry after attempt 1: with 5.000 s of backoff and 0.020 s for an")
    assert len(script.requests) == 1
    assert names(told) == ["aws.retry_refused"]
    assert told[0].level == logging.INFO
    left = told[0].fields["left"]
    assert 0.3 < left < 0.6
    assert told[0].fields == {
        "service": "dynamodb",
        "operation": "ListTables",
        "attempt": 1,
        "delay": 5.0,
        "left": left,
    }


async def test_retries_go_on_until_one_does_not_fit(
    connect: Connect, script: Script, pause: Callable[[float], None], told: list[Event]
) -> None:
    """Retries that fit are made, and only the one that does not is refused; its note counts them."""
    pause(0.08)
    client = await connect(url=script.url, retries={"mode": "standard", "total_max_attempts": 9})
    script.play(*[FAILS] * 9)
    started = time.monotonic()
    async with deadline(0.3):
        with pytest.raises(client.exceptions.InternalServerError) as caught:
            await client.list_tables()
        assert 0.16 <= time.monotonic() - started < 0.3
    assert 3 <= len(script.requests) <= 4
    assert f"no retry after attempt {len(script.requests)}:" in caught.value.__notes__[0]
    assert names(told) == ["aws.retry_refused"]


@MODES
async def test_a_refusal_after_an_attempt_given_up_is_insufficient_time(
    connect: Connect, fault_proxy: FaultProxy, told: list[Event], mode: str
) -> None:
    """Where no service error tells the caller anything, what it lacked was time."""
    client = await connect(retries={"mode": mode, "total_max_attempts": 4})
    fault_proxy.add(Stall())
    before = len(fault_proxy.log)
    async with deadline(0.3) as dl:
        with aws.limits(per_attempt=0.2, min_attempt=0.15):
            with pytest.raises(
                InsufficientTime, match=r"dynamodb\.ListTables has no time for another"
            ) as caught:
                await client.list_tables()
        assert dl.remaining() > 0
    assert isinstance(caught.value.__cause__, AttemptTimeoutError)
    assert caught.value.deadline is dl
    assert len(fault_proxy.log) - before == 1
    assert names(told) == ["aws.attempt_timed_out", "aws.retry_refused"]


@MODES
@pytest.mark.parametrize("attempts", [4, 1], ids=["not retried by anybody", "the last attempt"])
async def test_errors_that_are_not_retried_are_left_alone(
    connect: Connect, script: Script, told: list[Event], mode: str, attempts: int
) -> None:
    """What the SDK would not retry anyway is raised as it came, also when there is no time left to."""
    client = await connect(url=script.url, retries={"mode": mode, "total_max_attempts": attempts})
    script.play((400, "ResourceNotFoundException") if attempts > 1 else FAILS)
    script.latency = 0.05
    async with deadline(0.5):
        with aws.limits(min_attempt=0.47), pytest.raises(ClientError) as caught:
            await client.list_tables()
    assert not hasattr(caught.value, "__notes__")
    assert told == []


async def test_refused_retries_cost_no_quota(
    connect: Connect, script: Script, pause: Callable[[float], None]
) -> None:
    """After any number of refused retries, one that fits is still made."""
    pause(5.0)
    client = await connect(url=script.url, retries=RETRIES)
    for _ in range(120):
        script.play(FAILS)
        async with deadline(0.5):
            with pytest.raises(client.exceptions.InternalServerError):
                await client.list_tables()
    pause(0.0)
    script.play(FAILS)
    async with deadline(0.5):
        await client.list_tables()
    assert len(script.requests) == 2


@MODES
async def test_an_attempt_given_up_is_followed_by_another_whatever_the_quota(
    connect: Connect, script: Script, pause: Callable[[float], None], mode: str
) -> None:
    """With the standard mode's quota used up, a stalled call still has all of its time."""
    client = await connect(url=script.url, retries={"mode": mode, "total_max_attempts": 4})
    for _ in range(40):
        script.play(*[FAILS] * 4)
        with pytest.raises(client.exceptions.InternalServerError):
            await client.list_tables()
    assert len(script.requests) == (4 if mode == "legacy" else 1)
    script.play(None)
    async with deadline(0.6):
        await client.list_tables()
    assert len(script.requests) == 2
    script.play(*[None] * 4)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.5):
            await client.list_tables()
    assert 0.5 <= caught.value.elapsed < 0.5 + LATE
    script.play(None)
    async with deadline(0.3):
        with aws.limits(per_attempt=0.2, min_attempt=0.15), pytest.raises(InsufficientTime):
            await client.list_tables()


# --- calls that are not sent ------------------------------------------------------------------------------


async def test_a_refused_call_lets_the_loop_run(connect: Connect) -> None:
    """A loop that makes it again at once keeps no other task from its work."""
    client = await connect()
    turns: list[str] = []

    async def other() -> None:
        while turns.count("refused") < 3:
            turns.append("other")
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    async with deadline(60.0):
        with aws.limits(min_attempt=120.0):
            for _ in range(3):
                with pytest.raises(InsufficientTime):
                    await client.list_tables()
                turns.append("refused")
    await beside
    assert turns[:6] == ["other", "refused"] * 3


async def test_a_call_without_useful_time_is_not_sent(
    connect: Connect, fault_proxy: FaultProxy, told: list[Event]
) -> None:
    """Nothing goes over the wire, and the refusal is raised where the call is, to be handled there."""
    client = await connect()
    before = len(fault_proxy.log)
    async with deadline(0.015, name="short") as dl:
        with pytest.raises(InsufficientTime, match=r"dynamodb\.ListTables was not sent") as caught:
            await client.list_tables()
        handled = True
    assert handled
    assert caught.value.deadline is dl
    assert caught.value.started
    assert len(fault_proxy.log) == before
    assert names(told) == ["aws.call_refused"]
    left = told[0].fields["left"]
    assert 0 < left < 0.015
    assert told[0].fields == {
        "service": "dynamodb",
        "operation": "ListTables",
        "left": left,
        "needs": 0.02,
        "deadline": "short",
    }


async def test_a_refusal_belongs_to_the_deadline_that_ends_first(connect: Connect) -> None:
    """If the outer deadline leaves less time, the refusal names that one."""
    client = await connect()
    async with deadline(0.015, name="outer") as outer:
        async with deadline(5.0, name="inner"):
            with pytest.raises(InsufficientTime, match="outer") as caught:
                await client.list_tables()
    assert caught.value.deadline is outer
    async with deadline(5.0, name="outer"):
        async with deadline(0.015, name="inner") as inner:
            with pytest.raises(InsufficientTime, match="inner") as caught:
                await client.list_tables()
    assert caught.value.deadline is inner


async def test_an_outer_deadline_cuts_the_call(connect: Connect, fault_proxy: FaultProxy) -> None:
    """A call in two deadlines ends at the earlier one, which raises."""
    client = await connect()
    fault_proxy.add(Stall())
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.2) as outer, deadline(5.0):
            await client.list_tables()
    assert caught.value.deadline is outer
    assert 0.2 <= caught.value.elapsed < 0.2 + LATE


async def test_a_call_while_the_block_is_cut_is_cut_too(
    connect: Connect, fault_proxy: FaultProxy, told: list[Event]
) -> None:
    """In a `finally` of a block that is being cut a call is sent, and cut when unwinding has had its time."""
    client = await connect()
    fault_proxy.add(Stall())
    seen: list[type[BaseException]] = []
    before = len(fault_proxy.log)
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(1.1, margin=1.0) as dl:
            try:
                await client.list_tables()
            finally:
                sent = len(fault_proxy.log)
                try:
                    await client.list_tables()
                except BaseException as error:
                    seen.append(type(error))
                    raise
    assert seen == [asyncio.CancelledError]
    assert caught.value.deadline is dl
    assert type(caught.value) is DeadlineExceeded
    assert before < sent < len(fault_proxy.log)


# --- many calls -------------------------------------------------------------------------------------------


async def in_gather(client: Any) -> None:
    await asyncio.gather(*(client.list_tables() for _ in range(8)))


async def in_a_task_group(client: Any) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(client.list_tables())


async def in_anyios_task_group(client: Any) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(client.list_tables)


TOGETHER = pytest.mark.parametrize("together", [in_gather, in_a_task_group, in_anyios_task_group])


@TOGETHER
async def test_calls_at_once_all_end_at_soft(
    connect: Connect, fault_proxy: FaultProxy, together: Any
) -> None:
    """Calls in tasks of one block end with it; no task, entry or connection is left, the client goes on."""
    client = await connect(retries=RETRIES, max_pool_connections=6)  # so that two wait for a connection
    rule = fault_proxy.add(Stall())
    tasks, started = asyncio.all_tasks(), time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.5):
            await together(client)
    assert 0.5 <= time.monotonic() - started < 0.5 + LATE
    assert type(caught.value) is DeadlineExceeded
    # Which of the children the report has seen is a matter of microseconds; what it has must be right.
    assert {call.operation for task in caught.value.report.tasks if (call := task.call)} <= {"ListTables"}
    assert caught.value.report.left_running == ()
    assert calls == {}
    assert asyncio.all_tasks() == tasks
    assert in_use(client) == 0
    rule.remove()
    started = time.monotonic()
    async with deadline(1.0):
        await together(client)
    assert time.monotonic() - started < 0.5


async def test_fifty_cuts_leave_a_client_as_good_as_new(connect: Connect, fault_proxy: FaultProxy) -> None:
    """On a pool of two, fifty calls that were cut hold no connection and no quota."""
    client = await connect(retries=RETRIES, max_pool_connections=2)
    rule = fault_proxy.add(Stall())
    tasks = asyncio.all_tasks()
    for _ in range(50):
        with pytest.raises(DeadlineExceeded):
            async with deadline(0.025):
                await client.list_tables()
    rule.remove()
    assert calls == {}
    assert in_use(client) == 0
    assert asyncio.all_tasks() == tasks
    fault_proxy.add(Stall(), times=1)
    started = time.monotonic()
    async with deadline(0.6):
        await client.list_tables()
    assert time.monotonic() - started < 0.6


async def test_tasks_have_the_deadline_in_which_they_were_started(
    connect: Connect, fault_proxy: FaultProxy
) -> None:
    """A bare task is not cut, but while the block is open and its time is up its calls are refused."""
    client = await connect()
    before = len(fault_proxy.log)

    async def later() -> None:
        await asyncio.sleep(0.1)
        await client.list_tables()

    with pytest.raises(DeadlineExceeded):
        async with deadline(0.05):
            task = asyncio.create_task(later())
            try:
                await asyncio.sleep(9)
            finally:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait((task,))
    assert isinstance(task.exception(), InsufficientTime)
    assert len(fault_proxy.log) == before


async def test_a_task_that_outlives_its_deadline_calls_as_without_one(
    connect: Connect, fault_proxy: FaultProxy
) -> None:
    """After the block was left, a task that it started is free of it."""
    client = await connect()

    async def later() -> Any:
        await asyncio.sleep(0.15)
        return await client.list_tables()

    with pytest.raises(DeadlineExceeded):
        async with deadline(0.1):
            task = asyncio.create_task(later())
            await asyncio.sleep(9)
    assert (await task)["TableNames"] == []


# --- cancellation from outside ----------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0.3, 30.0], ids=["unlimited attempt", "limited attempt"])
async def test_a_cancellation_stays_a_cancellation(
    connect: Connect, fault_proxy: FaultProxy, told: list[Event], budget: float
) -> None:
    """A call cancelled from outside is neither retried nor converted, and leaves nothing behind."""
    client = await connect(retries=RETRIES)
    fault_proxy.add(Stall())
    before = len(fault_proxy.log)

    async def call() -> None:
        async with deadline(budget):
            await client.list_tables()

    task = asyncio.create_task(call())
    await asyncio.to_thread(fault_proxy.wait_until, lambda log: len(log) > before)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert len(fault_proxy.log) == before + 1
    assert calls == {}
    assert in_use(client) == 0
    assert told == []


async def test_a_users_own_timeout_is_not_ours(connect: Connect, fault_proxy: FaultProxy) -> None:
    """`asyncio.timeout` around a call, inside of a deadline, works as ever."""
    client = await connect(retries=RETRIES)
    fault_proxy.add(Stall())
    before = len(fault_proxy.log)
    async with deadline(5.0):
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.1):
                await client.list_tables()
    assert type(caught.value) is TimeoutError
    assert len(fault_proxy.log) == before + 1


async def test_a_timeout_of_somebody_elses_is_passed_on(connect: Connect) -> None:
    """What a send that was wrapped already raises is raised as it is, a TimeoutError too."""
    client = await connect(retries={"mode": "standard", "total_max_attempts": 2})
    theirs = TimeoutError("theirs")

    async def send(_: Any) -> Any:
        raise theirs

    client._endpoint.http_session.send = send
    async with deadline(5.0):
        with aws.limits(per_attempt=1.0), pytest.raises(TimeoutError) as caught:
            await client.list_tables()
    assert caught.value is theirs


# --- calls inside of calls --------------------------------------------------------------------------------


def in_flight() -> Call | None:
    task = asyncio.current_task()
    assert task is not None
    return calls.get(task)


async def test_a_call_inside_a_call_is_told_apart(fault_proxy: FaultProxy, connect: Connect) -> None:
    """While credentials are refreshed the call in flight is the refreshing one, then the first again."""
    sts = await connect("sts", retries=RETRIES)
    seen: list[str | None] = []

    def note() -> None:
        call = in_flight()
        seen.append(f"{call.service}.{call.operation}" if call else None)

    async def refresh() -> dict[str, str]:
        note()
        await sts.get_caller_identity()
        note()
        hour = dt.timedelta(hours=1)
        return {
            "access_key": "testing",
            "secret_key": "testing",
            "token": "testing",
            "expiry_time": (dt.datetime.now(dt.UTC) + hour).isoformat(),
        }

    expired = {"access_key": "a", "secret_key": "b", "token": "c", "expiry_time": "2000-01-01T00:00:00+00:00"}
    session: Any = aws.install(get_session())
    session._credentials = AioRefreshableCredentials.create_from_metadata(
        expired, refresh_using=refresh, method="test"
    )
    async with session.create_client("dynamodb", config=None) as dynamodb:
        async with deadline(2.0):
            await dynamodb.list_tables()
        assert seen == ["dynamodb.ListTables"] * 2
        assert calls == {}

        session._credentials._expiry_time = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
        fault_proxy.add(Stall())
        with pytest.raises(DeadlineExceeded, match=r"awaiting sts\.GetCallerIdentity attempt") as caught:
            async with deadline(0.2):
                await dynamodb.list_tables()
    assert 0.2 <= caught.value.elapsed < 0.2 + LATE
    assert calls == {}
    gc.collect()


async def test_the_operation_is_done_once(connect: Connect, fault_proxy: FaultProxy) -> None:
    """A healthy call goes over the wire once, and takes no attempt's limit for anything else."""
    client = await connect("s3", retries=RETRIES)
    before = len(fault_proxy.log)
    async with deadline(2.0):
        await client.create_bucket(Bucket="box")
        await client.put_object(Bucket="box", Key="a", Body=b"one")
        answer = await client.get_object(Bucket="box", Key="a")
        assert await answer["Body"].read() == b"one"
    served: list[Exchange] = fault_proxy.log[before:]
    assert [exchange.request.method for exchange in served] == ["PUT", "PUT", "GET"]


@pytest.mark.parametrize("group", [asyncio.TaskGroup, anyio.create_task_group])
async def test_calls_in_a_group_childs_finally_do_not_hide_the_cut(connect: Connect, group: Any) -> None:
    """A child that calls AWS while it unwinds is refused; the block still ends with its own error."""
    client = await connect("s3")

    async def child() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            await client.list_buckets()

    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.2) as dl, group() as tasks:
            start = getattr(tasks, "start_soon", None) or (lambda function: tasks.create_task(function()))
            start(child)
            start(child)
    assert caught.value.deadline is dl
    assert not isinstance(caught.value, InsufficientTime)


async def test_behind_a_shield_a_call_may_be_sent_all_the_same(connect: Connect) -> None:
    """Cleaning up behind a shield in a block that was cut is sent with `min_attempt=0`."""
    client = await connect("s3")
    buckets = None
    with pytest.raises(DeadlineExceeded):
        async with deadline(0.2):
            try:
                await asyncio.sleep(9)
            finally:
                with anyio.CancelScope(shield=True), aws.limits(min_attempt=0):
                    buckets = (await client.list_buckets())["Buckets"]
    assert buckets == []

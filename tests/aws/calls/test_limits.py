"""`limits`: for those who know better than the default split."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ReadTimeoutError
from botocore.loaders import create_loader

from deadline import DeadlineExceeded, InsufficientTime, aws, deadline
from deadline.aws._calls.hedging import READS
from deadline.aws._calls.limits import current_limits
from deadline.aws._calls.planner import LONG, Limits
from deadline.testing import Delay, FaultProxy, Stall

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.aws.conftest import Connect, Script

FAILS = (500, "InternalServerError")
MODES = pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])


# --- what is in force -------------------------------------------------------------------------------------


def test_nothing_is_in_force_outside() -> None:
    """Outside of any block there are no limits."""
    assert current_limits() is None


def test_limits_nest_and_are_restored() -> None:
    """What a block leaves out stays as it was around it, and what it says ends with it."""
    with aws.limits(attempts=3, per_attempt=0.5):
        assert current_limits() == Limits(attempts=3, per_attempt=0.5)
        with aws.limits(attempts=1, min_attempt=0):
            assert current_limits() == Limits(attempts=1, per_attempt=0.5, min_attempt=0.0)
            with aws.limits():
                assert current_limits() == Limits(attempts=1, per_attempt=0.5, min_attempt=0.0)
        assert current_limits() == Limits(attempts=3, per_attempt=0.5)
    assert current_limits() is None


def test_limits_end_with_an_error() -> None:
    """An error that leaves the block takes the limits back and goes on."""
    with pytest.raises(KeyError):
        with aws.limits(attempts=1):
            raise KeyError
    assert current_limits() is None


async def test_tasks_inherit_limits() -> None:
    """A task has the limits of the block that it was started in, also after that was left."""

    async def ask() -> Limits | None:
        await asyncio.sleep(0)
        return current_limits()

    with aws.limits(attempts=2):
        inside = asyncio.create_task(ask())
    outside = asyncio.create_task(ask())
    assert await inside == Limits(attempts=2)
    assert await outside is None


@pytest.mark.parametrize(
    ("argument", "value", "kind"),
    [
        ("attempts", True, TypeError),
        ("attempts", 2.0, TypeError),
        ("attempts", "2", TypeError),
        ("attempts", math.nan, TypeError),
        ("attempts", 0, ValueError),
        ("attempts", -1, ValueError),
        ("per_attempt", True, TypeError),
        ("per_attempt", "0.5", TypeError),
        ("per_attempt", 0, ValueError),
        ("per_attempt", -0.5, ValueError),
        ("per_attempt", math.nan, ValueError),
        ("min_attempt", False, TypeError),
        ("min_attempt", "0", TypeError),
        ("min_attempt", -0.1, ValueError),
        ("min_attempt", math.nan, ValueError),
    ],
)
def test_a_wrong_value_is_named(argument: str, value: Any, kind: type[Exception]) -> None:
    """A wrong argument is refused on entry, by its name; nothing comes into force."""
    with pytest.raises(kind, match=rf"^{argument}: "):
        with aws.limits(**{argument: value}):
            pytest.fail("the body ran")
    assert current_limits() is None


# --- what they do -----------------------------------------------------------------------------------------


@MODES
@pytest.mark.slow
@pytest.mark.parametrize("source", [None, 5.0, "no deadline"])
async def test_one_attempt_switches_retrying_off(
    connect: Connect, script: Script, pause: Callable[[float], None], mode: str, source: Any
) -> None:
    """With attempts=1 a call is sent once, in a deadline and without one; afterwards as configured."""
    client = await connect(url=script.url, retries={"mode": mode, "total_max_attempts": 3})
    script.play(FAILS)
    with aws.limits(attempts=1), pytest.raises(client.exceptions.InternalServerError) as caught:
        if source == "no deadline":
            await client.list_tables()
        else:
            async with deadline(source):
                await client.list_tables()
    assert len(script.requests) == 1
    assert not hasattr(caught.value, "__notes__")  # time is not what it lacked
    script.play(FAILS)
    await client.list_tables()
    assert len(script.requests) == 2


@MODES
@pytest.mark.slow
async def test_attempts_are_counted(
    connect: Connect, script: Script, pause: Callable[[float], None], mode: str
) -> None:
    """With attempts=2 the second failure is the last."""
    client = await connect(url=script.url, retries={"mode": mode, "total_max_attempts": 4})
    script.play(*[FAILS] * 9)
    with aws.limits(attempts=2), pytest.raises(client.exceptions.InternalServerError):
        await client.list_tables()
    assert len(script.requests) == 2


@MODES
@pytest.mark.slow
async def test_attempts_above_the_configured_do_nothing(
    connect: Connect, script: Script, pause: Callable[[float], None], mode: str
) -> None:
    """The number of attempts can only be lowered."""
    client = await connect(url=script.url, retries={"mode": mode, "total_max_attempts": 2})
    script.play(*[FAILS] * 9)
    with aws.limits(attempts=9), pytest.raises(client.exceptions.InternalServerError):
        await client.list_tables()
    assert len(script.requests) == 2


@MODES
@pytest.mark.slow
async def test_an_attempt_has_its_limit_without_a_deadline(
    connect: Connect, fault_proxy: FaultProxy, pause: Callable[[float], None], mode: str
) -> None:
    """With per_attempt and no deadline each attempt is given up, the last too, with a read timeout."""
    client = await connect(retries={"mode": mode, "total_max_attempts": 2})
    fault_proxy.add(Stall())
    before, started = len(fault_proxy.log), time.monotonic()
    with aws.limits(per_attempt=0.1), pytest.raises(ReadTimeoutError, match=r"Attempt 2 .* 0\.100 s"):
        await client.list_tables()
    assert 0.2 <= time.monotonic() - started < 0.35
    assert len(fault_proxy.log) - before == 2


def test_what_takes_its_time_exists() -> None:
    """Each name is an operation of the SDK's, with a reason; none of them may join itself by default."""
    loader: Any = create_loader()
    for name, reason in LONG.items():
        service, operation = name.split(".")
        assert operation in loader.load_service_model(service, "service-2")["operations"], name
        assert reason
        assert name not in READS


@pytest.mark.slow
async def test_what_takes_its_time_is_asked_once(connect: Connect, fault_proxy: FaultProxy) -> None:
    """Waiting for messages is no silence: in a new process, too, it is given up by the deadline alone."""
    client = await connect("sqs", warm=False)
    url = (await client.create_queue(QueueName="patient"))["QueueUrl"]
    fault_proxy.add(Delay(1.2), times=1)
    before = len(fault_proxy.log)
    async with deadline(2.5):
        await client.receive_message(QueueUrl=url)
    assert len(fault_proxy.log) - before == 1
    fault_proxy.add(Stall())
    with aws.limits(per_attempt=0.1, attempts=2), pytest.raises(ReadTimeoutError, match="Attempt 2"):
        await client.receive_message(QueueUrl=url)


@pytest.mark.slow
async def test_an_attempt_has_its_limit_in_a_deadline(
    connect: Connect, fault_proxy: FaultProxy, pause: Callable[[float], None]
) -> None:
    """In a deadline per_attempt stands for the split by halves, and the last attempt is given up early."""
    client = await connect(retries={"mode": "standard", "total_max_attempts": 3})
    fault_proxy.add(Stall())
    before, started = len(fault_proxy.log), time.monotonic()
    with pytest.raises(ReadTimeoutError, match="Attempt 3"):
        async with deadline(2.0):
            with aws.limits(per_attempt=0.1):
                await client.list_tables()
    assert 0.3 <= time.monotonic() - started < 0.45
    assert len(fault_proxy.log) - before == 3


@pytest.mark.slow
async def test_the_deadline_cuts_an_attempt_with_a_longer_limit(
    connect: Connect, fault_proxy: FaultProxy
) -> None:
    """An attempt's limit that reaches past the deadline does not move it."""
    client = await connect()
    fault_proxy.add(Stall())
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.1):
            with aws.limits(per_attempt=9.0):
                await client.list_tables()
    assert 0.1 <= caught.value.elapsed < 0.2
    assert not isinstance(caught.value, InsufficientTime)


@pytest.mark.slow
async def test_a_minimum_of_zero_sends_always(connect: Connect, fault_proxy: FaultProxy) -> None:
    """With min_attempt=0 a call is sent with a few milliseconds left; by default it is not."""
    client = await connect()
    before = len(fault_proxy.log)
    with pytest.raises(InsufficientTime):
        async with deadline(0.015):
            await client.list_tables()
    assert len(fault_proxy.log) == before
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.015):
            with aws.limits(min_attempt=0):
                fault_proxy.add(Stall())
                await client.list_tables()
    assert not isinstance(caught.value, InsufficientTime)
    await asyncio.to_thread(fault_proxy.wait_until, lambda log: len(log) == before + 1)


@pytest.mark.slow
async def test_a_larger_minimum_refuses_more(connect: Connect, fault_proxy: FaultProxy) -> None:
    """With a min_attempt longer than what is left the call is refused; the message has both numbers."""
    client = await connect()
    before = len(fault_proxy.log)
    async with deadline(0.5):
        with aws.limits(min_attempt=0.6), pytest.raises(InsufficientTime, match=r"0\.600 s.*0\.(5|49)"):
            await client.list_tables()
        await client.list_tables()
    assert len(fault_proxy.log) == before + 1


@pytest.mark.slow
async def test_a_minimum_without_a_deadline_refuses_nothing(connect: Connect) -> None:
    """Where no deadline ends the time there is enough of it."""
    client = await connect()
    with aws.limits(min_attempt=math.inf):
        assert (await client.list_tables())["TableNames"] == []
        async with deadline(None):
            assert (await client.list_tables())["TableNames"] == []

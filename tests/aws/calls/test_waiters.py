"""Waiters stop while there is time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import WaiterError

from deadline import InsufficientTime, deadline

if TYPE_CHECKING:
    from deadline.testing import FaultProxy
    from tests.aws.conftest import Connect, Script

pytestmark = pytest.mark.slow


def polls(proxy: FaultProxy) -> int:
    return sum(exchange.request.operation == "DescribeTable" for exchange in proxy.log)


async def test_a_waiter_does_not_sleep_into_the_cut(fault_proxy: FaultProxy, connect: Connect) -> None:
    """A waiter whose next poll cannot fit is refused at once, not cut in its sleep."""
    client = await connect()
    async with deadline(5.0) as dl:
        with pytest.raises(InsufficientTime, match="waiter TableExists has no time") as caught:
            await client.get_waiter("table_exists").wait(TableName="never", WaiterConfig={"Delay": 9})
        assert dl.remaining() > 4.0
    assert isinstance(caught.value.__cause__, WaiterError)
    assert polls(fault_proxy) == 1


async def test_a_waiter_polls_as_often_as_fits(fault_proxy: FaultProxy, connect: Connect) -> None:
    """With room for more polls they are made."""
    client = await connect()
    async with deadline(1.4):
        with pytest.raises(InsufficientTime):
            await client.get_waiter("table_exists").wait(TableName="never", WaiterConfig={"Delay": 0.6})
    assert polls(fault_proxy) == 3


async def test_a_waiters_own_limit_stays(fault_proxy: FaultProxy, connect: Connect) -> None:
    """A waiter that ends by its own limit raises its own error."""
    client = await connect()
    async with deadline(5.0):
        with pytest.raises(WaiterError):
            await client.get_waiter("table_exists").wait(
                TableName="never", WaiterConfig={"Delay": 0.01, "MaxAttempts": 2}
            )
    assert polls(fault_proxy) == 2


async def test_a_waiter_without_a_deadline_is_as_before(fault_proxy: FaultProxy, connect: Connect) -> None:
    """Without a deadline a waiter polls as it is configured."""
    client = await connect()
    with pytest.raises(WaiterError):
        await client.get_waiter("table_exists").wait(
            TableName="never", WaiterConfig={"Delay": 0.01, "MaxAttempts": 3}
        )
    assert polls(fault_proxy) == 3


async def test_a_waiter_that_fails_is_not_short_of_time(script: Script, connect: Connect) -> None:
    """A waiter that the service's error ends says that error, though only some of its polls had fitted."""
    client = await connect(url=script.url)
    script.play((400, "AccessDeniedException"))
    async with deadline(5.0):
        with pytest.raises(WaiterError, match="AccessDeniedException"):
            await client.get_waiter("table_exists").wait(TableName="never", WaiterConfig={"Delay": 9})
    assert len(script.requests) == 1

"""S3 Express: a session that was being created when its call was cut does not haunt later calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deadline import DeadlineExceeded, InsufficientTime, aws, deadline
from deadline.testing import Stall

if TYPE_CHECKING:
    from deadline.testing import FaultProxy
    from tests.aws.conftest import Connect

pytestmark = pytest.mark.slow

BUCKET = "bucket--use1-az4--x-s3"


async def test_a_cut_session_is_created_again(fault_proxy: FaultProxy, connect: Connect) -> None:
    """After a cut CreateSession the next call asks for a session again, instead of failing unsent."""
    client = await connect("s3", retries={"max_attempts": 0})
    fault_proxy.add(Stall())
    asked: list[list[str]] = []
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            async with deadline(0.3):
                await client.head_object(Bucket=BUCKET, Key="key")
        asked.append([exchange.request.path for exchange in fault_proxy.log[len(asked) + 1 :]])
    assert all("session" in paths[0] for paths in asked)
    assert len(asked) == 2


async def test_a_session_that_was_refused_is_created_again(fault_proxy: FaultProxy, connect: Connect) -> None:
    """The refusal of one CreateSession is not the answer to later calls, which have time."""
    client = await connect("s3", retries={"max_attempts": 1})
    fault_proxy.add(Stall())
    before = len(fault_proxy.log)
    async with deadline(1.0):
        with aws.limits(per_attempt=0.5, min_attempt=0.6), pytest.raises(InsufficientTime):
            await client.head_object(Bucket=BUCKET, Key="key")
    assert len(fault_proxy.log) == before + 1
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.5):
            await client.head_object(Bucket=BUCKET, Key="key")
    assert not isinstance(caught.value, InsufficientTime)
    assert len(fault_proxy.log) > before + 1

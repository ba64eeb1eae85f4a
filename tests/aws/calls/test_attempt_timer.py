"""One timer looks at all attempts in flight."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

import pytest

from deadline import aws
from deadline.aws._calls.attempt_timer import AttemptTimer, attempt_timer_of
from deadline.testing import Stall

if TYPE_CHECKING:
    from deadline.testing import FaultProxy, VirtualClock
    from tests.aws.conftest import Connect


class Looked:
    """Remembers when it was looked at, and asks to be looked at again after each of `further` seconds."""

    def __init__(self, *further: float) -> None:
        self.at: list[float] = []
        self._further = list(further)

    def look(self, now: float) -> float:
        self.at.append(now)
        return now + self._further.pop(0) if self._further else math.inf


def timers() -> list[asyncio.TimerHandle]:
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return [timer for timer in scheduled if not timer.cancelled()]


async def test_each_is_looked_at_in_its_own_time(virtual_clock: VirtualClock) -> None:
    """Whatever the order in which they came: sooner ones later, two at once, some again."""
    loop = asyncio.get_running_loop()
    timer, start = AttemptTimer(loop), loop.time()
    late, soon, again = Looked(), Looked(), Looked(1.0, 0.25)
    timer.begin(late, start + 5.0)
    timer.begin(soon, start + 1.0)
    timer.begin(again, start + 1.0)
    await asyncio.sleep(10.0)
    assert (late.at, soon.at) == ([start + 5.0], [start + 1.0])
    assert again.at == [start + 1.0, start + 2.0, start + 2.25]


async def test_what_has_ended_is_not_looked_at(virtual_clock: VirtualClock) -> None:
    """Its timer may ring; with nobody else there is none after that."""
    loop = asyncio.get_running_loop()
    timer, start = AttemptTimer(loop), loop.time()
    ended, other = Looked(), Looked()
    timer.begin(ended, start + 1.0)
    timer.begin(other, start + 2.0)
    timer.end(ended)
    timer.end(ended)
    await asyncio.sleep(1.5)
    assert len(timers()) == 1
    await asyncio.sleep(1.5)
    assert (ended.at, other.at) == ([], [start + 2.0])
    timer.begin(ended, start + 4.0)
    timer.end(ended)
    await asyncio.sleep(2.0)
    assert (ended.at, timers()) == ([], [])


async def test_many_share_one_timer(virtual_clock: VirtualClock) -> None:
    """A thousand at once are one timer, and a loop has one timer."""
    loop = asyncio.get_running_loop()
    timer = attempt_timer_of(loop)
    assert attempt_timer_of(loop) is timer
    looked = [Looked() for _ in range(1000)]
    for number, one in enumerate(looked):
        timer.begin(one, loop.time() + 1.0 + number / 1000)
    assert len(timers()) == 1
    await asyncio.sleep(3.0)
    assert all(len(one.at) == 1 for one in looked)


@pytest.mark.slow
@pytest.mark.parametrize("cancelled_at", [0.04, 0.08])
async def test_a_cancellation_in_the_turn_of_giving_up_is_kept(
    connect: Connect, fault_proxy: FaultProxy, cancelled_at: float
) -> None:
    """Just before it or just after, in one turn of the loop: the task is cancelled, nothing is sent again."""
    client = await connect()
    fault_proxy.add(Stall())
    before = len(fault_proxy.log)
    loop = asyncio.get_running_loop()
    with aws.limits(per_attempt=0.05):
        task = asyncio.create_task(client.list_tables())
    loop.call_later(0.03, time.sleep, 0.07)
    loop.call_later(cancelled_at, task.cancel)
    await asyncio.wait([task], timeout=2.0)
    assert task.cancelled()
    assert len(fault_proxy.log) - before == 1

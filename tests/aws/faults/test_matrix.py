"""Whatever goes wrong with an AWS operation under a deadline, it ends in time, rightly, and leaves nothing.

Every fault on every operation in every retry mode; a dozen at once, so the bounds are wide. The benchmark
`aws_faults.py` plays the same cells one at a time and tells how late they are.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("aioboto3", reason="managed transfers and the batch writer are aioboto3's")

from faults import FAULTS, MODES, OPERATIONS, Range

if TYPE_CHECKING:
    from deadline.testing import MotoServer

pytestmark = [
    pytest.mark.slow,
    # aiobotocore does not close a body that broke off.
    pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning"),
]

BUDGET = 0.75
MARGIN = 0.3
# A dozen at once, on any machine: what these catch is the read timeout's minute. The benchmark is precise.
TOLERANCE = 5.0
NEXT_CALL = 10.0
NEVER = 90.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_every_fault_ends_in_time_and_leaves_nothing(
    moto_server: MotoServer, operation: str, mode: str
) -> None:
    """It ends in time, cut, refused or with an honest error; tasks, slots and uploads are gone."""
    await play(moto_server, operation, mode)


@pytest.mark.parametrize("operation", ["small call", "stream", "upload"])
def test_every_fault_on_uvloop(moto_server: MotoServer, operation: str) -> None:
    """The same on uvloop, which brings its own transports."""
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play(moto_server, operation, "standard"))


async def play(moto_server: MotoServer, operation: str, mode: str) -> None:
    place = Range(moto_server.url)
    await place.set_up()
    budget, to_play = BUDGET, list(FAULTS)
    async with asyncio.timeout(NEVER):
        while to_play:
            shots = await place.fire(mode, operation, to_play, budget, MARGIN)
            for shot in shots:
                assert not shot.ending.startswith("wrong"), shot
                assert shot.late <= shot.share * MARGIN + TOLERANCE, shot
                assert shot.found == [], shot
                assert shot.next_call <= NEXT_CALL, shot
            # On a busy machine the time may be up before any request has met the fault: that says nothing.
            to_play = [shot.fault for shot in shots if not shot.met]
            budget *= 2

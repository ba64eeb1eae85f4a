"""Whatever goes wrong with an AWS operation under a deadline, it ends in time, rightly, and leaves nothing.

Every fault on every operation in the retry modes without a limiter of their own (the adaptive mode's holds
a client back for as long as it likes); many at once, so the bounds are wide. The
benchmark `aws_faults.py` plays the same cells one at a time and tells how late they are.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("aioboto3", reason="managed transfers and the batch writer are aioboto3's")

sys.path.insert(0, str(Path(__file__).parent))
try:
    from faults import FAULTS, MODES, OPERATIONS, Range
finally:
    sys.path.pop(0)

if TYPE_CHECKING:
    from deadline.testing import MotoServer

pytestmark = [
    pytest.mark.slow,
    # aiobotocore does not close a body that broke off.
    pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning"),
]

BUDGET = 0.75
MARGIN = 0.3
TOLERANCE = 1.0  # a dozen at once, on any machine; the benchmark is precise
NEXT_CALL = 3.0
NEVER = 20.0


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "adaptive"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_every_fault_ends_in_time_and_leaves_nothing(
    moto_server: MotoServer, operation: str, mode: str
) -> None:
    """It ends in time, cut, refused or with an honest error; tasks, slots and uploads are gone."""
    place = Range(moto_server.url)
    await place.set_up()
    async with asyncio.timeout(NEVER):
        shots = await place.fire(mode, operation, FAULTS, BUDGET, MARGIN)
    assert len(shots) == 12
    # On a machine too busy to get as far as the fault, a cell says nothing.
    told = [shot for shot in shots if "no request met the fault" not in shot.found]
    assert len(told) >= 6
    for shot in told:
        assert not shot.ending.startswith("wrong"), shot
        assert shot.late <= shot.share * MARGIN + TOLERANCE, shot
        # A CreateMultipartUpload that was cut in flight leaves an upload whose id nobody here can know.
        assert [what for what in shot.found if "UploadId" not in what] == [], shot
        assert shot.next_call <= NEXT_CALL, shot

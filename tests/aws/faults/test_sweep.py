"""Wherever a critical section is cut, and whatever goes wrong at which step, its report is true.

A tenth of the grid; the benchmark `section_sweep.py` plays all of it. How long things take is no matter here:
what is late only falls elsewhere in the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("aioboto3", reason="the sweep's clients are aioboto3's")

from sweep import MARGINS, grid, sweep

if TYPE_CHECKING:
    from deadline.testing import MotoServer

pytestmark = pytest.mark.slow

AT_ONCE = 12


def test_no_report_is_wrong(moto_server: MotoServer) -> None:
    """Done, undone, or exactly as told; unknown only where a request went out and no answer came."""
    runs = sweep(moto_server.url, grid(MARGINS, 60)[::10], at_once=AT_ONCE)
    assert [run for run in runs if run.wrong] == []
    assert {"undone", "partial"} <= {run.told for run in runs}
    assert "unknown" in {fate for run in runs for fate in run.fates.values()}
    assert any(run.may_land for run in runs)


def test_the_plain_form_is_left_in_between(moto_server: MotoServer) -> None:
    """What the sweep looks for is there to be found."""
    runs = sweep(moto_server.url, grid(["plain"], 60)[::30], at_once=AT_ONCE)
    assert any(run.in_between and run.told == "nothing" for run in runs)

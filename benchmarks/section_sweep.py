"""What a function leaves and tells that is cut: three steps, sixty instants, every fault at every step.

It is the sweep of `tests/aws/faults/test_sweep.py`, all of it. No time is measured: what counts is whether
what was told is so.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _harness import Criterion, Result, Table

from deadline.testing import MotoServer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "harness"))
from sweep import FAULTS, FORMS, MARGINS, SPAN, grid, sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sweep import Run

INSTANTS = 60
AT_ONCE = 12
BINS = 20

ENDINGS = {
    "done": "#15803d",
    "undone": "#0369a1",
    "not begun": "#a8a29e",
    "partial": "#ca8a04",
    "killed, all or nothing": "#d6d3d1",
    "killed, in between": "#c2410c",
    "failed, all or nothing": "#fdba74",
    "failed, in between": "#9a3412",
    "wrong": "#000000",
}


def _table(runs: Sequence[Run]) -> Table:
    counted = Counter((run.cell.form, run.cell.fault, run.ending) for run in runs)
    endings = [ending for ending in ENDINGS if any(run.ending == ending for run in runs) or ending == "wrong"]
    rows = [
        [f"{form}, {fault or 'no fault'}", *(str(counted[form, fault, ending]) for ending in endings)]
        for form in FORMS
        for fault in (None, *FAULTS)
    ]
    return Table("How the runs ended", ("", *endings), rows)


def _fates(runs: Sequence[Run]) -> Table:
    counted = Counter(
        (run.cell.form, f"{fate}, may land" if step in run.may_land else fate)
        for run in runs
        for step, fate in run.fates.items()
    )
    landed = Counter(run.cell.form for run in runs for _ in run.landed)
    fates = sorted({fate for _, fate in counted})
    rows = [[form, *(str(counted[form, fate]) for fate in fates), str(landed[form])] for form in MARGINS]
    return Table("What was told of the steps, and how many did land", ("", *fates, "landed"), rows)


def main() -> None:
    """Sweep."""
    logging.disable()
    with MotoServer() as moto:
        moto.reset()
        runs = sweep(moto.url, grid(FORMS, INSTANTS), at_once=AT_ONCE)
    for run in runs:
        if run.wrong:
            print(run, file=sys.stderr)
    ours = [run for run in runs if run.cell.form != "plain"]
    untold = [run for run in ours if run.in_between and run.told != "partial" and not run.landed]
    result = Result("section_sweep", "runs", ("aiobotocore", "botocore", "aioboto3", "aiohttp", "moto"))
    result.tables += [_table(runs), _fates(runs)]
    result.criteria += [
        Criterion(f"wrong reports in {len(ours)} runs", [sum(bool(run.wrong) for run in ours)], 0),
        Criterion("runs of ours that were left in between, and told so by nobody", [len(untold)], 0),
    ]

    def draw(axes: Any) -> None:
        for axis, form in zip(axes, FORMS, strict=True):
            mine = [run for run in runs if run.cell.form == form]
            places = [1000 * SPAN * (at + 0.5) / BINS for at in range(BINS)]
            below = [0.0] * BINS
            for ending, colour in ENDINGS.items():
                counted = Counter(int(BINS * run.cell.instant / SPAN) for run in mine if run.ending == ending)
                heights = [float(counted[at]) for at in range(BINS)]
                if any(heights):
                    width = 900 * SPAN / BINS
                    axis.bar(places, heights, width=width, bottom=below, color=colour, label=ending)
                below = [one + other for one, other in zip(below, heights, strict=True)]
            axis.set(xlabel="instant of the cut, ms after the first step's begin", title=form)
            axis.legend(fontsize=6)
        axes[0].set_ylabel("runs")

    result.publish(draw, panels=len(FORMS))


if __name__ == "__main__":
    main()

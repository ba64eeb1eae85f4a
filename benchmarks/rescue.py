"""Who gets a chance to mitigate, whatever the code is doing: a row each, under the real runtime client.

Each shot is an environment of its own, in which the time runs out once; three invocations follow that do
nothing, and must be right. Beside ours stand what asyncio and anyio have, and an alarm that raises. They say
of each row:

    y   a response was posted: the mitigation's, or the body's own
    n   the mitigation ran, and then the process was killed
    -   nothing ran

How late: from the soft instant to the mitigation, in milliseconds, as the context counts. At last the
opposite: invocations that end by themselves around that instant, of which none may come to harm.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from _harness import Criterion, Result, Table, colour
from _rescue_functions import MARGIN, ROWS

from deadline.testing import Emulator

HERE = Path(__file__).resolve().parent
TIMEOUT = 1.5
AT_ONCE = 3
"""Many rows keep a processor busy; more at once, and it is the machine that is measured."""

OURS = "deadline"
ENTRANTS = {
    OURS: "ours",
    "asyncio.timeout": "asyncio_timeout",
    "anyio.fail_after": "anyio_fail_after",
    "signal.alarm": "signal_alarm",
}
"""To each its function in `_rescue_functions.py`."""

LAYERS = {"aws.interrupted": 3, "aws.left_behind": 2}


class Shot(NamedTuple):
    """How one ended.

    Attributes:
        mark: `y`, `n` or `-`.
        layer: Of ours, which one ended it; 4 for none that is here.
        late: Milliseconds from the soft instant to the mitigation.
        after: Whether the next three were right.
    """

    mark: str
    layer: int
    late: float | None
    after: bool


def _shoot(entrant: str, row: str) -> Shot:
    function = f"_rescue_functions.{ENTRANTS[entrant]}"
    with Emulator(function, path=HERE, timeout=TIMEOUT, env={"ROW": row}) as emulator:
        emulator.invoke({"body": "nothing"})
        ended = emulator.invoke({"body": row})
        after = [emulator.invoke({"body": "nothing"}) for _ in range(3)]
    left = re.search(r"mitigated with ([\d.]+) s left", ended.log)
    mark = "y" if ended.status == "success" else "n" if left else "-"
    layer = 4 if ended.status == "timeout" else 1
    layer = next((number for event, number in LAYERS.items() if event in ended.log), layer)
    late = None if left is None else 1000 * (MARGIN - float(left[1]))
    return Shot(mark, layer, late, all(one.status == "success" for one in after))


def _marks(shots: list[Shot]) -> str:
    """One mark if all agree."""
    counts = Counter(shot.mark for shot in shots)
    return " ".join(mark if len(counts) == 1 else f"{count}{mark}" for mark, count in counts.most_common())


def _line(row: str, shots: dict[tuple[str, str], list[Shot]]) -> list[str]:
    ours = shots[OURS, row]
    late = [shot.late for shot in ours if shot.late is not None]
    return [
        row,
        "/".join(map(str, sorted({shot.layer for shot in ours}))),
        f"{statistics.median(late):.0f}" if late else "",
        f"{max(late):.0f}" if late else "",
        f"{sum(shot.after for shot in ours)}/{len(ours)}",
        *(_marks(shots[entrant, row]) for entrant in ENTRANTS),
    ]


def _no_false_alarm(count: int) -> dict[str, Any]:
    script = HERE.parent / "tests" / "aws" / "false_alarms.py"
    told = subprocess.run([sys.executable, str(script), str(count)], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def main() -> None:
    """Shoot them all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--invocations", type=int, default=2000)
    options = parser.parse_args()
    jobs = [(entrant, row) for row in ROWS for entrant in ENTRANTS for _ in range(options.shots)]
    shots: dict[tuple[str, str], list[Shot]] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for job, shot in zip(jobs, pool.map(lambda job: _shoot(*job), jobs), strict=True):
            shots.setdefault(job, []).append(shot)
    false = _no_false_alarm(options.invocations)
    print(*false["wrong"], sep="\n", file=sys.stderr)

    result = Result("rescue", "ms", ("anyio", "awslambdaric"))
    result.tables = [
        Table(
            f"a margin of {MARGIN} s, {options.shots} shots",
            ("", "layer", "late p50", "late max", "next 3 right", *ENTRANTS),
            [_line(row, shots) for row in ROWS],
        ),
        Table(
            "invocations that end around the soft instant",
            ("ended as", "count"),
            [
                *([name, str(count)] for name, count in sorted(false["endings"].items())),
                ["interrupted", str(false["interrupts"])],
                ["wrong", str(len(false["wrong"]))],
            ],
        ),
    ]
    ours = [shot for row in ROWS for shot in shots[OURS, row]]
    interrupted = [
        [shot.late for shot in shots[OURS, row] if shot.layer == 3 and shot.late is not None] for row in ROWS
    ]
    result.criteria = [
        Criterion("shots after which an invocation was wrong", [sum(not shot.after for shot in ours)], 0),
        Criterion(
            "how late an interrupt is, ms, medians of the rows",
            [*map(statistics.median, filter(None, interrupted))],
            20,
        ),
        Criterion("things wrong around the soft instant", [len(false["wrong"])], 0),
    ]

    def draw(axes: Any) -> None:
        names = list(reversed(ROWS))
        for at, entrant in enumerate(ENTRANTS):
            share = [
                sum(shot.mark == "y" for shot in shots[entrant, row]) / len(shots[entrant, row])
                for row in names
            ]
            axes[0].barh(
                [place + 0.3 - at * 0.2 for place in range(len(names))],
                share,
                height=0.18,
                color=colour(entrant),
                alpha=1 - at * 0.22,
                label=entrant,
            )
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set(xlabel="share of shots with a response", xlim=(0, 1.05))
        axes[0].legend(loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=4, frameon=False, fontsize=7)

    result.publish(draw, height=7.5)


if __name__ == "__main__":
    main()

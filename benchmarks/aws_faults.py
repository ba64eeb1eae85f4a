"""How late a block ends when AWS misbehaves: every fault on every kind of operation in every retry mode.

It is the matrix of `tests/aws/faults/test_matrix.py`, a few cells at a time. The default plays each cell of
the standard mode once; `--shots 20 --modes legacy standard adaptive` is the full table.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _harness import Criterion, Result, Table, quantile

from deadline.testing import MotoServer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "harness"))
from faults import FAULTS, MODES, OPERATIONS, Range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faults import Shot

BUDGET = 0.62
MARGIN = 0.2
TOLERANCE = 0.050
NEXT_CALL = 0.100
AT_ONCE = 4

Cells = dict[tuple[str, str, str], list["Shot"]]


def batched(names: Sequence[str], size: int) -> list[Sequence[str]]:
    """In groups of `size`."""
    return [names[at : at + size] for at in range(0, len(names), size)]


async def _fire(url: str, modes: Sequence[str], shots: int) -> Cells:
    place = Range(url)
    await place.set_up()
    cells: Cells = {}
    for turn in range(shots):
        for mode in modes:
            for operation in OPERATIONS:
                for faults in batched(FAULTS, AT_ONCE):
                    for shot in await place.fire(mode, operation, faults, BUDGET, MARGIN):
                        cells.setdefault((mode, operation, shot.fault), []).append(shot)
        print(f"{turn + 1} of {shots} shots", file=sys.stderr, flush=True)
    return cells


def _lateness(shots: Sequence[Shot]) -> str:
    """Milliseconds, median and maximum."""
    late = [1000 * shot.late for shot in shots]
    return f"{quantile(late, 0.5):.1f} / {max(late):.1f}"


def _endings(shots: Sequence[Shot]) -> str:
    """How they ended, and how often if not always in the same way."""
    ways = sorted({shot.ending for shot in shots})
    return ", ".join(
        way if len(ways) == 1 else f"{way} {sum(shot.ending == way for shot in shots)}" for way in ways
    )


def _tables(cells: Cells, modes: Sequence[str]) -> list[Table]:
    columns = ("", *OPERATIONS)
    tables = []
    for mode in modes:
        late = [[f, *(_lateness(cells[mode, o, f]) for o in OPERATIONS)] for f in FAULTS]
        tables.append(
            Table(f"{mode}: ms past the soft instant, p50 / max; negative if it ended before", columns, late)
        )
        ends = [[f, *(_endings(cells[mode, o, f]) for o in OPERATIONS)] for f in FAULTS]
        tables.append(Table(f"{mode}: how it ended", columns, ends))
    return tables


def _criteria(shots: Sequence[Shot]) -> list[Criterion]:
    plain = [shot.late for shot in shots if not shot.share]
    aborting = [shot.late - shot.share * MARGIN for shot in shots if shot.share]
    bad = sum(bool(shot.found) or shot.ending.startswith("wrong") for shot in shots)
    unmet = sum(not shot.met for shot in shots)
    following = [shot.next_call for shot in shots if not shot.paced]
    return [
        Criterion("seconds past the soft instant, 99 of 100 blocks", [quantile(plain, 0.99)], TOLERANCE),
        Criterion("seconds past the soft instant, the latest of all blocks", [max(plain)], TOLERANCE),
        Criterion(
            "seconds past soft and the unwinding share, the latest with an upload to abort",
            [max(aborting)],
            TOLERANCE,
        ),
        Criterion("blocks that ended wrongly, or left a task, a slot or an unnamed upload", [bad], 0),
        Criterion("blocks whose time was up before a request met the fault", [unmet], len(shots) / 100),
        Criterion(
            "seconds of the next call, 99 of 100 that the SDK does not pace",
            [quantile(following, 0.99)],
            NEXT_CALL,
        ),
        Criterion("seconds of the next call, the slowest of them", [max(following)], NEXT_CALL),
    ]


def main() -> None:
    """Play the matrix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=int, default=1, help="how often each cell is played")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["standard"], help="the retry modes")
    options = parser.parse_args()
    logging.disable()  # moto tells of every part that comes after the abort, which aioboto3 does not wait for
    with MotoServer() as moto:
        cells = asyncio.run(_fire(moto.url, options.modes, options.shots))
    shots = [shot for cell in cells.values() for shot in cell]
    for shot in shots:
        if shot.found or shot.ending.startswith("wrong"):
            print(shot, file=sys.stderr)
    line = version("aiobotocore").partition(".")[0]
    name = "aws_faults" if options.shots == 1 else f"aws_faults_full_aiobotocore_{line}"
    result = Result(name, "ms", ("aiobotocore", "botocore", "aioboto3", "aiohttp"))
    result.tables += _tables(cells, options.modes)
    result.criteria += _criteria(shots)

    def draw(axes: Any) -> None:
        for at, operation in enumerate(OPERATIONS):
            late = [1000 * s.late for s in shots if s.operation == operation and s.ending == "cut"]
            axes[0].plot(late, [at] * len(late), "|", color="#c2410c")
        axes[0].set(xlabel="ms past the soft instant", title="Blocks that were cut, every fault and mode")
        axes[0].set_yticks(range(len(OPERATIONS)), list(OPERATIONS))

    result.publish(draw)


if __name__ == "__main__":
    main()

"""How likely the work is done in time, policy by policy and fault by fault.

A run is an invocation that makes five DynamoDB reads one after the other within 2 s, or twenty at once within
1 s; it succeeds if all are answered by then. The simulator plays many, with the same planner as the clients;
real aiobotocore clients against a stub with the same faults play some, to see that it tells the truth.

The default is short. `--runs 10000 --real 200` is the full table.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from _goodput_clients import CLIENTS, played
from _goodput_model import COLUMNS, DRAWN, HEALTHY, HEAVY, INVOCATIONS, Column, drawn
from _goodput_simulator import HEDGED, POLICIES, Cell, Load, simulated
from _goodput_stub import served
from _harness import Criterion, Result, Table, colour

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Cells = Mapping[tuple[str, str, str], Cell]
    """By load, column, policy."""

SEED: Final = 1
OURS, OURS_HEDGED = "deadline", "deadline, hedged"
SDK: Final = "SDK default, promise race"
LANES: Final = {"5 in a row": 12, "20 at once": 4}
"""Processes played at once, for real: more would compete for the processor."""

SHORT: Final = ("10 % hang",)
"""The columns played for real in the short run."""


def seed_of_commit() -> int:
    """A number that nobody chose: from the hash of the commit, 0 outside of a repository."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(answer.stdout[:8] or "0", 16)


def _simulate(job: tuple[Load, Column, str, int]) -> Cell:
    load, column, policy, processes = job
    return simulated(POLICIES[policy], column, load, processes, SEED)


def _simulated(columns: Sequence[Column], runs: int) -> Cells:
    jobs = [
        (load, column, policy, -(-runs // INVOCATIONS))
        for load, column, policy in product(get_args(Load), columns, POLICIES)
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        cells = list(pool.map(_simulate, jobs))
    return {
        (load, column.name, policy): cell for (load, column, policy, _), cell in zip(jobs, cells, strict=True)
    }


async def _real(columns: Sequence[Column], runs: int, draw: int, port: int) -> tuple[Cells, int]:
    """The cells, and how many writes were sent beside another of the same call."""
    cells: dict[tuple[str, str, str], Cell] = {}
    twice = 0
    for load in get_args(Load):
        lane = asyncio.Semaphore(LANES[load])

        async def play(
            column: Column,
            policy: str,
            process: int,
            *,
            write: bool = False,
            load: Load = load,
            lane: asyncio.Semaphore = lane,
        ) -> tuple[Cell, int]:
            async with lane:
                return await played(
                    policy, column, load, process, seed=SEED, draw=draw, port=port, write=write
                )

        for column in columns:
            jobs = [(policy, process) for policy in CLIENTS for process in range(-(-runs // INVOCATIONS))]
            answers = await asyncio.gather(*(play(column, *job) for job in jobs))
            for (policy, _), (cell, _) in zip(jobs, answers, strict=True):
                whole = cells.setdefault((load, column.name, policy), Cell(cell.calls))
                whole.seconds += cell.seconds
                whole.runs += cell.runs
                whole.requests += cell.requests
            twice += (await play(column, OURS_HEDGED, 0, write=True))[1]
    return cells, twice


def _tables(cells: Cells, how: str) -> list[Table]:
    tables = []
    for load in get_args(Load):
        columns = list(dict.fromkeys(column for name, column, _ in cells if name == load))
        policies = list(dict.fromkeys(policy for name, _, policy in cells if name == load))
        for title, text in (
            ("% of runs in time, and half of the 95 % interval", _success),
            ("p50 / p99 of those in time, ms", _seconds),
            ("requests per call in time", lambda cell: f"{cell.per_success:.3f}"),
        ):
            rows = [
                [policy, *(text(cells[load, column, policy]) for column in columns)] for policy in policies
            ]
            tables.append(Table(f"{load}, {how}: {title}", ("", *columns), rows))
    return tables


def _success(cell: Cell) -> str:
    return f"{100 * cell.success:.1f} ±{100 * cell.error:.1f}"


def _seconds(cell: Cell) -> str:
    return f"{1000 * cell.quantile(0.5):.0f} / {1000 * cell.quantile(0.99):.0f}"


def _criteria(cells: Cells) -> list[Criterion]:
    criteria = []
    unhedged = [policy for policy in POLICIES if policy not in HEDGED]
    asked = [column.name for column in COLUMNS]
    for load in get_args(Load):

        def success(policy: str, column: str, load: str = load) -> float:
            return 100 * cells[load, column, policy].success

        def mean(policy: str, load: str = load) -> float:
            return sum(100 * cells[load, column, policy].success for column in asked) / len(asked)

        for mine, field, points in ((OURS_HEDGED, list(POLICIES), 0.5), (OURS, unhedged, 3.0)):
            behind = {
                column: max(success(policy, column) for policy in field) - success(mine, column)
                for column in asked
            }
            worst = max(asked, key=lambda column: behind[column])
            criteria.append(
                Criterion(
                    f"{load}: points that {mine} is behind the best, at most ({worst})",
                    [behind[worst]],
                    points,
                )
            )
            late = {column: _lateness(cells, load, column, mine, field) for column in asked}
            worst = max(asked, key=lambda column: late[column])
            criteria.append(
                Criterion(f"{load}: p99 of {mine} / the best's, at most ({worst})", [late[worst]], 1.1)
            )
        others = [policy for policy in unhedged if policy != OURS]
        criteria.append(
            Criterion(
                f"{load}: points on the mean that {OURS} is behind the best without hedging",
                [max(map(mean, others)) - mean(OURS)],
                0.0,
            )
        )
        for policy in (OURS, OURS_HEDGED):
            healthy, throttled = cells[load, HEALTHY.name, policy], cells[load, "throttling", policy]
            sdk = cells[load, "throttling", SDK]
            criteria += [
                Criterion(f"{load}: requests per success, healthy, {policy}", [healthy.per_success], 1.01),
                Criterion(
                    f"{load}: requests per success, throttled, {policy} / {SDK}",
                    [throttled.per_success / sdk.per_success],
                    1.0,
                ),
            ]
    return criteria


def _lateness(cells: Cells, load: str, column: str, mine: str, field: Sequence[str]) -> float:
    """Our p99 as a multiple of the best policy's: of those that succeed most often, the fastest."""
    most = max(cells[load, column, policy].success for policy in field)
    best = min(
        cells[load, column, policy].quantile(0.99)
        for policy in field
        if cells[load, column, policy].success == most
    )
    return cells[load, column, mine].quantile(0.99) / best


def disagreeing(real: Cells, simulation: Cells) -> list[str]:
    """The cells whose success differs by more than chance explains."""
    return [
        f"{load}, {column}, {policy}: {_success(cell)} and {_success(simulation[load, column, policy])}"
        for (load, column, policy), cell in real.items()
        if abs(cell.success - simulation[load, column, policy].success)
        > cell.error + simulation[load, column, policy].error
    ]


def main() -> None:
    """Simulate all, play some, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="how often each cell is simulated")
    parser.add_argument("--real", type=int, default=20, help="how often each cell is played for real")
    parser.add_argument("--draw", type=int, default=seed_of_commit(), help="the seed of the drawn column")
    options = parser.parse_args()
    columns = [*COLUMNS, HEAVY, drawn(options.draw)]
    full = options.real > INVOCATIONS
    simulation = _simulated(columns, options.runs)
    chosen = columns if full else [column for column in columns if column.name in SHORT]
    with served() as port:
        real, twice = asyncio.run(_real(chosen, options.real, options.draw, port))
    result = Result("goodput_full" if full else "goodput", "%", ("aiobotocore", "botocore", "aiohttp"))
    result.tables += _tables(simulation, "simulated") + _tables(real, "real clients")
    fields = ", ".join(f"{name} {value:.3g}" for name, value in vars(columns[-1]).items() if name != "name")
    result.tables.append(Table(f"{DRAWN}, seed {options.draw}", ("of it",), [[fields]]))
    wrong = disagreeing(real, simulation)
    result.tables.append(Table("cells where they disagree", ("real, simulated",), [[one] for one in wrong]))
    result.criteria += [
        *_criteria(simulation),
        Criterion(
            "share of the cells where real and simulated success disagree", [len(wrong) / len(real)], 0.05
        ),
        Criterion("writes sent beside another of the same call", [twice], 0),
    ]

    def draw(axes: Any) -> None:
        for axis, load in zip(axes, get_args(Load), strict=True):
            for at, policy in enumerate(POLICIES):
                values = [100 * simulation[load, column.name, policy].success for column in columns]
                axis.plot(values, [at] * len(values), "|", color=colour(policy), markersize=12)
            axis.set_yticks(range(len(POLICIES)), POLICIES)
            axis.set(title=f"{load}: each column's success", xlabel="% of runs")

    result.publish(draw, panels=2)


if __name__ == "__main__":
    main()

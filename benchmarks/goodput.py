"""How likely the work is done in time, policy by policy and fault by fault.

A run is an invocation that makes five DynamoDB reads one after the other within 2 s, or twenty at once within
1 s; it succeeds if all are answered by then. The simulator plays many, with the same planner as the clients;
real aiobotocore clients against a stub with the same faults play some, to see that it tells the truth.

The default is short. `--runs 10000 --real 200` is the full table; `--real 0` and `--runs 0` play one part of
it, beside what the results file has of the other; with both, its tables are made anew. `--tuning` plays the
processes with which the planner's constants were chosen, and writes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from _goodput_clients import CLIENTS, paced, played, warm_up
from _goodput_model import COLUMNS, DRAWN, HEALTHY, HEAVY, INVOCATIONS, REPORTED, TUNING, Column, drawn
from _goodput_simulator import HEDGED, LOADS, POLICIES, Cell, Figures, Load, simulated
from _goodput_stub import served
from _harness import RESULTS, Criterion, Result, Table, colour

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Cells = Mapping[tuple[str, str, str], Figures]
    """By load, column, policy."""

OURS, OURS_HEDGED = "deadline", "deadline, hedged"
SDK: Final = "SDK default, promise race"
PACES: Final[dict[Load, float]] = {"5 in a row": 0.05, "20 at once": 0.16}
"""Seconds between the starts of two runs played for real, a few times what they take of the processor."""

LANES: Final = 24
"""Processes played at once, for real."""

SHORT: Final = ("10 % hang",)
"""The columns played for real in the short run."""

SHORT_RUNS, SHORT_REAL = 2000, 20
_AT_ONCE: Final = 5
"""Processes simulated in one go: each with every policy and column, which draw the same chances."""


def seed_of_commit() -> int:
    """A number that nobody chose: from the hash of the commit, 0 outside of a repository."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(answer.stdout[:8] or "0", 16)


def _simulate(job: tuple[Load, Sequence[Column], Sequence[int]]) -> list[Cell]:
    load, columns, processes = job
    cells = [Cell(LOADS[load][0]) for _ in product(columns, POLICIES)]
    for process in processes:
        for cell, (column, policy) in zip(cells, product(columns, POLICIES), strict=True):
            cell.take(simulated(POLICIES[policy], column, load, [process]))
    return cells


def _simulated(columns: Sequence[Column], processes: Sequence[int]) -> Cells:
    figures: dict[tuple[str, str, str], Figures] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for load in get_args(Load):
            cells = [Cell(LOADS[load][0]) for _ in product(columns, POLICIES)]
            jobs = [
                (load, columns, processes[at : at + _AT_ONCE]) for at in range(0, len(processes), _AT_ONCE)
            ]
            for parts in pool.map(_simulate, jobs):
                for cell, part in zip(cells, parts, strict=True):
                    cell.take(part)
            for cell, (column, policy) in zip(cells, product(columns, POLICIES), strict=True):
                figures[load, column.name, policy] = cell.figures
    return figures


async def _played(
    load: Load, columns: Sequence[Column], processes: Sequence[int], draw: int, port: int
) -> tuple[Cells, int]:
    """The cells of one load, and how many writes were sent beside another of the same call."""
    lane, turn = asyncio.Semaphore(LANES), paced(PACES[load])
    figures: dict[tuple[str, str, str], Figures] = {}
    twice = 0

    async def play(column: Column, policy: str, process: int, *, write: bool = False) -> tuple[Cell, int]:
        async with lane:
            return await played(policy, column, load, process, draw=draw, port=port, turn=turn, write=write)

    await warm_up()
    for column in columns:
        cells = {policy: Cell(LOADS[load][0]) for policy in CLIENTS}
        jobs = list(product(CLIENTS, processes))
        answers = await asyncio.gather(*(play(column, *job) for job in jobs))
        for (policy, _), (cell, _) in zip(jobs, answers, strict=True):
            cells[policy].take(cell)
        figures |= {(load, column.name, policy): cell.figures for policy, cell in cells.items()}
        twice += (await play(column, OURS_HEDGED, processes[0], write=True))[1]
        print(f"{load}, {column.name}: played", file=sys.stderr, flush=True)
    return figures, twice


def _play(load: Load, columns: Sequence[Column], processes: Sequence[int], draw: int) -> tuple[Cells, int]:
    with served() as port:
        return asyncio.run(_played(load, columns, processes, draw, port))


def _real(columns: Sequence[Column], processes: Sequence[int], draw: int) -> tuple[Cells, int]:
    """The same for both loads: each is played by a process of its own, against a stub of its own."""
    with ProcessPoolExecutor(len(LOADS)) as pool:
        parts = [pool.submit(_play, load, columns, processes, draw) for load in get_args(Load)]
        figures, twice = zip(*(part.result() for part in parts), strict=True)
    return {key: value for cells in figures for key, value in cells.items()}, sum(twice)


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


def _success(cell: Figures) -> str:
    return f"{100 * cell.success:.1f} ±{100 * cell.error:.1f}"


def _seconds(cell: Figures) -> str:
    return f"{1000 * cell.p50:.0f} / {1000 * cell.p99:.0f}"


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
                    1.001,  # before it has throttled, it is a healthy one, which may be sent an extra request
                ),
            ]
    return criteria


def _lateness(cells: Cells, load: str, column: str, mine: str, field: Sequence[str]) -> float:
    """Our p99 as a multiple of the best policy's: of those that succeed most often, the fastest."""
    most = max(cells[load, column, policy].success for policy in field)
    best = min(
        cells[load, column, policy].p99 for policy in field if cells[load, column, policy].success == most
    )
    return cells[load, column, mine].p99 / best


def disagreeing(real: Cells, simulation: Cells) -> list[str]:
    """The cells whose success differs by more than chance explains."""
    return [
        f"{load}, {column}, {policy}: {_success(cell)} and {_success(simulation[load, column, policy])}"
        for (load, column, policy), cell in real.items()
        if abs(cell.success - simulation[load, column, policy].success)
        > cell.error + simulation[load, column, policy].error
    ]


def _kept(name: str) -> dict[str, Any]:
    """What the results file has of an earlier run."""
    try:
        data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())["data"]
    except (OSError, KeyError):
        return {}
    return data


def _packed(cells: Cells) -> dict[str, Figures]:
    return {"; ".join(key): figures for key, figures in cells.items()}


def _unpacked(cells: Mapping[str, Any]) -> Cells:
    return {tuple(key.split("; ")): Figures(*figures) for key, figures in cells.items()}  # type: ignore[misc]


def _report(result: Result, simulation: Cells, real: Cells) -> None:
    data = result.data
    for how, cells in (("simulated", simulation), ("real clients", real)):
        if cells:
            runs = max(figures.runs for figures in cells.values())
            result.tables += _tables(cells, f"{how}, {runs} runs of each")
    fault = drawn(data["draw"])
    fields = ", ".join(f"{name} {value:.3g}" for name, value in vars(fault).items() if name != "name")
    result.tables.append(Table(f"{DRAWN}, seed {data['draw']}", ("of it",), [[fields]]))
    if simulation:
        result.criteria += _criteria(simulation)
    if real:
        names = {column for _, column, _ in real}
        columns = [column for column in (*COLUMNS, HEAVY, fault) if column.name in names]
        runs = max(figures.runs for figures in real.values())
        wrong = disagreeing(real, _simulated(columns, REPORTED[: runs // INVOCATIONS]))
        result.tables.append(
            Table("cells where they disagree", ("real, simulated",), [[one] for one in wrong])
        )
        result.criteria.append(
            Criterion(
                "share of the cells where real and simulated success of the same runs disagree",
                [len(wrong) / len(real)],
                0.05,
            )
        )
        result.criteria.append(Criterion("writes sent beside another of the same call", [data["twice"]], 0))


def main() -> None:
    """Simulate all, play some, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=SHORT_RUNS, help="how often each cell is simulated")
    parser.add_argument("--real", type=int, default=SHORT_REAL, help="how often each cell is played for real")
    parser.add_argument("--draw", type=int, help="the seed of the drawn column, or else from the commit")
    parser.add_argument("--tuning", action="store_true", help="simulate what the constants were chosen with")
    options = parser.parse_args()
    full = options.runs > SHORT_RUNS or options.real > SHORT_REAL or not (options.runs or options.real)
    result = Result("goodput_full" if full else "goodput", "%", ("aiobotocore", "botocore", "aiohttp"))
    draw = options.draw
    if draw is None:
        draw = seed_of_commit() if options.runs else _kept(result.name).get("draw", seed_of_commit())
    columns = [*COLUMNS, HEAVY, drawn(draw)]
    if options.tuning:
        simulation = _simulated(columns[:-1], TUNING[: -(-options.runs // INVOCATIONS)])
        print(*_tables(simulation, "simulated"), *_criteria(simulation), sep="\n")
        return
    new: dict[str, Any] = {"draw": draw}
    if options.runs:
        new["simulated"] = _packed(_simulated(columns, REPORTED[: -(-options.runs // INVOCATIONS)]))
    if options.real:
        chosen = columns if full else [column for column in columns if column.name in SHORT]
        processes = REPORTED[: -(-options.real // INVOCATIONS)]
        real, new["twice"] = _real(chosen, processes, draw)
        new["real"] = _packed(real)
    kept = _kept(result.name)  # not before: the other part may have been played meanwhile
    data = result.data = {**kept, **new} if kept.get("draw") == draw else new
    simulation = _unpacked(data.get("simulated", {}))
    _report(result, simulation, _unpacked(data.get("real", {})))

    def picture(axes: Any) -> None:
        for axis, load in zip(axes, get_args(Load), strict=True):
            for at, policy in enumerate(POLICIES):
                values = [
                    100 * figures.success
                    for (whose, _, name), figures in simulation.items()
                    if (whose, name) == (load, policy)
                ]
                axis.plot(values, [at] * len(values), "|", color=colour(policy), markersize=12)
            axis.set_yticks(range(len(POLICIES)), POLICIES)
            axis.set(title=f"{load}: each column's success", xlabel="% of runs")

    result.publish(picture, panels=2)


if __name__ == "__main__":
    main()

"""The odds of success, as the goodput benchmark counts them, simulated and for real; what it costs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

_BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
sys.path.insert(0, str(_BENCHMARKS))
try:
    from _goodput_clients import played
    from _goodput_model import COLUMNS, HEALTHY, Column
    from _goodput_simulator import POLICIES, simulated
    from _goodput_stub import served
finally:
    sys.path.pop(0)

PROCESSES = range(-6, 0)
"""Of twenty runs each; neither those that the constants were chosen with nor those of the tables."""

BY_NAME = {column.name: column for column in COLUMNS}


def success(policy: str, column: Column) -> float:
    return 100 * simulated(POLICIES[policy], column, "5 in a row", PROCESSES).figures.success


@pytest.mark.parametrize("column", [column.name for column in COLUMNS])
def test_no_column_is_lost(column: str) -> None:
    """Under every fault reads make it about as often as with the best other rule, and writes nearly so."""
    fault = BY_NAME[column]
    best = max(success(policy, fault) for policy in ("SDK default, promise race", "0.5 s x 3", "1 s x 3"))
    assert success("deadline, hedged", fault) >= best - 2
    assert success("deadline", fault) >= best - 5  # so few runs: chance is a point or two


def test_a_healthy_service_is_sent_next_to_nothing_extra() -> None:
    """Of a hundred requests at most one is extra, with hedging and without."""
    for policy in ("deadline", "deadline, hedged"):
        assert simulated(POLICIES[policy], HEALTHY, "5 in a row", PROCESSES).figures.per_success <= 1.01


def test_a_throttled_service_is_sent_no_more_than_by_the_sdk() -> None:
    """A service that asks for less gets what the SDK's own backoff gives it."""
    throttled = BY_NAME["throttling"]
    cells = {
        policy: simulated(POLICIES[policy], throttled, "5 in a row", PROCESSES).figures
        for policy in ("SDK default, promise race", "deadline", "deadline, hedged")
    }
    for cell in cells.values():
        assert cell.per_success <= cells["SDK default, promise race"].per_success + 1e-9


def test_a_dead_address_is_not_mistaken_for_a_slow_service() -> None:
    """Half of twenty calls at once are silent, the other half are answered: the silent ones are given up."""
    dead = BY_NAME["dead address"]
    warm = range(-19, 0, 2)
    assert simulated(POLICIES["deadline"], dead, "20 at once", warm).figures.p99 < 0.7


@pytest.mark.slow
async def test_simulator_and_real_clients_agree() -> None:
    """Real clients make it about as often, with as many requests, as they are simulated to."""
    column = BY_NAME["10 % hang"]
    policies = ("deadline", "deadline, hedged")
    with served() as port:
        answers = await asyncio.gather(
            *(played(policy, column, "5 in a row", PROCESSES[0], draw=0, port=port) for policy in policies)
        )
    for policy, (cell, _) in zip(policies, answers, strict=True):
        real = cell.figures
        simulation = simulated(POLICIES[policy], column, "5 in a row", PROCESSES[:1]).figures
        assert abs(real.success - simulation.success) <= real.error + simulation.error, policy
        assert real.per_success == pytest.approx(simulation.per_success, abs=0.08), policy


@pytest.mark.slow
async def test_no_write_is_sent_beside_itself() -> None:
    """However a service misbehaves, the wire sees one request of a write at a time, hedging or not."""
    columns = [BY_NAME[name] for name in ("10 % hang", "5 % drip", "dead address", "10 % reset")]
    with served() as port:
        answers = await asyncio.gather(
            *(
                played("deadline, hedged", column, "5 in a row", PROCESSES[0], draw=0, port=port, write=True)
                for column in columns
            )
        )
    for cell, beside in answers:
        assert cell.figures.success > 0.9
        assert beside == 0

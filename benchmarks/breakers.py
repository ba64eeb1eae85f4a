"""What breakers do with asynchronous calls, outer timeouts and a stampede: ours beside others for Python.

Each is set to five failures and a recovery of a second, and otherwise left as it comes; Powertools for AWS
Lambda, which needs a store, gets one in memory. The figures are calls that reached the dependency.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import timedelta
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from _harness import RESULTS, Table

from deadline import Breaker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Call = Callable[[], Coroutine[Any, Any, object]]
    Guard = Callable[[Call], Call]

FAILURES: Final = 5
RECOVERY: Final = 1
TINY: Final = 0.005


class DownError(Exception):
    """The dependency failed."""


class NotFoundError(Exception):
    """The dependency answered that there is no such thing."""

    status = 404


# --- who takes part ---------------------------------------------------------------------------------------


def _ours() -> Guard:
    return Breaker("it", failures=FAILURES, recovery=RECOVERY)


def _purgatory() -> Guard:
    from purgatory import AsyncCircuitBreakerFactory

    guard: Guard = AsyncCircuitBreakerFactory(default_threshold=FAILURES, default_ttl=RECOVERY)("it")
    return guard


def _pybreaker() -> Guard:
    from pybreaker import CircuitBreaker

    guard: Guard = CircuitBreaker(fail_max=FAILURES, reset_timeout=RECOVERY)
    return guard


def _aiobreaker() -> Guard:
    from aiobreaker import CircuitBreaker

    guard: Guard = CircuitBreaker(fail_max=FAILURES, timeout_duration=timedelta(seconds=RECOVERY))
    return guard


def _powertools() -> Guard:
    from aws_lambda_powertools.utilities import circuit_breaker as powertools
    from aws_lambda_powertools.utilities.circuit_breaker.base import _LOCAL_FAILURES
    from aws_lambda_powertools.utilities.circuit_breaker.persistence import CircuitBreakerPersistenceLayer

    class InMemory(CircuitBreakerPersistenceLayer):
        """A store of one process."""

        def __init__(self) -> None:
            super().__init__()
            self.records: dict[str, Any] = {}

        def _get_record(self, name: str) -> Any:
            return self.records.get(name)

        def _put_record(
            self, record: Any, condition: str | None = None, expected_opened_at: int | None = None
        ) -> None:
            self.records[record.name] = record

        def _update_record(self, record: Any) -> None:
            self.records[record.name] = record

    _LOCAL_FAILURES.clear()
    config = powertools.CircuitBreakerConfig(failure_threshold=FAILURES, recovery_timeout=RECOVERY)
    guard: Guard = powertools.circuit_breaker(name="it", persistence_store=InMemory(), config=config)
    return guard


ENTRANTS: dict[str, tuple[str, Callable[[], Guard]]] = {
    "deadline": ("asyncio-deadline", _ours),
    "purgatory": ("purgatory", _purgatory),
    "aiobreaker": ("aiobreaker", _aiobreaker),
    "pybreaker": ("pybreaker", _pybreaker),
    "Powertools": ("aws-lambda-powertools", _powertools),
}


# --- what they are put through ----------------------------------------------------------------------------


class Dependency:
    """Counts who reaches it, and does what it is told to."""

    def __init__(self) -> None:
        self.reached = 0
        self.error: Exception | None = None
        self.seconds = 0.0

    async def __call__(self) -> None:
        """One call."""
        self.reached += 1
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error


def _guarded(dependency: Dependency, guard: Guard) -> Call:
    async def call() -> None:
        await dependency()

    return guard(call)


async def _all_fail(dependency: Dependency, guard: Guard) -> int:
    call = _guarded(dependency, guard)
    dependency.error = DownError()
    for _ in range(20):
        with suppress(Exception):
            await call()
    return dependency.reached


async def _every_second_fails(dependency: Dependency, guard: Guard) -> int:
    call = _guarded(dependency, guard)
    for number in range(20):
        dependency.error = DownError() if number % 2 else None
        with suppress(Exception):
            await call()
    return dependency.reached


async def _all_too_slow(dependency: Dependency, guard: Guard) -> int:
    async def limited() -> None:
        async with asyncio.timeout(TINY):
            await dependency()

    call = guard(limited)
    dependency.seconds = 9.0
    for _ in range(20):
        with suppress(Exception):
            await call()
    return dependency.reached


async def _then_one(dependency: Dependency, call: Call) -> int:
    before = dependency.reached
    dependency.error, dependency.seconds = None, 0.0
    with suppress(Exception):
        await call()
    return dependency.reached - before


async def _after_outer_cuts(dependency: Dependency, guard: Guard) -> int:
    call = _guarded(dependency, guard)
    dependency.seconds = 9.0
    for _ in range(20):
        with suppress(Exception):  # refused, once it counts the cuts
            async with asyncio.timeout(TINY):
                await call()
    return await _then_one(dependency, call)


async def _after_not_found(dependency: Dependency, guard: Guard) -> int:
    call = _guarded(dependency, guard)
    dependency.error = NotFoundError()
    for _ in range(20):
        with suppress(Exception):
            await call()
    return await _then_one(dependency, call)


async def _stampede(dependency: Dependency, guard: Guard) -> int | None:
    if await _all_fail(dependency, guard) == 20:
        return None  # it never opened
    await asyncio.sleep(2 * RECOVERY + 0.1)  # Powertools counts in whole seconds
    dependency.error, dependency.seconds, dependency.reached = None, 0.1, 0
    call = _guarded(dependency, guard)
    await asyncio.gather(*[call() for _ in range(20)], return_exceptions=True)
    return dependency.reached


SCENARIOS: dict[str, tuple[str, Callable[[Dependency, Guard], Awaitable[int | None]]]] = {
    "20 calls, all fail": ("5", _all_fail),
    "20 calls, every second fails": ("10", _every_second_fails),
    "20 calls, each over its own limit": ("5", _all_too_slow),
    "1 call after 20 that an outer timeout cut": ("1", _after_outer_cuts),
    "1 call after 20 answers of 404": ("1", _after_not_found),
    "20 calls at once when it may try again": ("1", _stampede),
}


async def _rows() -> list[list[str]]:
    rows = []
    for title, (wanted, scenario) in SCENARIOS.items():
        cells = []
        for _, make in ENTRANTS.values():
            reached = await scenario(Dependency(), make())
            cells.append("-" if reached is None else str(reached))
        rows.append([title, wanted, *cells])
    return rows


def main() -> None:
    """Put each through all."""
    rows = asyncio.run(_rows())
    versions = {
        name: metadata.version(distribution)
        for name, (distribution, _) in ENTRANTS.items()
        if name != "deadline"
    }
    table = Table("calls that reached the dependency", ("", "wanted", *ENTRANTS), rows)
    print(f"{', '.join(f'{name} {version}' for name, version in versions.items())}\n\n{table}")
    answer = {"benchmark": "breakers", "versions": versions, "columns": table.columns, "rows": rows}
    (RESULTS / "breakers.json").write_text(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main()

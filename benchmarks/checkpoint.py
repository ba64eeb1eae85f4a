"""What a checkpoint costs: `resume.checkpoint(state)` for a frozen dataclass of five fields, and its bytes.

Also for a pydantic model of the same fields, where pydantic is installed. In batches inside of one
invocation, as in `scope_cost.py`.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from _harness import (
    Criterion,
    Result,
    bars,
    costs,
    measured,
    quantile,
)

from deadline import aws
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from collections.abc import Callable

TIMES = 500
BATCHES = 10
"""Per block and entrant."""

DATACLASS = 20.0
BYTES = 2.0
"""Microseconds."""


@dataclass(frozen=True)
class State:
    """Five fields."""

    position: int
    prime: int
    name: str
    share: float
    done: bool


STATE = State(10_000, 104_729, "primes", 0.5, done=False)
TEXT = b'{"position":10000,"prime":104729,"name":"primes","share":0.5,"done":false}'

KINDS: dict[str, tuple[type[Any], Any]] = {"a dataclass": (State, STATE), "its bytes": (State, TEXT)}
try:
    import pydantic
except ImportError:
    pass
else:
    MODEL = pydantic.create_model(
        "Model", position=(int, ...), prime=(int, ...), name=(str, ...), share=(float, ...), done=(bool, ...)
    )
    KINDS["a pydantic model"] = (MODEL, MODEL.model_validate_json(TEXT))


def _handler(kind: type[Any], state: Any) -> Any:
    resume = aws.Resume(kind, to="return")

    @aws.handler(resume=resume)
    async def function(event: Any, context: Any) -> float:
        checkpoint: Callable[[Any], None] = resume.checkpoint
        checkpoint(state)
        started = time.process_time_ns()
        for _ in range(TIMES):
            checkpoint(state)
        return (time.process_time_ns() - started) / TIMES / 1e3

    return function


HANDLERS = {name: _handler(*given) for name, given in KINDS.items()}


async def _batch(name: str) -> float:
    gc.collect()
    result: float = await HANDLERS[name].invoke({"bucket": "b"}, FakeContext(60))
    return result


def main() -> None:
    """Measure."""
    samples = measured(_batch, list(KINDS), BATCHES)
    result = Result("checkpoint", "µs", ("anyio",))
    result.tables.append(costs("CPU, one checkpoint", samples))
    for name, limit in (("a dataclass", DATACLASS), ("its bytes", BYTES)):
        values = [quantile(block, 0.5) for block in samples[name]]
        result.criteria.append(Criterion(f"{name}, µs", values, limit))

    result.publish(bars(samples))


if __name__ == "__main__":
    main()

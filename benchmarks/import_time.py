"""What `import deadline` adds to a start: seconds from starting an interpreter to its end, less a bare one's.

Every run is a fresh interpreter, by the clock on the wall, with all bytecode cached (in a directory of our
own: what is in place may lack some). deadline imports asyncio
and anyio, and whoever runs a task under it loads anyio's asyncio backend: that much is needed anyway
and is the base, so that what counts is what deadline adds. aioboto3 is there for scale.

The second table is where the added time goes, module by module, by `-X importtime`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from _harness import (
    BLOCKS,
    Blocks,
    Criterion,
    Result,
    Table,
    colour,
    empty,
    joined,
    quantile,
    ratios,
    spread,
    turns,
)

RUNS = 8
"""Per block and statement."""

BARE = "pass"
BASE = "import asyncio, anyio, anyio._backends._asyncio"
OURS = f"{BASE}, deadline"
AWS = f"{BASE}, deadline.aws"
SDK = "import aioboto3"
STATEMENTS = {
    BARE: "a bare interpreter",
    "import asyncio": "asyncio",
    BASE: "asyncio, anyio and its backend",
    OURS: "those and deadline",
    AWS: "those and deadline.aws",
    SDK: "aioboto3",
}
MOST_MODULES = 8


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _run(statement: str, *options: str) -> str:
    command = [sys.executable, *options, "-c", statement]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stderr


def _measured() -> dict[str, Blocks]:
    samples = empty(list(STATEMENTS))
    for statement in STATEMENTS:
        _run(statement)  # fills the cache
    for block, _, statement in turns(list(STATEMENTS), RUNS):
        started = time.perf_counter()
        _run(statement)
        samples[statement][block].append((time.perf_counter() - started) * 1e3)
    return samples


def _less_bare(samples: dict[str, Blocks]) -> dict[str, Blocks]:
    bare = [quantile(block, 0.5) for block in samples[BARE]]
    return {
        statement: [[value - base for value in block] for block, base in zip(blocks, bare, strict=True)]
        for statement, blocks in samples.items()
        if statement != BARE
    }


def _modules(statement: str) -> dict[str, int]:
    """Microseconds that each imported module itself takes."""
    found = {}
    for line in _run(statement, "-X", "importtime").splitlines():
        own, _, module = line.removeprefix("import time:").split("|")
        if own.strip().isdecimal():
            found[module.strip()] = int(own)
    return found


def _added() -> Table:
    known = _modules(BASE)
    runs = [_modules(OURS) for _ in range(BLOCKS)]
    costs = {
        module: quantile([run[module] for run in runs], 0.5) for module in runs[0] if module not in known
    }
    dearest = sorted(costs, key=lambda module: -costs[module])[:MOST_MODULES]
    rows = [[module, f"{costs[module] / 1e3:.2f}"] for module in dearest]
    rows.append([f"all {len(costs)}", f"{sum(costs.values()) / 1e3:.2f}"])
    return Table("ms that deadline's own imports add, median of five", ("", "ms"), rows)


def main() -> None:
    """Measure each statement."""
    with tempfile.TemporaryDirectory() as cache:
        ENVIRONMENT["PYTHONPYCACHEPREFIX"] = cache
        samples, added = _less_bare(_measured()), _added()
    rows = [
        [STATEMENTS[statement], f"{quantile(joined(blocks), 0.5):.1f}", spread(blocks)]
        for statement, blocks in samples.items()
    ]
    result = Result("import_time", "ms", ("anyio", "aioboto3"))
    result.tables = [Table("ms beyond a bare interpreter", ("", "p50", "p50 of the blocks"), rows), added]
    result.criteria = [
        Criterion("with deadline / without", ratios(samples[OURS], samples[BASE]), 1.1),
        Criterion("with deadline.aws / without", ratios(samples[AWS], samples[BASE]), 1.3),
    ]

    def draw(axes: Any) -> None:
        names = list(reversed(samples))
        middles = [quantile(joined(samples[name]), 0.5) for name in names]
        colours = [colour("deadline" if "deadline" in name else "") for name in names]
        axes[0].barh([STATEMENTS[name] for name in names], middles, color=colours)
        axes[0].set(xlabel="ms beyond a bare interpreter", title="Import")

    result.publish(draw)


if __name__ == "__main__":
    main()

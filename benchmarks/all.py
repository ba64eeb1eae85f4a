"""Run every benchmark, each in a fresh interpreter, and sum up what was asked for and what came out.

The exit code is 0 even if a criterion falls short: times on a shared machine are to be read, not to gate.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "cancellation_latency",
    "fan_out",
    "scope_cost",
    "section_cost",
    "section_sweep",
    "asgi",
    "checkpoint",
    "breaker_cost",
    "aws_hook",
    "aws_faults",
    "goodput",
    "handler",
    "helper",
    "breadcrumb",
    "import_time",
)
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run them one after the other."""
    for name in BENCHMARKS:
        subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=True)
        print(flush=True)
    print("Criteria, as medians of the blocks' ratios")
    for name in BENCHMARKS:
        for criterion in json.loads((HERE / "results" / f"{name}.json").read_text())["criteria"]:
            print(
                f"  {criterion['verdict']:<11}  {criterion['median']:>6.3f}  "
                f"limit {criterion['limit']:<4g}  {name}: {criterion['claim']}"
            )


if __name__ == "__main__":
    main()

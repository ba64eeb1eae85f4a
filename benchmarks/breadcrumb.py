"""What a breadcrumb costs an invocation: arming it and disarming it, a step inside, and a process's first.

In Lambda's environment variables, with a context that counts as the runtime client's does. "With the stack's
timer" is what Lambda has; "without" leaves the two system calls for it away. The first one makes the file and
looks at what others have left: nothing, or sixteen deaths.
"""

from __future__ import annotations

import gc
import mmap
import os
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from _harness import Blocks, Criterion, Result, Table, added, bars, costs, empty, quantile, turns

from deadline._report.data import Step
from deadline.aws._rescue import breadcrumb as _breadcrumb
from deadline.aws._rescue.breadcrumb import Breadcrumb
from deadline.aws._runtime import process_record as _armed

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS, CALLS, STARTS = 40, 1_000, 5
ALLOWED = 30.0
"""Microseconds an invocation."""
HELPED = 5.0
"""Microseconds for arming the helper, of which the record is a part."""

WITH = "a breadcrumb, with the stack's timer"
WITHOUT = "a breadcrumb, without"
MEMORY = "the record in memory, for the helper"
STEP = "a step's begin and end, beside its own cost"
BARE = "a call"

FIRST = """
import os, sys, time
from deadline.aws._rescue.breadcrumb import Breadcrumb
class Context:
    aws_request_id, function_name, function_version = sys.argv[1], "f", "1"
    def get_remaining_time_in_millis(self): return 60_000
for death in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        if death:  # the first one finds those of before
            from deadline.aws._rescue import breadcrumb as _breadcrumb
            _breadcrumb._collect = lambda folder: []
        Breadcrumb("f", file=True, event=False).run(lambda *_: os._exit(1), None, Context())
    os.waitpid(child, 0)
started = time.perf_counter()
Breadcrumb("f", file=True, event=False).run(lambda *_: None, None, Context())
print((time.perf_counter() - started) * 1e3)
"""


class Context:
    """As the runtime client's."""

    aws_request_id = "083de2c8-ae5c-4ea3-a71c-95372870f695"
    function_name = "orders"
    function_version = "$LATEST"

    def __init__(self) -> None:
        self._ends_ms = int((time.time() + 60) * 1000)

    def get_remaining_time_in_millis(self) -> int:
        """What is left, by the wall clock."""
        return max(self._ends_ms - int(time.time() * 1000), 0)


def _nothing(event: Any, context: Any) -> None:
    """End in time."""


def _in_a_process() -> dict[str, Blocks]:
    """Microseconds a call, in one process."""
    _breadcrumb.look_around(_armed.PAGE)
    file, timer = _armed.armed(), _breadcrumb._timer
    memory = _armed.replace(mmap.mmap(-1, _armed.PAGE))
    crumb, alone = (Breadcrumb("orders", file=kept, event=False) for kept in (True, False))
    context = Context()

    def step() -> None:
        one = Step("copy", 0.0)
        file._see(one)
        one.status = "done"
        file._see(one)

    entrants: dict[str, tuple[Any, Any, Callable[[], object]]] = {
        BARE: (memory, None, lambda: _nothing(None, context)),
        MEMORY: (memory, None, lambda: alone.run(_nothing, None, context)),
        WITHOUT: (file, None, lambda: crumb.run(_nothing, None, context)),
        WITH: (file, timer, lambda: crumb.run(_nothing, None, context)),
        STEP: (file, None, step),
    }
    samples = empty(list(entrants))
    for block, _, name in turns(list(entrants), ROUNDS):
        _armed._armed, _breadcrumb._timer, call = entrants[name]
        gc.collect()
        started = time.perf_counter()
        for _ in range(CALLS):
            call()
        samples[name][block].append((time.perf_counter() - started) / CALLS * 1e6)
    return samples


def _first_ones(deaths: int) -> list[float]:
    """Milliseconds of a process's first one."""
    figures = []
    for start in range(STARTS):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", FIRST, f"r-{start}", str(deaths)],
                env=os.environ | {"TMPDIR": folder},
                capture_output=True,
                text=True,
                check=True,
            )
        figures.append(float(done.stdout))
    return figures


def main() -> None:
    """Measure all of it."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        samples = _in_a_process()
    first = {"nothing to find": _first_ones(0), "16 deaths to tell": _first_ones(16)}
    result = Result("breadcrumb", "µs, ms", ())
    result.tables = [
        costs("an invocation, µs", samples),
        Table(
            "a process's first, ms",
            ("", "p50", "longest"),
            [
                [name, f"{quantile(figures, 0.5):.2f}", f"{max(figures):.2f}"]
                for name, figures in first.items()
            ],
        ),
    ]
    result.criteria = [
        Criterion("µs more for a breadcrumb", added(samples[WITH], samples[BARE]), ALLOWED),
        Criterion("µs more for the record alone", added(samples[MEMORY], samples[BARE]), HELPED),
    ]
    result.publish(bars(samples))


if __name__ == "__main__":
    main()

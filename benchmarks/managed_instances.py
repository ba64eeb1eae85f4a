"""Workers of one environment, as on Lambda Managed Instances: what overrunning invocations do to the others.

There are 16, forked by the real runtime client, and nobody kills: what overruns must be ended by the handler,
or its worker is gone. For each kind of `tests/lambda_functions/blocking.py`:

    quiet    ordinary invocations alone: each awaits for 5 ms, four callers with a pause of 20 ms
    beside   the same, while invocations of that kind overrun

Kinds that only wait overrun eight at once. Those that take a processor overrun one at a time, and what they
do to the others is compared with an honest invocation that computes until its soft instant: two processors
are shared whatever ends when. Then all 16 workers are called for, and those that do not come are lost.

At last what nothing can end, C code: how long after its timeout its worker ends, and whether it has said why.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from _harness import Criterion, Result, Table, colour, quantile

from deadline.testing import Emulator

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "lambda_functions"))

from blocking import BODIES

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = 16
TIMEOUT, MARGIN = 2.0, 1.0
CALLERS, PAUSE = 4, 0.02
AT_ONCE = 8
BUSY = {
    "a busy loop",
    "a busy loop in except BaseException: pass",
    "a catastrophic regular expression",
    "a huge integer power",
    "tasks that starve the loop",
}
ENDLESS = ["a C loop that holds the GIL", "pbkdf2_hmac"]
HONEST = "computing until the soft instant"
ROWS = [name for name in BODIES if name not in {"nothing", "a task left behind, which blocks", *ENDLESS}]


class Shot(NamedTuple):
    """What one round of a kind has shown.

    Attributes:
        late: Milliseconds from the soft instant to the answer, of each.
        wrong: How many did not answer by the mitigation.
        quiet: What ordinary invocations took before, in milliseconds.
        beside: What they took meanwhile.
        lost: Workers that were not there any more.
    """

    late: list[float]
    wrong: int
    quiet: list[float]
    beside: list[float]
    lost: int


class Callers:
    """Ordinary callers, for the length of a `with` block; `taken` has milliseconds."""

    def __init__(self, function: Emulator) -> None:
        self.taken: list[float] = []
        self._function = function
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def __enter__(self) -> list[float]:
        for thread in self._threads:
            thread.start()
        return self.taken

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        while not self._over.wait(PAUSE):
            self.taken.append(1000 * self._function.invoke({"seconds": 0.005}).duration)


def _all_of(function: Emulator, events: list[dict[str, Any]]) -> list[Any]:
    with ThreadPoolExecutor(len(events)) as pool:
        return list(pool.map(function.invoke, events))


def _workers(function: Emulator, count: int) -> set[int]:
    """Who answers."""
    found: set[int] = set()
    for _ in range(20):
        answers = [one.response for one in _all_of(function, [{"seconds": 0.05}] * count)]
        found |= {answer["pid"] for answer in answers if answer}  # some wait for workers that are not ready
        if len(found) == count:
            break
    return found


def _shoot(function: Emulator, row: str) -> Shot:
    before = _workers(function, WORKERS)
    with Callers(function) as quiet:
        time.sleep(1.0)
    event = {"computes": TIMEOUT - MARGIN} if row == HONEST else {"body": row}
    with Callers(function) as beside:
        ended = _all_of(function, [event] * (1 if row in {*BUSY, HONEST} else AT_ONCE))
    expected = "done" if row == HONEST else "mitigated"
    return Shot(
        [1000 * (one.duration - (TIMEOUT - MARGIN)) for one in ended],
        sum(one.status != "success" or one.response["status"] != expected for one in ended),
        quiet,
        beside,
        len(before - _workers(function, WORKERS)),
    )


def _environments(rows: list[str]) -> Iterator[tuple[Emulator, list[str]]]:
    """All rows in one environment, save for the one that needs the SDK."""
    boto = "a synchronous boto3 call"
    path = Path(__file__).resolve().parent.parent / "tests" / "lambda_functions"
    for row, its in (("", [row for row in rows if row != boto]), (boto, [boto] if boto in rows else [])):
        env = {"ROW": row, "DEADLINE_MARGIN": str(MARGIN)}
        with Emulator("workers.work", path=path, timeout=TIMEOUT, env=env, workers=WORKERS) as function:
            yield function, its


def _is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended may still be waited for by its parent."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def _end(function: Emulator) -> list[list[str]]:
    """Have what nothing can end; one worker each."""
    rows: list[list[str]] = []
    for row in ENDLESS:
        before = _workers(function, WORKERS - len(rows))
        ended = function.invoke({"body": row})
        began = time.monotonic()
        while all(map(_is_alive, before)) and time.monotonic() < began + 30:
            time.sleep(0.02)
        seconds = time.monotonic() - began
        time.sleep(0.2)
        told = f"in request {ended.request_id}" in function.log
        left = len(_workers(function, WORKERS - len(rows) - 1))
        rows.append([row, ended.status, f"{seconds:.2f}", "yes" if told else "no", str(left)])
    return rows


def main() -> None:
    """Shoot them all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shots", type=int, default=3)
    parser.add_argument("--rows", nargs="*", default=ROWS)
    options = parser.parse_args()
    shots: dict[str, list[Shot]] = {}
    endless: list[list[str]] = []
    for function, rows in _environments([HONEST, *options.rows]):
        for _ in range(options.shots):
            for row in rows:
                shots.setdefault(row, []).append(_shoot(function, row))
        endless = endless or _end(function)

    every = [shot for its in shots.values() for shot in its]
    ratio = {row: [_middle(shot.beside) / _middle(shot.quiet) for shot in its] for row, its in shots.items()}
    honest = statistics.median(ratio[HONEST])
    table = [
        [
            row,
            "1" if row in {*BUSY, HONEST} else str(AT_ONCE),
            str(sum(shot.wrong for shot in its)),
            f"{statistics.median(late):.0f}",
            f"{max(late):.0f}",
            f"{_middle([ms for shot in its for ms in shot.quiet]):.1f}",
            f"{_middle([ms for shot in its for ms in shot.beside]):.1f}",
            f"{statistics.median(ratio[row]):.2f}",
            f"{quantile([ms for shot in its for ms in shot.beside], 0.95):.1f}",
            str(sum(shot.lost for shot in its)),
        ]
        for row, its in shots.items()
        for late in [[ms for shot in its for ms in shot.late]]
    ]
    columns = ("", "at once", "wrong", "late p50", "late max", "quiet", "beside", "ratio", "p95", "lost")
    result = Result("managed_instances", "ms", ("anyio", "awslambdaric"))
    result.tables = [
        Table(f"{WORKERS} workers, {options.shots} shots, a margin of {MARGIN:g} s", columns, table),
        Table(
            "what nothing can end",
            ("", "to its caller", "ended after, s", "said why", "workers left"),
            endless,
        ),
    ]
    result.criteria = [
        Criterion("workers lost to what can be ended", [sum(shot.lost for shot in every)], 0),
        Criterion("answers that were wrong", [sum(shot.wrong for shot in every)], 0),
        Criterion(
            "ordinary invocations beside kinds that wait, / alone",
            [value for row in options.rows if row not in BUSY for value in ratio[row]],
            1.1,
        ),
        Criterion(
            "ordinary invocations beside kinds that compute, / beside an honest one",
            [value / honest for row in options.rows if row in BUSY for value in ratio[row]],
            1.1,
        ),
        Criterion("seconds until a worker ends", [max(float(row[2]) for row in endless)], 7.5),
    ]

    def draw(axes: Any) -> None:
        names = list(shots)[::-1]
        middles = [statistics.median(ratio[name]) for name in names]
        axes[0].barh(names, middles, color=[colour("deadline") for _ in names])
        axes[0].axvline(1.0, color="grey", linewidth=0.8)
        axes[0].set(xlabel="median of ordinary invocations, beside it / alone")

    result.publish(draw, height=6.5)


def _middle(values: list[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    main()

"""Who gets a chance to mitigate, whatever the code is doing: a row each, under the real runtime client.

Each shot is an environment of its own, in which the time runs out once; three invocations follow that do
nothing, and must be right. Ours runs with the helper process and without it; beside it stand what asyncio
and anyio have, and an alarm that raises. They say of each row:

    y   a response was posted: the mitigation's, or the body's own
    n   the mitigation ran, and then the process was killed
    h   the process was killed, but the helper's notice was out before
    -   nothing ran

How late: from the soft instant to the mitigation, as the context counts, or else to the notice's arrival at
moto's SQS; in milliseconds. At last the opposite: invocations that end by themselves around that instant, of
which none may come to harm.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from _harness import Criterion, Result, Table, colour
from _rescue_functions import MARGIN, ROWS

from deadline.testing import Emulator, MotoServer

HERE = Path(__file__).resolve().parent
TIMEOUT = 2.0
AT_ONCE = 3
"""Many rows keep a processor busy; more at once, and it is the machine that is measured."""

HELPED = "deadline, helper"
ALONE = "deadline"
ENTRANTS = {
    HELPED: "ours",
    ALONE: "ours",
    "asyncio.timeout": "asyncio_timeout",
    "anyio.fail_after": "anyio_fail_after",
    "signal.alarm": "signal_alarm",
}
"""To each its function in `_rescue_functions.py`."""

LAYERS = {"aws.interrupted": 3, "blocking the loop, interrupted": 3, "aws.left_behind": 2}


class Shot(NamedTuple):
    """How one ended.

    Attributes:
        mark: `y`, `n`, `h` or `-`.
        layer: Of ours, which one ended it; 4 for the helper, or for none if there is no helper.
        late: Milliseconds from the soft instant to the mitigation, or to the notice.
        after: Whether the next three were right.
    """

    mark: str
    layer: int
    late: float | None
    after: bool


_numbers = itertools.count()


def _shoot(sqs: Any, entrant: str, row: str) -> Shot:
    queue = sqs.create_queue(QueueName=f"shot-{next(_numbers)}")["QueueUrl"]
    env = {"ROW": row} | ({"DEADLINE_NOTICE": queue} if entrant == HELPED else {})
    with Emulator(f"_rescue_functions.{ENTRANTS[entrant]}", path=HERE, timeout=TIMEOUT, env=env) as emulator:
        emulator.invoke({"body": "nothing"})
        ended = emulator.invoke({"body": row})
        after = [emulator.invoke({"body": "nothing"}) for _ in range(3)]
    left = re.search(r"mitigated with ([\d.]+) s left", ended.log)
    late = None if left is None else 1000 * (MARGIN - float(left[1]))
    mark = "y" if ended.status == "success" else "n" if left else "-"
    if mark == "-" and entrant == HELPED:
        arrived = _arrived(sqs, queue, ended.request_id)
        soft = 1000 * float(re.search(r"soft at ([\d.]+)", ended.log)[1])  # type: ignore[index]
        if arrived is not None and arrived < soft + 1000 * MARGIN:
            mark, late = "h", arrived - soft
    layer = 4 if ended.status == "timeout" else 1
    layer = next((number for event, number in LAYERS.items() if event in ended.log), layer)
    return Shot(mark, layer, late, all(one.status == "success" for one in after))


def _arrived(sqs: Any, queue: str, request_id: str) -> float | None:
    """When the queue got the helper's notice of this request, in milliseconds; `None` if it did not."""
    answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, AttributeNames=["SentTimestamp"])
    for message in answer.get("Messages", ()):
        said = json.loads(message["Body"])
        if (said["request_id"], said["sent_by"]) == (request_id, "helper"):
            return float(message["Attributes"]["SentTimestamp"])
    return None


def _marks(shots: list[Shot]) -> str:
    """One mark if all agree."""
    counts = Counter(shot.mark for shot in shots)
    return " ".join(mark if len(counts) == 1 else f"{count}{mark}" for mark, count in counts.most_common())


def _table(title: str, shots: dict[tuple[str, str], list[Shot]], entrants: list[str]) -> Table:
    """The first of the entrants in detail."""
    rows = []
    for row in ROWS:
        ours = shots[entrants[0], row]
        late = [shot.late for shot in ours if shot.late is not None]
        rows.append(
            [
                row,
                "/".join(map(str, sorted({shot.layer for shot in ours}))),
                f"{statistics.median(late):.0f}" if late else "",
                f"{max(late):.0f}" if late else "",
                f"{sum(shot.after for shot in ours)}/{len(ours)}",
                *(_marks(shots[entrant, row]) for entrant in entrants),
            ]
        )
    return Table(title, ("", "layer", "late p50", "late max", "next 3 right", *entrants), rows)


def _no_false_alarm(count: int) -> dict[str, Any]:
    script = HERE.parent / "tests" / "harness" / "false_alarms.py"
    told = subprocess.run([sys.executable, str(script), str(count)], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def main() -> None:
    """Shoot them all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--invocations", type=int, default=2000)
    options = parser.parse_args()
    jobs = [(entrant, row) for row in ROWS for entrant in ENTRANTS for _ in range(options.shots)]
    shots: dict[tuple[str, str], list[Shot]] = {}
    os.environ.update(
        AWS_ACCESS_KEY_ID="benchmark",
        AWS_SECRET_ACCESS_KEY="benchmark",  # noqa: S106  # nobody checks it
        AWS_DEFAULT_REGION="eu-west-1",
    )
    with MotoServer() as moto, ThreadPoolExecutor(AT_ONCE) as pool:
        import boto3

        os.environ["AWS_ENDPOINT_URL"] = moto.url
        sqs = boto3.client("sqs")
        for job, shot in zip(jobs, pool.map(lambda job: _shoot(sqs, *job), jobs), strict=True):
            shots.setdefault(job, []).append(shot)
    del os.environ["AWS_ENDPOINT_URL"]
    false = _no_false_alarm(options.invocations)
    print(*false["wrong"], sep="\n", file=sys.stderr)

    result = Result("rescue", "ms", ("anyio", "awslambdaric", "botocore", "moto"))
    entrants = list(ENTRANTS)
    result.tables = [
        _table(f"a margin of {MARGIN} s, {options.shots} shots, with the helper", shots, entrants),
        _table("ours without the helper", shots, [ALONE]),
        Table(
            "invocations that end around the soft instant",
            ("ended as", "count"),
            [
                *([name, str(count)] for name, count in sorted(false["endings"].items())),
                ["interrupted", str(false["interrupts"])],
                ["wrong", str(len(false["wrong"]))],
            ],
        ),
    ]
    ours = [shot for row in ROWS for entrant in (HELPED, ALONE) for shot in shots[entrant, row]]
    interrupted = [
        [shot.late for shot in shots[HELPED, row] if shot.layer == 3 and shot.late is not None]
        for row in ROWS
    ]
    result.criteria = [
        Criterion(
            "shots in which neither the mitigation ran nor the notice was out",
            [sum(shot.mark == "-" for row in ROWS for shot in shots[HELPED, row])],
            0,
        ),
        Criterion("shots after which an invocation was wrong", [sum(not shot.after for shot in ours)], 0),
        Criterion(
            "how late an interrupt is, ms, medians of the rows",
            [*map(statistics.median, filter(None, interrupted))],
            20,
        ),
        Criterion("things wrong around the soft instant", [len(false["wrong"])], 0),
    ]

    def draw(axes: Any) -> None:
        names = list(reversed(ROWS))
        for at, entrant in enumerate(ENTRANTS):
            share = [
                sum(shot.mark != "-" for shot in shots[entrant, row]) / len(shots[entrant, row])
                for row in names
            ]
            axes[0].barh(
                [place + 0.32 - at * 0.16 for place in range(len(names))],
                share,
                height=0.14,
                color=colour(entrant),
                alpha=1 - at * 0.18,
                label=entrant,
            )
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set(xlabel="share of shots with a mitigation or a notice", xlim=(0, 1.05))
        axes[0].legend(loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=5, frameon=False, fontsize=7)

    result.publish(draw, height=8.5)


if __name__ == "__main__":
    main()

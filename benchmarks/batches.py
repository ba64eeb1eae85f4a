"""A hundred messages against a function of three seconds: a loop, and `each` with a partial response.

The handlers are those of `examples/batch.py`, each in a local Lambda that kills, fed from a queue of its own
on moto with batches of a hundred. The mapping's log says of every delivery why it was not the last one; the
functions tell what they worked off. Both are held against each other: a message that is gone and was never
worked off is lost, and one that was worked off twice must have been returned in between.

What the budget allows is the time up to the handler's margin, 2.5 of the 3 seconds. It is compared with the
work done, as the sum of the messages' nominal seconds, in the invocations that left something over: what
timers and the machine add counts against it.

A loop that is given batches of ten stands beside the others: small enough to fit, so nothing is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from _harness import Criterion, Result, Table, colour, quantile

from deadline.testing import Emulator, MotoServer, SqsMapping

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline.testing import SqsBatch

EXAMPLES: Final = Path(__file__).resolve().parent.parent / "examples"
MESSAGES: Final = 100
TIMEOUT: Final = 3.0
BUDGET: Final = 2.5
ROUNDS: Final = 20
RECEIVES: Final = 8
"""After so many a message goes to the dead-letter queue. AWS advises five at least."""

OURS: Final = "deadline: each"
ENTRANTS: Final = {  # the example's function, and the size of its batches
    "a loop": ("naive", 100),
    "a loop, tens": ("naive", 10),
    OURS: ("in_time", 100),
}


def _mixed(chance: random.Random) -> float:
    return chance.uniform(0.2, 0.3) if chance.random() < 0.1 else chance.uniform(0.02, 0.06)


WORKLOADS: Final[dict[str, Callable[[random.Random], float]]] = {
    "10 to 60 ms": lambda chance: chance.uniform(0.01, 0.06),
    "30 to 180 ms": lambda chance: chance.uniform(0.03, 0.18),
    "20 to 60 ms, a tenth 200 to 300": _mixed,
}
ASKED: Final = list(WORKLOADS)[:2]


@dataclass
class Run:
    """What one handler did with one queue."""

    cost_of: dict[str, float]
    batches: list[SqsBatch]
    mapping: SqsMapping
    dead: int
    """In the dead-letter queue at the end."""

    def worked_off(self) -> list[tuple[str, str]]:
        """Invocation and message, as often as the function told that it had worked it off."""
        return [
            (batch.invocation.request_id, line.split()[-1])
            for batch in self.batches
            for line in batch.invocation.log.splitlines()
            if line.startswith("worked off ")
        ]

    def deleted(self) -> int:
        """Messages that are gone for good."""
        return sum(len(batch.deleted) for batch in self.batches)

    def lost(self) -> int:
        """Messages that were deleted and never worked off, or that are nowhere at all."""
        done = {message_id for _, message_id in self.worked_off()}
        deleted = {message_id for batch in self.batches for message_id in batch.deleted}
        return len(deleted - done) + len(self.cost_of) - len(deleted) - self.dead

    def again(self) -> int:
        """How often a message was worked off that had been worked off before."""
        done = self.worked_off()
        return len(done) - len({message_id for _, message_id in done})

    def unexplained(self) -> int:
        """How often a message was delivered or worked off without a reason in the log."""
        faults = 0
        for message_id in self.cost_of:
            log = [delivery for delivery in self.mapping.log if delivery.message_id == message_id]
            requests = [request for request, worked_off in self.worked_off() if worked_off == message_id]
            faults += [delivery.receive for delivery in log] != list(range(1, len(log) + 1))
            faults += sum(delivery.fate != "returned" for delivery in log[:-1])
            faults += len(requests) - len({delivery.request_id for delivery in log}.intersection(requests))
        return faults

    def unused(self) -> list[float]:
        """The share of the budget that was not work, for each invocation that left something over."""
        return [
            1 - sum(map(self.cost_of.__getitem__, batch.deleted)) / BUDGET
            for batch in self.batches
            if batch.returned
        ]

    def row(self, name: str) -> list[str]:
        """What the table shows."""
        unused = self.unused()
        killed = sum(batch.invocation.status == "timeout" for batch in self.batches)
        figures = (
            len(self.batches),
            killed,
            len(self.mapping.log),
            len(self.worked_off()),
            self.again(),
            self.deleted(),
            self.dead,
            self.lost(),
            self.unexplained(),
        )
        used = f"{1 - quantile(unused, 0.5):.3f}" if unused else ""
        seconds = sum(batch.invocation.duration for batch in self.batches)
        return [name, *map(str, figures), f"{seconds:.1f}", used]


COLUMNS: Final = (
    "",
    "invocations",
    "killed",
    "deliveries",
    "worked off",
    "again",
    "deleted",
    "dead",
    "lost",
    "unexplained",
    "seconds",
    "of the budget",
)


def _costs(workload: str, seed: int) -> list[float]:
    chance = random.Random(seed)
    return [WORKLOADS[workload](chance) for _ in range(MESSAGES)]


def _run(sqs: Any, costs: list[float], tag: str) -> dict[str, Run]:
    """All entrants at once, as are all seeds: they sleep."""
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        prepared = {}
        for at, (name, (function, size)) in enumerate(ENTRANTS.items()):
            dead = sqs.create_queue(QueueName=f"dead-{tag}-{at}")["QueueUrl"]
            policy = {"deadLetterTargetArn": _attribute(sqs, dead, "QueueArn"), "maxReceiveCount": RECEIVES}
            attributes = {"VisibilityTimeout": "5", "RedrivePolicy": json.dumps(policy)}
            queue = sqs.create_queue(QueueName=f"queue-{tag}-{at}", Attributes=attributes)["QueueUrl"]
            cost_of = {
                sqs.send_message(QueueUrl=queue, MessageBody=str(cost))["MessageId"]: cost for cost in costs
            }
            emulator = stack.enter_context(Emulator(f"batch.{function}", path=EXAMPLES, timeout=TIMEOUT))
            mapping = SqsMapping(
                emulator, queue, batch_size=size, window=4.0, report_batch_item_failures=True
            )
            prepared[name] = (cost_of, mapping, dead)
        batches = threads.map(lambda entry: entry[1].run(ROUNDS), prepared.values())
        return {
            name: Run(cost_of, made, mapping, int(_attribute(sqs, dead, "ApproximateNumberOfMessages")))
            for (name, (cost_of, mapping, dead)), made in zip(prepared.items(), batches, strict=True)
        }


def _attribute(sqs: Any, queue: str, name: str) -> str:
    answer = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=[name])
    return str(answer["Attributes"][name])


def _progress(run: Run) -> tuple[list[float], list[int]]:
    """Seconds in the function, and messages deleted by then."""
    seconds, deleted = [0.0], [0]
    for batch in run.batches:
        seconds.append(seconds[-1] + batch.invocation.duration)
        deleted.append(deleted[-1] + len(batch.deleted))
    return seconds, deleted


def main() -> None:
    """Measure each workload with each seed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3, help="how many batches of each kind (default: 3)")
    seeds = parser.parse_args().seeds
    os.environ.update(
        AWS_ACCESS_KEY_ID="benchmark",
        AWS_SECRET_ACCESS_KEY="benchmark",  # noqa: S106  # nobody checks it
        AWS_DEFAULT_REGION="eu-west-1",
    )
    runs: dict[str, list[dict[str, Run]]] = {}
    with MotoServer() as moto, ThreadPoolExecutor(seeds) as threads:
        sqs = boto3.client("sqs", endpoint_url=moto.url)
        for at, workload in enumerate(WORKLOADS):
            costs = [_costs(workload, seed) for seed in range(seeds)]
            tags = [f"{at}-{seed}" for seed in range(seeds)]
            runs[workload] = list(threads.map(partial(_run, sqs), costs, tags))

    result = Result("batches", "messages, seconds", ("anyio", "awslambdaric", "moto"))
    result.tables = [
        Table(
            f"{MESSAGES} messages of {workload}, seed {seed}: {sum(some[OURS].cost_of.values()):.1f} s",
            COLUMNS,
            [run.row(name) for name, run in some.items()],
        )
        for workload, seeded in runs.items()
        for seed, some in enumerate(seeded)
    ]
    ours = [some[OURS] for seeded in runs.values() for some in seeded]
    result.criteria = [
        Criterion("messages lost, in the worst run", [max(run.lost() for run in ours)], 0.0),
        Criterion("unexplained deliveries, in the worst run", [max(run.unexplained() for run in ours)], 0.0),
        *(
            Criterion(
                f"{workload}: the share of the budget that was no work",
                [share for some in runs[workload] for share in some[OURS].unused()],
                0.1,
            )
            for workload in ASKED
            if any(some[OURS].unused() for some in runs[workload])  # on a busy machine batches may be smaller
        ),
    ]

    def draw(axes: Any) -> None:
        for axis, (workload, seeded) in zip(axes, runs.items(), strict=True):
            for name, run in seeded[0].items():
                style = "--" if name.endswith("tens") else "-"
                axis.plot(*_progress(run), style, marker=".", color=colour(name), label=name)
            axis.set(title=workload, xlabel="seconds in the function", ylabel="messages deleted")
        axes[0].legend(frameon=False)

    result.publish(draw, panels=len(WORKLOADS))


if __name__ == "__main__":
    main()

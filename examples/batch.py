"""An SQS batch that is too large for the function's time: a plain loop, and one that stops in time.

Both are fed from a queue on a moto server, in a local Lambda that kills after two seconds. The loop is killed
before it ends, so all its messages come again, and most of the work is done again, and again. The other one
begins only what fits, and has the rest come again, and nothing else.

Run it with `python examples/batch.py` where the test extras are installed.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deadline import DeadlineExceeded, aws, each

if TYPE_CHECKING:
    from deadline.testing import SqsBatch, SqsMapping

TIMEOUT: Final = 2.0
ROUNDS: Final = 3
HANDLERS: Final = ("naive", "in_time")
LABELS: Final = (
    "invocations",
    "killed",
    "deliveries",
    "worked off",
    "worked off again",
    "deleted",
    "still in the queue",
)
CHANCE: Final = random.Random(6)  # noqa: S311  # the same costs on each run
COSTS: Final = [CHANCE.uniform(0.03, 0.17) for _ in range(30)]


async def work_off(record: dict[str, Any]) -> None:
    """Wait as long as the message says, for a service that takes its time, and tell."""
    await asyncio.sleep(float(record["body"]))
    print("worked off", record["messageId"])


# --- plainly ----------------------------------------------------------------------------------------------


async def _loop(event: dict[str, Any]) -> None:
    for record in event["Records"]:
        await work_off(record)


def naive(event: dict[str, Any], context: Any) -> None:
    """One after the other, as long as it lives."""
    asyncio.run(_loop(event))


# --- in time ----------------------------------------------------------------------------------------------


@aws.handler
async def in_time(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """One after the other, while the next one fits; name the rest."""
    return aws.batch_response(await each(work_off, event["Records"]), event)


@in_time.on_exceeded
async def _(exceeded: DeadlineExceeded, event: dict[str, Any], context: Any) -> dict[str, Any]:
    """An item took longer than predicted and was cut: name it with the rest."""
    return aws.batch_response(exceeded.report.batches[0], event)


# --- both, side by side -----------------------------------------------------------------------------------


def worked_off(batches: list[SqsBatch]) -> Counter[str]:
    """How often each message was worked off to its end, by what the function told."""
    lines = [line for batch in batches for line in batch.invocation.log.splitlines()]
    return Counter(line.split()[-1] for line in lines if line.startswith("worked off "))


def figures(mapping: SqsMapping, batches: list[SqsBatch]) -> list[int]:
    """What the table shows of one handler."""
    done = worked_off(batches)
    deleted = sum(len(batch.deleted) for batch in batches)
    return [
        len(batches),
        sum(batch.invocation.status == "timeout" for batch in batches),
        len(mapping.log),
        done.total(),
        done.total() - len(done),
        deleted,
        len(COSTS) - deleted,
    ]


def main() -> None:
    """Show both."""
    import boto3  # noqa: PLC0415  # not in the functions

    from deadline.testing import Emulator, MotoServer, SqsMapping  # noqa: PLC0415

    os.environ.update(
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",  # noqa: S106  # nobody checks it
        AWS_DEFAULT_REGION="us-east-1",
    )
    here = Path(__file__).parent
    with (
        MotoServer() as moto,
        ExitStack() as stack,
        ThreadPoolExecutor() as threads,
    ):
        sqs = boto3.client("sqs", endpoint_url=moto.url)
        mappings = []
        for name in HANDLERS:
            function = stack.enter_context(Emulator(f"batch.{name}", path=here, timeout=TIMEOUT))
            queue = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "2"})["QueueUrl"]
            for seconds in COSTS:
                sqs.send_message(QueueUrl=queue, MessageBody=f"{seconds:.3f}")
            mappings.append(
                SqsMapping(function, queue, batch_size=100, window=0.5, report_batch_item_failures=True)
            )
        results = list(threads.map(lambda mapping: mapping.run(ROUNDS), mappings))

    work = f"{len(COSTS)} messages, {sum(COSTS):.1f} s of work"
    print(f"{work}, killed after {TIMEOUT:g} s, {ROUNDS} rounds at most\n")
    print(f"{'':<24}{'naive':>10}{'in time':>10}")
    for label, *row in zip(LABELS, *map(figures, mappings, results), strict=True):
        print(f"{label:<24}{row[0]:>10}{row[1]:>10}")
    print("\nThe log explains each delivery. Those of the last message:")
    for name, mapping in zip(HANDLERS, mappings, strict=True):
        print(f"\n{name}")
        for delivery in mapping.log:
            if delivery.message_id == mapping.log[-1].message_id:
                print(f"  receive {delivery.receive}: {delivery.fate}, because {delivery.reason}")


if __name__ == "__main__":
    main()

"""What `aws.handler` costs, and what it saves: one loop and warm clients against `asyncio.run` each time.

First the cost: microseconds of an invocation that does nothing, beside a bare plain function and the same
coroutine under `asyncio.run`; of the plain function with the handler; with a notice, and with the helper
process armed for it. Then the gain: milliseconds of an invocation that sends one message to moto's SQS,
beside `asyncio.run` with a new client each time, which is what a client that outlives its loop comes to.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aioboto3
from _harness import Blocks, Criterion, Result, Table, colour, empty, joined, quantile, spread, turns

from deadline import aws
from deadline.testing import FakeContext, MotoServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Function = Callable[[Any, Any], Any]

CALLS = 100
BATCHES = 20
"""Per block and row, of invocations that do nothing."""

SENDS = 4
"""Per block and row: twenty in all."""

EVENT = {
    "Records": [
        {
            "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
            "body": '{"bucket": "documents", "key": "draft.txt", "to": "final.txt", "table": "documents"}',
            "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1545082649183"},
            "eventSource": "aws:sqs",
            "awsRegion": "eu-west-1",
        }
    ]
}

PLAIN = "a plain function"
RUN = "asyncio.run"
OURS = "deadline: aws.handler"
OURS_PLAIN = "deadline: aws.handler, a plain function"
NOTICE = "deadline: aws.handler, a notice"
HELPER = "deadline: aws.handler, a notice, the helper"
NEW_CLIENT = "asyncio.run, a new client"
NEW_SESSION = "asyncio.run, a new session"
WARM = "deadline: aws.handler, a lifespan"
ALLOWED = 150.0
"""Microseconds over a plain function."""
ALLOWED_PLAIN = 50.0
"""The same, where the handler is a plain function itself."""
ARMING = 5.0
"""Microseconds for the helper."""


def _nothing(event: Any, context: Any) -> Any:
    return event


async def _anothing(event: Any, context: Any) -> Any:
    return event


def _empty_ones() -> dict[str, Function]:
    nobody = "http://127.0.0.1:9/123456789012/nobody"
    return {
        PLAIN: _nothing,
        RUN: lambda event, context: asyncio.run(_anothing(event, context)),
        OURS: aws.handler(_anothing),
        OURS_PLAIN: aws.handler(_nothing),
        NOTICE: aws.handler(notice=nobody)(_anothing),
        HELPER: aws.handler(notice=nobody, helper=True)(_anothing),
    }


def _sending_ones(queue: str) -> dict[str, Function]:
    session = aws.install(aioboto3.Session())

    async def send(session: Any) -> None:
        async with session.client("sqs") as sqs:
            await sqs.send_message(QueueUrl=queue, MessageBody="{}")

    @asynccontextmanager
    async def client() -> AsyncIterator[Any]:
        async with session.client("sqs") as sqs:
            yield sqs

    @aws.handler(lifespan=client)
    async def warm(event: Any, context: Any, sqs: Any) -> None:
        await sqs.send_message(QueueUrl=queue, MessageBody="{}")

    return {
        NEW_SESSION: lambda event, context: asyncio.run(send(aioboto3.Session())),
        NEW_CLIENT: lambda event, context: asyncio.run(send(session)),
        WARM: warm,
    }


def _measured(functions: dict[str, Function], rounds: int, calls: int, unit: float) -> dict[str, Blocks]:
    samples = empty(list(functions))
    for function in functions.values():
        function(EVENT, FakeContext(30.0))
    time.sleep(1.0)  # the helper makes its client
    for block, _, name in turns(list(functions), rounds):
        contexts = [FakeContext(30.0) for _ in range(calls)]
        gc.collect()
        started = time.perf_counter()
        for context in contexts:
            functions[name](EVENT, context)
        samples[name][block].append((time.perf_counter() - started) / calls * unit)
    return samples


def _rows(samples: dict[str, Blocks]) -> list[list[str]]:
    return [
        [name, f"{quantile(joined(blocks), 0.5):.4g}", spread(blocks)] for name, blocks in samples.items()
    ]


def main() -> None:
    """Measure both."""
    os.environ.update(
        AWS_ACCESS_KEY_ID="benchmark",
        AWS_SECRET_ACCESS_KEY="benchmark",  # noqa: S106  # nobody checks it
        AWS_DEFAULT_REGION="eu-west-1",
    )
    doing_nothing = _measured(_empty_ones(), BATCHES, CALLS, 1e6)
    with MotoServer() as moto:
        import boto3

        os.environ["AWS_ENDPOINT_URL"] = moto.url
        queue = boto3.client("sqs").create_queue(QueueName="benchmark")["QueueUrl"]
        sending = _measured(_sending_ones(queue), SENDS, 1, 1e3)
    result = Result("handler", "µs, ms", ("aioboto3", "aiobotocore", "moto"))
    result.tables = [
        Table("an invocation that does nothing, µs", ("", "p50", "p50 of the blocks"), _rows(doing_nothing)),
        Table("an invocation that sends a message, ms", ("", "p50", "p50 of the blocks"), _rows(sending)),
    ]
    middles = {
        name: [quantile(block, 0.5) for block in blocks] for name, blocks in (doing_nothing | sending).items()
    }
    result.criteria = [
        Criterion(
            "µs over a plain function",
            [ours - plain for ours, plain in zip(middles[OURS], middles[PLAIN], strict=True)],
            ALLOWED,
        ),
        Criterion(
            "µs over a plain function, of a plain function's handler",
            [ours - plain for ours, plain in zip(middles[OURS_PLAIN], middles[PLAIN], strict=True)],
            ALLOWED_PLAIN,
        ),
        Criterion(
            "µs more for arming the helper",
            [armed - bare for armed, bare in zip(middles[HELPER], middles[NOTICE], strict=True)],
            ARMING,
        ),
        Criterion(
            f"{WARM} / {NEW_CLIENT}",
            [ours / theirs for ours, theirs in zip(middles[WARM], middles[NEW_CLIENT], strict=True)],
            1 / 5,
        ),
    ]

    def draw(axes: Any) -> None:
        for axis, samples, label in (
            (axes[0], doing_nothing, "µs an invocation"),
            (axes[1], sending, "ms with a message"),
        ):
            names = list(reversed(samples))
            values = [quantile(joined(samples[name]), 0.5) for name in names]
            axis.barh(names, values, color=[colour(name) for name in names])
            axis.set(xlabel=label, xscale="log")

    result.publish(draw, panels=2)


if __name__ == "__main__":
    main()

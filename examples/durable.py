"""The n-th prime as a durable function: Lambda keeps the result of each step, and replays from the top.

Compare `primes.py`. Here the work has to be cut into steps that fit into the timeout; of a step that is cut
nothing is kept, and the code between them has to take the same way in every replay.

Run it with `python examples/durable.py [position]` where AWS's local test kit is installed,
`pip install aws-durable-execution-sdk-python-testing`. It needs a newer boto3 than aioboto3 15 does.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any, Final

from aws_durable_execution_sdk_python.context import DurableContext, durable_step
from aws_durable_execution_sdk_python.execution import durable_execution

STEP: Final = 1_000
"""Primes. It has to be guessed."""


def is_prime(number: int) -> bool:
    """Whether nothing divides it."""
    return all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


@durable_step
def search(_context: Any, position: int, prime: int, until: int) -> list[int]:
    """Search on to a position; the result is kept, and what is on the way is not."""
    while position < until:
        prime += 1
        position += is_prime(prime)
    return [position, prime]


@durable_execution
def handler(event: dict[str, Any], context: DurableContext) -> dict[str, int]:
    """Find the prime at `event["position"]`.

    After an interruption all of it runs again, but for its steps.
    """
    position, prime = 1, 2
    while position < event["position"]:
        until = min(position + STEP, event["position"])
        position, prime = context.step(search(position, prime, until), name=f"to {until}")
    return {"position": position, "prime": prime}


def main(position: int = 10_000) -> None:
    """Run it here."""
    from aws_durable_execution_sdk_python_testing import DurableFunctionTestRunner  # noqa: PLC0415

    with DurableFunctionTestRunner(handler=handler) as runner:
        result = runner.run(input=json.dumps({"position": position}))
    print(f"{result.status.value}: {result.result}, {len(result.operations)} steps kept")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))

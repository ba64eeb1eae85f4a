"""The n-th prime, by a function that has not the time for it: it carries on in its own next invocation.

It tries every number, by plain division, and never gives the loop a turn. One second before its end it is
interrupted, and the last prime that it has noted goes to its next invocation. All of it happens under a
timeout of three seconds, on this machine: a local Lambda kills at the timeout, and has the function invoke
itself. Afterwards a loop such as Step Functions' does the same with `returning`, which hands its checkpoint
back to whoever calls.

Run it with `python examples/primes.py [position] [timeout]` where the extras aws and testing are installed.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deadline import aws

TIMEOUT: Final = 3.0
POSITION: Final = 10_000


@dataclass(frozen=True)
class Found:
    """The prime at a position: the first one is 2."""

    position: int
    prime: int


FIRST: Final = Found(1, 2)


def is_prime(number: int) -> bool:
    """Whether nothing divides it."""
    return all(number % divisor for divisor in range(2, number // 2 + 1))


def next_prime(found: Found) -> Found:
    """The one after it."""
    number = found.prime + 1
    while not is_prime(number):
        number += 1
    return Found(found.position + 1, number)


def search(resume: aws.Resume[Found], position: int) -> dict[str, int]:
    """Search from where the hop before came to, and note each prime."""
    found = resume.state or FIRST
    print(f"hop {resume.hop} begins at {found}")
    while found.position < position:
        found = next_prime(found)
        resume.checkpoint(found)
    print(f"hop {resume.hop} has found {found}")
    return {"position": found.position, "prime": found.prime}


# --- the function invokes itself --------------------------------------------------------------------------

resume = aws.Resume(Found, hops=15)


@aws.handler(resume=resume)
async def handler(event: dict[str, Any], context: Any) -> dict[str, int]:
    """Find the prime at `event["position"]`; in the last hop that is the response."""
    return search(resume, event["position"])


# --- whoever calls it calls it again ----------------------------------------------------------------------

resume_in_loop = aws.Resume(Found, to="return", hops=100)


@aws.handler(resume=resume_in_loop)
async def returning(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Find the prime, or answer `{"status": "partial", "checkpoint": ...}`."""
    return {"status": "done", **search(resume_in_loop, event["position"])}


# --- both, on this machine --------------------------------------------------------------------------------


def main(position: int = POSITION, timeout: float = TIMEOUT) -> None:
    """Show both."""
    import boto3  # noqa: PLC0415  # not in the functions

    from deadline.testing import Emulator, InvokeApi  # noqa: PLC0415

    os.environ.update(
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",  # noqa: S106  # nobody checks it
        AWS_DEFAULT_REGION="us-east-1",
    )
    here = Path(__file__).parent
    env = {"DEADLINE_MARGIN": str(timeout / 3)}
    with InvokeApi() as api:
        api.add("primes.handler", path=here, timeout=timeout, env=env)
        client = boto3.client("lambda", endpoint_url=api.url)
        payload = f'{{"position": {position}}}'
        client.invoke(FunctionName="primes", InvocationType="Event", Payload=payload)
        api.wait_idle(600)
        print("the function invokes itself")
        for run in api.log:
            print(f"  {run}: {run.invocation.response}")

    print("a loop calls it again")
    with Emulator("primes.returning", path=here, timeout=timeout, env=env) as function:
        event: Any = {"position": position}
        while True:
            result = function.invoke(event)
            if result.error is not None:
                raise SystemExit(f"{result.error.type}: {result.error.message}")
            answer = result.response
            if answer["status"] == "done":
                break
            event = answer["checkpoint"]
            print(f"  partial after {result.duration:.2f} s: {event['deadline_resume']['state']}")
        print(f"  {answer}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(*map(int, arguments[:1]), *map(float, arguments[1:2]))

"""The main job, twice: the three-step handler with S3's delete stalled, plainly and under a deadline.

A moto server and a proxy that stalls every DELETE run in this process. Each handler runs in a process of its
own, which is killed after three seconds, without a warning, as Lambda does it. Then the services are asked
what state they are in.

Run it with `make demo`, or `python examples/demo.py` where the test extras and rich are installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any, Final

TIMEOUT: Final = 3.0
EVENT: Final = {"bucket": "documents", "key": "draft.txt", "to": "final.txt", "table": "documents"}


def child(variant: str) -> None:
    """Be the function's process: say that it is ready, wait for the invocation, answer it."""
    import three_steps  # noqa: PLC0415  # beside this file; only the child needs it

    from deadline.testing import FakeContext  # noqa: PLC0415

    print("ready", flush=True)
    event = json.loads(sys.stdin.readline())
    context = FakeContext(TIMEOUT, clock=time.monotonic)
    handler = {"plain": three_steps.plain, "deadline": three_steps.move}[variant]
    result = asyncio.run(handler(event, context))
    print(json.dumps({"result": result}), flush=True)


def invoke(variant: str, environment: dict[str, str]) -> tuple[float, float, list[str]]:
    """Run a handler and kill it at its timeout.

    Returns:
        When it was invoked, in seconds on the monotonic clock, how many seconds it took, and what it printed.
    """
    command = [sys.executable, __file__, variant]
    process = subprocess.Popen(  # noqa: S603  # ourselves
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()  # ready: the imports are not part of the invocation
    started = time.monotonic()
    try:
        output, _ = process.communicate(json.dumps(EVENT) + "\n", timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    return started, time.monotonic() - started, output.splitlines()


class Services:
    """What the handlers work on."""

    def __init__(self, url: str) -> None:
        import boto3  # noqa: PLC0415  # the demo asks the servers directly, past the proxy

        self.s3 = boto3.client("s3", endpoint_url=url)
        self.dynamodb = boto3.client("dynamodb", endpoint_url=url)
        self.sqs = boto3.client("sqs", endpoint_url=url)
        self.queue = ""

    def set_up(self) -> None:
        """One object, one item, one queue."""
        self.s3.create_bucket(Bucket=EVENT["bucket"])
        self.s3.put_object(Bucket=EVENT["bucket"], Key=EVENT["key"], Body=b"a draft")
        self.dynamodb.create_table(
            TableName=EVENT["table"],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self.dynamodb.put_item(
            TableName=EVENT["table"], Item={"id": {"S": EVENT["key"]}, "owner": {"S": "somebody"}}
        )
        self.queue = self.sqs.create_queue(QueueName="unfinished")["QueueUrl"]

    def state(self) -> list[str]:
        """What the services hold now, a line each."""
        objects = [
            entry["Key"] for entry in self.s3.list_objects_v2(Bucket=EVENT["bucket"]).get("Contents", [])
        ]
        items = self.dynamodb.scan(TableName=EVENT["table"])["Items"]
        messages = self.sqs.receive_message(QueueUrl=self.queue).get("Messages", [])
        told = [f"done {body['done']}, pending {body['pending']}" for body in map(_body, messages)]
        half = "  <- copied, not deleted" if len(objects) == 2 else ""
        return [
            f"S3        {', '.join(objects)}{half}",
            f"DynamoDB  {', '.join(item['id']['S'] for item in items)}",
            f"SQS       {'; '.join(told) or 'no message: nobody was told'}",
        ]


def _body(message: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(message["Body"])
    return body


def timeline(proxy: Any, started: float, took: float) -> list[str]:
    """What crossed the wire, a line a request, in seconds from the invocation."""
    lines = [f"{0.0:7.3f}  invoked, {TIMEOUT:.0f} s until it is killed"]
    for exchange in proxy.log:
        at = exchange.started - started
        name = exchange.request.operation or f"{exchange.request.method} {exchange.request.path}"
        fate = "stalled: nobody answers" if exchange.fault else f"answered {exchange.status}"
        lines.append(f"{at:7.3f}  {name[:60]:<60}  {fate}")
    end = "KILLED at its timeout" if took >= TIMEOUT else "answered"
    return [*lines, f"{took:7.3f}  {end}"]


def main() -> None:
    """Show both."""
    from rich.console import Console  # noqa: PLC0415
    from rich.rule import Rule  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from deadline.testing import FaultProxy, MotoServer, Stall  # noqa: PLC0415

    console = Console(width=min(100, Console().width) if sys.stdout.isatty() else 100, highlight=False)
    credentials = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    os.environ.update(credentials)

    def show(title: str, lines: list[str], style: str = "") -> None:
        console.print(Text(f"{title}:", style="bold"))
        for line in lines:
            console.print(Text(line, style=style), soft_wrap=True)

    for variant, title in (("plain", "plainly"), ("deadline", "under deadline(context, margin=1.0)")):
        with MotoServer() as moto, FaultProxy(moto.url) as proxy:
            moto.reset()
            services = Services(moto.url)
            services.set_up()
            proxy.add(Stall(), where=lambda request: request.method == "DELETE")
            environment = {**os.environ, "AWS_ENDPOINT_URL": proxy.url, "QUEUE_URL": services.queue}
            started, took, output = invoke(variant, environment)
            console.print(Rule(f"the three steps, {title}"))
            show(
                "Timeline, in seconds", timeline(proxy, started, took), "red" if took >= TIMEOUT else "green"
            )
            said = [line for line in output if not line.startswith('{"result"')]
            answer = [line for line in output if line.startswith('{"result"')]
            show("What the handler answered", answer or ["nothing"])
            show("What it knows of where the time went", said or ["nothing"])
            show("What the services hold", services.state())
            console.print()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[1])
    else:
        main()

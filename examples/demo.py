"""The main job, twice: the three-step handler with S3's delete stalled, plainly and under a deadline.

A moto server and a proxy that stalls every DELETE run in this process. Each handler runs in a local Lambda,
under Lambda's own runtime client, and is killed after three seconds without a warning. Then the services are
asked what state they are in.

Run it with `make demo`, or `python examples/demo.py` where the test extras and rich are installed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from deadline.testing import FaultProxy, Invocation

TIMEOUT: Final = 3.0
EVENT: Final = {"bucket": "documents", "key": "draft.txt", "to": "final.txt", "table": "documents"}


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


def timeline(proxy: FaultProxy, started: float, result: Invocation) -> list[str]:
    """What crossed the wire, a line a request, in seconds from the invocation."""
    lines = [f"{0.0:7.3f}  invoked, {TIMEOUT:.0f} s until it is killed"]
    for exchange in proxy.log:
        at = exchange.started - started
        if at >= 0:  # before that, the clients were warmed
            name = exchange.request.operation or f"{exchange.request.method} {exchange.request.path}"
            fate = "stalled: nobody answers" if exchange.fault else f"answered {exchange.status}"
            lines.append(f"{at:7.3f}  {name[:60]:<60}  {fate}")
    end = "KILLED at its timeout" if result.status == "timeout" else "answered"
    return [*lines, f"{result.duration:7.3f}  {end}"]


def spoken(result: Invocation) -> list[str]:
    """What the function itself wrote, and the platform's word on a timeout."""
    platform = ("INIT_START", "START ", "END ", "REPORT ")
    lines = [line.expandtabs(2) for line in result.log.splitlines() if line and not line.startswith(platform)]
    return [line if len(line) <= 100 else f"{line[:99]}…" for line in lines]


def main() -> None:
    """Show both."""
    from rich.console import Console  # noqa: PLC0415
    from rich.rule import Rule  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from deadline.testing import Emulator, FaultProxy, MotoServer, Stall  # noqa: PLC0415

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

    for function, title in (("plain", "plainly"), ("move", "under aws.handler, with a margin of 1 s")):
        with MotoServer() as moto, FaultProxy(moto.url) as proxy:
            moto.reset()
            services = Services(moto.url)
            services.set_up()
            proxy.add(Stall(), where=lambda request: request.method == "DELETE")
            with Emulator(
                f"three_steps.{function}",
                path=Path(__file__).parent,
                timeout=TIMEOUT,
                env={"AWS_ENDPOINT_URL": proxy.url, "QUEUE_URL": services.queue},
            ) as emulator:
                result = emulator.invoke(EVENT)
                started = time.monotonic() - result.duration
            console.print(Rule(f"the three steps, {title}"))
            style = "red" if result.status == "timeout" else "green"
            show("Timeline, in seconds", timeline(proxy, started, result), style)
            show("What the caller gets", [answer(result)])
            show("What the log says", spoken(result) or ["nothing"])
            show("What the services hold", services.state())
            console.print()


def answer(result: Invocation) -> str:
    """The response, or the error in Lambda's words."""
    if result.error is None:
        return json.dumps(result.response)
    return f"{result.error.type}: {result.error.message.partition(' Error: ')[2] or result.error.message}"


if __name__ == "__main__":
    main()

"""A plain function with a synchronous client: it answers before Lambda would kill it, and says what is done.

    python examples/plain.py

The second table never answers. boto3 would wait for it for a minute, and then try again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3

from deadline import DeadlineExceeded, aws, step

dynamodb = boto3.client("dynamodb", region_name="eu-west-1")

TABLES = ("orders", "invoices")


@aws.handler
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Note an order in each table."""
    for table in TABLES:
        with step(table):
            dynamodb.put_item(TableName=table, Item={"id": {"S": event["id"]}})
    return {"status": "noted"}


@handler.on_exceeded
def answer(exceeded: DeadlineExceeded, event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Half a second is left."""
    return {"status": "partial", "done": exceeded.report.done, "pending": exceeded.report.pending}


def main() -> None:
    """Run it as Lambda would: once with a table that hangs, and once more."""
    from deadline.testing import Emulator, FaultProxy, MotoServer, Stall  # noqa: PLC0415  # not in the function

    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    with MotoServer() as moto, FaultProxy(moto.url) as proxy:
        here = boto3.client(
            "dynamodb",
            endpoint_url=moto.url,
            region_name="eu-west-1",
            aws_access_key_id="x",
            aws_secret_access_key="x",  # noqa: S106  # nobody checks it
        )
        for table in TABLES:
            here.create_table(
                TableName=table,
                KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        env = {"AWS_ENDPOINT_URL": proxy.url, **keys}
        with Emulator("plain.handler", path=str(Path(__file__).parent), timeout=2.0, env=env) as function:
            proxy.add(Stall(), lambda request: b"invoices" in request.body, times=1)
            for number in ("1", "2"):
                ended = function.invoke({"id": number})
                print(f"{ended.status} after {ended.duration:.1f} s: {ended.response}")


if __name__ == "__main__":
    main()

"""A DynamoDB that accepts and never answers, in legacy mode: what a call costs, plainly and under 2 s.

The plain client has what people set by hand, a read timeout of 0.3 s, and retries with backoff on top of
it: nothing limits the total. Ours is the same client, installed, in `async with deadline(2.0)`.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from _harness import Result, Table
from _stub_server import served
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from deadline import DeadlineExceeded, aws, deadline

BUDGET = 2.0
READ_TIMEOUT = 0.3


async def _call(session: Any, url: str, seconds: float | None) -> tuple[str, int, float]:
    config = AioConfig(read_timeout=READ_TIMEOUT, connect_timeout=READ_TIMEOUT)
    attempts = 0

    def count(**_: Any) -> None:
        nonlocal attempts
        attempts += 1

    async with session.create_client(
        "dynamodb",
        region_name="eu-west-1",
        endpoint_url=url,
        aws_access_key_id="benchmark",
        aws_secret_access_key="benchmark",  # noqa: S106  # nobody checks it
        config=config,
    ) as client:
        client.meta.events.register("before-send.dynamodb", count)
        started = monotonic()
        try:
            async with deadline(seconds):
                await client.get_item(TableName="table", Key={"id": {"S": "1"}})
        except DeadlineExceeded as exceeded:
            cause = type(exceeded.__cause__).__name__
            return f"{type(exceeded).__name__} from {cause}", attempts, monotonic() - started
        except Exception as error:  # noqa: BLE001  # the row names it
            return type(error).__name__, attempts, monotonic() - started
        raise AssertionError("it answered")


async def _both(url: str) -> list[list[str]]:
    plain, ours = await asyncio.gather(
        _call(get_session(), url, None), _call(aws.install(get_session()), url, BUDGET)
    )
    return [
        [name, str(attempts), f"{seconds:.3f}", error]
        for name, (error, attempts, seconds) in (("plain client", plain), ("deadline, 2 s", ours))
    ]


def main() -> None:
    """Let both call, side by side."""
    with served("silent") as url:
        rows = asyncio.run(_both(url))
    result = Result("dead_endpoint", "s", ("aiobotocore", "botocore"))
    result.tables.append(Table("One get_item to a dead endpoint", ("", "attempts", "seconds", "error"), rows))

    def draw(axes: Any) -> None:
        names = [row[0] for row in reversed(rows)]
        axes[0].barh(names, [float(row[2]) for row in reversed(rows)], color=["#c2410c", "#64748b"])
        axes[0].set(xlabel="s", title="One get_item to a dead endpoint")

    result.publish(draw)


if __name__ == "__main__":
    main()

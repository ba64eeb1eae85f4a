"""`warm_up`: what a first call costs, paid before the clock runs.

A cold client builds a TLS context (tens of milliseconds of processor time) and opens a connection. The
newest aiobotocore builds the context in a thread and throws it away if the call is cut meanwhile, so that
under tiny deadlines a cold client never gets warm (run on 3.10.0).
"""

from __future__ import annotations

import logging
from typing import Any

import anyio

from deadline._events import emit, shown


async def warm_up(*clients: Any) -> None:
    """Make clients ready for calls with little time: `await aws.warm_up(s3, dynamodb)`, all at once.

    Each builds its TLS context and opens a connection, which goes to its pool, by a HEAD request that is not
    signed: no permission is needed, nothing is called. S3's buckets are hosts of their own and their
    connections are opened by the first call; what is dear, the context, is there.

    Do it where a function is initialised, outside of any deadline. What could not be reached is told as the
    event `aws.warm_up_failed` and does not raise: its first call will tell.

    Args:
        clients: Clients or resources of aioboto3 or aiobotocore, installed or not.

    Raises:
        TypeError: One of them is something else; the message says which.
    """
    sessions = [_endpoint(client, index) for index, client in enumerate(clients)]
    async with anyio.create_task_group() as group:
        for http, url in sessions:
            group.start_soon(_connect, http, url)


def _endpoint(target: Any, index: int) -> tuple[Any, str]:
    client = getattr(getattr(target, "meta", None), "client", target)  # a resource keeps its client
    try:
        return client._endpoint.http_session, client.meta.endpoint_url  # noqa: SLF001  # the SDK has no public seam
    except AttributeError:
        raise TypeError(
            f"clients[{index}]: expected a client or resource of aioboto3 or aiobotocore, got {target!r} "
            f"({type(target).__name__}); write await aws.warm_up(s3, dynamodb)"
        ) from None


async def _connect(http: Any, url: str) -> None:
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415  # importing deadline.aws loads no SDK

    try:
        answer = await http.send(AWSRequest("HEAD", url, headers={}).prepare())
        await answer.content
    except Exception as error:  # noqa: BLE001  # whatever it is: a cold start must go on
        emit("aws.warm_up_failed", logging.WARNING, endpoint=url, error=shown(error))

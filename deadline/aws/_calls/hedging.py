"""A second request beside a silent one: for which operations, how often, and how it is carried out.

Hedging is off unless asked for. It is for operations that may be sent twice without anybody noticing, and a
budget bounds what it adds, so that a service which is slow because it is busy is not made slower.
"""

from __future__ import annotations

import asyncio
import functools
import re
from typing import TYPE_CHECKING, Any, Final

import anyio

from deadline.aws._runtime.snapshot import after_restore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

SHARE: Final = 0.2
"""Extra requests that a call pays in for: one in five calls."""

MOST: Final = 10.0
"""Extra requests that can be saved up."""

_AT_FIRST: Final = 2.0
_AFTER_THROTTLING: Final = -19.0

_NAME: Final = re.compile(r"[a-z0-9-]+\.[A-Z][A-Za-z0-9]+")

READS: Final = {
    "appconfig.GetEnvironment": "a description",
    "cloudformation.DescribeStacks": "a description",
    "dynamodb.BatchGetItem": "reads items by key; costs its read units again",
    "dynamodb.DescribeTable": "a description",
    "dynamodb.GetItem": "reads an item by key; costs its read units again",
    "dynamodb.ListTables": "a list of names",
    "dynamodb.Query": "reads at most 1 MB by key; costs its read units again",
    "dynamodb.TransactGetItems": "reads items by key; costs its read units again",
    "events.DescribeEventBus": "a description",
    "kms.DescribeKey": "a description",
    "lambda.GetFunctionConfiguration": "a description",
    "s3.GetBucketLocation": "a description",
    "s3.GetObject": "reads; the body that is not wanted is closed unread",
    "s3.GetObjectAttributes": "a description",
    "s3.GetObjectTagging": "a description",
    "s3.HeadBucket": "a description",
    "s3.HeadObject": "a description",
    "s3.ListObjectsV2": "one page of a list; costs its request again",
    "secretsmanager.DescribeSecret": "a description",
    "secretsmanager.GetSecretValue": "reads a secret; one more line in CloudTrail",
    "sns.GetTopicAttributes": "a description",
    "sqs.GetQueueAttributes": "a description",
    "sqs.GetQueueUrl": "a description",
    "ssm.GetParameter": "reads a parameter",
    "ssm.GetParameters": "reads parameters by name",
    "ssm.GetParametersByPath": "one page of parameters",
    "stepfunctions.DescribeExecution": "a description",
    "sts.GetCallerIdentity": "says who asks",
}
"""What may be sent twice, and why. Not here, though they read: `sqs.ReceiveMessage` hides what it returns,
`kinesis.GetRecords` is limited to five a second, `dynamodb.Scan` reads without end, and what AppConfig's data
plane hands out is a token for one use."""


def hedges(asked: bool | Collection[str] | None, operation: str) -> bool:  # noqa: FBT001
    """Whether an operation, as `service.Operation`, is hedged where this was asked for."""
    return bool(asked) and (operation in READS or (asked is not True and operation in asked))  # type: ignore[operator]


def checked_hedge(hedge: object) -> bool | frozenset[str]:
    """What a user may pass as `hedge`."""
    if isinstance(hedge, bool):
        return hedge
    if isinstance(hedge, set | frozenset | list | tuple):
        for name in hedge:
            if not isinstance(name, str) or _NAME.fullmatch(name) is None:
                raise ValueError(
                    f"hedge: expected names like 'dynamodb.ExecuteStatement', got {name!r}; the "
                    "service as in session.client, the operation as in AWS's own reference"
                )
        return frozenset(hedge)
    raise TypeError(
        f"hedge: expected True, False or names of operations that may be sent twice, got {hedge!r}; write "
        "hedge=True for the reads that are known to be safe, or hedge={'dynamodb.ExecuteStatement'} for more"
    )


class Budget:
    """The extra requests that an endpoint may be sent: paid for by its calls, none after it throttled."""

    __slots__ = ("_saved",)

    def __init__(self) -> None:
        self._saved = _AT_FIRST

    def earn(self) -> None:
        """A call was made."""
        self._saved = min(MOST, self._saved + SHARE)

    def spend(self) -> bool:
        """Whether an extra request may be sent; it is paid for."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True

    def throttled(self) -> None:
        """The service asked for less: nothing extra for the next hundred calls."""
        self._saved = _AFTER_THROTTLING


@functools.lru_cache(maxsize=256)
def budget_of(endpoint: str) -> Budget:  # noqa: ARG001  # the cache's key
    """The one of this process for an endpoint."""
    return Budget()


after_restore(budget_of.cache_clear)


class Race:
    """Requests in flight for one attempt's sake, each in a task of its own.

    Args:
        send: Sends one.
        drop: Closes an answer that is not wanted.
    """

    def __init__(self, send: Callable[[], Awaitable[Any]], drop: Callable[[Any], None]) -> None:
        self._send = send
        self._drop = drop
        self._loop = asyncio.get_running_loop()
        self.sent: dict[asyncio.Task[Any], tuple[float, int]] = {}
        """The tasks in flight, when each began, and what `start` was told."""

    def start(self, answers: int) -> None:
        """Send one more, when the service has given so many answers."""
        task = asyncio.ensure_future(self._send())
        self.sent[task] = self._loop.time(), answers

    async def ended(self, seconds: float | None) -> tuple[asyncio.Task[Any], tuple[float, int]] | None:
        """Wait up to `seconds` for the next task to finish; return it and its start, without it in `sent`."""
        done, _ = await asyncio.wait(self.sent, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        first = next((task for task in self.sent if task in done), None)
        return None if first is None else (first, self.sent.pop(first))

    async def close(self) -> None:
        """Cancel the others, which closes their connections, and wait until they are gone."""
        for task in self.sent:
            task.cancel()
        if self.sent:
            with anyio.CancelScope(shield=True):
                await asyncio.wait(self.sent)
        for task in self.sent:
            if not task.cancelled() and task.exception() is None:
                self._drop(task.result())

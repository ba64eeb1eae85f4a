"""Claims in a DynamoDB table: a hop of a chain that is delivered again does not run again.

An item for each hop, `<chain>#<hop>`. A claim is a lease that ends with the claimer's time: one that was
killed can be followed by a retry, and two never run at once. When a hop is done, what came of it is written
*before* it is sent: a retry after that sends it again if need be, and runs nothing. Only the owner of the
claim can write that, so that a run which was overtaken hands nothing on.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, Final

from deadline.aws._runtime.own_client import OwnClient

if TYPE_CHECKING:
    import contextvars

LARGEST: Final = 390_000
"""Bytes of what is written. An item has 400 KB
(docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html)."""

KEPT: Final = 14 * 24 * 3600
"""Seconds after which the table may forget: SQS keeps no message longer
(docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html)."""

_NAMES: Final = ("owner", "lease", "expires", "done", "sent")
"""An item's attributes beside its key; some are reserved words in expressions."""


class Taken(Exception):
    """Somebody else has the hop, until `lease`, in seconds of Unix time."""

    def __init__(self, lease: float) -> None:
        super().__init__(lease)
        self.lease = lease


class NoTable(Exception):
    """The table is not there, or not made for this."""


class Once:
    """The claims of a handler, in one table."""

    def __init__(self, table: str) -> None:
        self._table = table
        self.client = OwnClient("dynamodb")

    def claim(self, identifier: str, outside: contextvars.Context) -> Claim:
        """The claim on one hop, not made yet."""
        return Claim(self._table, self.client, identifier, outside)


class Claim:
    """One run's claim on a hop.

    Attributes:
        sent: Whether what came of it is known to be sent.
    """

    def __init__(self, table: str, client: OwnClient, identifier: str, outside: contextvars.Context) -> None:
        self._table = table
        self._client = client
        self._identifier = identifier
        self._outside = outside
        self._owner = secrets.token_hex(8)
        self.sent = False

    async def take(self, seconds: float) -> bytes | None:
        """Take the hop for so many seconds; return what was written if it is done.

        Raises:
            Taken: Another run has it.
            NoTable: The table is wrong.
        """
        now = time.time()
        item = await self._update(
            "SET #owner = :owner, #lease = :lease, #expires = :expires",
            "attribute_not_exists(#done) AND (attribute_not_exists(#lease) OR #lease <= :now)",
            {
                ":owner": {"S": self._owner},
                ":now": {"N": f"{now:.3f}"},
                ":lease": {"N": f"{now + seconds:.3f}"},
                ":expires": {"N": f"{now + seconds + KEPT:.0f}"},
            },
        )
        if item is None:
            return None
        if "done" not in item:
            raise Taken(float(item["lease"]["N"]))
        self.sent = "sent" in item
        return item["done"]["S"].encode()

    async def settle(self, done: bytes) -> bytes:
        """Write what came of the hop, unless it is written; return what counts.

        Raises:
            Taken: Another run has it by now.
        """
        item = await self._update(
            "SET #done = :done",
            "#owner = :owner AND attribute_not_exists(#done)",
            {":owner": {"S": self._owner}, ":done": {"S": done.decode()}},
        )
        if item is None:
            return done
        if item.get("owner", {}).get("S") == self._owner and "done" in item:
            return item["done"]["S"].encode()
        raise Taken(float(item.get("lease", {}).get("N", "0")))

    async def note_sent(self) -> None:
        """Write that it was sent, so that a delivery after this sends nothing."""
        await self._update("SET #sent = :sent", "attribute_exists(#done)", {":sent": {"BOOL": True}})

    async def release(self) -> None:
        """Let a retry follow at once."""
        await self._update(
            "SET #lease = :now",
            "#owner = :owner AND attribute_not_exists(#done)",
            {":owner": {"S": self._owner}, ":now": {"N": f"{time.time():.3f}"}},
        )

    async def _update(
        self, change: str, condition: str, values: dict[str, dict[str, Any]]
    ) -> dict[str, dict[str, str]] | None:
        """Change the item; return it as it is if the condition does not hold."""
        from botocore.exceptions import ClientError  # noqa: PLC0415  # importing deadline.aws loads no SDK

        used = change + condition
        request = {
            "TableName": self._table,
            "Key": {"id": {"S": self._identifier}},
            "UpdateExpression": change,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": {f"#{name}": name for name in _NAMES if f"#{name}" in used},
            "ExpressionAttributeValues": values,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        try:
            await self._client.call("UpdateItem", request, self._outside)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "ConditionalCheckFailedException":
                item: dict[str, dict[str, str]] = error.response.get("Item", {})  # type: ignore[assignment]
                return item
            if code in {"ResourceNotFoundException", "ValidationException"}:
                raise NoTable(
                    f"once: the DynamoDB table {self._table!r} cannot be used ({error}); it needs to be "
                    'there, with the text "id" as its only key and, to forget old hops, "expires" as its '
                    "time-to-live attribute"
                ) from error
            raise
        return None

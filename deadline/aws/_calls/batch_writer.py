"""DynamoDB's batch writer under a deadline.

aioboto3's writer sends again at once, and for ever, what the table did not take (540 requests in half a
second against a throttled table), and forgets the batch whose request failed (boto/boto3#2088). Under a
deadline this one

- pauses for as long as the table refuses items: 50 ms, doubled each time, 2 s at most;
- keeps in `unconfirmed` what was handed over and not confirmed, the batches on the wire included: several
  coroutines may share a writer, and one of them may end while the batch of another is in flight. The report
  of every deadline in which something was handed over says how much that is when the report is made.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aioboto3.dynamodb.table import BatchWriter

from deadline._core.scope import current

if TYPE_CHECKING:
    from deadline._core.scope import Deadline
    from deadline._report.record import Record

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0


class DeadlineBatchWriter(BatchWriter):  # type: ignore[misc]  # aioboto3 is untyped
    """What `table.batch_writer()` gives, of a resource from an installed session."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pause = FIRST_PAUSE
        self._in_flight: list[list[dict[str, Any]]] = []
        self._deadline: Deadline | None = None  # in which something was last handed over
        self._records: list[Record] = []  # whose reports tell what is unconfirmed

    @property
    def unconfirmed(self) -> list[dict[str, Any]]:
        """The requests that the table has not said it took, in its words: `PutRequest`, `DeleteRequest`.

        A request is here from the moment it is handed over, while its batch is on the wire, and after its
        batch has failed under a deadline. The table may have taken those of a batch whose answer is still on
        its way or did not arrive. Sending them again does no harm.
        """
        return [*(request for batch in self._in_flight for request in batch), *self._items_buffer]

    async def _add_request_and_process(self, request: dict[str, Any]) -> None:
        self._tell()
        await super()._add_request_and_process(request)

    def _tell(self) -> None:
        """Have the reports of the deadlines in force say how much is unconfirmed when they are made."""
        dl = current()
        if dl is None or dl is self._deadline:
            return
        self._deadline = dl
        for record in dl.records():
            if record not in self._records:
                self._records.append(record)
                record.left_behind.append(self._left_behind)

    def _tell_no_more(self) -> None:
        """All is confirmed: no report need keep this writer."""
        for record in self._records:
            record.left_behind.remove(self._left_behind)
        self._deadline, self._records = None, []

    def _left_behind(self) -> str | None:
        count = len(self.unconfirmed)
        return f"batch to {self._table_name}: {count} not confirmed" if count else None

    async def _flush(self) -> None:
        batch = self._items_buffer[: self._flush_amount]
        refused = False
        self._in_flight.append(batch)
        try:
            if current() is None:
                await super()._flush()
            else:
                refused = await self._send(batch)
        finally:
            self._in_flight = [one for one in self._in_flight if one is not batch]
            if not self._in_flight and not self._items_buffer:
                self._tell_no_more()
        if refused:
            pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
            await asyncio.sleep(pause)
        else:
            self._pause = FIRST_PAUSE

    async def _send(self, batch: list[dict[str, Any]]) -> bool:
        """Send a batch off the buffer; return whether the table refused some of it."""
        del self._items_buffer[: len(batch)]
        try:
            answer = await self._client.batch_write_item(RequestItems={self._table_name: batch})
        except BaseException:
            self._items_buffer[:0] = self._not_replaced(batch)
            raise
        refused = (answer["UnprocessedItems"] or {}).get(self._table_name, [])
        self._items_buffer += self._not_replaced(refused)
        return bool(refused)

    def _not_replaced(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of a batch whose key was not handed over again meanwhile, where the writer looks for that."""
        if not self._overwrite_by_pkeys:
            return batch
        newer = [self._extract_pkey_values(request) for request in self._items_buffer]
        return [request for request in batch if self._extract_pkey_values(request) not in newer]


class DeadlineTable:
    """Mixed into the class of a table resource, before aioboto3's own."""

    def batch_writer(
        self, overwrite_by_pkeys: list[str] | None = None, flush_amount: int = 25, on_exit_loop_sleep: int = 0
    ) -> DeadlineBatchWriter:
        """As aioboto3's, with a writer that obeys the deadline in force."""
        table: Any = self
        return DeadlineBatchWriter(
            table.name,
            table.meta.client,
            flush_amount=flush_amount,
            overwrite_by_pkeys=overwrite_by_pkeys,
            on_exit_loop_sleep=on_exit_loop_sleep,
        )

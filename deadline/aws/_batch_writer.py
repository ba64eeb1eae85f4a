"""DynamoDB's batch writer under a deadline.

aioboto3's writer sends again at once, and for ever, what the table did not take (540 requests in half a
second against a throttled table), and forgets the batch whose request failed (boto/boto3#2088). Under a
deadline this one

- pauses for as long as the table refuses items: 50 ms, doubled each time, 2 s at the most;
- keeps in `unconfirmed` what the table did not say that it took, and the report says how much that is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aioboto3.dynamodb.table import BatchWriter

from deadline._scope import current

if TYPE_CHECKING:
    from types import TracebackType

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0


class DeadlineBatchWriter(BatchWriter):  # type: ignore[misc]  # aioboto3 is untyped
    """What `table.batch_writer()` gives, of a resource from an installed session."""

    _pause = FIRST_PAUSE

    @property
    def unconfirmed(self) -> list[dict[str, Any]]:
        """The requests that the table has not said it took, in its words: `PutRequest`, `DeleteRequest`.

        It may have taken those of a batch whose answer did not arrive. Sending them again does no harm.
        """
        return list(self._items_buffer)

    async def _flush(self) -> None:
        if current() is None:
            await super()._flush()
            return
        batch, rest = self._items_buffer[: self._flush_amount], self._items_buffer[self._flush_amount :]
        try:
            await super()._flush()
        except BaseException:
            self._items_buffer[:0] = batch
            raise
        if len(self._items_buffer) == len(rest):
            self._pause = FIRST_PAUSE
        else:
            pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        dl = current()
        try:
            await super().__aexit__(exc_type, exc, traceback)
        finally:
            if dl is not None and self._items_buffer:
                dl.leave_behind(f"batch to {self._table_name}: {len(self._items_buffer)} not confirmed")


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

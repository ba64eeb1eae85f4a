"""Event sources to which no error means that all is done.

Lambda deletes a queue's messages, or moves a stream's checkpoint on, when the function returns. Only an
error, or a list of failed items where `ReportBatchItemFailures` is on, has them delivered again
(docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from deadline._report.data import BatchReport
from deadline._work.each import Batch, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deadline._work.each import Kind

QUEUE: Final = "aws:sqs"
STREAMS: Final = {
    "aws:kinesis": lambda record: record["kinesis"]["sequenceNumber"],
    "aws:dynamodb": lambda record: record["dynamodb"]["SequenceNumber"],
}


def batch_response(
    batch: Batch[Any, Any] | BatchReport, event: Any, *, raise_if_all_failed: bool = True
) -> dict[str, list[dict[str, str]]]:
    """Tell Lambda which records are to be delivered again, where `ReportBatchItemFailures` is on.

    Write `return aws.batch_response(await each(work, event["Records"]), event)`, or in `on_exceeded`
    `return aws.batch_response(exceeded.report.batches[0], event)`.

    Args:
        batch: What `each` gave for the event's records, in their order, or the report's account of it.
            Records that it does not mention count as unprocessed.
        event: As Lambda passed it, from SQS, Kinesis or a DynamoDB stream.
        raise_if_all_failed: Whether to raise if every record of the event has failed, so that the invocation
            fails, is counted in Lambda's `Errors` and has a notice. All records are delivered again in either
            case. A report has no errors to raise, and is always answered.

    Returns:
        `{"batchItemFailures": [{"itemIdentifier": ...}, ...]}`: for a queue the message ids of all that is
        failed or unprocessed; for a stream the sequence number of the first of those, from which it is read
        again.

    Raises:
        ExceptionGroup: Every record failed. It has the first error of each kind: class and line.
        TypeError: `batch` is neither.
        ValueError: The event has no records, or is from another source; or the batch is not of its records.
    """
    source = _source(event)
    if source is None or source not in {QUEUE, *STREAMS}:
        raise ValueError(
            f"event: expected records of SQS, Kinesis or a DynamoDB stream, got {source or 'none'}; other "
            "sources take no partial response"
        )
    records = event["Records"]
    done = _done(batch, records)
    if raise_if_all_failed and isinstance(batch, Batch) and len(batch.failed) == len(records):
        kinds: dict[Kind, Exception] = {}
        for failed in batch.failed:
            kinds.setdefault(kind_of(failed.error), failed.error)
        raise ExceptionGroup(f"every record failed, {len(records)} of {len(records)}", list(kinds.values()))
    left = [record for position, record in enumerate(records) if position not in done]
    if source == QUEUE:
        failures = [record["messageId"] for record in left]
    else:
        failures = [STREAMS[source](record) for record in left[:1]]
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in failures]}


def _done(batch: Batch[Any, Any] | BatchReport, records: Sequence[Any]) -> set[int]:
    """The positions of what is done, of a batch that may well be of these records.

    Items may be what was read out of the records. But one that is a record must be it in its place: a batch
    of some of them, or of another order, would have the wrong ones deleted.
    """
    report = batch.report if isinstance(batch, Batch) else batch
    if not isinstance(report, BatchReport):
        raise TypeError(
            f"batch: expected what `each` gave, or one of exceeded.report.batches, got {batch!r:.80} "
            f"({type(batch).__name__})"
        )
    count = sum(map(len, report))
    if count > len(records):
        raise ValueError(f"batch: it has {count} items, and the event {len(records)} records")
    if isinstance(batch, Batch):
        places = {id(record): place for place, record in enumerate(records)}
        done, failed = (one.item for one in batch.done), (one.item for one in batch.failed)
        items = itertools.chain(done, failed, batch.unprocessed)
        for position, item in zip(itertools.chain(*report), items, strict=True):
            if places.get(id(item), position) != position:
                raise ValueError(
                    f"batch: its item {position} is the event's record {places[id(item)]}; pass "
                    "event['Records'] to each, whole and in its order"
                )
    return set(report.done)


def message_group(record: Any) -> str | None:
    """The group of a FIFO queue's message, `None` for another's: `each(..., group=aws.message_group)`."""
    group: str | None = record.get("attributes", {}).get("MessageGroupId")
    return group


def _source(event: Any) -> str | None:
    try:
        source: str = event["Records"][0]["eventSource"]
    except (KeyError, IndexError, TypeError):
        return None
    return source if isinstance(source, str) else None


def loses_work(event: Any, answer: Any) -> bool:
    """Whether answering `event` with this after the time was up takes unfinished items for done."""
    if _source(event) not in {QUEUE, *STREAMS}:
        return False
    return not (isinstance(answer, dict) and answer.get("batchItemFailures"))

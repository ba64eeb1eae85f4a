"""Event sources to which no error means that all is done.

Lambda deletes a queue's messages, or moves a stream's checkpoint on, when the function returns. Only an
error, or a list of failed items where `ReportBatchItemFailures` is on, has them delivered again
(docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from deadline._each import Batch

if TYPE_CHECKING:
    from deadline._report import BatchReport

QUEUE: Final = "aws:sqs"
STREAMS: Final = {
    "aws:kinesis": lambda record: record["kinesis"]["sequenceNumber"],
    "aws:dynamodb": lambda record: record["dynamodb"]["SequenceNumber"],
}


def batch_response(batch: Batch[Any, Any] | BatchReport, event: Any) -> dict[str, list[dict[str, str]]]:
    """Tell Lambda which records are to be delivered again, where `ReportBatchItemFailures` is on.

    Write `return aws.batch_response(await each(work, event["Records"]), event)`, or in `on_exceeded`
    `return aws.batch_response(exceeded.report.batches[0], event)`.

    Args:
        batch: What `each` gave for the event's records, in their order, or the report's account of it.
            Records that it does not mention count as unprocessed.
        event: As Lambda passed it, from SQS, Kinesis or a DynamoDB stream.

    Returns:
        `{"batchItemFailures": [{"itemIdentifier": ...}, ...]}`: for a queue the message ids of all that is
        failed or unprocessed; for a stream the sequence number of the first of those, from which it is read
        again.

    Raises:
        ValueError: The event has no records, or is from another source.
    """
    report = batch.report if isinstance(batch, Batch) else batch
    done = set(report.done)
    source = _source(event)
    left = (
        [record for position, record in enumerate(event["Records"]) if position not in done] if source else []
    )
    if source == QUEUE:
        failures = [record["messageId"] for record in left]
    elif source in STREAMS:
        failures = [STREAMS[source](record) for record in left[:1]]
    else:
        raise ValueError(
            f"event: expected records of SQS, Kinesis or a DynamoDB stream, got {source or 'none'}; other "
            "sources take no partial response"
        )
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in failures]}


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

"""Event sources to which no error means that all is done.

Lambda deletes a queue's messages, or moves a stream's checkpoint on, when the function returns. Only an
error, or a list of failed items where `ReportBatchItemFailures` is on, has them delivered again
(docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html).
"""

from __future__ import annotations

from typing import Any, Final

SOURCES: Final = frozenset({"aws:sqs", "aws:kinesis", "aws:dynamodb"})


def loses_work(event: Any, answer: Any) -> bool:
    """Whether answering `event` with this after the time was up takes unfinished items for done."""
    try:
        source = event["Records"][0]["eventSource"]
    except (KeyError, IndexError, TypeError):
        return False
    return source in SOURCES and not (isinstance(answer, dict) and answer.get("batchItemFailures"))

"""Partial responses to queues and streams."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from deadline import DeadlineExceeded, aws, deadline, each
from deadline._report.data import BatchReport
from deadline._work.each import Done
from deadline.testing import FakeContext


def event_of(source: str, count: int = 4) -> dict[str, Any]:
    return {
        "Records": [
            {
                "eventSource": source,
                "messageId": f"message {number}",
                "kinesis": {"sequenceNumber": f"kinesis {number}"},
                "dynamodb": {"SequenceNumber": f"dynamodb {number}"},
            }
            for number in range(count)
        ]
    }


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("aws:sqs", ["message 1", "message 3"]),
        ("aws:kinesis", ["kinesis 1"]),
        ("aws:dynamodb", ["dynamodb 1"]),
    ],
)
def test_what_is_failed_or_unprocessed_comes_again(source: str, expected: list[str]) -> None:
    """A queue's messages one by one, a stream from the first on."""
    answer = aws.batch_response(BatchReport((0, 2), (1,), (3,)), event_of(source))
    assert answer == {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in expected]}


@pytest.mark.parametrize("source", ["aws:sqs", "aws:kinesis"])
def test_all_done_is_an_empty_list(source: str) -> None:
    """Which Lambda takes for complete success."""
    assert aws.batch_response(BatchReport((0, 1)), event_of(source, 2)) == {"batchItemFailures": []}


def test_what_the_batch_does_not_mention_is_unprocessed() -> None:
    """A batch that read an iterator knows only what it fetched."""
    answer = aws.batch_response(BatchReport((0,)), event_of("aws:sqs", 3))
    assert [one["itemIdentifier"] for one in answer["batchItemFailures"]] == ["message 1", "message 2"]


@pytest.mark.parametrize("event", [{}, {"Records": []}, event_of("aws:s3"), None])
def test_another_source_is_refused(event: Any) -> None:
    """The message says what takes partial responses."""
    with pytest.raises(ValueError, match="event: expected records of SQS, Kinesis or a DynamoDB stream"):
        aws.batch_response(BatchReport(), event)


async def _done(_: Any) -> None: ...


@pytest.mark.parametrize("some", [slice(1, None), slice(None, None, -1)])
async def test_a_batch_of_others_than_the_events_records_is_refused(some: slice) -> None:
    """Positions are matched: of a part of the records, or in another order, the wrong ones were deleted."""
    event = event_of("aws:sqs")
    batch = await each(_done, event["Records"][some])
    with pytest.raises(ValueError, match=r"batch: .* pass event\['Records'\] to each, whole"):
        aws.batch_response(batch, event)


async def test_a_batch_of_more_than_the_events_records_is_refused() -> None:
    """In whatever form."""
    event = event_of("aws:sqs", 2)
    with pytest.raises(ValueError, match=r"batch: it has 3 items, and the event 2 records"):
        aws.batch_response(BatchReport((0, 2), (1,)), event)


async def test_a_batch_of_what_was_read_out_of_the_records_will_do() -> None:
    """Its items are no records, but in their order."""
    event = event_of("aws:sqs", 3)
    batch = await each(_done, [record["messageId"] for record in event["Records"]])
    assert aws.batch_response(batch, event) == {"batchItemFailures": []}


@pytest.mark.parametrize("batch", [None, [], {"batchItemFailures": []}])
def test_what_is_no_batch_is_refused_by_name(batch: Any) -> None:
    """The message says what to pass."""
    with pytest.raises(TypeError, match=r"batch: expected what `each` gave, or one of"):
        aws.batch_response(batch, event_of("aws:sqs"))


async def test_a_batch_that_stopped_in_time(virtual_clock: object) -> None:
    """From `each` to the response, and from the report where the block was cut."""
    event = event_of("aws:sqs")

    async def work(record: Any) -> None:
        await asyncio.sleep(1.0)

    async with deadline(2.5):
        batch = await each(work, event["Records"], group=aws.message_group)
    assert len(aws.batch_response(batch, event)["batchItemFailures"]) == 2
    with pytest.raises(DeadlineExceeded) as caught:
        async with deadline(0.5):
            await each(work, event["Records"])
    assert len(aws.batch_response(caught.value.report.batches[0], event)["batchItemFailures"]) == 4


async def test_a_batch_that_is_left_behind_tells_what_was_done(
    virtual_clock: object, own_environment: None
) -> None:
    """An item that swallows its cancellation does not have those before it delivered again."""
    event = event_of("aws:sqs")

    @aws.handler
    async def handler(event: Any, context: Any) -> Any:
        async def work(record: Any) -> None:
            while record["messageId"] == "message 2":
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(9.0)

        return aws.batch_response(await each(work, event["Records"]), event)

    @handler.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return aws.batch_response(exceeded.report.batches[0], event)

    answer = await handler.invoke(event, FakeContext(3.0))
    assert [one["itemIdentifier"] for one in answer["batchItemFailures"]] == ["message 2", "message 3"]


async def _fail(record: Any) -> None:
    if record["messageId"] == "message 1":
        raise ValueError("another one")
    raise KeyError("a bug")


async def test_a_batch_that_failed_whole_raises() -> None:
    """With the first error of each kind, so that the invocation fails; unless it is told not to."""
    event = event_of("aws:sqs")
    batch = await each(_fail, event["Records"])
    with pytest.raises(ExceptionGroup, match="every record failed, 4 of 4") as caught:
        aws.batch_response(batch, event)
    assert list(map(repr, caught.value.exceptions)) == ["KeyError('a bug')", "ValueError('another one')"]
    answer = aws.batch_response(batch, event, raise_if_all_failed=False)
    assert len(answer["batchItemFailures"]) == 4


@pytest.mark.parametrize("fate", ["done", "unprocessed", "not mentioned"])
async def test_a_batch_of_which_one_record_did_not_fail_is_answered(fate: str) -> None:
    """A record that is done, or was not begun, is no failure; a report has no errors to raise."""
    event = event_of("aws:sqs")
    batch = await each(_fail, event["Records"][:3] if fate == "not mentioned" else event["Records"])
    if fate != "not mentioned":
        failed = batch.failed.pop()
        batch.report = BatchReport((3,), (0, 1, 2)) if fate == "done" else BatchReport((), (0, 1, 2), (3,))
        if fate == "done":
            batch.done.append(Done(failed.item, None))
        else:
            batch.unprocessed.append(failed.item)
    assert len(aws.batch_response(batch, event)["batchItemFailures"]) == (3 if fate == "done" else 4)
    answer = aws.batch_response(BatchReport((), (0, 1, 2, 3)), event)
    assert len(answer["batchItemFailures"]) == 4


async def test_an_invocation_whose_batch_failed_whole_fails(own_environment: None) -> None:
    """Lambda is told what every record failed with."""

    @aws.handler
    async def handler(event: Any, context: Any) -> Any:
        return aws.batch_response(await each(_fail, event["Records"][:1]), event)

    with pytest.raises(ExceptionGroup) as caught:
        await handler.invoke(event_of("aws:sqs", 1), FakeContext(3.0))
    assert str(caught.value) == "every record failed, 1 of 1 (1 sub-exception)\n- KeyError: 'a bug'"


@pytest.mark.parametrize(
    ("record", "group"),
    [({"attributes": {"MessageGroupId": "a"}}, "a"), ({"attributes": {}}, None), ({}, None)],
)
def test_the_group_of_a_message(record: Any, group: str | None) -> None:
    """A FIFO queue's messages have one."""
    assert aws.message_group(record) == group

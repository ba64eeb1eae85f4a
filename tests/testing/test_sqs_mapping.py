"""The event source mapping: moto's SQS, real processes, and which messages come again."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import boto3
import pytest

from deadline.testing import Emulator, MotoServer, SqsBatch, SqsMapping
from deadline.testing._emulator.sqs_mapping import MalformedError, reported_failures

pytest.importorskip("awslambdaric")

EXAMPLES = Path(__file__).parents[2] / "examples"

FUNCTION = """
import time

def answers(event, context):
    "What the bodies ask for: the first that is no number is the answer."
    bodies = [record["body"] for record in event["Records"]]
    if "hang" in bodies:
        time.sleep(1000)
    if "fail" in bodies:
        raise KeyError("fail")
    if "text" in bodies:
        return "done"
    bad = [record["messageId"] for record in event["Records"] if record["body"] == "bad"]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in bad]}

def echoes(event, context):
    return {"batchItemFailures": [], "event": event}

def halts(event, context):
    "FIFO: everything from the first failure on, once."
    failures = []
    for record in event["Records"]:
        if failures or (record["body"] == "b" and record["attributes"]["ApproximateReceiveCount"] == "1"):
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures, "bodies": [record["body"] for record in event["Records"]]}
"""


class Queue:
    """A queue on moto, and what is in it."""

    def __init__(self, name: str, **attributes: str) -> None:
        self.sqs: Any = boto3.client("sqs")
        self.url: str = self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]

    @property
    def arn(self) -> str:
        answer = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        return str(answer["Attributes"]["QueueArn"])

    def send(self, *bodies: str, **options: Any) -> list[str]:
        """Send them; return their ids."""
        return [
            self.sqs.send_message(QueueUrl=self.url, MessageBody=body, **options)["MessageId"]
            for body in bodies
        ]

    def count(self) -> int:
        """Messages, visible or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        return sum(map(int, answer["Attributes"].values()))


def worked_off(batch: SqsBatch) -> list[str]:
    """What the example's function told of its work."""
    told = [line for line in batch.invocation.log.splitlines() if line.startswith("worked off ")]
    return [line.split()[-1] for line in told]


Start = Callable[..., Emulator]


@pytest.fixture
def start(moto_server: MotoServer, emulator: Callable[..., Emulator], tmp_path: Path) -> Start:
    """A function of the module above, running."""
    (tmp_path / "function.py").write_text(FUNCTION)

    def start(name: str, timeout: float = 1.0) -> Emulator:
        return emulator(f"function.{name}", path=tmp_path, timeout=timeout)

    return start


# --- the response -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response", [None, {}, {"batchItemFailures": None}, {"batchItemFailures": []}, {"statusCode": 200}]
)
def test_an_empty_response_is_complete_success(response: Any) -> None:
    """Nothing, and no failures, delete the whole batch."""
    assert reported_failures(response, ["a", "b"]) == []


def test_listed_messages_are_failures() -> None:
    """Only what is listed comes again."""
    response = {"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": "a"}]}
    assert reported_failures(response, ["a", "b", "c"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("response", "why"),
    [
        ("done", "no object: 'done'"),
        ([], "no object"),
        ({"batchItemFailures": "a"}, "no list: 'a'"),
        ({"batchItemFailures": ["a"]}, "no itemIdentifier in 'a'"),
        ({"batchItemFailures": [{"itemidentifier": "a"}]}, "no itemIdentifier"),
        ({"batchItemFailures": [{"itemIdentifier": ""}]}, "no message of the batch"),
        ({"batchItemFailures": [{"itemIdentifier": None}]}, "no message of the batch"),
        (
            {"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "z"}]},
            "no message of the batch",
        ),
    ],
)
def test_a_malformed_response_is_none(response: Any, why: str) -> None:
    """What is not of the documented form is complete failure, and the reason says what is wrong."""
    with pytest.raises(MalformedError, match=why):
        reported_failures(response, ["a", "b"])


# --- the event --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_record_has_everything_that_lambda_writes(start: Start) -> None:
    """Ids, times, counts, checksums, typed attributes and the queue's ARN are there."""
    queue = Queue("whole")
    attributes = {
        "colour": {"DataType": "String", "StringValue": "blue"},
        "raw": {"DataType": "Binary", "BinaryValue": b"\0\xff"},
    }
    (message_id,) = queue.send("text", MessageAttributes=attributes)
    batch = SqsMapping(start("echoes", 30.0), queue.url).poll()
    assert batch is not None
    (record,) = batch.invocation.response["event"]["Records"]
    assert set(record) == {
        "messageId", "receiptHandle", "body", "attributes", "messageAttributes", "md5OfBody",
        "md5OfMessageAttributes", "eventSource", "eventSourceARN", "awsRegion",
    }  # fmt: skip
    assert record["messageId"] == message_id
    assert record["body"] == "text"
    assert record["md5OfBody"] == "1cb251ec0d568de6a929b520c4aed8d1"
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"] == queue.arn
    assert record["awsRegion"] == "us-east-1"
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert abs(int(record["attributes"]["SentTimestamp"]) / 1000 - time.time()) < 60
    assert record["attributes"]["ApproximateFirstReceiveTimestamp"].isdigit()
    empty: dict[str, Any] = {"stringListValues": [], "binaryListValues": []}
    assert record["messageAttributes"] == {
        "colour": {"dataType": "String", "stringValue": "blue", **empty},
        "raw": {"dataType": "Binary", "binaryValue": "AP8=", **empty},
    }


# --- what comes again -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_success_deletes_the_batch(start: Start) -> None:
    """A batch has at most `batch_size` messages, in the queue's order, and is gone afterwards."""
    queue = Queue("fine")
    sent = queue.send(*map(str, range(5)))
    mapping = SqsMapping(start("answers", 30.0), queue.url, batch_size=2)
    batches = mapping.run(rounds=10)
    assert [batch.delivered for batch in batches] == [sent[:2], sent[2:4], sent[4:]]
    assert [batch.deleted for batch in batches] == [batch.delivered for batch in batches]
    assert {delivery.reason for delivery in mapping.log} == {"the function succeeded"}
    assert queue.count() == 0
    assert mapping.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "reason"),
    [("hang", "the function timed out"), ("fail", "the function failed with KeyError")],
)
def test_a_failed_invocation_has_everything_come_again(start: Start, body: str, reason: str) -> None:
    """After a kill or an error all are back after the visibility timeout, as the log says."""
    queue = Queue("again", VisibilityTimeout="1")
    sent = queue.send("1", body)
    mapping = SqsMapping(start("answers"), queue.url, report_batch_item_failures=True)
    first, second = mapping.run(rounds=2)
    assert first.returned == second.returned == sent
    assert first.deleted == second.deleted == []
    assert [(delivery.message_id, delivery.receive) for delivery in mapping.log] == [
        (message_id, receive) for receive in (1, 2) for message_id in sent
    ]
    assert {(delivery.fate, delivery.reason) for delivery in mapping.log} == {("returned", reason)}
    ids = [first.invocation.request_id] * 2 + [second.invocation.request_id] * 2
    assert [delivery.request_id for delivery in mapping.log] == ids
    assert str(mapping.log[0]) == f"{sent[0]}, receive 1, in {ids[0]}: returned, because {reason}"
    assert queue.count() == 2


@pytest.mark.slow
def test_a_partial_response_has_only_the_failures_come_again(start: Start) -> None:
    """What is listed stays in the queue, not visible for its visibility timeout; the others are gone."""
    queue = Queue("partial", VisibilityTimeout="30")
    good, bad, other = queue.send("1", "bad", "2")
    mapping = SqsMapping(start("answers", 30.0), queue.url, report_batch_item_failures=True)
    batch = mapping.poll()
    assert batch is not None
    assert (batch.deleted, batch.returned) == ([good, other], [bad])
    assert mapping.log[1].reason == "the response lists it in batchItemFailures"
    assert mapping.poll() is None
    assert queue.count() == 1


@pytest.mark.slow
def test_after_so_many_receives_a_message_is_dead(start: Start) -> None:
    """By the queue's redrive policy, and the log says at which delivery it was the last time."""
    dead = Queue("dead")
    policy = json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": 2})
    queue = Queue("poisoned", VisibilityTimeout="1", RedrivePolicy=policy)
    (bad,) = queue.send("bad")
    mapping = SqsMapping(start("answers"), queue.url, report_batch_item_failures=True)
    batches = mapping.run(rounds=10)
    assert [batch.returned for batch in batches] == [[bad], [bad]]
    assert [delivery.fate for delivery in mapping.log] == ["returned", "dead-letter"]
    assert (queue.count(), dead.count()) == (0, 1)


@pytest.mark.slow
def test_a_response_counts_only_where_it_is_asked_for(start: Start) -> None:
    """Without `ReportBatchItemFailures` every answer deletes everything."""
    queue = Queue("unasked")
    sent = queue.send("bad", "1")
    batch = SqsMapping(start("answers", 30.0), queue.url).poll()
    assert batch is not None
    assert batch.invocation.response["batchItemFailures"] == [{"itemIdentifier": sent[0]}]
    assert batch.deleted == sent


@pytest.mark.slow
def test_a_malformed_response_has_everything_come_again(start: Start) -> None:
    """And the log says what was wrong with it."""
    queue = Queue("malformed")
    sent = queue.send("1", "text")
    mapping = SqsMapping(start("answers", 30.0), queue.url, report_batch_item_failures=True)
    batch = mapping.poll()
    assert batch is not None
    assert batch.returned == sent
    assert mapping.log[0].reason == "the partial response is malformed: it is no object: 'done'"


@pytest.mark.slow
def test_a_batch_may_be_larger_than_one_receive(start: Start) -> None:
    """More than ten are gathered, deleted and given back."""
    queue = Queue("large")
    sent = queue.send(*["1"] * 12, *["bad"] * 12)
    mapping = SqsMapping(
        start("answers", 30.0), queue.url, batch_size=24, window=20.0, report_batch_item_failures=True
    )
    batch = mapping.poll()
    assert batch is not None
    assert (batch.deleted, batch.returned) == (sent[:12], sent[12:])
    assert queue.count() == 12


@pytest.mark.slow
def test_a_window_waits_for_more(start: Start) -> None:
    """What arrives within the window belongs to the batch."""
    queue = Queue("window")
    first = queue.send("1")
    late = queue.send("2", DelaySeconds=1)
    batch = SqsMapping(start("answers", 30.0), queue.url, window=10.0, batch_size=2).poll()
    assert batch is not None
    assert batch.delivered == first + late


@pytest.mark.slow
def test_a_fifo_group_keeps_its_order_when_it_comes_again(start: Start) -> None:
    """What a FIFO handler gives back from its first failure on comes again in the same order."""
    queue = Queue("ordered.fifo", VisibilityTimeout="1", FifoQueue="true", ContentBasedDeduplication="true")
    queue.send("a", "b", "c", "d", MessageGroupId="one")
    mapping = SqsMapping(start("halts"), queue.url, report_batch_item_failures=True)
    batches = mapping.run(rounds=5)
    assert [batch.invocation.response["bodies"] for batch in batches] == [list("abcd"), list("bcd")]
    assert queue.count() == 0


@pytest.mark.slow
def test_a_queue_that_somebody_else_holds_is_given_up(start: Start) -> None:
    """`run` waits a visibility timeout for what is invisible, and no longer."""
    queue = Queue("held", VisibilityTimeout="1")
    queue.send("1")
    queue.sqs.receive_message(QueueUrl=queue.url, VisibilityTimeout=600)
    assert SqsMapping(start("answers"), queue.url).run(rounds=5) == []


# --- a batch that does not fit ----------------------------------------------------------------------------


@pytest.mark.slow
def test_messages_that_do_not_fit_are_worked_off_once_in_several_rounds(
    moto_server: MotoServer, emulator: Callable[..., Emulator]
) -> None:
    """With `each` and a partial response none is lost, none done twice, and the time is used."""
    chance = random.Random(3)
    costs = [chance.uniform(0.02, 0.12) for _ in range(50)]
    queue = Queue("busy", VisibilityTimeout="2")
    cost_of = dict(zip(queue.send(*map(str, costs)), costs, strict=True))
    function = emulator("batch.in_time", path=EXAMPLES, timeout=2.0)
    mapping = SqsMapping(function, queue.url, batch_size=50, window=1.0, report_batch_item_failures=True)
    batches = mapping.run(rounds=20)
    assert queue.count() == 0
    deleted = [message_id for batch in batches for message_id in batch.deleted]
    assert sorted(deleted) == sorted(cost_of)
    for batch in batches:
        assert batch.invocation.status == "success"
        assert worked_off(batch) == batch.deleted
    for delivery in mapping.log:
        later = [other for other in mapping.log if other.message_id == delivery.message_id][
            delivery.receive :
        ]
        assert bool(later) == (delivery.fate == "returned")
    # Nine tenths on an idle machine: benchmarks/batches.py.
    cut_short = [batch for batch in batches if batch.returned]
    work = sum(cost_of[message_id] for batch in cut_short for message_id in batch.deleted)
    assert work > 0.6 * 1.5 * len(cut_short) > 0.0


# --- the arguments ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_visibility_timeout_below_the_functions_is_refused(start: Start) -> None:
    """As Lambda refuses it."""
    queue = Queue("hasty", VisibilityTimeout="2")
    with pytest.raises(ValueError, match=r"timeout of 2 s is less than the function's timeout of 3 s"):
        SqsMapping(start("answers", 3.0), queue.url)


@pytest.mark.slow
def test_wrong_arguments_are_named(start: Start) -> None:
    """A batch size out of range, a window in which messages would come twice, and an address that is none."""
    function = start("answers")
    fifo = Queue("some.fifo", FifoQueue="true")
    with pytest.raises(ValueError, match="batch_size must be from 1 to 10,"):
        SqsMapping(function, fifo.url, batch_size=11)
    with pytest.raises(ValueError, match="batch_size must be from 1 to 10000,"):
        SqsMapping(function, Queue("some").url, batch_size=0)
    with pytest.raises(
        ValueError, match="window must be shorter than the queue's visibility timeout of 30 s"
    ):
        SqsMapping(function, fifo.url, window=30.0)
    with pytest.raises(ValueError, match="batch_size over 10 needs a window, such as window=1.0, not 11"):
        SqsMapping(function, Queue("some").url, batch_size=11)
    with pytest.raises(TypeError, match="function must be an Emulator, not <function"):
        SqsMapping(cast("Any", test_wrong_arguments_are_named), fifo.url)
    with pytest.raises(ValueError, match=r"timeout of 0 s is less than the function's timeout"):
        SqsMapping(function, Queue("at-once", VisibilityTimeout="0").url)
    with pytest.raises(ValueError, match="queue_url must be a queue's URL"):
        SqsMapping(function, "some")

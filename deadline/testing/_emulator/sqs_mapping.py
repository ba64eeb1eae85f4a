"""An SQS event source mapping: what stands between a queue and a function, and its log.

A batch is deleted if the function succeeds; if it fails or times out, none of it is, and all is visible again
after the queue's visibility timeout. With `ReportBatchItemFailures` the response tells which ones are not to
be deleted. An empty or null response, and an empty or null list, are complete success. A response that is not
of that form, an identifier that is empty, null or under another key, and one of no message of the batch, are
complete failure (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html).
"""

import base64
import dataclasses
import json
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, TypeVar, final

from deadline.testing._emulator.emulator import Emulator, checked_count
from deadline.testing._emulator.invocation import Invocation
from deadline.testing._extras import missing
from deadline.testing._seconds import checked_seconds

RECEIVED_AT_ONCE: Final = 10  # and deleted: SQS takes no more
PAUSE: Final = 0.05
COUNTS: Final = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)

Thing = TypeVar("Thing")
Message = dict[str, Any]
"""As `ReceiveMessage` answers it."""


@final
@dataclasses.dataclass(frozen=True)
class SqsDelivery:
    """One message in one batch, and what came of it.

    Attributes:
        message_id: The record's `messageId`.
        receive: Which receive of the message it was, from 1: its `ApproximateReceiveCount`.
        request_id: Of the invocation.
        fate: `"deleted"`; `"returned"`, to be visible again after the queue's visibility timeout; or
            `"dead-letter"`, returned for the last time: by its redrive policy the queue moves it when it
            would be received again.
        reason: Why, in words.
    """

    message_id: str
    receive: int
    request_id: str
    fate: Literal["deleted", "returned", "dead-letter"]
    reason: str

    def __str__(self) -> str:
        where = f"{self.message_id}, receive {self.receive}, in {self.request_id}"
        return f"{where}: {self.fate}, because {self.reason}"


@final
@dataclasses.dataclass(frozen=True)
class SqsBatch:
    """One batch: the invocation that it was for, and its messages in their order."""

    invocation: Invocation
    deliveries: tuple[SqsDelivery, ...]

    @property
    def delivered(self) -> list[str]:
        """The ids of all messages."""
        return [delivery.message_id for delivery in self.deliveries]

    @property
    def deleted(self) -> list[str]:
        """The ids of those that were deleted."""
        return [delivery.message_id for delivery in self.deliveries if delivery.fate == "deleted"]

    @property
    def returned(self) -> list[str]:
        """The ids of all others."""
        return [delivery.message_id for delivery in self.deliveries if delivery.fate != "deleted"]


@final
class SqsMapping:
    """Deliver a queue's messages to a function in batches, as Lambda's event source mapping does.

        mapping = SqsMapping(function, queue_url, report_batch_item_failures=True)
        for batch in mapping.run(rounds=10):
            print(batch.invocation.status, batch.deleted, batch.returned)

    How long a message is invisible, and after how many receives it goes to which dead-letter queue, is the
    queue's matter: its `VisibilityTimeout` and `RedrivePolicy`, read once, here. Requests go to where
    `queue_url` points, past any proxy, signed with this process's credentials.

    One batch at a time; Lambda starts with five pollers, and backs off when the function fails.

    Args:
        function: Running.
        queue_url: On a `MotoServer`.
        batch_size: The most messages in one event, 1 to 10,000; for a FIFO queue at most 10.
        window: Seconds to gather a batch in, if it is not full before. One receive brings 10 messages, so
            larger batches need a window; Lambda wants a second.
        report_batch_item_failures: Whether the function's response is read.

    Attributes:
        log: Every delivery so far: it explains each receive of a message after its first.

    Raises:
        ImportError: boto3 is not installed.
        TypeError, ValueError: An argument is wrong, or the queue's visibility timeout is shorter than the
            function's timeout, which Lambda refuses too.
    """

    def __init__(
        self,
        function: Emulator,
        queue_url: str,
        *,
        batch_size: int = 10,
        window: float = 0.0,
        report_batch_item_failures: bool = False,
    ) -> None:
        if not isinstance(function, Emulator):
            raise TypeError(f"function must be an Emulator, not {function!r:.80}")
        self._function = function
        self._queue = _Queue(queue_url)
        self._batch_size = checked_count("batch_size", batch_size, 1, 10 if self._queue.fifo else 10_000)
        self._window = checked_seconds("window", window)
        self._reports = report_batch_item_failures
        self.log: list[SqsDelivery] = []
        if self._batch_size > RECEIVED_AT_ONCE and not self._window:
            raise ValueError(
                f"batch_size over {RECEIVED_AT_ONCE} needs a window, such as window=1.0, not {batch_size}: "
                "it is gathered from several receives"
            )
        if self._queue.visibility < function.timeout:
            raise ValueError(
                f"queue_url: the queue's visibility timeout of {self._queue.visibility} s is less than the "
                f"function's timeout of {function.timeout:g} s; Lambda advises six times as much"
            )
        if self._window >= self._queue.visibility:
            raise ValueError(
                f"window must be shorter than the queue's visibility timeout of {self._queue.visibility} s, "
                f"or a message would come twice in one batch, not {window!r}"
            )

    def poll(self) -> SqsBatch | None:
        """Deliver one batch of what is visible now; `None`, at once, if nothing is.

        Raises:
            RuntimeError: The emulator is not running.
        """
        messages = self._gather()
        if not messages:
            return None
        records = [_record(message, self._queue.arn) for message in messages]
        invocation = self._function.invoke({"Records": records})
        kept = self._kept(invocation, [message["MessageId"] for message in messages])
        refused = self._queue.delete([message for message in messages if message["MessageId"] not in kept])
        kept.update({message_id: f"it could not be deleted: {code}" for message_id, code in refused.items()})
        batch = SqsBatch(invocation, tuple(self._delivery(message, invocation, kept) for message in messages))
        self.log.extend(batch.deliveries)
        return batch

    def run(self, rounds: int) -> list[SqsBatch]:
        """Deliver until the queue is empty, and at most `rounds` batches.

        Waits for messages that are not visible yet, each time for the visibility timeout and a second at
        most.

        Raises:
            RuntimeError: The emulator is not running.
        """
        batches: list[SqsBatch] = []
        last = time.monotonic()
        while len(batches) < rounds:
            batch = self.poll()
            if batch is not None:
                batches.append(batch)
                last = time.monotonic()
            elif self._queue.is_empty() or time.monotonic() > last + self._queue.visibility + 1.0:
                break
            else:
                time.sleep(PAUSE)
        return batches

    def _gather(self) -> list[Message]:
        """Receive until the batch is full or the window over: a message must not become visible meanwhile."""
        until = time.monotonic() + self._window
        messages = self._queue.receive(min(RECEIVED_AT_ONCE, self._batch_size))
        while messages and len(messages) < self._batch_size and time.monotonic() < until:
            received = self._queue.receive(min(RECEIVED_AT_ONCE, self._batch_size - len(messages)))
            messages += received
            if not received:
                time.sleep(min(PAUSE, self._window))
        return messages

    def _kept(self, invocation: Invocation, ids: Sequence[str]) -> dict[str, str]:
        """The ids of the messages that are not to be deleted, each with the reason."""
        if invocation.error is not None:
            how = "timed out" if invocation.status == "timeout" else f"failed with {invocation.error.type}"
            return dict.fromkeys(ids, f"the function {how}")
        if not self._reports:
            return {}
        try:
            failures = reported_failures(invocation.response, ids)
        except MalformedError as error:
            return dict.fromkeys(ids, f"the partial response is malformed: {error}")
        return dict.fromkeys(failures, "the response lists it in batchItemFailures")

    def _delivery(self, message: Message, invocation: Invocation, kept: dict[str, str]) -> SqsDelivery:
        message_id = message["MessageId"]
        receive = int(message["Attributes"]["ApproximateReceiveCount"])
        fate: Literal["deleted", "returned", "dead-letter"] = "deleted"
        if message_id in kept:
            fate = "dead-letter" if receive >= self._queue.most_receives else "returned"
        reason = kept.get(message_id, "the function succeeded")
        return SqsDelivery(message_id, receive, invocation.request_id, fate, reason)


class MalformedError(Exception):
    """A partial response that is none."""


def reported_failures(response: Any, ids: Sequence[str]) -> list[str]:
    """Return the ids that a partial response lists.

    Raises:
        MalformedError: It is malformed, which is complete failure: the module's docstring has the rules.
    """
    if response is None:
        return []
    if not isinstance(response, dict):
        raise MalformedError(f"it is no object: {response!r:.60}")
    failures = response.get("batchItemFailures")
    if failures is None:
        return []
    if not isinstance(failures, list):
        raise MalformedError(f"batchItemFailures is no list: {failures!r:.60}")
    for failure in failures:
        if not isinstance(failure, dict) or "itemIdentifier" not in failure:
            raise MalformedError(f"no itemIdentifier in {failure!r:.60}")
        if failure["itemIdentifier"] not in ids:
            raise MalformedError(f"no message of the batch is meant by {failure!r:.80}")
    return [failure["itemIdentifier"] for failure in failures]


def sqs_client(queue_url: str, name: str) -> Any:
    """Return a client for where a queue's URL points, past any proxy.

    Raises:
        ImportError: boto3 is not installed.
        ValueError: The argument `name` is no such URL.
    """
    try:
        import boto3  # noqa: PLC0415
    except ImportError as error:
        raise missing("boto3") from error
    address = urllib.parse.urlsplit(str(queue_url))
    if not (address.scheme and address.netloc):
        raise ValueError(f"{name} must be a queue's URL, as create_queue answers it, not {queue_url!r}")
    return boto3.client("sqs", endpoint_url=f"{address.scheme}://{address.netloc}")


class _Queue:
    """The queue, and what of its attributes matters here."""

    def __init__(self, url: str) -> None:
        self._sqs = sqs_client(url, "queue_url")
        self._url = url
        attributes = self._attributes("All")
        self.arn = attributes["QueueArn"]
        self.fifo = attributes.get("FifoQueue") == "true"
        self.visibility = int(attributes["VisibilityTimeout"])
        policy = json.loads(attributes.get("RedrivePolicy") or "{}")
        self.most_receives = float(policy.get("maxReceiveCount", "inf"))
        self._due: dict[str, float] = {}  # receipt handle: when its message is visible again

    def receive(self, count: int) -> list[Message]:
        self._release()
        due = time.monotonic() + self.visibility
        answer = self._sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=count,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
            WaitTimeSeconds=0,
        )
        messages: list[Message] = answer.get("Messages", [])
        self._due |= dict.fromkeys((message["ReceiptHandle"] for message in messages), due)
        return messages

    def delete(self, messages: Sequence[Message]) -> dict[str, str]:
        """Delete them; return the codes of those that were refused, by message id."""
        refused = {}
        for some in _tens(messages):
            entries = [
                {"Id": str(at), "ReceiptHandle": message["ReceiptHandle"]} for at, message in enumerate(some)
            ]
            answer = self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)
            for message in some:
                self._due.pop(message["ReceiptHandle"], None)
            for failure in answer.get("Failed", []):
                refused[some[int(failure["Id"])]["MessageId"]] = failure["Code"]
        return refused

    def is_empty(self) -> bool:
        return not any(int(count) for count in self._attributes(*COUNTS).values())

    def _release(self) -> None:
        """Have a FIFO queue give again what is due, in order.

        moto frees the messages of a batch one after the other while it searches, and takes a group for busy
        until the last of them is free: the last would be the first again. SQS itself keeps the order.
        See test_a_fifo_group_keeps_its_order_when_it_comes_again.
        """
        now = time.monotonic()
        free = [handle for handle, due in self._due.items() if due <= now]
        for handle in free:
            del self._due[handle]
        for some in _tens(free) if self.fifo else ():
            self._sqs.change_message_visibility_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(at), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                    for at, handle in enumerate(some)
                ],
            )

    def _attributes(self, *names: str) -> dict[str, str]:
        answer = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=names)
        attributes: dict[str, str] = answer["Attributes"]
        return attributes


def _record(message: Message, arn: str) -> dict[str, Any]:
    """The message as Lambda writes it: https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html."""
    record = {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {
            name: _attribute(value) for name, value in message.get("MessageAttributes", {}).items()
        },
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": arn.split(":")[3],
    }
    if "MD5OfMessageAttributes" in message:
        record["md5OfMessageAttributes"] = message["MD5OfMessageAttributes"]
    return record


def _attribute(value: dict[str, Any]) -> dict[str, Any]:
    attribute: dict[str, Any] = {
        "stringListValues": [],
        "binaryListValues": [],
        "dataType": value["DataType"],
    }
    if "StringValue" in value:
        attribute["stringValue"] = value["StringValue"]
    if "BinaryValue" in value:
        attribute["binaryValue"] = base64.b64encode(value["BinaryValue"]).decode()
    return attribute


def _tens(things: Sequence[Thing]) -> Iterator[Sequence[Thing]]:
    for start in range(0, len(things), RECEIVED_AT_ONCE):
        yield things[start : start + RECEIVED_AT_ONCE]

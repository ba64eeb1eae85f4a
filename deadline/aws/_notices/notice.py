"""`Notice`: where word goes when time runs out, as data.

It names a service, an operation and its parameters, and holds no client and no code. So both can send it:
the loop, with aiobotocore, and the helper process, with botocore alone, when the loop is stuck.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, Self, final

if TYPE_CHECKING:
    from collections.abc import Mapping

# SNS takes 262,144 bytes (docs.aws.amazon.com/sns/latest/api/API_Publish.html). SQS and EventBridge take 1 MB
# (aws.amazon.com/blogs/compute/more-room-to-build-serverless-services-now-support-payloads-up-to-1-mb), but a
# queue may keep the 262,144 that it was configured with, and so may what EventBridge sends it on to. A little
# is left for attributes and an entry's other fields.
QUARTER: Final = 262_144 - 2_048
# docs.aws.amazon.com/lambda/latest/api/API_Invoke.html: 1 MB for an asynchronous invocation.
MEGABYTE: Final = 1_000_000

LEAST: Final = 2_048
"""Bytes that a message has without what can be cut."""

# Compiled when they are used, and kept by `re`: a cold start has better things to do.
_PLACE: Final = r"\{(message|reason|request_id|function|notice_id)\}"
_TARGET: Final = (
    "arn:(?P<partition>[^:]+):(?P<service>[^:]+):(?P<region>[^:]*):(?P<account>[^:]*):(?P<name>.+)"
)
_QUEUE: Final = r"https?://[^/]+/\d+/[^/]+"


@final
class Notice:
    """An AWS operation that tells somebody: `aws.Notice("sqs", "SendMessage", {...})`.

    In every text of the parameters, `{message}` stands for the whole message as JSON, and `{reason}`,
    `{request_id}`, `{function}` and `{notice_id}` for its fields of these names.

        aws.Notice(
            "dynamodb",
            "PutItem",
            {"TableName": "unfinished", "Item": {"id": {"S": "{request_id}"}, "notice": {"S": "{message}"}}},
        )

    Args:
        service: As botocore calls it: `sqs`.
        operation: As the API calls it: `SendMessage`.
        parameters: The operation's.
        limit: Bytes that the message may have; a longer one is cut and marked. The default suits SNS and
            every queue.
        region: Where to; `None` for the function's own.
    """

    def __init__(
        self,
        service: str,
        operation: str,
        parameters: Mapping[str, Any],
        *,
        limit: int = QUARTER,
        region: str | None = None,
    ) -> None:
        if "{message}" not in repr(parameters):
            raise ValueError(
                "parameters: nothing in them says what happened; write '{message}' where the message goes"
            )
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < LEAST:
            raise ValueError(f"limit: expected a number of bytes, {LEAST} at least; got {limit!r}")
        self.service = service
        self.operation = operation
        self.parameters = parameters
        self.limit = limit
        self.region = region

    def __repr__(self) -> str:
        return f"<Notice {self.service} {self.operation}>"

    @classmethod
    def to(cls, target: str) -> Self:
        """A notice to whatever this ARN names (a function, queue, topic or event bus), or to a queue's URL.

        Raises:
            ValueError: It is none of these.
        """
        arn = re.fullmatch(_TARGET, target)
        if arn is None and re.fullmatch(_QUEUE, target):
            return cls.sqs(target)
        match arn and (arn["service"], arn["name"].partition("/")[0].partition(":")[0]):
            case ("lambda", "function"):
                return cls.invoke(target)
            case ("sns", _):
                return cls.sns(target)
            case ("events", "event-bus"):
                return cls.eventbridge(target)
            case ("sqs", _):
                assert arn is not None
                suffix = ".cn" if arn["partition"] == "aws-cn" else ""
                host = f"https://sqs.{arn['region']}.amazonaws.com{suffix}"
                return cls.sqs(f"{host}/{arn['account']}/{arn['name']}")
        raise ValueError(
            f"{target!r} is neither the ARN of a Lambda function, SQS queue, SNS topic or event bus, nor the "
            "URL of a queue; for any other target write aws.Notice(service, operation, parameters)"
        )

    @classmethod
    def invoke(cls, function: str) -> Self:
        """Invoke a Lambda function with the message as its event, and do not wait for it (`Event`).

        Args:
            function: Its ARN or name.
        """
        parameters = {"FunctionName": function, "InvocationType": "Event", "Payload": "{message}"}
        return cls("lambda", "Invoke", parameters, limit=MEGABYTE, region=_region(function))

    @classmethod
    def sqs(cls, queue_url: str) -> Self:
        """Send the message to a queue; in a FIFO queue, in one group for each function."""
        parameters = {"QueueUrl": queue_url, "MessageBody": "{message}", **_fifo(queue_url)}
        region = re.match(r"https://sqs\.([a-z0-9-]+)\.", queue_url)
        return cls("sqs", "SendMessage", parameters, region=region and region[1])

    @classmethod
    def sns(cls, topic_arn: str) -> Self:
        """Publish the message to a topic; in a FIFO topic, in one group for each function."""
        parameters = {"TopicArn": topic_arn, "Message": "{message}", **_fifo(topic_arn)}
        return cls("sns", "Publish", parameters, region=_region(topic_arn))

    @classmethod
    def eventbridge(
        cls, bus: str = "default", *, source: str = "deadline", detail_type: str = "{reason}"
    ) -> Self:
        """Put the message on an event bus, as the event's detail.

        Args:
            bus: Its name or ARN.
            source: The event's; rules match on it.
            detail_type: The event's.
        """
        entry = {"EventBusName": bus, "Source": source, "DetailType": detail_type, "Detail": "{message}"}
        return cls("events", "PutEvents", {"Entries": [entry]}, region=_region(bus))

    def request(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The operation's parameters for a message."""
        fields = {**message, "message": json.dumps(message)}

        def filled(value: Any) -> Any:
            if isinstance(value, str):
                return re.sub(_PLACE, lambda place: str(fields.get(place[1])), value)
            if isinstance(value, dict):
                return {key: filled(inner) for key, inner in value.items()}
            return [filled(inner) for inner in value] if isinstance(value, list | tuple) else value

        return {key: filled(value) for key, value in self.parameters.items()}

    def check(self, service: Any) -> None:
        """Look for mistakes, so that they are told at a cold start, and not when time is up.

        Args:
            service: Of botocore's client, `meta.service_model`.

        Raises:
            ValueError: The service has no such operation, or that takes no such parameters.
        """
        import difflib  # noqa: PLC0415  # nothing else needs it

        from botocore.validate import ParamValidator  # noqa: PLC0415  # importing deadline.aws loads no SDK

        if self.operation not in service.operation_names:
            near = difflib.get_close_matches(self.operation, service.operation_names, 3, 0.0)
            raise ValueError(
                f"notice: {self.service} has no operation {self.operation!r}, but {', '.join(near)}"
            )
        example = self.request({"reason": "error", "request_id": "1", "function": "f"})
        found = ParamValidator().validate(example, service.operation_model(self.operation).input_shape)
        if found.has_errors():
            raise ValueError(f"notice: {self.service} {self.operation}: {found.generate_report()}")


def check_answer(answer: Mapping[str, Any]) -> None:
    """Raise what an answer without an error says was not done: PutEvents reports that inside."""
    for entry in answer.get("Entries", ()):
        if "ErrorCode" in entry:
            raise RuntimeError(f"{entry['ErrorCode']}: {entry.get('ErrorMessage')}")


def _region(arn: str) -> str | None:
    match = re.fullmatch(_TARGET, arn)
    return (match and match["region"]) or None


def _fifo(target: str) -> dict[str, str]:
    if not target.endswith(".fifo"):
        return {}
    # A retry of the event has the same request id, and may fail for the same reason: its notice is another.
    # The SDK's second attempt at the same notice has the same id.
    return {"MessageGroupId": "{function}", "MessageDeduplicationId": "{request_id}-{reason}-{notice_id}"}

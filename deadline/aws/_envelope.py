"""The envelope that a state goes on in, and what an event shows of who waits for an answer."""

from __future__ import annotations

import json
from typing import Any, Final

KEY: Final = "deadline_resume"
"""The envelope's key in an event."""

ABSENT: Final = object()

LONGEST_CHAIN: Final = 128
"""Characters of a chain's id; a request id has 36."""

_FIELDS: Final = {"chain": str, "hop": int, "version": str}
_CALLERS: Final = (
    ("API Gateway, a load balancer or a function URL", {"requestContext"}),
    ("an API Gateway authorizer", {"type", "methodArn"}),
    ("Cognito", {"triggerSource", "userPoolId"}),
    ("AppSync", {"info", "arguments"}),
    ("Connect", {"Details", "Name"}),
    ("Lex", {"sessionState", "bot"}),
    ("Alexa", {"session", "request"}),
    ("S3 Batch Operations", {"invocationSchemaVersion", "tasks"}),
)


class ResumeError(Exception):
    """A chain of invocations cannot begin, be carried on or be handed on.

    Attributes:
        chain: The chain's id.
        hop: The number of the hop, from 1.
        checkpoint: What was to go on, as the event of the next hop, if there was something: invoking the
            function with it carries on.
    """

    __module__ = "deadline.aws"

    chain: str | None = None
    hop: int | None = None
    checkpoint: dict[str, Any] | None = None


def envelope_of(event: Any) -> Any:
    """What stands under the envelope's key: in the event, or in the one message of a queue.

    `ABSENT` if there is none.
    """
    if type(event) is not dict:
        return ABSENT
    if KEY in event:
        return event[KEY]
    records = event.get("Records")
    for record in records if type(records) is list else ():
        body = record.get("body") if type(record) is dict else None
        if type(body) is not str or KEY not in body:
            continue
        try:
            message = json.loads(body)
        except ValueError:
            continue
        if type(message) is dict and KEY in message:
            if len(event["Records"]) > 1:
                raise ResumeError(
                    f"a checkpoint came in a batch of {len(event['Records'])} messages, and a hop is one "
                    "invocation; give the queue's event source mapping a batch size of 1"
                )
            return message[KEY]
    return ABSENT


def is_envelope(envelope: Any) -> bool:
    """Whether it has an envelope's fields."""
    return (
        type(envelope) is dict
        and envelope.keys() == {*_FIELDS, "event", "state"}
        and all(type(envelope[name]) is kind for name, kind in _FIELDS.items())
        and 0 < len(envelope["chain"]) <= LONGEST_CHAIN
        and envelope["hop"] > 1
    )


def waiting_caller(event: Any) -> str | None:
    """Who waits for the answer, as far as the event shows it.

    A plain `Invoke` that waits shows nowhere.
    """
    if type(event) is not dict:
        return None
    records = event.get("Records")
    if type(records) is list and records and type(records[0]) is dict and "cf" in records[0]:
        return "CloudFront"
    return next((name for name, keys in _CALLERS if keys <= event.keys()), None)

"""The envelope that a state goes on in: where it is looked for, and what is one.

An envelope replaces the event, so a message is not taken for one by its looks alone. An event or a message
that is not a well-formed envelope, with a good signature where there is a key, is an ordinary one.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY: Final = "deadline_resume"
"""The envelope's key in an event."""

LONGEST_CHAIN: Final = 128
"""Characters of a chain's id; a request id has 36."""

LONGEST_MESSAGE: Final = 1_048_576
"""Characters of a message that is parsed; SQS takes no larger one
(docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html)."""

DEEPEST: Final = 100
"""Levels of a message that is parsed. The parser of CPython 3.11 recurses, and gives up near 1,000."""

MOST_HOPS: Final = 10**9
LONGEST_ERROR: Final = 1_000
"""Characters of a `ResumeError`."""

_FIELDS: Final = {"chain": str, "hop": int, "version": str}
_BEGINS: Final = re.compile(r'\s{0,64}\{\s{0,64}"' + KEY + '"')
# A text without an end takes the rest: were it no match, each of its quotes would begin a search of its own.
_TEXTS: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKETS: Final = re.compile(r"[\[\]{}]")


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


def candidates(event: Any, *, queued: bool) -> Iterator[Any]:
    """What stands where an envelope would; `None` where the text is nothing to parse.

    Args:
        event: As Lambda passed it.
        queued: Whether the messages of a queue are looked at, too.
    """
    if type(event) is not dict:
        return
    if event.keys() == {KEY}:
        yield event[KEY]
    elif queued:
        for record in records(event):
            body = record.get("body") if type(record) is dict else None
            if type(body) is str and _BEGINS.match(body):
                yield _parsed(body)


def records(event: Any) -> list[Any]:
    """The records of an event."""
    found = event.get("Records")
    return found if type(found) is list else []


def _parsed(body: str) -> Any:
    if len(body) > LONGEST_MESSAGE or is_too_deep(body):
        return None
    try:
        message = json.loads(body)
    except ValueError:
        return None
    return message[KEY] if message.keys() == {KEY} else None


def is_too_deep(text: str) -> bool:
    """Whether a JSON text has more levels than are parsed; nothing recurses here."""
    depth = 0
    for bracket in _BRACKETS.findall(_TEXTS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DEEPEST:
            return True
    return False


def is_envelope(envelope: Any) -> bool:
    """Whether it has an envelope's fields; `signature` may be one of them."""
    return (
        type(envelope) is dict
        and envelope.keys() - {"signature"} == {*_FIELDS, "event", "state"}
        and all(type(envelope[name]) is kind for name, kind in _FIELDS.items())
        and 0 < len(envelope["chain"]) <= LONGEST_CHAIN
        and envelope["chain"].isascii()
        and envelope["chain"].isprintable()
        and 1 < envelope["hop"] < MOST_HOPS
    )


def one_line(text: str) -> str:
    """A text as one line without control characters, made of `LONGEST_ERROR` of its characters at most."""
    cut = text if len(text) <= LONGEST_ERROR else text[: LONGEST_ERROR - 1] + "…"
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in cut)

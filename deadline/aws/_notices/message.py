"""The message of a notice: its shape, what is taken out of it, what is cut from it.

`docs/notices.md` documents the shape for those who receive it; VERSION says when it has changed.
"""

from __future__ import annotations

import bisect
import json
import os
from typing import TYPE_CHECKING, Any, Final

from deadline._text import shortened
from deadline.aws._notices.error_text import as_lambda_error, full_traceback

if TYPE_CHECKING:
    from collections.abc import Callable

    Redact = Callable[[dict[str, Any]], dict[str, Any]]

VERSION: Final = 1
LONGEST: Final = 500
"""Characters of the one line that says what happened."""

PRIVATE: Final = ("event", "report", "error", "stack", "checkpoint")
"""What may hold data of the invocation, in the order in which it is cut if all of it is too long."""


LEFT_OUT: Final = " (the event did not fit, and is left out: redact needs it whole)"


def message(request_id: str | None, function: str, version: str | None, event: Any) -> dict[str, Any]:
    """The parts that both processes know."""
    return {
        "version": VERSION,
        "notice_id": os.urandom(8).hex(),
        "reason": "deadline_exceeded",
        "message": f"{shortened(function)} ran out of time",
        "request_id": request_id,
        "function": function,
        "function_version": version,
        "sent_by": "handler",
        "event": event,
        "report": None,
        "error": None,
        "stack": None,
        "checkpoint": None,
        "cut": [],
        "redaction_failed": False,
    }


def exceeded_part(exceeded: Any) -> dict[str, Any]:
    """What is known of an expiry."""
    return {"message": str(exceeded)[:LONGEST], "report": exceeded.report.to_dict()}


def error_part(error: BaseException) -> dict[str, Any]:
    """What is known of an error that nobody handled."""
    kind, text = type(error).__name__, str(as_lambda_error(error))
    return {
        "reason": "error",
        "message": f"{kind}: {text}".splitlines()[0][:LONGEST],
        "error": {"type": kind, "message": text, "traceback": full_traceback(error)},
        "checkpoint": getattr(error, "checkpoint", None),
    }


def sealed(
    message: dict[str, Any], redact: Redact | None, limit: int, failed: Callable[[Exception], object]
) -> dict[str, Any]:
    """What may leave: redacted, then cut.

    Redacting comes first, for keys are not found in a text that was cut. So an event of which only a part was
    kept, or that does not fit, is left out if there is a `redact`. What fails there says nothing of what it
    would have left, so nothing is: neither event nor report, nor an error's words.

    Args:
        message: As made by `message`.
        redact: The user's; it works on a copy.
        limit: Bytes of its JSON.
        failed: Told of what `redact` raised, which may have words of the message in it: it must not leave.
    """
    leave_out = redact is not None and "event" in message["cut"]
    if leave_out:
        message = {**message, "event": None}
    plain = json.loads(json.dumps(message, default=repr))  # as JSON has it; keys are strings, too
    if redact is not None:
        try:
            plain = json.loads(json.dumps(_checked(redact(plain))))
        except Exception as error:  # noqa: BLE001  # it is the user's function
            failed(error)
            plain = json.loads(json.dumps({**message, **dict.fromkeys(PRIVATE)}, default=repr))
            plain["message"] = f"{message['function']}: {message['reason']}"
            plain["redaction_failed"] = True
        if leave_out or (plain.get("event") is not None and len(json.dumps(plain)) > limit):
            _leave_out_event(plain)
    for part in PRIVATE:
        _cut(plain, part, limit)
    return plain  # type: ignore[no-any-return]


def _leave_out_event(plain: dict[str, Any]) -> None:
    plain["event"] = None
    cut = plain.get("cut")
    cut = cut if isinstance(cut, list) else []
    plain["cut"] = cut if "event" in cut else ["event", *cut]
    plain["message"] = str(plain.get("message") or "")[: LONGEST - len(LEFT_OUT)] + LEFT_OUT


def _checked(redacted: Any) -> dict[str, Any]:
    if not isinstance(redacted, dict):
        raise TypeError(f"redact: expected it to return the message, a dict; got {redacted!r}")
    return redacted


def _cut(plain: dict[str, Any], part: str, limit: int) -> None:
    """Shorten a part to the beginning of its JSON text, so that the whole fits if possible."""
    if len(json.dumps(plain)) <= limit or plain.get(part) is None:
        return
    text = json.dumps(plain[part])
    plain["cut"] = [*plain.get("cut", []), part]
    room = limit - len(json.dumps({**plain, part: ""}))
    # Within a JSON string the text's own quotes take two bytes each.
    text = text[: max(0, room)]
    plain[part] = text[
        : bisect.bisect_right(range(1, len(text) + 1), room, key=lambda n: len(json.dumps(text[:n])) - 2)
    ]

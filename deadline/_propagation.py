"""Deadlines that travel: the time that is left, told to whoever is called.

It is told in relative milliseconds, so that the two clocks need not agree; the way there is not counted.
Whoever receives it can only shorten its own time by it, and what is no such number is as if it were not
there.

    Deadline-Remaining-Ms: 812

The same name stands in the `custom` part of a Lambda client context. Only callers with the right to invoke
the function can write there. Everybody can send a header, so a header is read only where it was asked for,
and it never leaves less than `CALLER_AT_LEAST`.
"""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING, Any, Final

from deadline._core.margin import CALLER_AT_LEAST
from deadline._core.scope import remaining
from deadline._events import emit
from deadline._text import LONGEST, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER: Final = "deadline-remaining-ms"

_JOINT: Final = re.compile(", *")

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What a header may be called, a token: RFC 9110, 5.6.2."""

MOST: Final = 9
"""Digits, which are eleven days: nobody means more."""


def deadline_header() -> dict[str, str]:
    """The header that tells an HTTP server how long the caller will wait: `{"deadline-remaining-ms": "812"}`.

    Merge it into a request's headers right before it is sent: it tells what is left *now*, of the deadline in
    force, to its soft instant, in whole milliseconds, and 1 if less is left. Empty without a deadline.
    """
    text = encode(remaining())
    return {} if text is None else {HEADER: text}


def encode(left: float) -> str | None:
    """Seconds as they travel; `None` if there is nothing to tell."""
    text = str(max(1, int(left * 1000))) if left < math.inf else ""
    return text if _is_time(text) else None


def checked_header(header: str | None) -> str | None:
    """The header's name in lower case; `None` if none is to be read.

    Raises:
        TypeError, ValueError: No header can be called that.
    """
    if header is None:
        return None
    if not isinstance(header, str) or _NAME.fullmatch(header) is None:
        raise (ValueError if isinstance(header, str) else TypeError)(
            f"header: expected a header's name such as {HEADER!r}, or None, got {header!r}"
        )
    return header.lower()


def received(carrier: Mapping[str, Any] | None) -> float:
    """Seconds until the caller gives up, from a client context's `custom` part; `inf` if it is mute.

    Malformed and absurd values are ignored, with a debug event.
    """
    said = carrier.items() if isinstance(carrier, dict) else ()
    return min((decode(value) for name, value in said if str(name).lower() == HEADER), default=math.inf)


def claimed(value: object) -> float:
    """The same from the value of a header, which anybody can send: at least `CALLER_AT_LEAST` seconds."""
    return max(CALLER_AT_LEAST, decode(value))


def decode(value: object) -> float:
    """Seconds from what has travelled, the smallest if it came twice; `inf` if it is no such thing.

    Headers of one name may be joined by commas on their way: RFC 9110, 5.3. A text of more than `LONGEST`
    characters is not looked at.
    """
    text = value[: LONGEST + 1].decode("latin-1") if isinstance(value, bytes) else value
    if type(text) is int:
        text = str(text) if 0 < text < 10**MOST else ""
    parts = _JOINT.split(text) if isinstance(text, str) and len(text) <= LONGEST else [""]
    times = [int(part) / 1000 for part in parts if _is_time(part)]
    if len(times) < len(parts):
        said = repr(text if isinstance(text, str) else value)
        emit("deadline.travel_ignored", logging.DEBUG, value=shortened(said, 60))
    return min(times, default=math.inf)


def _is_time(text: str) -> bool:
    return len(text) <= MOST and text.isascii() and text.isdigit() and int(text) > 0

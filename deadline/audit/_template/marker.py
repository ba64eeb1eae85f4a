"""What only deployment knows, inside a text: a marker that says what it is.

An ARN is put together from pieces, some of them known and some not. As a text with markers it can be searched
for a resource's name, parsed as JSON and compared; whoever needs a number sees at once that it is none.
"""

from __future__ import annotations

import re
from typing import Any, Final

OPEN: Final = "\ue000"
CLOSE: Final = "\ue001"
_MARKER: Final = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")
# No quotes or backslashes: texts with markers are read as JSON.
_UNPRINTABLE: Final = re.compile(f"[\x00-\x1f\x7f-\x9f{OPEN}{CLOSE}]")
_NO_PART: Final = re.compile(f'[{OPEN}{CLOSE}"\\\\\x00-\x1f]')


def mark(what: str) -> str:
    """A marker for something that only deployment knows."""
    return f"{OPEN}{_NO_PART.sub(' ', what)}{CLOSE}"


def is_marker(text: object) -> bool:
    """Whether it is a marker and nothing else."""
    return isinstance(text, str) and _MARKER.fullmatch(text) is not None


def is_known(text: object) -> bool:
    """Whether nothing in it is left to deployment."""
    return not (isinstance(text, str) and OPEN in text)


def named(text: str) -> list[str]:
    """What the markers in a text stand for: `Queue.Arn`, for example."""
    return _MARKER.findall(text)


def described(text: str) -> str:
    """A text for people: markers as `${...}`, one alone as what it says; nothing that moves a cursor."""
    alone = _MARKER.fullmatch(text)
    if alone and " " in alone[1]:
        return alone[1]
    return _UNPRINTABLE.sub("?", _MARKER.sub(r"${\1}", text))


def short(value: Any) -> str:
    """Anything for people, on a part of a line."""
    text = described(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

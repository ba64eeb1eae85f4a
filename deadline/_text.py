"""How much of a text is shown, and which characters: names and errors may come from anybody."""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 200
"""Characters of a name or a path in a message, a log line, an event's field."""

LONGEST_FIELD: Final = 1_000
"""Characters of any other text in an event's field, an error's words for example."""


def shortened(text: str, most: int = LONGEST) -> str:
    """The text itself, or its beginning and an ellipsis, `most` characters in all."""
    return text if len(text) <= most else text[: most - 1] + "…"


def quoted(name: str) -> str:
    """A name as messages have it: in quotes, on one line, of at most `LONGEST` characters."""
    return repr(shortened(name))


_CONTROLS: Final = r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
"""Terminal sequences, control characters but tab and newline, and what turns or breaks a line."""


def printable(text: str, *, line: bool = False) -> str:
    """The text without what a terminal or a log viewer would obey; of a `line`, no end either."""
    return re.sub(_CONTROLS + r"|[\t\n]" * line, "", text)

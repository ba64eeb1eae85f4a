"""How much of a text is shown: names and paths may come from anybody, and be of any length."""

from __future__ import annotations

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

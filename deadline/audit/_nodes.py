"""A parsed template's nodes: walking them, and reading one without trusting its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within, each once, though aliases may share it."""
    waiting, seen = [node], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen or not isinstance(part, dict | list):
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            yield part
            waiting.extend(part.values())
        else:
            waiting.extend(part)


def texts(node: Any) -> Iterator[str]:
    waiting, seen = [node], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict | list) and id(part) not in seen:
            seen.add(id(part))
            waiting.extend(part.values() if isinstance(part, dict) else part)


def entry(node: Any, key: str) -> Any:
    return node.get(key) if isinstance(node, dict) else None


def plain(value: object) -> str:
    """A value as CloudFormation compares it: as text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def line_of(node: object) -> int:
    mark = getattr(node, "start_mark", None)
    line = getattr(mark, "line", None)
    return line + 1 if isinstance(line, int) else 0

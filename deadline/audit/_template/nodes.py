"""A parsed template's nodes: walking them, and reading one without trusting its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def parts(node: Any) -> Iterator[Any]:
    """A node and everything within; mappings and lists once each, though aliases may share them."""
    waiting, seen = [node], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict | list):
            if id(part) in seen:
                continue
            seen.add(id(part))
            waiting.extend(part.values() if isinstance(part, dict) else part)
        yield part


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within."""
    return (part for part in parts(node) if isinstance(part, dict))


def texts(node: Any) -> Iterator[str]:
    """Every text within, the keys of mappings aside."""
    return (part for part in parts(node) if isinstance(part, str))


def entry(node: Any, key: str) -> Any:
    """What a mapping has there; `None` if it has nothing, or is none."""
    return node.get(key) if isinstance(node, dict) else None


def plain(value: object) -> str:
    """A value as CloudFormation compares it: as text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def line_of(node: object) -> int:
    """Where it is written, from 1; 0 if it is not known."""
    mark = getattr(node, "start_mark", None)
    line = getattr(mark, "line", None)
    return line + 1 if isinstance(line, int) else 0

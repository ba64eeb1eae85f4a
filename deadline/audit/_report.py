"""What the command prints: from paths and options to text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deadline.audit import Audit, Template, Unreadable, _render, audit, load, read
from deadline.audit._template import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


FACTS: Final = ("SecondsPerItem", "InvocationsPerSecond", "Deadline", "Idempotent")


def audits(
    paths: Sequence[str],
    *,
    parameters: Mapping[str, str],
    facts: Mapping[str, str],
    region: str | None,
    deadline: float | None,
    prices: str | None,
    ignore: Sequence[str],
) -> tuple[list[Audit], list[str]]:
    """Audit every template that can be read, and say of the others why not.

    Raises:
        ValueError: A fact or the prices are of no use.
    """
    try:
        table = load(prices)
    except ValueError as error:
        raise ValueError(f"--price: {error}") from None
    known = {_fact(name): value for name, value in facts.items()}
    told = {**parameters, **({"AWS::Region": region} if region else {})}
    templates: list[Template] = []
    errors: list[str] = []
    for path in paths:
        try:
            templates.append(read(_text(path), path, told, known))
        except Unreadable as error:
            errors.append(str(error))
    _check_names(templates, parameters, known)
    done = [audit(one, ignore=ignore, deadline=deadline, region=region, prices=table) for one in templates]
    return done, errors


def as_text(results: Sequence[Audit]) -> str:
    """For people."""
    return "\n".join(_render.printed(_render.render(one), terminal=sys.stdout.isatty()) for one in results)


def as_json(results: Sequence[Audit], errors: Sequence[str]) -> str:
    """For machines."""
    data = {"templates": [_render.as_data(one) for one in results], "unreadable": list(errors)}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def listing() -> str:
    """Every rule."""
    return _render.printed(_render.listing(), terminal=sys.stdout.isatty())


def _text(path: str) -> str:
    try:
        data = sys.stdin.buffer.read(MOST_BYTES + 1) if path == "-" else _bytes(path)
        return data.decode("utf-8-sig")
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path}: no UTF-8: {error}") from None


def _bytes(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(MOST_BYTES + 1)


def _fact(name: str) -> tuple[str, str]:
    function, _, fact = name.rpartition(".")
    if not function or fact not in FACTS:
        raise ValueError(f"--fact: write FUNCTION.NAME=value with a NAME of {', '.join(FACTS)}, not {name!r}")
    return function, fact


def _check_names(
    templates: Sequence[Template], parameters: Mapping[str, str], facts: Mapping[tuple[str, str], str]
) -> None:
    """A name that no template has is a slip of the pen."""
    if not templates:
        return
    for name in parameters:
        if not any(name in one.section("Parameters") or name.startswith("AWS::") for one in templates):
            raise ValueError(f"--parameter: no template has a parameter {name!r}")
    for name, _ in facts:
        if not any(name in one.resources for one in templates):
            raise ValueError(f"--fact: no template has a function {name!r}")

"""What the command prints: from paths and options to text."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deadline.audit import RULES, Audit, Template, Unreadable, _render, audit, load, read
from deadline.audit._template.nodes import plain
from deadline.audit._template.template import MOST_BYTES

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
        ValueError: What was given is of no use; the message names the option.
    """
    try:
        table = load(prices)
    except ValueError as error:
        raise ValueError(f"--price: {error}") from None
    for beginning in ignore:
        if not beginning or not any(rule.startswith(beginning) for rule in RULES):
            raise ValueError(
                f"--ignore: no rule begins with {beginning!r}; asyncio-deadline audit --rules lists them"
            )
    if deadline is not None and not math.isfinite(deadline):
        raise ValueError(f"--deadline: {deadline} is no number of seconds")
    known = {_fact(name, value): value for name, value in facts.items()}
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


def _fact(name: str, value: str) -> tuple[str, str]:
    function, _, fact = name.rpartition(".")
    if not function or fact not in FACTS:
        raise ValueError(f"--fact: write FUNCTION.NAME=value with a NAME of {', '.join(FACTS)}, not {name!r}")
    if fact == "Idempotent":
        if value.lower() not in {"true", "false"}:
            raise ValueError(f"--fact: {name} is true or false, not {value!r}")
    elif not _is_positive(value):
        raise ValueError(f"--fact: {name} is a number above 0, not {value!r}")
    return function, fact


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _check_names(
    templates: Sequence[Template], parameters: Mapping[str, str], facts: Mapping[tuple[str, str], str]
) -> None:
    """A name that no template has is a slip of the pen, and so is a value that none allows."""
    if not templates:
        return
    for name, value in parameters.items():
        if name.startswith("AWS::"):
            continue
        if not any(name in one.section("Parameters") for one in templates):
            raise ValueError(f"--parameter: no template has a parameter {name!r}")
        allowed = [_allowed(one.section("Parameters").get(name)) for one in templates]
        if not any(known is None or value in known for known in allowed):
            values = ", ".join(dict.fromkeys(value for known in allowed for value in known or ()))
            raise ValueError(f"--parameter: {name} is one of {values}, not {value!r}")
    for name, _ in facts:
        if not any(name in one.resources for one in templates):
            raise ValueError(f"--fact: no template has a function {name!r}")


def _allowed(parameter: object) -> list[str] | None:
    """The values that a parameter may have; `[]` if there is no such parameter, `None`: any."""
    if not isinstance(parameter, dict):
        return []
    allowed = parameter.get("AllowedValues")
    if not isinstance(allowed, list) or not allowed or "List" in str(parameter.get("Type")):
        return None
    return [plain(value) for value in allowed if isinstance(value, str | int | float)]

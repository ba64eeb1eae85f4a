"""What a state machine's definition says of its tasks. It is read and not run."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deadline.audit._template.intrinsics import ABSENT
from deadline.audit._template.marker import described, is_known, named
from deadline.audit._template.nodes import entry
from deadline.audit._template.template import FUNCTIONS
from deadline.audit._template.world import CannotTell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadline.audit._template.template import Resource
    from deadline.audit._template.world import World

DEEPEST: Final = 30
_PATTERNS: Final = (".sync", ".sync:2", ".waitForTaskToken")


class Task(NamedTuple):
    """A Task state.

    Attributes:
        name: The state's.
        resource: What it runs, as text with markers.
        target: The function that it calls; `""` if it calls none, or one that the input names.
        timeout: Its `TimeoutSeconds`; `None` without.
        unknown: Why its timeout cannot be told; `""` if it can.
        hangs: Whether it may wait for ever: for a function, an activity, a job or a token.
    """

    name: str
    resource: str
    target: str
    timeout: float | None
    unknown: str
    hangs: bool


def tasks(world: World, machine: Resource) -> Iterator[Task]:
    """Its Task states, those inside Parallel and Map included.

    Raises:
        CannotTell: The definition is in a file of its own, or no JSON.
    """
    yield from _tasks(world, definition(world, machine), 0)


def definition(world: World, machine: Resource) -> dict[str, Any]:
    """Its definition, with markers for what is not known."""
    node = machine.properties
    for key in ("DefinitionUri", "DefinitionS3Location"):
        if world.at(node, key) is not ABSENT:
            raise CannotTell(f"the definition is in a file of its own ({key}), which is not read")
    places = {
        f"${{{name}}}": world.text(value) for name, value in world.entries(node, "DefinitionSubstitutions")
    }
    written = world.at(node, "Definition")
    if written is ABSENT:
        text = _filled(world.text(node, "DefinitionString"), places)
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CannotTell(f"DefinitionString is no JSON: {error}") from None
    else:
        found = _filled(world.deep(written), places)
    if not isinstance(found, dict):
        raise CannotTell("the definition is no object")
    return found


def _filled(node: Any, places: dict[str, str]) -> Any:
    if isinstance(node, str):
        return (
            re.sub(r"\$\{[A-Za-z0-9_.]+\}", lambda place: places.get(place[0], place[0]), node)
            if places
            else node
        )
    if isinstance(node, dict):
        return {key: _filled(value, places) for key, value in node.items()}
    return [_filled(value, places) for value in node] if isinstance(node, list) else node


def _tasks(world: World, machine: Any, depth: int) -> Iterator[Task]:
    if depth > DEEPEST:
        raise CannotTell("the definition is nested too deep")
    states = entry(machine, "States")
    for name, state in states.items() if isinstance(states, dict) else ():
        if entry(state, "Type") == "Task":
            yield _task(world, str(name), state)
        branches = entry(state, "Branches")
        for inner in (
            (
                *(branches if isinstance(branches, list) else ()),
                *map(state.get, ("Iterator", "ItemProcessor")),
            )
            if (isinstance(state, dict))
            else ()
        ):
            yield from _tasks(world, inner, depth + 1)


def _task(world: World, name: str, state: dict[str, Any]) -> Task:
    resource = state.get("Resource")
    resource = resource if isinstance(resource, str) else ""
    target, types = "", _types(world, resource)
    is_invoke = ":states:::lambda:invoke" in resource
    if is_invoke:
        given = entry(state.get("Parameters") or state.get("Arguments"), "FunctionName")
        target = given if isinstance(given, str) else ""
    elif ":lambda:" in resource or ":function:" in resource or types & FUNCTIONS or _is_alias(types):
        target = resource
    hangs = bool(target) or is_invoke or resource.endswith(_PATTERNS) or ":activity:" in resource
    hangs = hangs or "AWS::StepFunctions::Activity" in types
    if not is_known(resource) and not resource.startswith("arn:") and not types:
        raise CannotTell(f"what {name} runs is {described(resource)}")
    timeout, unknown = _timeout(world, name, state)
    return Task(name, resource, target, timeout, unknown, hangs)


def _types(world: World, text: str) -> frozenset[str]:
    found = (world.template.resources.get(marker.partition(".")[0]) for marker in named(text))
    return frozenset(one.type for one in found if one is not None)


def _is_alias(types: frozenset[str]) -> bool:
    return not types.isdisjoint({"AWS::Lambda::Alias", "AWS::Lambda::Version"})


def _timeout(world: World, name: str, state: dict[str, Any]) -> tuple[float | None, str]:
    if "TimeoutSecondsPath" in state:
        return None, f"the timeout of {name} comes from its input (TimeoutSecondsPath)"
    try:
        return world.number(state, "TimeoutSeconds"), ""
    except CannotTell as why:
        return None, f"{name}: {why}"

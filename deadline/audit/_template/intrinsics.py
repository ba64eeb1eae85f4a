"""CloudFormation's functions, as far as a template alone can say what they give."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from deadline.audit._template.marker import is_known, mark, short
from deadline.audit._template.nodes import entry, plain

if TYPE_CHECKING:
    from deadline.audit._template.template import Template


class Resolver(Protocol):
    """What resolves a node, in one of the worlds that a template may be deployed in."""

    template: Template

    def value(self, node: Any) -> Any:
        """The value of a node, or a marker."""

    def deep(self, node: Any) -> Any:
        """The whole of a node resolved, with markers in it."""

    def choose(self, name: str, options: list[str]) -> str:
        """One of the options, the same for this name throughout."""

    def condition(self, name: str) -> bool:
        """Whether a condition holds."""


OTHER: Final = "another value"
"""What a parameter may have besides the values that it is compared with."""

_PLACE: Final = re.compile(r"\$\{\s*([^!}][^}]*?)\s*\}")


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT: Final = _Absent()
"""What stands nowhere, or is `AWS::NoValue`."""


def _ref(world: Resolver, name: Any) -> Any:
    if name == "AWS::NoValue":
        return ABSENT
    if not isinstance(name, str):
        return mark("Ref of something that is no name")
    parameter = world.template.section("Parameters").get(name)
    if isinstance(parameter, dict):
        return _parameter(world, name, parameter)
    if name in world.template.parameters:
        return world.template.parameters[name]
    if name == "AWS::Region" and (regions := world.template.compared.get(name)):
        return _chosen(world, name, [*regions, OTHER])
    return mark(name)


def _parameter(world: Resolver, name: str, parameter: dict[str, Any]) -> Any:
    kind = str(parameter.get("Type", "String"))
    default, allowed = parameter.get("Default", ABSENT), parameter.get("AllowedValues")
    if name in world.template.parameters:
        default, options = world.template.parameters[name], []
    elif kind.startswith("AWS::SSM::"):
        return mark(f"the parameter {name}, which comes from SSM")
    elif isinstance(allowed, list) and allowed:
        options = [plain(value) for value in allowed if isinstance(value, str | int | float)]
    else:
        # A default that no condition names stands for all other values; one that a condition names does not.
        options = list(world.template.compared.get(name, []))
        if default is ABSENT or (name in world.template.deciding and plain(default) in options):
            options.append(OTHER)
    if isinstance(default, str | int | float):
        options = [plain(default), *options]
    options = list(dict.fromkeys(options))
    if options in ([], [OTHER]):
        return mark(f"the parameter {name}, which has no default")
    chosen = _chosen(world, name, options)
    return chosen.split(",") if "List" in kind and isinstance(chosen, str) else chosen


def _chosen(world: Resolver, name: str, options: list[str]) -> str:
    chosen = world.choose(name, options) if len(options) > 1 else options[0]
    return mark(OTHER) if chosen == OTHER else chosen


def _attribute(world: Resolver, argument: Any) -> str:
    if isinstance(argument, list):
        argument = ".".join(plain(world.value(part)) for part in argument)
    return mark(argument if isinstance(argument, str) else "Fn::GetAtt of something that is no name")


def _sub(world: Resolver, argument: Any) -> str:
    text, places = argument if isinstance(argument, list) and len(argument) == 2 else (argument, {})
    if not isinstance(text, str):
        return mark("Fn::Sub of something that is no text")

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        if isinstance(places, dict) and name in places:
            return _joined(world.value(places[name]))
        return _joined(_attribute(world, name) if "." in name else _ref(world, name))

    return _PLACE.sub(filled, text).replace("${!", "${")


def _joined(value: Any) -> str:
    return plain(value) if isinstance(value, str | int | float) else mark("something that is no text")


def _join(world: Resolver, argument: Any) -> str:
    if not isinstance(argument, list) or len(argument) != 2:
        return mark("Fn::Join without its two arguments")
    parts = world.value(argument[1])
    if not isinstance(parts, list):
        return _joined(parts)
    values = (world.value(part) for part in parts)
    return plain(argument[0]).join(_joined(value) for value in values if value is not ABSENT)


def _select(world: Resolver, argument: Any) -> Any:
    index, items = (world.value(one) for one in argument) if _is_pair(argument) else (0, None)
    if isinstance(items, list) and str(index).isdecimal() and int(index) < len(items):
        return world.value(items[int(index)])
    return mark("Fn::Select of something that is not known")


def _split(world: Resolver, argument: Any) -> Any:
    separator, text = (world.value(one) for one in argument) if _is_pair(argument) else ("", None)
    if isinstance(text, str) and isinstance(separator, str) and separator and is_known(text):
        return text.split(separator)
    return mark("Fn::Split of something that is not known")


def _find(world: Resolver, argument: Any) -> Any:
    if not isinstance(argument, list) or len(argument) < 3:
        return mark("Fn::FindInMap without its three arguments")
    keys = [world.value(key) for key in argument[:3]]
    found: Any = world.template.section("Mappings")
    for key in keys:
        found = found.get(plain(key), ABSENT) if isinstance(found, dict) and _is_scalar(key) else ABSENT
    if found is not ABSENT:
        return found
    default = entry(argument[3], "DefaultValue") if len(argument) > 3 else None
    if default is not None:
        return world.value(default)
    return mark(f"the mapping {'.'.join(map(short, keys))}, which has none")


def _if(world: Resolver, argument: Any) -> Any:
    if not isinstance(argument, list) or len(argument) != 3 or not isinstance(argument[0], str):
        return mark("Fn::If without its three arguments")
    return world.value(argument[1 if world.condition(argument[0]) else 2])


def _json(world: Resolver, argument: Any) -> str:
    return json.dumps(world.deep(argument), default=str)


def _length(world: Resolver, argument: Any) -> Any:
    items = world.value(argument)
    return len(items) if isinstance(items, list) else mark("Fn::Length of something that is not known")


def _is_pair(argument: Any) -> bool:
    return isinstance(argument, list) and len(argument) == 2


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float)


FUNCTIONS: Final = {
    "Ref": _ref,
    "Fn::GetAtt": _attribute,
    "Fn::Sub": _sub,
    "Fn::Join": _join,
    "Fn::Select": _select,
    "Fn::Split": _split,
    "Fn::FindInMap": _find,
    "Fn::If": _if,
    "Fn::ToJsonString": _json,
    "Fn::Length": _length,
}

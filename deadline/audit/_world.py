"""What a template says in one of the worlds it may be deployed in.

A template leaves things open: parameters, and conditions that turn on them. A check asks for plain values and is
played once for every way in which the open things that *it* touches can be decided:

    for world in worlds(template):
        check(world)

A world begins with nothing decided. Where a check needs a decision, the world takes the first option and notes the
others, each of which makes a world of its own later. So a check is straight-line code, and a finding can say under
which decisions it holds. What no decision can settle (another stack's export, a resource's attribute) stands in
texts as a marker; whoever needs it as a number gets `CannotTell`.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, final

from deadline.audit._template import _get, _plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadline.audit._template import Resource, Template

MOST_WORLDS: Final = 100
DEEPEST: Final = 50
OTHER: Final = "another value"

_OPEN, _CLOSE = "\ue000", "\ue001"
_MARKER: Final = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")
_NO_PART: Final = f'[{_OPEN}{_CLOSE}"\\\\\x00-\x1f]'
_PLACE: Final = re.compile(r"\$\{\s*([^!}][^}]*?)\s*\}")
_CONDITIONS: Final = {"Fn::And", "Fn::Or", "Fn::Not", "Fn::Equals", "Condition"}


class CannotTell(Exception):  # noqa: N818  # it is an answer, not an error
    """The template alone does not say."""


class TooMany(CannotTell):
    """More worlds than are looked at."""


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT: Final = _Absent()


@final
class World:
    """A template with the open things decided as far as anybody asked."""

    def __init__(self, template: Template, decided: dict[str, str]) -> None:
        self.template = template
        self.decided = dict(decided)
        self.others: list[dict[str, str]] = []
        self._depth = 0

    def choose(self, name: str, options: list[str]) -> str:
        """One of the options, the same for this name throughout."""
        if name not in self.decided:
            self.others += [{**self.decided, name: option} for option in options[1:]]
            self.decided[name] = options[0]
        return self.decided[name]

    # What rules ask.

    def exists(self, resource: Resource) -> bool:
        """Whether it is deployed."""
        condition = resource.body.get("Condition")
        return self.condition(condition) if isinstance(condition, str) else True

    def at(self, node: Any, *path: str | int) -> Any:
        """What stands at `path`: a scalar, or a mapping or list whose own values are unresolved; `ABSENT`.

        Raises:
            CannotTell: On the way lies something that only deployment knows.
        """
        node = self.value(node)
        for key in path:
            if isinstance(node, dict):
                if key not in node and any(str(other).startswith("Fn::Transform") for other in node):
                    raise CannotTell(f"{key} may come from Fn::Transform, which is not run")
                node = self.value(node.get(key, ABSENT))
            elif isinstance(node, list) and isinstance(key, int):
                node = self.value(node[key]) if -len(node) <= key < len(node) else ABSENT
            elif isinstance(node, str) and _OPEN in node:
                raise CannotTell(f"{'.'.join(map(str, path))} is in {described(node)}")
            else:
                return ABSENT
        return node

    def number(self, node: Any, *path: str | int, default: float | None = None) -> float | None:
        """The number at `path`, or the default if there is nothing.

        Raises:
            CannotTell: It is no number that the template tells.
        """
        found = self.at(node, *path)
        if found is ABSENT:
            return default
        name = str(path[-1]) if path else "it"
        if isinstance(found, str) and _OPEN in found:
            raise CannotTell(f"{name} is {described(found)}")
        try:
            if isinstance(found, bool) or not isinstance(found, int | float | str):
                raise ValueError  # noqa: TRY004, TRY301
            number = float(found)
        except (ValueError, OverflowError):
            raise CannotTell(f"{name} is no number: {_short(found)}") from None
        if not abs(number) < 1e12:
            raise CannotTell(f"{name} is no number of use: {_short(found)}")
        return number

    def text(self, node: Any, *path: str | int) -> str:
        """The text at `path`, with markers for what is not known; `""` if there is nothing."""
        found = self.at(node, *path)
        return _plain(found) if isinstance(found, str | int | float) else ""

    def truth(self, node: Any, *path: str | int, default: bool) -> bool:
        """The yes or no at `path`, or the default if there is nothing."""
        found = self.at(node, *path)
        if found is ABSENT:
            return default
        if isinstance(found, str) and _OPEN in found:
            raise CannotTell(f"{path[-1]} is {described(found)}")
        return _plain(found).lower() == "true" if isinstance(found, str | int) else default

    def items(self, node: Any, *path: str | int) -> list[Any]:
        """The list at `path`, its values resolved; one value is a list of one; `[]` if there is nothing."""
        found = self.at(node, *path)
        if isinstance(found, str) and _MARKER.fullmatch(found) and not self._is_resource(found):
            raise CannotTell(f"{path[-1] if path else 'a list'} is {described(found)}")
        if found is ABSENT or found is None:
            return []
        values = [self.value(item) for item in found] if isinstance(found, list) else [found]
        return [value for value in values if value is not ABSENT]

    def entries(self, node: Any, *path: str | int) -> Iterator[tuple[str, Any]]:
        """The names and resolved values of the mapping at `path`."""
        found = self.at(node, *path)
        if isinstance(found, str) and _OPEN in found:
            raise CannotTell(f"{path[-1] if path else 'it'} is {described(found)}")
        for key, value in found.items() if isinstance(found, dict) else ():
            if str(key).startswith("Fn::"):
                raise CannotTell(f"{key} is not run")
            resolved = self.value(value)
            if resolved is not ABSENT:
                yield str(key), resolved

    def deep(self, node: Any) -> Any:
        """The whole of a node resolved, with markers in it."""
        found = self.value(node)
        self._depth += 1
        try:
            if self._depth > DEEPEST:
                raise CannotTell("it is nested too deep")
            if isinstance(found, dict):
                pairs = ((key, self.deep(value)) for key, value in found.items())
                return {key: value for key, value in pairs if value is not ABSENT}
            if isinstance(found, list):
                return [value for item in found if (value := self.deep(item)) is not ABSENT]
        finally:
            self._depth -= 1
        return found

    # How it is found out.

    def value(self, node: Any) -> Any:
        """The node itself, unless it is a function: then what that gives."""
        if not isinstance(node, dict) or len(node) != 1:
            return node
        [(name, argument)] = node.items()
        function = _FUNCTIONS.get(name)
        if function is None:
            if isinstance(name, str) and name.startswith("Fn::") and not name.startswith("Fn::ForEach"):
                return _mark(f"{name}: {_short(argument)}")
            return node
        self._depth += 1
        try:
            if self._depth > DEEPEST:
                raise CannotTell("functions are nested too deep, or in a circle")
            return function(self, argument)
        finally:
            self._depth -= 1

    def _is_resource(self, text: str) -> bool:
        return any(name.partition(".")[0] in self.template.resources for name in named(text))

    def condition(self, name: str) -> bool:
        """Whether a condition holds."""
        written = self.template.section("Conditions").get(name, ABSENT)
        told = None if written is ABSENT else self._test(written)
        if told is None:
            return self.choose(f"condition {name}", ["true", "false"]) == "true"
        return told

    def _test(self, node: Any) -> bool | None:
        """What a condition function gives; `None` if it cannot be told."""
        if not isinstance(node, dict) or len(node) != 1:
            return {"true": True, "false": False}.get(_plain(node)) if isinstance(node, str | int) else None
        [(name, argument)] = node.items()
        if name == "Condition" and isinstance(argument, str):
            self._depth += 1
            try:
                if self._depth > DEEPEST:
                    raise CannotTell("conditions refer to each other in a circle")
                return self.condition(argument)
            finally:
                self._depth -= 1
        if name not in _CONDITIONS or not isinstance(argument, list):
            return None
        if name == "Fn::Equals":
            sides = [self.value(side) for side in argument]
            known = len(sides) == 2 and all(isinstance(side, str | int | float) for side in sides)
            left, right = map(_plain, sides) if known else ("", "")
            if not known or ((_OPEN in left or _OPEN in right) and left != right):
                # A parameter that has another value than those it is compared with is known to differ from them.
                return False if known and _mark(OTHER) in (left, right) else None
            return left == right
        if name == "Fn::Not":
            told = self._test(argument[0]) if len(argument) == 1 else None
            return None if told is None else not told
        return self._all_or_any(argument, decisive=name == "Fn::Or")

    def _all_or_any(self, tests: list[Any], *, decisive: bool) -> bool | None:
        """As far as the first that decides: the others are asked for nothing."""
        result: bool | None = not decisive
        for one in tests:
            told = self._test(one)
            if told is decisive:
                return decisive
            if told is None:
                result = None
        return result

    def _ref(self, name: Any) -> Any:
        if name == "AWS::NoValue":
            return ABSENT
        if not isinstance(name, str):
            return _mark("Ref of something that is no name")
        parameter = self.template.section("Parameters").get(name)
        if isinstance(parameter, dict):
            return self._parameter(name, parameter)
        if name in self.template.parameters:
            return self.template.parameters[name]
        if name == "AWS::Region" and (regions := self.template.compared.get(name)):
            return self._chosen(name, [*regions, OTHER])
        return _mark(name)

    def _parameter(self, name: str, parameter: dict[str, Any]) -> Any:
        kind = str(parameter.get("Type", "String"))
        default, allowed = parameter.get("Default", ABSENT), parameter.get("AllowedValues")
        if name in self.template.parameters:
            default, options = self.template.parameters[name], []
        elif kind.startswith("AWS::SSM::"):
            return _mark(f"the parameter {name}, which comes from SSM")
        elif isinstance(allowed, list) and allowed:
            options = [_plain(value) for value in allowed if isinstance(value, str | int | float)]
        else:
            options = [*self.template.compared.get(name, []), *([] if default is not ABSENT else [OTHER])]
        if isinstance(default, str | int | float):
            options = [_plain(default), *options]
        options = list(dict.fromkeys(options))
        if options in ([], [OTHER]):
            return _mark(f"the parameter {name}, which has no default")
        chosen = self._chosen(name, options)
        return chosen.split(",") if "List" in kind and isinstance(chosen, str) else chosen

    def _chosen(self, name: str, options: list[str]) -> str:
        chosen = self.choose(name, options) if len(options) > 1 else options[0]
        return _mark(OTHER) if chosen == OTHER else chosen

    def _attribute(self, argument: Any) -> str:
        if isinstance(argument, list):
            argument = ".".join(_plain(self.value(part)) for part in argument)
        return _mark(argument if isinstance(argument, str) else "Fn::GetAtt of something that is no name")

    def _sub(self, argument: Any) -> str:
        text, places = argument if isinstance(argument, list) and len(argument) == 2 else (argument, {})
        if not isinstance(text, str):
            return _mark("Fn::Sub of something that is no text")

        def filled(match: re.Match[str]) -> str:
            name = match[1]
            if isinstance(places, dict) and name in places:
                return self._joined(self.value(places[name]))
            return self._joined(self._attribute(name) if "." in name else self._ref(name))

        return _PLACE.sub(filled, text).replace("${!", "${")

    def _joined(self, value: Any) -> str:
        return _plain(value) if isinstance(value, str | int | float) else _mark("something that is no text")

    def _join(self, argument: Any) -> str:
        if not isinstance(argument, list) or len(argument) != 2:
            return _mark("Fn::Join without its two arguments")
        parts = self.value(argument[1])
        if not isinstance(parts, list):
            return self._joined(parts)
        values = (self.value(part) for part in parts)
        return _plain(argument[0]).join(self._joined(value) for value in values if value is not ABSENT)

    def _select(self, argument: Any) -> Any:
        index, items = (self.value(one) for one in argument) if _is_pair(argument) else (0, None)
        if isinstance(items, list) and str(index).isdecimal() and int(index) < len(items):
            return self.value(items[int(index)])
        return _mark("Fn::Select of something that is not known")

    def _split(self, argument: Any) -> Any:
        separator, text = (self.value(one) for one in argument) if _is_pair(argument) else ("", None)
        if isinstance(text, str) and isinstance(separator, str) and separator and _OPEN not in text:
            return text.split(separator)
        return _mark("Fn::Split of something that is not known")

    def _find(self, argument: Any) -> Any:
        if not isinstance(argument, list) or len(argument) < 3:
            return _mark("Fn::FindInMap without its three arguments")
        keys = [self.value(key) for key in argument[:3]]
        found: Any = self.template.section("Mappings")
        for key in keys:
            found = found.get(_plain(key), ABSENT) if isinstance(found, dict) and _is_scalar(key) else ABSENT
        if found is not ABSENT:
            return found
        default = _get(argument[3], "DefaultValue") if len(argument) > 3 else None
        if default is not None:
            return self.value(default)
        return _mark(f"the mapping {'.'.join(map(_short, keys))}, which has no such entry")

    def _if(self, argument: Any) -> Any:
        if not isinstance(argument, list) or len(argument) != 3 or not isinstance(argument[0], str):
            return _mark("Fn::If without its three arguments")
        return self.value(argument[1 if self.condition(argument[0]) else 2])

    def _json(self, argument: Any) -> str:
        return json.dumps(self.deep(argument), default=str)

    def _length(self, argument: Any) -> Any:
        items = self.value(argument)
        return len(items) if isinstance(items, list) else _mark("Fn::Length of something that is not known")


_FUNCTIONS: Final = {
    "Ref": World._ref,
    "Fn::GetAtt": World._attribute,
    "Fn::Sub": World._sub,
    "Fn::Join": World._join,
    "Fn::Select": World._select,
    "Fn::Split": World._split,
    "Fn::FindInMap": World._find,
    "Fn::If": World._if,
    "Fn::ToJsonString": World._json,
    "Fn::Length": World._length,
}


def worlds(template: Template) -> Iterator[World]:
    """Every way in which what is asked can be decided.

    Raises:
        TooMany: There are more than `MOST_WORLDS`; those that were yielded stand.
    """
    waiting: list[dict[str, str]] = [{}]
    for _ in range(MOST_WORLDS):
        if not waiting:
            return
        world = World(template, waiting.pop(0))
        yield world
        waiting += world.others
    if waiting:
        raise TooMany(f"parameters and conditions allow more than {MOST_WORLDS} combinations; the rest is unseen")


def named(text: str) -> list[str]:
    """What the markers in a text stand for: `Queue.Arn`, say."""
    return _MARKER.findall(text)


def is_known(text: str) -> bool:
    """Whether nothing in it is left to deployment."""
    return _OPEN not in text


def described(text: str) -> str:
    """A text for people: markers as `${...}`, and a marker alone as what it says."""
    alone = _MARKER.fullmatch(text)
    if alone:
        return alone[1] if " " in alone[1] else f"${{{alone[1]}}}"
    return _MARKER.sub(r"${\1}", text)


def _mark(what: str) -> str:
    # No quotes or backslashes: texts with markers are read as JSON.
    return f"{_OPEN}{re.sub(_NO_PART, ' ', what)}{_CLOSE}"


def _is_pair(argument: Any) -> bool:
    return isinstance(argument, list) and len(argument) == 2


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _short(value: Any) -> str:
    text = described(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

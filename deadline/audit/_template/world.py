"""What a template says in one of the worlds it may be deployed in.

A template leaves things open: parameters, and conditions that turn on them. A check asks for plain values and
is played once for every way in which the open things that *it* touches can be decided:

    for world in worlds(template):
        check(world)

A world begins with nothing decided. Where a check needs a decision, the world takes the first option and
notes the others, each of which makes a world of its own later. So a check is straight-line code, and a
finding can say under which decisions it holds. What no decision can settle (another stack's export, a
resource's attribute) stands in texts as a marker; whoever needs it as a number gets `CannotTell`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from deadline.audit._template.intrinsics import ABSENT, FUNCTIONS, OTHER
from deadline.audit._template.marker import described, is_known, is_marker, mark, named, short
from deadline.audit._template.nodes import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadline.audit._template.template import Resource, Template

MOST_WORLDS: Final = 100
DEEPEST: Final = 50

_CONDITIONS: Final = {"Fn::And", "Fn::Or", "Fn::Not", "Fn::Equals", "Condition"}


class CannotTell(Exception):  # it is an answer, not an error
    """The template alone does not say."""


class TooMany(CannotTell):
    """More worlds than are looked at."""


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
            elif not is_known(node):
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
        if not is_known(found):
            raise CannotTell(f"{name} is {described(found)}")
        try:
            if isinstance(found, bool) or not isinstance(found, int | float | str):
                raise ValueError  # noqa: TRY004, TRY301
            number = float(found)
        except (ValueError, OverflowError):
            raise CannotTell(f"{name} is no number: {short(found)}") from None
        if not abs(number) < 1e12:
            raise CannotTell(f"{name} is no number of use: {short(found)}")
        return number

    def text(self, node: Any, *path: str | int) -> str:
        """The text at `path`, with markers for what is not known; `""` if there is nothing."""
        found = self.at(node, *path)
        return plain(found) if isinstance(found, str | int | float) else ""

    def truth(self, node: Any, *path: str | int, default: bool) -> bool:
        """The yes or no at `path`, or the default if there is nothing."""
        found = self.at(node, *path)
        if found is ABSENT:
            return default
        if not is_known(found):
            raise CannotTell(f"{path[-1]} is {described(found)}")
        return plain(found).lower() == "true" if isinstance(found, str | int) else default

    def items(self, node: Any, *path: str | int) -> list[Any]:
        """The list at `path`, its values resolved; one value is a list of one; `[]` if there is nothing."""
        found = self.at(node, *path)
        if is_marker(found) and not self._is_resource(found):
            raise CannotTell(f"{path[-1] if path else 'a list'} is {described(found)}")
        if found is ABSENT or found is None:
            return []
        values = [self.value(item) for item in found] if isinstance(found, list) else [found]
        return [value for value in values if value is not ABSENT]

    def entries(self, node: Any, *path: str | int) -> Iterator[tuple[str, Any]]:
        """The names and resolved values of the mapping at `path`."""
        found = self.at(node, *path)
        if not is_known(found):
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
        function = FUNCTIONS.get(name)
        if function is None:
            if isinstance(name, str) and name.startswith("Fn::") and not name.startswith("Fn::ForEach"):
                return mark(f"{name}: {short(argument)}")
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
            return {"true": True, "false": False}.get(plain(node)) if isinstance(node, str | int) else None
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
            return self._equal([self.value(side) for side in argument])
        if name == "Fn::Not":
            told = self._test(argument[0]) if len(argument) == 1 else None
            return None if told is None else not told
        return self._all_or_any(argument, decisive=name == "Fn::Or")

    @staticmethod
    def _equal(sides: list[Any]) -> bool | None:
        if len(sides) != 2 or not all(isinstance(side, str | int | float) for side in sides):
            return None
        left, right = map(plain, sides)
        if left == right:
            return True
        # Another value than those that a parameter is compared with differs from them.
        return False if mark(OTHER) in (left, right) or (is_known(left) and is_known(right)) else None

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
        raise TooMany(
            f"parameters and conditions allow more than {MOST_WORLDS} combinations; the rest is unseen"
        )

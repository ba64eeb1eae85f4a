"""Read a template: its text in, its resources and what could not be read out. Nothing in it is executed.

cfn-lint parses (CloudFormation's tags, line numbers, duplicate keys, YAML bombs), merges SAM's `Globals` and
expands `Fn::ForEach`. What it would have to invent is left out before and said instead.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml
from cfnlint.decode import decode_str
from cfnlint.template import Template as LintTemplate

from deadline.audit._template.marker import described
from deadline.audit._template.nodes import entry, line_of, nodes, plain, texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# CloudFormation takes 1 MB; four leave room for what a packager will shrink
# (docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html).
MOST_BYTES: Final = 4_000_000
# Deeper than any template that CloudFormation takes; the C parser underneath has no limit and would crash.
DEEPEST: Final = 100

FUNCTIONS: Final = frozenset({"AWS::Lambda::Function", "AWS::Serverless::Function"})
MACHINES: Final = frozenset({"AWS::StepFunctions::StateMachine", "AWS::Serverless::StateMachine"})
STACKS: Final = frozenset({"AWS::CloudFormation::Stack", "AWS::Serverless::Application"})
KNOWN_TRANSFORMS: Final = frozenset({"AWS::Serverless-2016-10-31", "AWS::LanguageExtensions"})
SECTIONS: Final = frozenset(
    {
        "AWSTemplateFormatVersion", "Conditions", "Description", "Globals", "Hooks", "Mappings", "Metadata",
        "Outputs", "Parameters", "Resources", "Rules", "Transform",
    }
)  # fmt: skip
_NOT_RUN: Final = "Fn::Transform is not run: what it adds is not seen"
_NO_RESOURCE: Final = "it is no resource: it has no Type, or a name of other than letters and digits"
_NAME_IN_ARN: Final = re.compile(r":function:([^/:\"]+(?:\$\{[^}]*\}[^/:\"]*)*)")


class Unreadable(ValueError):
    """A template that cannot be read."""


class Skip(NamedTuple):
    """Something that was not looked at, and why.

    Attributes:
        resource: Its logical name; `""` for the whole template.
        rule: The rule that could not be checked; `""` if it is none in particular.
        why: In words.
        line: Where, from 1; 0 if it is not known.
    """

    resource: str
    rule: str
    why: str
    line: int


@dataclass(frozen=True, eq=False)
class Resource:
    """A resource as it is written; its name knows its line."""

    name: str
    type: str
    body: dict[str, Any]

    @property
    def properties(self) -> Any:
        """Its properties, unresolved."""
        return self.body.get("Properties", {})

    def line(self, *path: str) -> int:
        """Where the deepest part of `path` that is written stands, from 1; 0 if it is not known."""
        found, node = line_of(self.name), self.body
        for name in path:
            key = next((key for key in node if key == name), None) if isinstance(node, dict) else None
            if key is None:
                break
            found = line_of(key) or found
            node = node[key]
        return found


@dataclass(frozen=True, eq=False)
class Template:
    """A template, ready to be asked.

    Attributes:
        name: What it is called in reports: its path.
        body: All of it.
        resources: By logical name.
        skipped: What was left out while reading.
        parameters: Values told from outside, by name; `AWS::Region` is one.
        facts: What is stated about functions from outside, by function and name of the fact.
    """

    name: str
    body: dict[str, Any]
    resources: dict[str, Resource]
    skipped: list[Skip] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)
    facts: dict[tuple[str, str], str] = field(default_factory=dict)

    def section(self, name: str) -> dict[str, Any]:
        """A top-level section; empty if it is missing or no mapping."""
        found = self.body.get(name)
        return found if isinstance(found, dict) else {}

    def of_type(self, types: Iterable[str]) -> Iterator[Resource]:
        """The resources of these types, in order."""
        return (resource for resource in self.resources.values() if resource.type in types)

    @cached_property
    def mentioned_by(self) -> dict[str, list[str]]:
        """For each resource, the others that name it: by reference, or a function by its name."""
        found: dict[str, dict[str, None]] = {name: {} for name in self.resources}
        named = {
            text: resource.name
            for resource in self.of_type(FUNCTIONS)
            if (text := _raw(entry(resource.properties, "FunctionName")))
        }
        for resource in self.resources.values():
            for text in texts(resource.body):
                names = [text, text.partition(".")[0]] if text in found or "." in text else []
                names += re.findall(r"\$\{\s*([A-Za-z0-9]+)", text)
                written = [*_NAME_IN_ARN.findall(text), text]
                for name in [*names, *(named[name] for name in written if name in named)]:
                    if name in found and name != resource.name:
                        found[name][resource.name] = None
        return {name: list(others) for name, others in found.items()}

    @cached_property
    def compared(self) -> dict[str, list[str]]:
        """The texts that conditions and mappings tell each parameter apart by."""
        found: dict[str, dict[str, None]] = {}
        for name, value in _comparisons(self.section("Conditions")):
            found.setdefault(name, {})[value] = None
        for mapping, name in _looked_up(self.body):
            keys = self.section("Mappings").get(mapping)
            for key in keys if isinstance(keys, dict) else ():
                found.setdefault(name, {})[str(key)] = None
        return {name: list(values) for name, values in found.items()}

    @cached_property
    def deciding(self) -> frozenset[str]:
        """The parameters that a condition compares with something: another value may decide otherwise.

        One that chooses an entry of a mapping has no other values than its keys.
        """
        keys = {name for _, name in _looked_up(self.body)}
        return frozenset(name for name, _ in _comparisons(self.section("Conditions")) if name not in keys)

    @cached_property
    def ignored(self) -> dict[str, tuple[str, ...]]:
        """The beginnings of ids that are silenced, by resource; `""` for the whole template."""
        bodies = {"": self.body, **{name: resource.body for name, resource in self.resources.items()}}
        return {name: tuple(_directives(body)) for name, body in bodies.items()}


def read(
    text: str,
    name: str = "template",
    parameters: dict[str, str] | None = None,
    facts: dict[tuple[str, str], str] | None = None,
) -> Template:
    """Read a template.

    Args:
        text: YAML or JSON.
        name: What to call it.
        parameters: Values for its parameters; `AWS::Region` is one.
        facts: What is stated of functions, by logical name and name of the fact.

    Raises:
        Unreadable: It is malformed, too large, too deep, or no template.
    """
    if len(text) > MOST_BYTES:
        raise Unreadable(f"{name}: more than {MOST_BYTES:,} characters; CloudFormation takes 1 MB")
    _check_depth(text, name)
    body = _parse(text, name)
    if not isinstance(body, dict) or not isinstance(body.get("Resources"), dict):
        raise Unreadable(f"{name}: no template: it has no Resources")
    for parameter, value in (parameters or {}).items():
        declared = entry(body.get("Parameters"), parameter)
        if "List" in str(entry(declared, "Type")):
            declared["Default"] = value  # loops go over it
    skipped = list(_left_out(body))
    body = _transformed(body, name, skipped)
    return from_body(body, name, skipped, parameters, facts)


def from_body(
    body: dict[str, Any],
    name: str,
    skipped: Iterable[Skip] = (),
    parameters: dict[str, str] | None = None,
    facts: dict[tuple[str, str], str] | None = None,
) -> Template:
    """A template that is parsed and transformed already."""
    skipped = list(skipped)
    resources = {}
    for key, value in body["Resources"].items():
        if not isinstance(key, str) or not key.isalnum() or not isinstance(entry(value, "Type"), str):
            why = _NOT_RUN if entry(value, "Fn::Transform") else _NO_RESOURCE
            skipped.append(Skip(described(str(key)), "", why, line_of(key)))
            continue
        resources[key] = resource = Resource(key, value["Type"], value)
        if why := _why_unseen(resource):
            skipped.append(Skip(resource.name, "", why, line_of(key)))
    return Template(name, body, resources, skipped, parameters or {}, facts or {})


def _check_depth(text: str, name: str) -> None:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > DEEPEST:
                    raise Unreadable(
                        f"{name}: nested deeper than {DEEPEST} levels at line {event.start_mark.line + 1}"
                    )
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.YAMLError:
        # What is wrong is said by the parser proper, which also tries JSON: that has brackets only.
        if text.count("[") + text.count("{") > DEEPEST and _json_depth(text) > DEEPEST:
            raise Unreadable(f"{name}: nested deeper than {DEEPEST} levels") from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"{name}: {error}") from None


def _json_depth(text: str) -> int:
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _parse(text: str, name: str) -> Any:
    logger = logging.getLogger("cfnlint")
    before, logger.disabled = logger.disabled, True
    try:
        body, errors = decode_str(text)
    except Exception as error:  # noqa: BLE001  # whatever a parser thinks of a broken text
        raise Unreadable(f"{name}: {type(error).__name__}: {error}") from None
    finally:
        logger.disabled = before
    if errors:
        first = errors[0]
        raise Unreadable(f"{name}:{first.linenumber}: {first.message}")
    return body


def _transformed(body: dict[str, Any], name: str, skipped: list[Skip]) -> dict[str, Any]:
    written = {key: entry(value, "Properties") for key, value in body["Resources"].items()}
    template = LintTemplate(name, body, ["us-east-1"])
    try:
        errors = template.transform()
        why = errors[0].message if errors else ""
    except Exception as error:  # noqa: BLE001  # it is written for templates that were validated
        why = f"{type(error).__name__}: {error}"
    if why:
        skipped.append(Skip("", "", f"Globals or Fn::ForEach could not be expanded: {why}", 0))
        return body
    expanded: dict[str, Any] = template.template
    for key, resource in expanded["Resources"].items():
        _take_lines(entry(resource, "Properties"), written.get(key))
    return expanded


def _take_lines(merged: Any, own: Any) -> None:
    """Give what a resource says itself its own line: merging leaves the keys of `Globals`."""
    if not isinstance(merged, dict) or not isinstance(own, dict) or merged is own:
        return
    for key in own:
        if key in merged:
            value = merged.pop(key)
            merged[key] = value
            _take_lines(value, own[key])


def _left_out(body: dict[str, Any]) -> Iterator[Skip]:
    """Say, and remove, what cannot be known: macros, other files, loops over something from outside."""
    for transform in _transforms(body):
        name = str(transform.get("Name", "?") if isinstance(transform, dict) else transform)
        if name not in KNOWN_TRANSFORMS:
            yield Skip("", "", f"the macro {described(name)} is not run: what it adds is not seen", 0)
    for key in body:
        if key not in SECTIONS:
            yield Skip("", "", f"the section {described(str(key))} is not read", line_of(key))
    for node in nodes(body):
        if str(node.get("Type")) in STACKS:
            # cfn-lint would read the file that a nested stack names, to know what it puts out.
            node.pop("Properties", None)
    resources = body["Resources"]
    for key in [key for key in resources if str(key).startswith("Fn::")]:
        why = _why_no_loop(body, key, resources[key])
        if why:
            yield Skip(described(str(key)), "", described(why), line_of(key))
            del resources[key]


def _transforms(body: dict[str, Any]) -> list[Any]:
    found = body.get("Transform", [])
    return found if isinstance(found, list) else [found]


def _why_no_loop(body: dict[str, Any], key: str, loop: Any) -> str:
    if not key.startswith("Fn::ForEach::"):
        return f"{key.partition('::')[2]} is not run: what it adds is not seen"
    if "AWS::LanguageExtensions" not in _transforms(body):
        return "Fn::ForEach needs the transform AWS::LanguageExtensions"
    if not isinstance(loop, list) or len(loop) != 3 or not isinstance(loop[2], dict):
        return "Fn::ForEach needs a name, a collection and an output"
    items = loop[1]
    if isinstance(items, dict):
        parameters = body.get("Parameters")
        default = entry(entry(parameters, str(items.get("Ref"))), "Default")
        items = str(default).split(",") if default else None
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        return "Fn::ForEach goes over something that is not written here"
    return ""


def _why_unseen(resource: Resource) -> str:
    if resource.type in STACKS:
        return "a nested stack: give its template as well"
    if resource.type.endswith("::MODULE"):
        return f"the module {described(resource.type)} is not expanded: what it holds is not seen"
    if any("Fn::Transform" in node for node in nodes(resource.body)):
        return _NOT_RUN
    return ""


def _directives(body: dict[str, Any]) -> Iterator[str]:
    """The same that cfn-lint reads: Metadata, cfn-lint, config, ignore_checks."""
    node: Any = body
    for name in ("Metadata", "cfn-lint", "config", "ignore_checks"):
        node = entry(node, name)
    for one in node if isinstance(node, list) else ():
        if isinstance(one, str) and one:
            yield one


def _comparisons(node: Any) -> Iterator[tuple[str, str]]:
    """What parameters are compared with in conditions."""
    for part in nodes(node):
        sides = part.get("Fn::Equals")
        if isinstance(sides, list) and len(sides) == 2:
            for side, other in (sides, sides[::-1]):
                for inner in nodes(side):
                    name = entry(inner, "Ref")
                    if isinstance(name, str) and isinstance(other, str | int | float):
                        yield name, plain(other)


def _looked_up(node: Any) -> Iterator[tuple[str, str]]:
    """The parameters that choose an entry of a mapping."""
    for part in nodes(node):
        keys = part.get("Fn::FindInMap")
        if isinstance(keys, list) and len(keys) >= 3 and isinstance(keys[0], str):
            name = entry(keys[1], "Ref")
            if isinstance(name, str):
                yield keys[0], name


def _raw(node: Any) -> str:
    """A text as it is written, `Fn::Sub` included."""
    text = entry(node, "Fn::Sub") or node
    return text if isinstance(text, str) else ""

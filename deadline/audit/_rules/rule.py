"""A rule, and how rules are played over a template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from deadline.audit._template.marker import described
from deadline.audit._template.template import Skip
from deadline.audit._template.world import CannotTell, TooMany, worlds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from deadline.audit._template.template import Resource, Template
    from deadline.audit._template.world import World

    Check = Callable[[World, Resource], "Iterator[Found]"]

CHECKED: Final = "2026-11-21"


class Found(NamedTuple):
    """What a check found: where it is to be put right, and what is wrong."""

    message: str
    resource: Resource
    path: tuple[str, ...] = ()


class Finding(NamedTuple):
    """What is wrong with a template.

    Attributes:
        rule: The id.
        template: Which one, as it was named.
        resource: The logical name of the resource where it can be put right.
        type: Its type.
        path: Where in the resource.
        line: The same as a line, from 1; 0 if it is not known.
        message: What is wrong, with the numbers.
        when: Under which parameters and conditions; empty: always.
    """

    rule: str
    template: str
    resource: str
    type: str
    path: tuple[str, ...]
    line: int
    message: str
    when: dict[str, str]

    @property
    def condition(self) -> str:
        """`when` in words; empty if it is always."""
        return ", ".join(f"if {name} = {value}" for name, value in self.when.items())


@dataclass(frozen=True)
class Rule:
    """What is looked for, and all that is to be known about it.

    Attributes:
        id: As cfn-lint has them: E is refused or certain to fail, W a risk. Numbers from 9000 are for rules
            that are not cfn-lint's own.
        title: What is wrong, in a line.
        why: What happens then.
        fix: What to do, alternatives included.
        source: A page that says so.
        on: The types of the resources that it looks at.
        check: Looks at one of them in one world.
        checked: On which day the rule was last compared with its source, or a copy of it; `None`: it was not.
    """

    id: str
    title: str
    why: str
    fix: str
    source: str
    on: frozenset[str]
    check: Check
    checked: str | None

    @property
    def reference(self) -> str:
        """The source with its date."""
        return f"{self.source} ({self.checked or 'not compared'})"

    @property
    def severity(self) -> str:
        """`error` or `warning`."""
        return {"E": "error", "W": "warning"}[self.id[0]]


RULES: Final[dict[str, Rule]] = {}
"""Every rule by its id."""


def rule(  # the arguments are those of Rule
    id: str,  # noqa: A002
    title: str,
    *,
    why: str,
    fix: str,
    source: str,
    on: Iterable[str],
    checked: str | None = CHECKED,
) -> Callable[[Check], Check]:
    """Make a rule of a check and list it."""

    def listed(check: Check) -> Check:
        RULES[id] = Rule(id, title, why, fix, source, frozenset(on), check, checked)
        return check

    return listed


def play(rule: Rule, template: Template) -> tuple[list[Finding], list[Skip]]:
    """What a rule finds in a template, in any of its worlds, and where it could not tell."""
    findings: list[Finding] = []
    skipped: dict[Skip, None] = {}
    for resource in template.of_type(rule.on):
        seen: dict[Found, list[dict[str, str]]] = {}
        count = 0
        try:
            for world in worlds(template):
                count += 1
                for found, why in _look(rule, world, resource):
                    if found is not None:
                        seen.setdefault(found, []).append(world.decided)
                    else:
                        skipped[Skip(resource.name, rule.id, why, resource.line())] = None
        except TooMany as why:
            skipped[Skip(resource.name, rule.id, str(why), resource.line())] = None
        for found, where in seen.items():
            if not _is_ignored(rule.id, found.resource, template):
                findings.append(_finding(rule, template, found, where, count))
    return findings, list(skipped)


def _look(rule: Rule, world: World, resource: Resource) -> Iterator[tuple[Found | None, str]]:
    """What is found in one world, and why nothing more can be."""
    try:
        if world.exists(resource):
            for found in rule.check(world, resource):
                yield found, ""
    except CannotTell as why:
        yield None, described(str(why))
    except Exception as error:  # noqa: BLE001  # a template can be anything; a wrong shape is no reason to stop
        yield None, internal(error)


def internal(error: Exception) -> str:
    """What to say of an error of our own: the rest of the audit stands."""
    return f"internal error: {type(error).__name__}: {error}"


def _finding(
    rule: Rule, template: Template, found: Found, where: list[dict[str, str]], count: int
) -> Finding:
    resource = found.resource
    when: dict[str, str] = {}
    if len(where) < count:
        common = set.intersection(*(set(decided.items()) for decided in where))
        when = {name: value for name, value in where[0].items() if (name, value) in common} or where[0]
    return Finding(
        rule.id,
        template.name,
        resource.name,
        resource.type,
        found.path,
        resource.line(*found.path),
        described(found.message),
        when,
    )


def _is_ignored(rule: str, resource: Resource, template: Template) -> bool:
    ignored = template.ignored
    return rule.startswith((*ignored[""], *ignored.get(resource.name, ())))

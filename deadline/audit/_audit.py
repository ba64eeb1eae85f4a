"""`audit`: what is wrong with a template, what could not be told, and what a hung function costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from deadline.audit._cost import DEFAULT_REGION, Prices, load, per_million
from deadline.audit._model.calls import calls
from deadline.audit._model.model import DEFAULT_VISIBILITY, Function

# Each lists its rules.
from deadline.audit._rules import calls as _rules_calls  # noqa: F401
from deadline.audit._rules import failures as _rules_failures  # noqa: F401
from deadline.audit._rules import machines as _rules_machines  # noqa: F401
from deadline.audit._rules import queues as _rules_queues  # noqa: F401
from deadline.audit._rules.rule import RULES, Finding, internal, play
from deadline.audit._template.marker import described
from deadline.audit._template.template import FUNCTIONS, Skip, Template
from deadline.audit._template.world import CannotTell, worlds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deadline.audit._template.template import Resource


class Bar(NamedTuple):
    """One time limit of a cascade, in seconds; `None`: none."""

    title: str
    seconds: float | None
    is_function: bool = False


class Cost(NamedTuple):
    """What a function costs when it hangs.

    Attributes:
        function: Its logical name.
        memory: Megabytes.
        architecture: `x86_64` or `arm64`.
        timeout: Seconds after which it is killed.
        deadline: Seconds after which a deadline ends it; `None` if none was given.
        hung: Dollars for a million invocations that last until the timeout.
        ended: The same until the deadline.
        tries: How often an event is tried in all.
        rate: Invocations a second, if that was stated.
        reserved: The concurrency that is reserved for it.
    """

    function: str
    memory: float
    architecture: str
    timeout: float
    deadline: float | None
    hung: float
    ended: float | None
    tries: int
    rate: float | None
    reserved: float | None


@dataclass
class Audit:
    """What came of it.

    Attributes:
        template: Its name.
        findings: What is wrong, in the order of the lines.
        skipped: What was not looked at, or could not be told.
        cascades: For each function, the limits of its callers and queues beside its own.
        costs: For each function, what it costs when it hangs.
        region: Whose prices.
    """

    template: str
    findings: list[Finding] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    cascades: dict[str, list[Bar]] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)
    region: str = DEFAULT_REGION


def audit(
    template: Template,
    *,
    ignore: Sequence[str] = (),
    deadline: float | None = None,
    region: str | None = None,
    prices: Prices | None = None,
) -> Audit:
    """Play every rule over a template that was `read`.

    Args:
        template: See `read`.
        ignore: Beginnings of the ids of rules to leave out.
        deadline: Seconds after which a deadline ends a hung invocation, for the costs of functions that
            state none.
        region: Whose prices; `None` for us-east-1.
        prices: Other prices than ours.
    """
    result = Audit(template.name, skipped=list(template.skipped), region=region or DEFAULT_REGION)
    for rule in RULES.values():
        if not rule.id.startswith(tuple(ignore)):
            findings, skipped = play(rule, template)
            result.findings += findings
            result.skipped += skipped
    result.findings.sort(key=lambda finding: (finding.line, finding.rule, finding.resource))
    prices = load() if prices is None else prices
    for resource in template.of_type(FUNCTIONS):
        _describe(template, resource, result, prices, deadline)
    return result


def _describe(
    template: Template, resource: Resource, result: Audit, prices: Prices, deadline: float | None
) -> None:
    """The cascade and the cost of a function, in the first world in which it is deployed."""

    def skip(why: str, *path: str) -> None:
        result.skipped.append(Skip(resource.name, "", described(why), resource.line(*path)))

    unknown: dict[str, list[str]] = {}
    try:
        world = next(world for world in worlds(template) if world.exists(resource))
        function = Function(world, resource)
        try:
            result.cascades[resource.name] = list(_cascade(function))
        except CannotTell as why:
            unknown.setdefault(str(why), []).append("no cascade")
        try:
            result.costs.append(_cost(function, result.region, prices, deadline))
        except CannotTell as why:
            unknown.setdefault(str(why), []).append("no cost")
    except StopIteration:
        skip("its condition is never true", "Condition")
    except CannotTell as why:
        skip(f"no cascade and no cost: {why}")
    except Exception as error:  # noqa: BLE001  # as in a rule
        skip(internal(error))
    for reason, what in unknown.items():
        skip(f"{' and '.join(what)}: {reason}")


def _cascade(function: Function) -> Iterator[Bar]:
    for call in calls(function):
        if call.waits:
            yield Bar(described(call.title), call.limit)
    for mapping in function.mappings():
        if mapping.queue is not None:
            visibility = function.world.number(
                mapping.queue.properties, "VisibilityTimeout", default=DEFAULT_VISIBILITY
            )
            yield Bar(f"{mapping.queue.name}, hidden for", visibility)
    yield Bar(function.name, function.timeout, is_function=True)


def _cost(function: Function, region: str, prices: Prices, given: float | None) -> Cost:
    timeout = function.timeout  # first, so that it is why there is neither cascade nor cost
    price = prices.of(region, function.architecture)
    if price is None:
        raise CannotTell(f"no price for {function.architecture} in {region}: give one with --price")
    stated = function.stated("Deadline")
    until = given if stated is None else stated
    until = None if until is None else min(until, timeout)
    is_event = any(call.kind == "event" for call in calls(function))
    return Cost(
        function.name,
        function.memory,
        function.architecture,
        timeout,
        until,
        per_million(price, function.memory, timeout),
        None if until is None else per_million(price, function.memory, until),
        1 + int(function.retries) if is_event else 1,
        function.stated("InvocationsPerSecond"),
        function.reserved,
    )

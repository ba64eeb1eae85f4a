"""Rules on what becomes of an event whose function fails or is killed."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Final

from deadline.audit._model.calls import calls
from deadline.audit._model.model import Function
from deadline.audit._model.rights import Right, Unseen, changes, rights
from deadline.audit._rules.rule import Found, rule
from deadline.audit._template.intrinsics import ABSENT
from deadline.audit._template.nodes import texts
from deadline.audit._template.template import FUNCTIONS
from deadline.audit._template.world import CannotTell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadline.audit._template.template import Resource
    from deadline.audit._template.world import World

_DG: Final = "https://docs.aws.amazon.com/lambda/latest/dg/"


@rule(
    "W9730",
    "An event that fails to the end is gone",
    why="An asynchronous event is tried three times in all. If the function is killed each time, Lambda "
    "discards it, and nobody is told.",
    fix="Give the function an OnFailure destination (EventInvokeConfig) or a dead-letter queue; in code, "
    "deadline's notices say why.",
    source=_DG + "invocation-async-error-handling.html",
    on=FUNCTIONS,
)
def discarded(world: World, resource: Resource) -> Iterator[Found]:
    """Whether there is a destination for the failures of those who do not wait."""
    function, unknown = Function(world, resource), ""
    for call in calls(function):
        unknown = unknown or (call.unknown if call.kind == "unknown" else "")
        if call.kind == "event" and not function.keeps_failures:
            yield Found(
                f"{call.title} ({call.where}) does not wait for {function.name}, which keeps no failures",
                resource,
            )
            return
    if unknown:
        raise CannotTell(unknown)


@rule(
    "W9733",
    "A retry may do again what was done",
    why="A function that is killed half-way is called again with the same event, by Lambda itself, by its "
    "queue or its stream. What it changed before is changed twice.",
    fix="Make it idempotent (a conditional write, an idempotency table, Powertools) and state it: Metadata, "
    "asyncio-deadline, Idempotent: true. Or set MaximumRetryAttempts to 0.",
    source=_DG + "invocation-retries.html",
    on=FUNCTIONS,
)
def done_twice(world: World, resource: Resource) -> Iterator[Found]:
    """Whether something that retries calls a function that changes things and shows no idempotency."""
    function = Function(world, resource)
    if _is_idempotent(function):
        return
    retriers = [f"{mapping.name}, a mapping," for mapping in function.mappings()]
    retriers += [call.title for call in calls(function) if call.kind == "event" and function.retries > 0]
    if not retriers:
        return
    unseen = ""
    for right in rights(function):
        if isinstance(right, Unseen):
            unseen = unseen or right.name
        elif changes(right):
            yield Found(
                f"{retriers[0]} tries again, and {function.name} may change things ({right.action}) "
                "with no sign of idempotency",
                resource,
            )
            return
    if unseen:
        raise CannotTell(f"what the policy {unseen} allows is not in the template")


@rule(
    "W9734",
    "A function may invoke itself, and nothing says how often",
    why="A function that carries on by invoking itself, and never comes to an end, runs and costs for ever; "
    "Lambda's own detection ends a chain after about 16, also one that means to go on.",
    fix="Set RecursiveLoop: Terminate where a chain is a fault, Allow where it is meant and has a limit of "
    "its own, as aws.Resume has; or let Step Functions be the loop.",
    source=_DG + "API_PutFunctionRecursionConfig.html",
    on=FUNCTIONS,
)
def for_ever(world: World, resource: Resource) -> Iterator[Found]:
    """Whether a function that may invoke itself says what becomes of a loop."""
    function = Function(world, resource)
    if world.at(resource.properties, "RecursiveLoop") is not ABSENT:
        return
    unseen = ""
    for right in rights(function):
        if isinstance(right, Unseen):
            unseen = unseen or right.name
        elif _invokes_itself(function, right):
            yield Found(f"{function.name} may invoke itself and has no RecursiveLoop", resource)
            return
    if unseen:
        raise CannotTell(f"what the policy {unseen} allows is not in the template")


def _invokes_itself(function: Function, right: Right) -> bool:
    if not fnmatch.fnmatchcase("lambda:invokefunction", right.action):
        return False
    target = right.resource
    # `*` alone is an administrator's habit more than a plan, and yet a right.
    return target == "*" or target.endswith(":function:*") or function.is_in(target)


def _is_idempotent(function: Function) -> bool:
    told = function.fact("Idempotent")
    if told is not None:
        return str(told).lower() == "true"
    node = function.resource.properties
    seen = [function.world.at(node, key) for key in ("Environment", "Policies", "Layers")]
    return any("idempoten" in text.lower() for part in seen for text in (*texts(part), *_keys(part)))


def _keys(node: object) -> Iterator[str]:
    variables = node.get("Variables") if isinstance(node, dict) else None
    yield from map(str, variables) if isinstance(variables, dict) else ()

"""What a function may do, as far as its policies stand in the template."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deadline.audit._template.intrinsics import ABSENT
from deadline.audit._template.marker import described, is_known, named
from deadline.audit._template.world import CannotTell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadline.audit._model.model import Function
    from deadline.audit._template.template import Resource

_TELEMETRY: Final = ("logs:", "xray:", "cloudwatch:", "kms:", "ec2:", "sts:", "lambda:getlayer", "ecr:")
_READING: Final = re.compile(
    r":(?:get|list|describe|batchget|query|scan|head|select|receive|lookup|search|read|check|view"
    r"|deletemessage$|changemessagevisibility|conditioncheck|decrypt|transactget|partiqlselect|subscribetoshard)"
)
# SAM's policy templates: docs.aws.amazon.com/serverless-application-model/latest/developerguide/
# serverless-policy-template-list.html
_CHANGING_TEMPLATE: Final = re.compile(
    r"Crud|Write|Send|Publish|Put|Invoke|Execution|Create|Delete|Update|Full"
)
_MANAGED_CHANGING: Final = re.compile(r"FullAccess|Administrator|PowerUser|Write|Put")
_MANAGED_HARMLESS: Final = re.compile(
    r"ReadOnly|AWSLambda\w*ExecutionRole|AWSXRay|CloudWatchLambda|LambdaInsights|AWSLambdaRole$"
)


class Right(NamedTuple):
    """Something that is allowed: an action, in lower case, and on what."""

    action: str
    resource: str


class Unseen(NamedTuple):
    """A policy that is not in the template."""

    name: str


def rights(function: Function) -> Iterator[Right | Unseen]:
    """Everything that its policies allow, and the policies that are not here.

    Raises:
        CannotTell: Its role is not in the template.
    """
    world, node = function.world, function.resource.properties
    role = world.text(node, "Role")
    if not role and function.resource.type == "AWS::Serverless::Function":
        for policy in world.items(node, "Policies"):
            yield from _sam(function, policy)
        return
    found = [world.template.resources.get(name.partition(".")[0]) for name in named(role)]
    known = next((one for one in found if one is not None and one.type == "AWS::IAM::Role"), None)
    if known is None:
        raise CannotTell(f"its role is not in the template: {described(role)}" if role else "it has no role")
    for policy in world.items(known.properties, "Policies"):
        yield from _document(function, world.at(policy, "PolicyDocument"))
    for managed in world.items(known.properties, "ManagedPolicyArns"):
        yield from _managed(world.text(managed))
    yield from _attached(function, known)


def changes(right: Right | Unseen) -> bool:
    """Whether it lets a function change something that lasts."""
    if isinstance(right, Unseen):
        return False
    action = right.action
    return not action.startswith(_TELEMETRY) and not _READING.search(action)


def _attached(function: Function, role: Resource) -> Iterator[Right | Unseen]:
    world = function.world
    for name in world.template.mentioned_by[role.name]:
        other = world.template.resources[name]
        if other.type in {
            "AWS::IAM::Policy",
            "AWS::IAM::ManagedPolicy",
            "AWS::IAM::RolePolicy",
        } and world.exists(other):
            yield from _document(function, world.at(other.properties, "PolicyDocument"))


def _sam(function: Function, policy: Any) -> Iterator[Right | Unseen]:
    world = function.world
    if isinstance(policy, str):
        yield from _managed(policy)
    elif isinstance(policy, dict) and "Statement" in policy:
        yield from _document(function, policy)
    else:
        for name, arguments in world.entries(policy):
            if _CHANGING_TEMPLATE.search(name):
                texts = [world.text(value) for _, value in world.entries(arguments)]
                action = "lambda:invokefunction" if name == "LambdaInvokePolicy" else f"sam:{name.lower()}"
                yield Right(action, " ".join(texts))


def _managed(arn: str) -> Iterator[Right | Unseen]:
    name = arn.rpartition("/")[2] if is_known(arn.rpartition("/")[2]) else ""
    if name and _MANAGED_HARMLESS.search(name):
        return
    yield (
        Right(f"managed:{name.lower()}", "*")
        if name and _MANAGED_CHANGING.search(name)
        else Unseen(described(arn))
    )


def _document(function: Function, document: Any) -> Iterator[Right]:
    world = function.world
    statements = world.at(document, "Statement")
    for statement in [statements] if isinstance(statements, dict) else world.items(document, "Statement"):
        if world.text(statement, "Effect") == "Deny" or world.at(statement, "Action") is ABSENT:
            continue
        resources = [world.text(one) for one in world.items(statement, "Resource")] or [""]
        for action in world.items(statement, "Action"):
            for resource in resources:
                yield Right(world.text(action).lower(), resource)

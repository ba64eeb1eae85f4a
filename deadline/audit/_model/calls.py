"""Who calls a function: each kind of resource that can, and how long that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deadline.audit._model.machines import tasks
from deadline.audit._template.marker import described, is_known, named
from deadline.audit._template.nodes import entry
from deadline.audit._template.template import MACHINES
from deadline.audit._template.world import CannotTell
from deadline.aws import callers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deadline.audit._model.model import Function
    from deadline.audit._template.template import Resource

CALLERS: Final = {one.name: one for one in callers}
STATE_MACHINE: Final = "step-functions"

ASYNCHRONOUS: Final = {
    "cloudformation.amazonaws.com": "CloudFormation",
    "codecommit.amazonaws.com": "CodeCommit",
    "config.amazonaws.com": "AWS Config",
    "events.amazonaws.com": "EventBridge",
    "iot.amazonaws.com": "IoT",
    "lambda.alarms.cloudwatch.amazonaws.com": "a CloudWatch alarm",
    "logs.amazonaws.com": "CloudWatch Logs",
    "s3.amazonaws.com": "S3",
    "scheduler.amazonaws.com": "EventBridge Scheduler",
    "ses.amazonaws.com": "SES",
    "sns.amazonaws.com": "SNS",
}
"""The principals that invoke with `Event`, by docs.aws.amazon.com/lambda/latest/dg/lambda-services.html."""

_SYNCHRONOUS: Final = {
    "alexa-appkit.amazon.com": "alexa",
    "cognito-idp.amazonaws.com": "cognito",
    "connect.amazonaws.com": "connect",
    "elasticloadbalancing.amazonaws.com": "alb",
    "vpc-lattice.amazonaws.com": "vpc-lattice",
}
_GATEWAYS: Final = frozenset({"rest-api", "http-api", "websocket-api"})
_SAM_ASYNCHRONOUS: Final = {
    "S3": "S3", "SNS": "SNS", "Schedule": "EventBridge", "ScheduleV2": "EventBridge Scheduler",
    "EventBridgeRule": "EventBridge", "CloudWatchEvent": "EventBridge", "CloudWatchLogs": "CloudWatch Logs",
    "IoTRule": "IoT",
}  # fmt: skip
# Cognito does not wait for these
# (docs.aws.amazon.com/cognito/latest/developerguide/user-pool-lambda-custom-sender-triggers.html).
_CUSTOM_SENDERS: Final = frozenset({"CustomEmailSender", "CustomSMSSender"})
_EVENT_HEADER: Final = "integration.request.header.X-Amz-Invocation-Type"


class Call(NamedTuple):
    """Somebody who calls a function.

    Attributes:
        kind: A name of `aws.callers`, `step-functions`, `event` for whoever does not wait, or `unknown`.
        title: What it is, for people.
        where: The logical name of what says so.
        limit: Seconds for which it waits; `None`: no limit of its own.
        unknown: Why the limit cannot be told; `""` if it can.
    """

    kind: str
    title: str
    where: str
    limit: float | None
    unknown: str = ""

    @property
    def waits(self) -> bool:
        """Whether somebody waits for the answer."""
        return self.kind not in {"event", "unknown"}

    @property
    def is_user(self) -> bool:
        """Whether it is somebody's request."""
        return self.kind in CALLERS and CALLERS[self.kind].waits is True


def calls(function: Function) -> Iterator[Call]:
    """Everybody who is known to call it, queues and streams aside."""
    found: list[Call] = []
    for read in _READERS:
        try:
            found += read(function)
        except CannotTell as why:
            found.append(Call("unknown", "a caller", function.name, None, str(why)))
    yield from found
    kinds = {call.kind for call in found} | {call.title for call in found}
    for resource in function.related("AWS::Lambda::Permission"):
        yield from _permitted(function, resource, kinds)


def _call(kind: str, where: str, limit: float | None = None, detail: str = "") -> Call:
    caller = CALLERS[kind]
    title = f"{caller.title}, {detail}" if detail else caller.title
    return Call(kind, title, where, caller.limit if limit is None else limit)


def _events(function: Function) -> Iterator[Call]:
    """What SAM has in a function's own Events."""
    world, where = function.world, function.name
    for name, kind, node in function.events():
        if kind == "Api":
            limit = _millis(function, node, "TimeoutInMillis")
            yield _call("rest-api", where, limit, _route(function, node) or name)
        elif kind == "HttpApi":
            yield _call(
                "http-api", where, _millis(function, node, "TimeoutInMillis"), _route(function, node) or name
            )
        elif kind == "Cognito":
            triggers = world.items(node, "Trigger")
            waits = [one for one in triggers if one not in _CUSTOM_SENDERS]
            yield _call("cognito", where) if waits or not triggers else Call("event", "Cognito", where, None)
        elif kind == "AlexaSkill":
            yield _call("alexa", where)
        elif kind == "SNS" and world.text(node, "SqsSubscription") != "":
            continue  # SAM puts a queue of its own in between
        elif kind in _SAM_ASYNCHRONOUS:
            yield Call("event", _SAM_ASYNCHRONOUS[kind], where, None)


def _urls(function: Function) -> Iterator[Call]:
    if function.resource.type == "AWS::Serverless::Function" and entry(
        function.resource.properties, "FunctionUrlConfig"
    ):
        yield _call("function-url", function.name)
    for resource in function.related("AWS::Lambda::Url"):
        if function.is_in(function.world.text(resource.properties, "TargetFunctionArn")):
            yield _call("function-url", resource.name)


def _methods(function: Function) -> Iterator[Call]:
    for resource in function.related("AWS::ApiGateway::Method"):
        node = function.world.at(resource.properties, "Integration")
        if function.is_in(function.world.text(node, "Uri")):
            detail = function.world.text(resource.properties, "HttpMethod")
            yield _rest(function, resource.name, node, detail if is_known(detail) else "", "TimeoutInMillis")


def _rest(function: Function, where: str, node: Any, detail: str, key: str) -> Call:
    header = "requestParameters" if key[0] == "t" else "RequestParameters"
    if function.world.text(node, header, _EVENT_HEADER) == "'Event'":
        return Call("event", "API Gateway, asynchronously", where, None)
    mode = "responseTransferMode" if key[0] == "t" else "ResponseTransferMode"
    limit = _millis(function, node, key)
    if function.world.text(node, mode) == "STREAM" and limit is None:
        return Call("rest-api", "API Gateway, REST API, streaming", where, None)
    return _call("rest-api", where, limit, detail)


def _integrations(function: Function) -> Iterator[Call]:
    world = function.world
    for resource in function.related("AWS::ApiGatewayV2::Integration"):
        if function.is_in(world.text(resource.properties, "IntegrationUri")):
            kind = _protocol(function, world.text(resource.properties, "ApiId"))
            yield _call(kind, resource.name, _millis(function, resource.properties, "TimeoutInMillis"))
    for resource in function.related("AWS::ApiGatewayV2::Api"):
        if function.is_in(world.text(resource.properties, "Target")):
            yield _call(_protocol(function, "", resource), resource.name)


def _protocol(function: Function, api: str, resource: Resource | None = None) -> str:
    template = function.world.template
    for name in named(api):
        resource = resource or template.resources.get(name.partition(".")[0])
    protocol = function.world.text(resource.properties, "ProtocolType") if resource is not None else ""
    return "websocket-api" if protocol == "WEBSOCKET" else "http-api"


def _bodies(function: Function) -> Iterator[Call]:
    """APIs that are written as OpenAPI."""
    world = function.world
    kinds = {
        "AWS::ApiGateway::RestApi": ("Body", "rest-api"),
        "AWS::Serverless::Api": ("DefinitionBody", "rest-api"),
        "AWS::ApiGatewayV2::Api": ("Body", "http-api"),
        "AWS::Serverless::HttpApi": ("DefinitionBody", "http-api"),
    }
    for resource in function.related(*kinds):
        key, kind = kinds[resource.type]
        for path, methods in world.entries(resource.properties, key, "paths"):
            for method, operation in world.entries(methods):
                node = world.at(operation, "x-amazon-apigateway-integration")
                if not function.is_in(world.text(node, "uri")):
                    continue
                detail = f"{method.upper()} {path}"
                if kind == "rest-api":
                    yield _rest(function, resource.name, node, detail, "timeoutInMillis")
                else:
                    yield _call(kind, resource.name, _millis(function, node, "timeoutInMillis"), detail)


def _balancers(function: Function) -> Iterator[Call]:
    world = function.world
    for resource in function.related("AWS::ElasticLoadBalancingV2::TargetGroup"):
        targets = (world.text(target, "Id") for target in world.items(resource.properties, "Targets"))
        if any(map(function.is_in, targets)):
            yield _call("alb", resource.name, _idle_timeout(function, resource))


def _idle_timeout(function: Function, group: Resource) -> float | None:
    """What the load balancer in front of a target group has, if the template says."""
    world, template = function.world, function.world.template
    waiting, seen = [group.name], set()
    while waiting:
        name = waiting.pop()
        resource = template.resources.get(name)
        if resource is None or name in seen:
            continue
        seen.add(name)
        kind = resource.type.rpartition("::")[2]
        if kind == "LoadBalancer":
            for attribute in world.items(resource.properties, "LoadBalancerAttributes"):
                if world.text(attribute, "Key") == "idle_timeout.timeout_seconds":
                    return world.number(attribute, "Value")
        elif kind == "TargetGroup":
            users = template.mentioned_by[name]
            waiting += [one for one in users if "Listener" in template.resources[one].type]
        else:
            for key in ("ListenerArn", "LoadBalancerArn"):
                waiting += [one.partition(".")[0] for one in named(world.text(resource.properties, key))]
    return None


def _resolvers(function: Function) -> Iterator[Call]:
    world = function.world
    for resource in function.related("AWS::AppSync::DataSource"):
        if function.is_in(world.text(resource.properties, "LambdaConfig", "LambdaFunctionArn")):
            yield _call("appsync", resource.name)
    for resource in function.related("AWS::Serverless::GraphQLApi"):
        for name, source in world.entries(resource.properties, "DataSources", "Lambda"):
            if function.is_in(world.text(source, "FunctionArn")):
                yield _call("appsync", resource.name, None, name)


def _triggers(function: Function) -> Iterator[Call]:
    world = function.world
    for resource in function.related("AWS::Cognito::UserPool"):
        for name, target in world.entries(resource.properties, "LambdaConfig"):
            arn = world.text(target, "LambdaArn") if isinstance(target, dict) else world.text(target)
            if function.is_in(arn):
                late = name in _CUSTOM_SENDERS
                yield (
                    Call("event", "Cognito", resource.name, None) if late else _call("cognito", resource.name)
                )


def _edges(function: Function) -> Iterator[Call]:
    world = function.world
    for resource in function.related("AWS::CloudFront::Distribution"):
        config = world.at(resource.properties, "DistributionConfig")
        behaviours = [world.at(config, "DefaultCacheBehavior"), *world.items(config, "CacheBehaviors")]
        for behaviour in behaviours:
            for one in world.items(behaviour, "LambdaFunctionAssociations"):
                if function.is_in(world.text(one, "LambdaFunctionARN")):
                    event = world.text(one, "EventType")
                    if not is_known(event):
                        raise CannotTell(f"EventType is {described(event)}")
                    yield _call("edge-viewer" if event.startswith("viewer") else "edge-origin", resource.name)


def _schedules(function: Function) -> Iterator[Call]:
    for resource in function.related("AWS::Scheduler::Schedule"):
        if function.is_in(function.world.text(resource.properties, "Target", "Arn")):
            yield Call("event", "EventBridge Scheduler", resource.name, None)


def _executions(function: Function) -> Iterator[Call]:
    for resource in function.related(*MACHINES):
        for task in tasks(function.world, resource):
            if function.is_in(task.target):
                title = f"Step Functions, {task.name}"
                yield Call(STATE_MACHINE, title, resource.name, task.timeout, task.unknown)


def _permitted(function: Function, resource: Resource, kinds: set[str]) -> Iterator[Call]:
    """Who is allowed to call it, where nothing else in the template says that it does."""
    world = function.world
    if not function.is_in(world.text(resource.properties, "FunctionName")):
        return
    principal = world.text(resource.properties, "Principal").removesuffix(".cn")
    source = world.text(resource.properties, "SourceArn")
    if principal == "apigateway.amazonaws.com":
        if not kinds & _GATEWAYS and "/authorizers/" not in source:
            why = "which API calls it, and for how long that waits, is not in the template"
            yield Call("rest-api", "API Gateway", resource.name, None, why)
    elif principal in _SYNCHRONOUS and _SYNCHRONOUS[principal] not in kinds:
        yield _call(_SYNCHRONOUS[principal], resource.name)
    elif principal in ASYNCHRONOUS and ASYNCHRONOUS[principal] not in kinds:
        yield Call("event", ASYNCHRONOUS[principal], resource.name, None)


def _route(function: Function, node: Any) -> str:
    method, path = (function.world.text(node, key) for key in ("Method", "Path"))
    return f"{method.upper()} {path}".strip() if is_known(method + path) else ""


def _millis(function: Function, node: Any, key: str) -> float | None:
    millis = function.world.number(node, key)
    return None if millis is None else millis / 1e3


_READERS: Final[tuple[Callable[[Function], Iterator[Call]], ...]] = (
    _events, _urls, _methods, _integrations, _bodies, _balancers, _resolvers, _triggers, _edges, _schedules,
    _executions,
)  # fmt: skip

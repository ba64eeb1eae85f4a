"""What the rules speak of, in one world: a function, who calls it, the queues and streams that feed it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from deadline.audit._template.intrinsics import ABSENT
from deadline.audit._template.marker import described, is_known, named
from deadline.audit._template.nodes import entry
from deadline.audit._template.world import CannotTell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadline.audit._template.template import Resource
    from deadline.audit._template.world import World

# docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-function.html
DEFAULT_TIMEOUT: Final = 3.0
DEFAULT_MEMORY: Final = 128.0
MOST_SECONDS: Final = 900.0
# .../aws-resource-sqs-queue.html
DEFAULT_VISIBILITY: Final = 30.0
# .../aws-resource-lambda-eventsourcemapping.html
DEFAULT_BATCH: Final = {"sqs": 10.0, "stream": 100.0}
# .../aws-resource-lambda-eventinvokeconfig.html
DEFAULT_RETRIES: Final = 2.0

METADATA: Final = "asyncio-deadline"
"""Where a function's author states facts: under this key of its Metadata."""

_ALIASES: Final = frozenset({"AWS::Lambda::Alias", "AWS::Lambda::Version"})
_SAM_MAPPINGS: Final = {
    "SQS": "sqs", "Kinesis": "stream", "DynamoDB": "stream", "MSK": "other", "MQ": "other",
    "SelfManagedKafka": "other", "DocumentDB": "other",
}  # fmt: skip


@dataclass(frozen=True)
class Mapping:
    """An event source mapping: what reads a queue or a stream for a function."""

    world: World
    resource: Resource
    name: str
    kind: str
    node: Any
    source: str

    @property
    def queue(self) -> Resource | None:
        """The queue that it reads, if that is in the template."""
        found = (self.world.template.resources.get(name.partition(".")[0]) for name in named(self.source))
        return next((one for one in found if one is not None and one.type == "AWS::SQS::Queue"), None)

    @property
    def batch(self) -> float:
        """Items in a batch, at most."""
        size = self.world.number(self.node, "BatchSize", default=DEFAULT_BATCH.get(self.kind, 100.0))
        assert size is not None
        return size

    @property
    def window(self) -> float:
        """Seconds for which a batch is gathered."""
        return self.world.number(self.node, "MaximumBatchingWindowInSeconds", default=0.0) or 0.0

    @property
    def is_partial(self) -> bool:
        """Whether the function may return some items and keep others."""
        told = [self.world.text(one) for one in self.world.items(self.node, "FunctionResponseTypes")]
        unknown = [one for one in told if not is_known(one)]
        if unknown:
            raise CannotTell(f"FunctionResponseTypes has {described(unknown[0])}")
        return "ReportBatchItemFailures" in told


@dataclass(frozen=True)
class Function:
    """A function in a world."""

    world: World
    resource: Resource

    @property
    def name(self) -> str:
        """Its logical name."""
        return self.resource.name

    @property
    def is_set(self) -> bool:
        """Whether anybody wrote a timeout."""
        return self.world.at(self.resource.properties, "Timeout") is not ABSENT

    @property
    def timeout(self) -> float:
        """Seconds after which it is killed."""
        return self._positive("Timeout", DEFAULT_TIMEOUT)

    @property
    def memory(self) -> float:
        """Megabytes."""
        return self._positive("MemorySize", DEFAULT_MEMORY)

    @property
    def architecture(self) -> str:
        """`x86_64` or `arm64`."""
        found = self.world.items(self.resource.properties, "Architectures")
        return str(found[0]) if found else "x86_64"

    @property
    def reserved(self) -> float | None:
        """Its reserved concurrency; `None` if it has none."""
        return self.world.number(self.resource.properties, "ReservedConcurrentExecutions")

    def fact(self, name: str) -> Any:
        """What its author states about it; `None` if nothing: Metadata, asyncio-deadline."""
        told = self.world.template.facts.get((self.name, name))
        if told is not None:
            return told
        found = self.world.at(self.resource.body, "Metadata", METADATA, name)
        return None if found is ABSENT else found

    def stated(self, name: str) -> float | None:
        """A fact that is a positive number."""
        number = self.world.number({name: value}, name) if (value := self.fact(name)) is not None else None
        if number is not None and number <= 0:
            raise CannotTell(f"{name} is stated as {number:g}; it must be more than 0")
        return number

    def _positive(self, name: str, default: float) -> float:
        number = self.world.number(self.resource.properties, name, default=default)
        assert number is not None
        if number <= 0:
            raise CannotTell(f"{name} is {number:g}, which no function can have")
        return number

    def is_in(self, text: str) -> bool:
        """Whether a text, an ARN say, names this function, or a version or alias of it."""
        for marker in named(text):
            target = marker.partition(".")[0]
            if target == self.name:
                return True
            other = self.world.template.resources.get(target)
            if other is not None and other.type in _ALIASES:
                # An alias of an alias is refused by CloudFormation; a circle of them would never end.
                written = self.world.text(other.properties, "FunctionName")
                if self.name in (name.partition(".")[0] for name in named(written)) or self._is_called(
                    written
                ):
                    return True
        return self._is_called(text)

    def _is_called(self, text: str) -> bool:
        own = entry(self.resource.properties, "FunctionName")
        if own is None or not text:
            return False
        name = self.world.text(own)
        return bool(name) and (
            text == name or re.search(rf":function:{re.escape(name)}(?=[:/\"]|$)", text) is not None
        )

    def related(self, *types: str) -> Iterator[Resource]:
        """The deployed resources of these types that name the function, or a version or alias of it."""
        template = self.world.template
        seen = dict.fromkeys(template.mentioned_by.get(self.name, ()))
        for name in list(seen):
            if template.resources[name].type in _ALIASES:
                seen |= dict.fromkeys(template.mentioned_by[name])
        for name in seen:
            resource = template.resources[name]
            if resource.type in types and self.world.exists(resource):
                yield resource

    def events(self) -> Iterator[tuple[str, str, Any]]:
        """Its events as SAM has them: name, type, properties."""
        if self.resource.type != "AWS::Serverless::Function":
            return
        for name, event in self.world.entries(self.resource.properties, "Events"):
            yield name, self.world.text(event, "Type"), self.world.at(event, "Properties")

    def mappings(self) -> Iterator[Mapping]:
        """What reads queues and streams for it."""
        for name, kind, node in self.events():
            if kind in _SAM_MAPPINGS:
                source = self.world.text(node, "Queue" if kind == "SQS" else "Stream")
                yield Mapping(self.world, self.resource, name, _SAM_MAPPINGS[kind], node, source)
        for resource in self.related("AWS::Lambda::EventSourceMapping"):
            node = resource.properties
            if self.is_in(self.world.text(node, "FunctionName")):
                source = self.world.text(node, "EventSourceArn")
                yield Mapping(self.world, resource, resource.name, self._kind(source), node, source)

    def _kind(self, source: str) -> str:
        kinds = {"AWS::SQS::Queue": "sqs", "AWS::Kinesis::Stream": "stream", "AWS::DynamoDB::Table": "stream"}
        for marker in named(source):
            resource = self.world.template.resources.get(marker.partition(".")[0])
            if resource is not None:
                return kinds.get(resource.type, "other")
        for service, kind in (("sqs", "sqs"), ("kinesis", "stream"), ("dynamodb", "stream")):
            if f":{service}:" in source:
                return kind
        if source and not is_known(source):
            raise CannotTell(f"EventSourceArn is {described(source)}")
        return "other"

    def invoke_configs(self) -> Iterator[Any]:
        """What is configured for asynchronous invocations of it."""
        own = self.world.at(self.resource.properties, "EventInvokeConfig")
        if own is not ABSENT and self.resource.type == "AWS::Serverless::Function":
            yield own
        for resource in self.related("AWS::Lambda::EventInvokeConfig"):
            if self.is_in(self.world.text(resource.properties, "FunctionName")):
                yield resource.properties

    @property
    def retries(self) -> float:
        """How often an asynchronous invocation is tried again."""
        told = [self.world.number(one, "MaximumRetryAttempts") for one in self.invoke_configs()]
        return max((number for number in told if number is not None), default=DEFAULT_RETRIES)

    @property
    def keeps_failures(self) -> bool:
        """Whether an asynchronous event that failed to the end goes somewhere."""
        for key in ("DeadLetterQueue", "DeadLetterConfig"):
            if self.world.text(self.resource.properties, key, "TargetArn"):
                return True
        return any(
            self.world.text(one, "DestinationConfig", "OnFailure", "Destination")
            or self.world.text(one, "DestinationConfig", "OnFailure", "Type")
            for one in self.invoke_configs()
        )

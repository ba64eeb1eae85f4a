"""Rules on what feeds a function from a queue or a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deadline.audit._model.model import DEFAULT_VISIBILITY, Function, Mapping
from deadline.audit._rules.rule import Found, rule
from deadline.audit._template.intrinsics import ABSENT
from deadline.audit._template.template import FUNCTIONS
from deadline.audit._template.world import CannotTell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadline.audit._template.template import Resource
    from deadline.audit._template.world import World

TIMES: Final = 6.0
VISIBILITY: Final = ("Properties", "VisibilityTimeout")
_DG: Final = "https://docs.aws.amazon.com/lambda/latest/dg/"
_SQS: Final = _DG + "services-sqs-configure.html"


@rule(
    "W9720",
    "A queue's visibility timeout is short of six times the function's",
    why="A throttled batch is tried again within the visibility timeout. When that is over, the messages "
    "come again while they are being worked on, and count towards the dead-letter queue without a fault "
    "of their own.",
    fix="Set VisibilityTimeout to at least 6 × Timeout + MaximumBatchingWindowInSeconds, or lower the "
    "Timeout.",
    source=_SQS,
    on=FUNCTIONS,
)
def seen_too_soon(world: World, resource: Resource) -> Iterator[Found]:
    """The visibility timeout against six times the function's, and the batching window."""
    for mapping, queue, visibility in _queues(world, resource):
        timeout = Function(world, resource).timeout
        needed = TIMES * timeout + mapping.window
        if timeout <= visibility < needed:
            window = f" + {mapping.window:g} s window" if mapping.window else ""
            yield Found(
                f"{queue.name} shows messages again after {visibility:g} s; {resource.name} needs "
                f"{TIMES:g} × {timeout:g} s{window} = {needed:g} s",
                queue,
                VISIBILITY,
            )


@rule(
    "E9721",
    "A queue's visibility timeout is shorter than the function's",
    why="Lambda refuses the event source mapping, so the deployment fails; and where the function's timeout "
    "was raised afterwards, every slow batch is worked on twice.",
    fix="Set VisibilityTimeout to at least 6 × Timeout + MaximumBatchingWindowInSeconds, or lower the "
    "Timeout.",
    source=_SQS,
    on=FUNCTIONS,
)
def refused(world: World, resource: Resource) -> Iterator[Found]:
    """The visibility timeout against the function's."""
    for _, queue, visibility in _queues(world, resource):
        timeout = Function(world, resource).timeout
        if visibility < timeout:
            yield Found(
                f"{queue.name} shows messages again after {visibility:g} s, and {resource.name} may run "
                f"{timeout:g} s: Lambda refuses the mapping",
                queue,
                VISIBILITY,
            )


@rule(
    "W9722",
    "One item that fails brings back its whole batch",
    why="Without partial batch responses an error, or a timeout near the end, returns every item of the "
    "batch, those that were done included.",
    fix="Set FunctionResponseTypes to [ReportBatchItemFailures] and answer with the items to keep, as "
    "deadline's each() and aws.batch_response() do; or a BatchSize of 1.",
    source=_DG + "services-sqs-errorhandling.html",
    on=FUNCTIONS,
)
def whole_batches(world: World, resource: Resource) -> Iterator[Found]:
    """Whether the mapping takes partial responses, where a batch has more than one item."""
    for mapping in Function(world, resource).mappings():
        if mapping.kind in {"sqs", "stream"} and not mapping.is_partial and mapping.batch > 1:
            yield Found(
                f"{_title(mapping)}: up to {mapping.batch:g} items come again for one that fails",
                mapping.resource,
                _place(mapping, "FunctionResponseTypes"),
            )


@rule(
    "W9723",
    "A full batch does not fit into the timeout",
    why="The function is killed in every full batch, the batch comes again, and nothing gets through.",
    fix="Lower the BatchSize, raise the Timeout (and the queue's visibility), or stop in time and return "
    "the rest. Items that take minutes belong into Step Functions, Fargate or Batch.",
    source=_DG + "services-sqs-errorhandling.html",
    on=FUNCTIONS,
)
def batch_too_large(world: World, resource: Resource) -> Iterator[Found]:
    """Batch size × the stated seconds per item, against the timeout."""
    function = Function(world, resource)
    cost = function.stated("SecondsPerItem")
    if cost is None:
        return
    for mapping in function.mappings():
        if mapping.batch * cost > function.timeout:
            yield Found(
                f"{_title(mapping)}: {mapping.batch:g} items × {cost:g} s = {mapping.batch * cost:g} s, "
                f"and the timeout is {function.timeout:g} s",
                mapping.resource,
                _place(mapping, "BatchSize"),
            )


@rule(
    "W9731",
    "A queue has no dead-letter queue",
    why="A message that kills the function comes again until it is too old, takes its batch with it each "
    "time, and is then gone without a trace.",
    fix="Give the queue a RedrivePolicy with a maxReceiveCount of at least 5.",
    source="https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html",
    on=FUNCTIONS,
)
def poison(world: World, resource: Resource) -> Iterator[Found]:
    """Whether a queue that feeds the function has a redrive policy."""
    for mapping in Function(world, resource).mappings():
        if mapping.kind == "sqs":
            queue = _known(mapping)
            if world.at(queue.properties, "RedrivePolicy") is ABSENT:
                yield Found(f"{queue.name} feeds {resource.name} and has no RedrivePolicy", queue)


@rule(
    "W9732",
    "A record that fails stops its shard",
    why="By default a stream's batch is tried again until it expires, up to a week for Kinesis, and "
    "everything behind it waits; then it is gone without a trace.",
    fix="Set MaximumRetryAttempts or MaximumRecordAgeInSeconds, and a DestinationConfig with OnFailure; "
    "BisectBatchOnFunctionError finds the record.",
    source=_DG + "kinesis-on-failure-destination.html",
    on=FUNCTIONS,
)
def stopped_shard(world: World, resource: Resource) -> Iterator[Found]:
    """Whether a stream's retries end, and where its failures go."""
    for mapping in Function(world, resource).mappings():
        if mapping.kind != "stream":
            continue
        limits = [
            world.number(mapping.node, key) for key in ("MaximumRetryAttempts", "MaximumRecordAgeInSeconds")
        ]
        if all(limit is None or limit < 0 for limit in limits):
            yield Found(
                f"{_title(mapping)}: a batch that fails is tried again until it expires", mapping.resource
            )
        elif not world.text(mapping.node, "DestinationConfig", "OnFailure", "Destination"):
            yield Found(f"{_title(mapping)}: a batch that was given up goes nowhere", mapping.resource)


def _queues(world: World, resource: Resource) -> Iterator[tuple[Mapping, Resource, float]]:
    """The queues that feed a function, and their visibility timeouts."""
    seen = set()
    for mapping in Function(world, resource).mappings():
        if mapping.kind == "sqs":
            queue = _known(mapping)
            if queue.name not in seen:
                seen.add(queue.name)
                visibility = world.number(queue.properties, "VisibilityTimeout", default=DEFAULT_VISIBILITY)
                assert visibility is not None
                yield mapping, queue, visibility


def _known(mapping: Mapping) -> Resource:
    if mapping.queue is None:
        raise CannotTell(f"the queue of {mapping.name} is not in the template")
    return mapping.queue


def _title(mapping: Mapping) -> str:
    return (
        f"{mapping.name} of {mapping.resource.name}"
        if mapping.name != mapping.resource.name
        else mapping.name
    )


def _place(mapping: Mapping, key: str) -> tuple[str, ...]:
    if mapping.name == mapping.resource.name:
        return ("Properties", key)
    return ("Properties", "Events", mapping.name, "Properties", key)

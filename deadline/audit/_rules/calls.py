"""Rules on a function's own timeout, beside those who wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deadline.audit._model.calls import STATE_MACHINE, calls
from deadline.audit._model.model import DEFAULT_TIMEOUT, MOST_SECONDS, Function
from deadline.audit._rules.rule import Found, rule
from deadline.audit._template.template import FUNCTIONS
from deadline.audit._template.world import CannotTell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadline.audit._template.template import Resource
    from deadline.audit._template.world import World

USER_SECONDS: Final = 6.0
TIMEOUT: Final = ("Properties", "Timeout")
_DG: Final = "https://docs.aws.amazon.com/lambda/latest/dg/"


@rule(
    "W9710",
    "A function may run longer than its caller waits",
    why="The caller gives up, answers an error and often calls again, while the function runs on unheard: "
    "the work is done and paid for twice, and what it was about to answer is lost.",
    fix="Set the Timeout a little below what the caller waits. For work that needs longer, answer at once "
    "and decouple: a queue and a second function, Step Functions, or Fargate and Batch for more than "
    "900 s.",
    source="https://aws.amazon.com/about-aws/whats-new/2024/06/amazon-api-gateway-integration-timeout-limit-29-seconds/",
    on=FUNCTIONS,
)
def outlives_its_caller(world: World, resource: Resource) -> Iterator[Found]:
    """The timeout against the limit of each caller who waits."""
    function, unknown = Function(world, resource), ""
    for call in calls(function):
        unknown = unknown or call.unknown
        if call.kind == STATE_MACHINE or call.limit is None:
            continue
        if function.timeout > call.limit:
            yield Found(
                f"{function.name} may run {function.timeout:g} s, and {call.title} ({call.where}) gives up "
                f"after {call.limit:g} s",
                resource,
                TIMEOUT,
            )
    if unknown:
        raise CannotTell(unknown)


@rule(
    "W9711",
    "Somebody may wait more than 6 s",
    why="A user does not wait that long, and when a dependency hangs every request holds its concurrency "
    "and its price for all of it.",
    fix="Set the Timeout to 3 to 6 s, and give the calls inside a deadline. What takes longer goes behind a "
    "queue or into Step Functions, and the user gets an answer at once.",
    source="https://theburningmonk.com/2018/01/aws-lambda-use-the-invocation-context-to-better-handle-slow-http-responses",
    on=FUNCTIONS,
)
def keeps_a_user_waiting(world: World, resource: Resource) -> Iterator[Found]:
    """The timeout of a function that answers requests, where its callers wait for all of it."""
    function, unknown = Function(world, resource), ""
    for call in calls(function):
        unknown = unknown or call.unknown
        fits = call.limit is None or function.timeout <= call.limit
        if call.is_user and fits and function.timeout > USER_SECONDS:
            yield Found(
                f"{call.title} ({call.where}): somebody may wait {function.timeout:g} s for {function.name}",
                resource,
                TIMEOUT,
            )
            return
    if unknown and function.timeout > USER_SECONDS:
        raise CannotTell(unknown)


@rule(
    "W9712",
    "The default timeout was never set",
    why="Without a Timeout a function is killed after 3 s, cold start's import included; nobody decided "
    "that.",
    fix="Write a Timeout: what the work takes at its slowest, and a margin to end it properly.",
    source=_DG + "configuration-timeout.html",
    on=FUNCTIONS,
)
def never_set(world: World, resource: Resource) -> Iterator[Found]:
    """Whether anybody wrote a timeout."""
    if not Function(world, resource).is_set:
        yield Found(f"{resource.name} has no Timeout: it is killed after {DEFAULT_TIMEOUT:g} s", resource)


@rule(
    "W9713",
    "The timeout is the longest there is",
    why="900 s for safety is none: whatever hangs does so for a quarter of an hour, at full price and with "
    "its concurrency; and if the work does need that, it will need more tomorrow.",
    fix="Set the Timeout from what the work takes. Divide work that is longer: a queue, a Map of Step "
    "Functions, an invocation that carries on where the last one stopped (aws.Resume); or move it to "
    "Fargate or Batch.",
    source=_DG + "configuration-timeout.html",
    on=FUNCTIONS,
)
def longest_there_is(world: World, resource: Resource) -> Iterator[Found]:
    """The timeout against the most that Lambda has."""
    if Function(world, resource).timeout >= MOST_SECONDS:
        yield Found(
            f"{resource.name} has the longest Timeout there is, {MOST_SECONDS:g} s", resource, TIMEOUT
        )


@rule(
    "W9750",
    "Hung invocations need more concurrency than is reserved",
    why="When a dependency hangs, every invocation lasts until its timeout: rate × timeout of them run at "
    "once. Past the reserved concurrency the rest are throttled, the healthy ones too.",
    fix="Lower the Timeout, end the work before it with a deadline, or reserve more. State what is "
    "expected: Metadata, asyncio-deadline, InvocationsPerSecond and Deadline.",
    source=_DG + "lambda-concurrency.html",
    on=FUNCTIONS,
)
def too_many_at_once(world: World, resource: Resource) -> Iterator[Found]:
    """Rate × the time that one may take, against the reserved concurrency."""
    function = Function(world, resource)
    rate = function.stated("InvocationsPerSecond")
    if rate is None or function.reserved is None:
        return
    stated = function.stated("Deadline")
    seconds = function.timeout if stated is None else min(stated, function.timeout)
    if rate * seconds > function.reserved:
        yield Found(
            f"{rate:g} a second × {seconds:g} s = {rate * seconds:g} at once when they hang; "
            f"{function.name} has {function.reserved:g} reserved",
            resource,
            ("Properties", "ReservedConcurrentExecutions"),
        )

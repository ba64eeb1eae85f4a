"""Who called: which source an event comes from, how long that waits for an answer, and since when.

A function's own timeout is often not the one that matters: behind API Gateway nobody listens any more after
29 seconds, however long the function may run. What is known of each source is data, one entry each.

Two rules. What is not known stays unknown (`None`), and limits nothing. And the age of a message in a queue
or of a record in a stream is a backlog, never the patience of somebody who waits, so those have no clock.

The caller's clock is a wall clock of another machine. `seconds_left` takes nothing from it on trust: a clock
that runs ahead of ours, or an instant that makes no sense, never lengthens what the caller would wait from
now on, and none leaves less than a floor.
"""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deadline._core.margin import CALLER_AT_LEAST
from deadline._core.source import seconds
from deadline._propagation import checked_header, claimed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta

    Event = Mapping[str, Any]


class Caller(NamedTuple):
    """What is known of an event source.

    Attributes:
        name: A short one, `rest-api` say.
        title: What AWS calls it.
        matches: Whether an event, a dict, is from it; raises as looking things up does where they are missing.
        limit: Seconds for which it waits for the answer, by default or at most, as `note` says; `None`:
            nobody waits, or it is not known.
        started: When its clock started, in seconds since the epoch on *its* wall clock, as an event tells;
            `None`: it does not.
        start: Where the event tells it, in words.
        waits: Whether anybody waits for the answer; `None`: not known.
        on_error: What an error of the function means to it.
        note: What to know of the limit.
        source: The page that says so.
        checked: On which day the entry was last compared with what AWS says, and whether only an old copy of it
            was at hand; `None`: from our notes alone.
    """

    name: str
    title: str
    matches: Callable[[Event], bool]
    limit: float | None
    started: Callable[[Event], float | None] | None
    start: str
    waits: bool | None
    on_error: str
    note: str
    source: str
    checked: str | None = None


def caller(event: object) -> Caller | None:
    """The source that an event comes from, by its shape; `None` if none is known that looks like it.

    Args:
        event: As Lambda passed it.
    """
    if not isinstance(event, dict):
        return None
    return next((one for one in callers if _safely(one.matches, event)), None)


def caller_left(event: object, *, limit: float | timedelta | None = None, header: str | None = None) -> float:
    """Seconds until whoever sent `event` gives up waiting for the answer; `inf` if nobody is known to wait.

    It is the limit of the event's source. Write `deadline(context, caller_limit=aws.caller_left(event))` where
    there is no `aws.handler`, which does it.

    It is read on this machine's wall clock, now. Never more than the limit, and never less than 0.25 s (or
    `limit`, if that is less), whatever the event says: clocks differ, and an event may be made up.

    Args:
        event: As Lambda passed it.
        limit: Seconds that the caller waits, where it is not what `aws.callers` has: an integration timeout
            that was raised, for example. Counted from the event's own start, where it tells one.
        header: The request header in which callers that you trust tell how long they wait
            (`deadline_header` sends `"deadline-remaining-ms"`); the sooner end counts. Default: none is read,
            because anybody can send one.

    Raises:
        TypeError, ValueError: `limit` is no number of seconds, or negative; `header` is no header's name.
    """
    return min(source_left(event, limit), header_left(event, checked_header(header)))


def header_left(event: object, header: str | None) -> float:
    """The same by a request's header alone, its name in lower case; `inf` if none is to be read."""
    said = None if header is None else headers_of(event).get(header)
    return math.inf if said is None else claimed(said)


def source_left(event: object, limit: float | timedelta | None) -> float:
    """The same by the event's source alone."""
    known = caller(event)
    wait = seconds(limit, "limit") if limit is not None else None if known is None else known.limit
    if wait is None:
        return math.inf
    started = None if known is None or known.started is None else _safely(known.started, event)
    return seconds_left(wait, started or None, time.time())


def seconds_left(limit: float, started: float | None, now: float) -> float:
    """What is left of a caller's patience, a pure function of three numbers.

    A start so long ago that the caller has been gone for as long as it would have waited is none, but the
    date in a sample event, for example: the limit then counts from now, as it does where no start is told.

    Args:
        limit: Seconds that it waits in all.
        started: When it began to, in seconds since the epoch on its own clock; `None`: not told.
        now: The same on ours.

    Returns:
        At most `limit`; at least `CALLER_AT_LEAST`, or `limit` if that is less.
    """
    waited = 0.0 if started is None else now - started
    if not 0.0 <= waited <= 2 * limit:
        waited = 0.0
    return max(limit - waited, min(limit, CALLER_AT_LEAST))


def _safely(read: Callable[[Any], Any], event: object) -> Any:
    """What `read` gives; `None` if the event is not of the shape it expects."""
    try:
        return read(event)
    except Exception:  # noqa: BLE001  # an event may be anything
        return None


def _ms(*path: str) -> Callable[[Event], float]:
    return lambda event: _number(_at(event, path)) / 1e3


def _number(value: object) -> float:
    """A number, or a text of digits: the sources have both. No bool, nothing else that `float` takes."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(value)
    return float(value)


def _at(event: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        event = event[key]
    return event


# The load balancer adds `Self` to an id that came with the request, and anybody may send one; its time is in
# whole seconds
# (docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-request-tracing.html).
_TRACE_TIME: Final = re.compile(r"(?:^|;)\s*(Self|Root)=1-([0-9a-fA-F]{8})-")

_TRACE_LONGEST: Final = 1_000
"""Characters of a trace id that are looked at: it has some hundred, and a made-up event may have megabytes."""


def headers_of(event: object) -> dict[str, Any]:
    """The headers of an event that is an HTTP request, by their lower-case names; empty for another's.

    What came more than once is joined by commas, as HTTP has it.
    """
    if not isinstance(event, dict) or not isinstance(event.get("requestContext"), dict):
        return {}
    headers = event.get("multiValueHeaders") or event.get("headers")  # of several, `headers` has the last
    if not isinstance(headers, dict):
        return {}
    return {
        str(name).lower(): ", ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in headers.items()
    }


def _trace_time(event: Event) -> float:
    times = dict(_TRACE_TIME.findall(headers_of(event)["x-amzn-trace-id"][:_TRACE_LONGEST]))
    return float(int(times.get("Self") or times["Root"], 16))


def _records(key: str, value: str) -> Callable[[Event], bool]:
    def matches(event: Event) -> bool:
        return bool(event["Records"][0][key] == value)

    return matches


def _is_authorizer(event: Event) -> bool:
    """Whether a gateway asks who may call, by an event much like the request's own."""
    return "methodArn" in event or "routeArn" in event


def _is_cognito(event: Event) -> bool:
    # Custom senders are invoked asynchronously.
    return "userPoolId" in event and not event["triggerSource"].startswith(
        ("CustomSMSSender", "CustomEmailSender")
    )


def _is_http_api(event: Event) -> bool:
    is_one = event["version"] == "2.0" and "routeKey" in event and "http" in event["requestContext"]
    return is_one and not _is_authorizer(event)


def _is_function_url(event: Event) -> bool:
    return _is_http_api(event) and ".lambda-url." in event["requestContext"]["domainName"]


def _is_websocket(event: Event) -> bool:
    # A function hears of the third, DISCONNECT, when the connection is closed: nobody waits for that.
    context = event["requestContext"]
    return "connectionId" in context and context["eventType"] in {"CONNECT", "MESSAGE"}


def _is_rest_api(event: Event) -> bool:
    context = event["requestContext"]
    return "httpMethod" in event and "stage" in context and not _is_authorizer(event)


def _is_lattice(event: Event) -> bool:
    context = event["requestContext"]
    return event["version"] == "2.0" and "routeKey" not in event and "serviceNetworkArn" in context


def _is_appsync(event: Event) -> bool:
    # A batch resolver gets a list of these, and a resolver of yours any shape that it is given.
    return "arguments" in event and {"fieldName", "parentTypeName"} <= event["info"].keys()


def _is_edge(kinds: str) -> Callable[[Event], bool]:
    return lambda event: event["Records"][0]["cf"]["config"]["eventType"].startswith(kinds)


_COMPARED: Final = "2026-11-21"
"""When the entries that say so were compared with the page they name, or with a copy of it.

The shapes of events were compared with the models of Powertools for AWS Lambda 3.37 as well, where it has one. Comments
name what else was read.
"""
_WITH_OLD: Final = _COMPARED + ", in part with a copy of 2023 or before"
"""Where AWS's own repository of the page was all there was for a part of it; comments say for which."""

_STREAM_RETRIED: Final = (
    "the batch comes again, or its part from the first record that a partial response names; until then the "
    "shard stands"
)
_TWICE: Final = "Lambda tries twice more by default, then the dead-letter queue or the failure destination"
_LAMBDA_DOCS: Final = "https://docs.aws.amazon.com/lambda/latest/dg/"
_GATEWAY_DOCS: Final = "https://docs.aws.amazon.com/apigateway/latest/developerguide/"
_EDGE_DOCS: Final = (
    "https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/cloudfront-limits.html"
)
_NO_CLOCK: Final = "none: how old a record is says how long the backlog is"

callers: Final[tuple[Caller, ...]] = (
    # The event is old; what an error means from urls-monitoring.html, which counts timeouts as 5xx, too.
    Caller(
        "function-url", "Lambda function URL", _is_function_url,
        None, _ms("requestContext", "timeEpoch"), "requestContext.timeEpoch, ms", True,
        "HTTP 5xx", "as long as the function's own timeout: no other is documented",
        _LAMBDA_DOCS + "urls-invocation.html", _WITH_OLD,
    ),
    Caller(
        "http-api", "API Gateway, HTTP API", _is_http_api,
        30.0, _ms("requestContext", "timeEpoch"), "requestContext.timeEpoch, ms", True,
        "HTTP 500", "cannot be raised",
        _GATEWAY_DOCS + "http-api-quotas.html", _COMPARED,
    ),
    # The start from apigateway-websocket-api-mapping-template-reference.html, and the refusal from
    # apigateway-websocket-api-route-keys-connect-disconnect.html, both old. The error frame is what clients report: we
    # found no page of AWS's that has it.
    Caller(
        "websocket-api", "API Gateway, WebSocket API", _is_websocket,
        29.0, _ms("requestContext", "requestTimeEpoch"), "requestContext.requestTimeEpoch, ms", True,
        "an error frame, or a refused connection", "cannot be raised; connectedAt is the connection's own start",
        _GATEWAY_DOCS + "apigateway-execution-service-websocket-limits-table.html", _WITH_OLD,
    ),
    # Streaming from response-transfer-mode.html.
    Caller(
        "rest-api", "API Gateway, REST API", _is_rest_api,
        29.0, _ms("requestContext", "requestTimeEpoch"), "requestContext.requestTimeEpoch, ms", True,
        "HTTP 502", "the default; can be raised for Regional and private APIs, and lowered for each method; up to "
        "15 minutes where the response is streamed",
        "https://aws.amazon.com/about-aws/whats-new/2024/06/amazon-api-gateway-integration-timeout-limit-29-seconds/", _COMPARED,
    ),
    Caller(
        "alb", "Application Load Balancer", lambda event: {"targetGroupArn"} <= event["requestContext"]["elb"].keys(),
        60.0, _trace_time, "the time in X-Amzn-Trace-Id, whole seconds", True,
        "HTTP 502", "the idle timeout's default; 1 to 4,000 s",
        "https://repost.aws/knowledge-center/504-error-alb", _COMPARED,
    ),
    # The idle timeout from vpc-lattice/latest/ug/services.html.
    Caller(
        "vpc-lattice", "VPC Lattice, event version 2.0", _is_lattice,
        None, lambda event: _number(event["requestContext"]["timeEpoch"]) / 1e6,
        "requestContext.timeEpoch, µs", True,
        "HTTP 500", "not documented for functions; connections to targets may idle for 60 s, which can be changed",
        "https://docs.aws.amazon.com/vpc-lattice/latest/ug/lambda-functions.html", _COMPARED,
    ),
    Caller(
        "appsync", "AppSync resolver", _is_appsync,
        30.0, None, "not told", True,
        "an error in the GraphQL answer", "for the whole request, not for each resolver",
        "https://docs.aws.amazon.com/general/latest/gr/appsync.html", _COMPARED,
    ),
    # The five seconds and the attempts are old.
    Caller(
        "cognito", "Cognito user pool trigger", _is_cognito,
        5.0, None, "not told", True,
        "the user's sign-up or sign-in fails", "then it tries again, three times in all; cannot be raised",
        "https://docs.aws.amazon.com/cognito/latest/developerguide/cognito-user-pools-working-with-lambda-triggers.html", _WITH_OLD,
    ),
    Caller(
        "connect", "Amazon Connect contact flow", lambda event: {"ContactData"} <= event["Details"].keys(),
        8.0, None, "not told", True,
        "tried again within the limit, then the flow takes its error branch",
        "the most; a block may have less, and an asynchronous one, which looks the same, up to 60",
        "https://docs.aws.amazon.com/connect/latest/adminguide/invoke-lambda-function-block.html", _COMPARED,
    ),
    Caller(
        "alexa", "Alexa skill",
        lambda event: {"applicationId"} <= event["context"]["System"]["application"].keys() and "request" in event,
        8.0, None, "not told: request.timestamp is in whole seconds", True,
        "the user hears that there was a problem", "cannot be raised",
        "https://developer.amazon.com/en-US/blogs/alexa/alexa-skills-kit/2019/10/tips-for-developing-high-performance-alexa-skills1", _COMPARED,
    ),
    Caller(
        "edge-viewer", "Lambda@Edge, viewer request or response", _is_edge("viewer-"),
        5.0, None, "not told", True,
        "HTTP 502 or 503", "the function's own timeout can be no longer",
        _EDGE_DOCS, _COMPARED,
    ),
    Caller(
        "edge-origin", "Lambda@Edge, origin request or response", _is_edge("origin-"),
        30.0, None, "not told", True,
        "HTTP 502 or 503", "the function's own timeout can be no longer",
        _EDGE_DOCS, _COMPARED,
    ),
    # That it is synchronous from lambda/latest/dg/services-s3-batch.html. What an error means is old: the codes, and
    # from batch-ops-examples-reports.html functions that timed out, each a PermanentFailure.
    Caller(
        "s3-batch", "S3 Batch Operations",
        lambda event: {"invocationSchemaVersion", "tasks"} <= event.keys(),
        None, None, "not told", True,
        "the task has failed for good; TemporaryFailure as the answer has it tried again", "not documented",
        "https://docs.aws.amazon.com/AmazonS3/latest/userguide/batch-ops-invoke-lambda.html", _WITH_OLD,
    ),
    # The event is what AWS's own SDK for Python reads; errors from durable-execution-sdk-retries.html and the SDK's
    # error-handling guide.
    Caller(
        "durable", "Lambda durable function",
        lambda event: {"DurableExecutionArn", "CheckpointToken"} <= event.keys(),
        None, None, "the execution's own, which outlives invocations", None,
        "a step is tried again, as it says; outside of one the execution fails",
        "whoever started it synchronously, or a queue or stream, waits for the whole execution, as a rule for "
        "15 minutes at most, which the event does not tell; an invocation ends at the function's timeout",
        _LAMBDA_DOCS + "durable-invoking.html", _COMPARED,
    ),
    # Partial responses from services-sqs-errorhandling.html.
    Caller(
        "sqs", "SQS queue", _records("eventSource", "aws:sqs"),
        None, None, _NO_CLOCK, False,
        "the whole batch comes again when its visibility timeout has passed, or what a partial response names",
        "the visibility timeout is never less than the function's, and better six times as long",
        _LAMBDA_DOCS + "services-sqs-configure.html", _COMPARED,
    ),
    # Partial responses from services-kinesis-batchfailurereporting.html.
    Caller(
        "kinesis", "Kinesis stream", _records("eventSource", "aws:kinesis"),
        None, None, _NO_CLOCK, False, _STREAM_RETRIED,
        "a failed batch is tried until its records expire, unless the mapping has a limit",
        _LAMBDA_DOCS + "kinesis-on-failure-destination.html", _COMPARED,
    ),
    # Partial responses from services-ddb-batchfailurereporting.html.
    Caller(
        "dynamodb", "DynamoDB stream", _records("eventSource", "aws:dynamodb"),
        None, None, _NO_CLOCK, False, _STREAM_RETRIED,
        "a failed batch is tried until its records expire, after 24 hours, unless the mapping has a limit",
        _LAMBDA_DOCS + "services-ddb-params.html", _COMPARED,
    ),
    # Of the next three, what an error means from invocation-async-error-handling.html.
    Caller(
        "sns", "SNS topic", _records("EventSource", "aws:sns"),
        None, None, _NO_CLOCK, False, _TWICE, "",
        _LAMBDA_DOCS + "invocation-async.html", _COMPARED,
    ),
    # That nobody waits from lambda/latest/dg/invocation-async.html.
    Caller(
        "s3", "S3 notification", _records("eventSource", "aws:s3"),
        None, None, _NO_CLOCK, False, _TWICE, "",
        "https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html", _COMPARED,
    ),
    # That nobody waits from lambda/latest/dg/services-cloudwatchevents.html, which is old.
    Caller(
        "eventbridge", "EventBridge rule",
        lambda event: {"detail-type", "source", "detail"} <= event.keys(),
        None, None, _NO_CLOCK, False, _TWICE, "",
        "https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-events-structure.html", _WITH_OLD,
    ),
    Caller(
        "ses", "SES receipt rule", _records("eventSource", "aws:ses"),
        None, None, "not told", None, "by type: Event is tried twice more, RequestResponse bounces or goes on",
        "30 s where it waits (RequestResponse), which the event does not tell",
        "https://docs.aws.amazon.com/ses/latest/dg/receiving-email-action-lambda.html", _COMPARED,
    ),
)  # fmt: skip
"""What is known, the more particular before the more general: the first that matches is it."""

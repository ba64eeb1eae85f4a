"""AWS errors from the proxy, as the SDK parses and retries them."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError

from deadline.testing import (
    AwsErrorAnswer,
    Fault,
    FaultProxy,
    Request,
    service_unavailable,
    slow_down,
    throttling,
)
from deadline.testing._proxy.aws_errors import Protocol, error_answer, protocol_of

pytestmark = pytest.mark.slow

CALLS: dict[str, Callable[[Any], Any]] = {
    "s3": lambda client: client.put_object(Bucket="box", Key="a", Body=b"x"),
    "dynamodb": lambda client: client.list_tables(),
    "sqs": lambda client: client.list_queues(),
    "sns": lambda client: client.list_topics(),
    "lambda": lambda client: client.list_functions(),
    "kinesis": lambda client: client.list_streams(),
    "stepfunctions": lambda client: client.list_state_machines(),
    "ec2": lambda client: client.describe_vpcs(),
    "route53": lambda client: client.list_hosted_zones(),
    "sts": lambda client: client.get_caller_identity(),
}
THROTTLES = {
    "s3": ("SlowDown", 503),
    "dynamodb": ("ProvisionedThroughputExceededException", 400),
    "sqs": ("RequestThrottled", 403),
    "sns": ("Throttling", 400),
    "lambda": ("TooManyRequestsException", 429),
    "kinesis": ("ProvisionedThroughputExceededException", 400),
    "stepfunctions": ("ThrottlingException", 400),
    "ec2": ("RequestLimitExceeded", 503),
    "route53": ("Throttling", 400),
    "sts": ("Throttling", 400),
}


ClientOf = Callable[..., contextlib.AbstractAsyncContextManager[Any]]


@pytest.fixture
def client_of(fault_proxy: FaultProxy, sdk: Any) -> ClientOf:
    def make(service: str, attempts: int = 1, mode: str = "standard") -> Any:
        config = AioConfig(retries={"total_max_attempts": attempts, "mode": mode})
        return sdk.client(service, endpoint_url=fault_proxy.url, config=config)

    return make


async def failure(client: Any, service: str) -> ClientError:
    with pytest.raises(ClientError) as caught:
        await CALLS[service](client)
    return caught.value


@pytest.fixture
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the SDK retry without a pause."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda *args, **kwargs: 0)

    async def at_once(*args: Any, **kwargs: Any) -> None: ...

    monkeypatch.setattr("aiobotocore.retries.adaptive.AsyncClientRateLimiter.on_sending_request", at_once)


@pytest.mark.parametrize("service", CALLS)
async def test_throttling_is_in_the_words_of_the_service(
    fault_proxy: FaultProxy, client_of: ClientOf, service: str
) -> None:
    """Each service throttles with its own code and status, which the SDK finds in its own protocol."""
    fault_proxy.add(throttling())
    async with client_of(service) as client:
        error = await failure(client, service)
    answered = error.response["ResponseMetadata"]["HTTPStatusCode"]
    assert (error.response["Error"]["Code"], answered) == THROTTLES[service]
    assert error.response["Error"]["Message"] == "Rate exceeded"
    assert [(e.outcome, e.effect) for e in fault_proxy.log] == [("answered", "no")]


@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
@pytest.mark.parametrize(
    "overload",
    [
        *((service, throttling()) for service in ("s3", "dynamodb", "sqs", "sns", "lambda")),
        ("s3", slow_down()),
        *((service, service_unavailable()) for service in ("s3", "dynamodb", "sqs")),
    ],
    ids=str,
)
@pytest.mark.usefixtures("quick_backoff")
async def test_every_retry_mode_retries(
    fault_proxy: FaultProxy, client_of: ClientOf, overload: tuple[str, Fault], mode: str
) -> None:
    """What a service says when it is overloaded is tried again, and the next attempt succeeds."""
    service, fault = overload
    fault_proxy.add(fault, times=1)
    async with client_of(service, attempts=3, mode=mode) as client:
        if service == "s3":
            await client.create_bucket(Bucket="box")
        else:
            await CALLS[service](client)
    assert [exchange.fault for exchange in fault_proxy.log] == [fault, None]


@pytest.mark.parametrize(
    ("service", "fault", "error"),
    [
        ("dynamodb", throttling(), "ProvisionedThroughputExceededException"),
        ("dynamodb", AwsErrorAnswer("ResourceNotFoundException"), "ResourceNotFoundException"),
        ("sqs", throttling(), "RequestThrottled"),
        ("sqs", AwsErrorAnswer("QueueDoesNotExist"), "QueueDoesNotExist"),
        ("lambda", throttling(), "TooManyRequestsException"),
        ("s3", AwsErrorAnswer("NoSuchKey", 404), "NoSuchKey"),
        ("sns", AwsErrorAnswer("NotFound", 404), "NotFoundException"),
        ("stepfunctions", AwsErrorAnswer("StateMachineDoesNotExist"), "StateMachineDoesNotExist"),
    ],
)
async def test_modeled_errors_come_as_their_classes(
    fault_proxy: FaultProxy, client_of: ClientOf, service: str, fault: Fault, error: str
) -> None:
    """An error that the service's model knows is raised as the class that `client.exceptions` has."""
    fault_proxy.add(fault)
    async with client_of(service) as client:
        assert type(await failure(client, service)) is getattr(client.exceptions, error)


async def test_a_code_may_be_chosen(fault_proxy: FaultProxy, client_of: ClientOf) -> None:
    """DynamoDB's on-demand tables throttle with another code than provisioned ones."""
    fault_proxy.add(throttling("ThrottlingException"))
    async with client_of("dynamodb") as client:
        error = await failure(client, "dynamodb")
    assert error.response["Error"]["Code"] == "ThrottlingException"


async def test_a_bodiless_answer_keeps_its_status(fault_proxy: FaultProxy, client_of: ClientOf) -> None:
    """The answer to a HEAD has no room for a code: as with the real S3, the status stands in."""
    fault_proxy.add(slow_down())
    async with client_of("s3") as s3:
        with pytest.raises(ClientError) as caught:
            await s3.head_object(Bucket="box", Key="a")
    assert caught.value.response["Error"]["Code"] == "503"


def test_cbor_is_spoken_where_it_is_asked_in() -> None:
    """A request of the newest protocol gets its error in that protocol, as botocore parses it."""
    parsers = pytest.importorskip("botocore.parsers")
    request = Request("POST", "/service/X/operation/Y", {"smithy-protocol": "rpc-v2-cbor"})
    assert protocol_of(request) is Protocol.CBOR
    body, headers = error_answer(request, 400, "ThrottlingException", "slow")
    answer = {"status_code": 400, "body": body, "headers": {k.lower(): v for k, v in headers.items()}}
    parsed = parsers.create_parser("smithy-rpc-v2-cbor").parse(answer, None)
    assert parsed["Error"] == {"Code": "ThrottlingException", "Message": "slow"}


def test_an_unsigned_request_is_taken_for_s3() -> None:
    """Anonymous calls are mostly S3's, and nothing in them says otherwise."""
    assert protocol_of(Request("GET", "/box/a", {})) is Protocol.S3


def test_xml_is_escaped() -> None:
    """A message with signs of XML does not break the answer."""
    body, _ = error_answer(Request("GET", "/", {}), 400, "A.B", "<&>")
    assert b"<Code>A.B</Code><Message>&lt;&amp;&gt;</Message>" in body

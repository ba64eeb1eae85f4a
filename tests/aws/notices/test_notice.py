"""Notices: what they say, to whom, and what they never cost. The helper process has a file of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aioboto3
import pytest
from moto.core.config import default_user_config

from deadline import DeadlineExceeded, Event, aws
from deadline.aws._notices.helper_process import Helper
from deadline.aws._notices.message import LEFT_OUT, PRIVATE, message, sealed
from deadline.aws._runtime.own_client import OwnClient
from deadline.testing import Delay, FakeContext, FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from deadline.testing import MotoServer, VirtualClock

ACCOUNT = "123456789012"


class OutOfStock(Exception):
    """A user's error."""


async def hang(event: Any, context: Any) -> Any:
    await asyncio.sleep(3600)


async def fail(event: Any, context: Any) -> None:
    raise OutOfStock("no more of it")


async def invoked(function: Any, event: Any = None, seconds: float = 10.0) -> Any:
    """The response, or what Lambda would be told."""
    try:
        return await function.invoke(event, FakeContext(seconds))
    except Exception as error:
        return error


LEARNT = 20
"""Notices after which their service is known to be quick."""


def named(told: list[Event], name: str) -> list[Event]:
    return [event for event in told if event.name == name]


# --- who is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "service", "operation", "region", "parameter"),
    [
        ("arn:aws:lambda:eu-west-1:123456789012:function:tell:live", "lambda", "Invoke", "eu-west-1", None),
        ("arn:aws:sns:us-east-2:123456789012:alarms", "sns", "Publish", "us-east-2", None),
        ("arn:aws:events:us-east-2:123456789012:event-bus/ours", "events", "PutEvents", "us-east-2", None),
        (
            "arn:aws-cn:sqs:cn-north-1:123456789012:lost",
            "sqs",
            "SendMessage",
            "cn-north-1",
            "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/lost",
        ),
        (
            "https://sqs.us-east-2.amazonaws.com/123456789012/lost",
            "sqs",
            "SendMessage",
            "us-east-2",
            "https://sqs.us-east-2.amazonaws.com/123456789012/lost",
        ),
        ("http://127.0.0.1:4566/123456789012/lost", "sqs", "SendMessage", None, None),
    ],
)
def test_a_target_says_what_it_is(
    target: str, service: str, operation: str, region: str | None, parameter: str | None
) -> None:
    """An ARN or a queue's URL is enough, and its region is the one that is called."""
    notice = aws.Notice.to(target)
    assert (notice.service, notice.operation, notice.region) == (service, operation, region)
    assert (parameter or target) in json.dumps(notice.request({"message": "m"}))


@pytest.mark.parametrize(
    "target",
    ["", "lost", "arn:aws:s3:::bucket", "arn:aws:lambda:eu-west-1:1:layer:x", "https://example.com/"],
)
def test_any_other_target_is_refused(target: str) -> None:
    """The message says what would do."""
    with pytest.raises(ValueError, match="neither the ARN of a Lambda function.*aws.Notice\\(service"):
        aws.Notice.to(target)


def test_a_fifo_queue_gets_its_group() -> None:
    """One for each function; the same message is the same. A retry has its request id, and is another one."""
    notice = aws.Notice.to(f"https://sqs.us-east-1.amazonaws.com/{ACCOUNT}/lost.fifo")
    first = said(None)
    died, retry = first | {"reason": "died"}, said(None)
    assert notice.request(first)["MessageGroupId"] == "orders"
    ids = [notice.request(one)["MessageDeduplicationId"] for one in (first, first, died, retry)]
    assert ids[0] == ids[1]
    assert len({*ids}) == 3
    assert all(one.startswith("r-1-") and len(one) <= 128 for one in ids)


def test_any_operation_can_be_a_notice() -> None:
    """Places are filled wherever a text stands, once: what the message itself says is left alone."""
    notice = aws.Notice(
        "s3",
        "PutObject",
        {"Key": "{function}/{request_id}", "Body": ["{message}"], "Tries": 3, "X": "{other}"},
    )
    said = {"function": "f", "request_id": "r", "event": "{request_id}"}
    assert notice.request(said) == {"Key": "f/r", "Body": [json.dumps(said)], "Tries": 3, "X": "{other}"}


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"parameters": {"Body": "?"}}, "parameters: nothing in them says what happened"),
        ({"parameters": {"Body": "{message}"}, "limit": 10}, "limit: expected a number of bytes"),
        ({"parameters": {"Body": "{message}"}, "limit": True}, "limit: expected a number of bytes"),
    ],
)
def test_a_notice_that_could_say_nothing_is_refused(options: dict[str, Any], wrong: str) -> None:
    """By name, when it is made."""
    with pytest.raises(ValueError, match=wrong):
        aws.Notice("s3", "PutObject", **options)


# --- what is said -----------------------------------------------------------------------------------------


def said(event: Any, **parts: Any) -> dict[str, Any]:
    return message("r-1", "orders", "7", event) | parts


def no_failure(error: Exception) -> None:
    raise AssertionError("redact failed") from error


def test_a_short_message_leaves_whole() -> None:
    """As JSON has it: keys are texts, and what JSON cannot hold is described."""
    leaves = sealed(said({1: {2}}), None, 100_000, no_failure)
    assert leaves["event"] == {"1": "{2}"}
    assert leaves["cut"] == []


@pytest.mark.parametrize("text", ["x", '"', "é", "\U0001f600", "\\", "\n"])
@pytest.mark.parametrize("limit", [2_048, 5_000, 100_000])
def test_an_event_that_is_too_long_is_cut_and_marked(text: str, limit: int) -> None:
    """It becomes the beginning of its JSON; the whole fits, and little room is left."""
    leaves = sealed(said({"items": text * 200_000}, report={"steps": []}), None, limit, no_failure)
    assert leaves["cut"] == ["event"]
    assert leaves["event"].startswith('{"items": "')
    assert leaves["report"] == {"steps": []}
    assert limit - 16 <= len(json.dumps(leaves)) <= limit


def test_what_else_is_too_long_is_cut_after_the_event() -> None:
    """Report, then error, then stack; each is named."""
    long = {"text": "x" * 10_000}
    leaves = sealed(said(long, report=long, error=long, stack="s"), None, 12_000, no_failure)
    assert leaves["cut"] == ["event", "report"]
    assert leaves["event"] == ""
    assert leaves["error"] == long
    assert len(json.dumps(leaves)) <= 12_000


def test_redact_comes_before_the_cut() -> None:
    """It sees the event whole, and works on a copy; what still does not fit is left out, and that is said."""
    event = {"card": "4111", "items": ["x"] * 10_000}

    def redact(said: dict[str, Any]) -> dict[str, Any]:
        del said["event"]["card"]
        return said

    leaves = sealed(said(event), redact, 3_000, no_failure)
    assert (leaves["cut"], leaves["event"]) == (["event"], None)
    assert leaves["message"] == f"orders ran out of time{LEFT_OUT}"
    assert event["card"] == "4111"
    assert sealed(said(event), redact, 100_000, no_failure)["event"] == {"items": ["x"] * 10_000}


def test_redact_sees_no_part_of_an_event() -> None:
    """Keys are not found in a text: of an event that was cut nothing leaves, and the message says so."""
    seen: list[Any] = []

    def redact(said: dict[str, Any]) -> dict[str, Any]:
        seen.append(said["event"])
        return said

    kept = said('{"card": "4111', cut=["event"], message="m" * 500)
    leaves = sealed(kept, redact, 100_000, no_failure)
    assert (seen, leaves["event"], leaves["cut"]) == ([None], None, ["event"])
    assert leaves["message"].endswith(LEFT_OUT)
    assert len(leaves["message"]) == 500
    assert sealed(kept, None, 100_000, no_failure)["event"] == '{"card": "4111'
    assert sealed(kept, lambda _: {}, 100_000, no_failure)["cut"] == ["event"]


@pytest.mark.parametrize(
    "broken", [lambda said: said["nothing"], lambda said: None, lambda said: {"event": {1}}]
)
def test_nothing_leaves_if_redact_fails(broken: Any) -> None:
    """Neither event nor report, nor an error's words; and the notice says so."""
    secret = "4111"
    private = {part: {"card": secret} for part in PRIVATE}
    words = {"message": f"OutOfStock: {secret}", "reason": "error"}
    failures: list[Exception] = []
    leaves = sealed(said(None) | private | words, broken, 100_000, failures.append)
    assert len(failures) == 1
    assert secret not in json.dumps(leaves)
    assert leaves["redaction_failed"] is True
    assert (leaves["request_id"], leaves["message"]) == ("r-1", "orders: error")


# --- when, and what it costs ------------------------------------------------------------------------------


@pytest.mark.usefixtures("virtual_clock")
async def test_an_expiry_is_told_beside_the_mitigation(told: list[Event]) -> None:
    """At once, the mitigation first; with event, report and request id; once."""
    loop, messages, begun = asyncio.get_running_loop(), [], {}

    async def tell(said: dict[str, Any]) -> None:
        begun["notice"] = loop.time()
        messages.append(said)
        await asyncio.sleep(0.3)

    function = aws.handler(notice=tell, margin=2.0)(hang)

    @function.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        begun["mitigation"] = loop.time()
        await asyncio.sleep(0.3)
        return "partial"

    started = loop.time()
    assert await invoked(function, {"order": 1}) == "partial"
    assert list(begun) == ["mitigation", "notice"]  # making a request takes milliseconds
    assert begun["mitigation"] == begun["notice"]
    assert loop.time() - begun["notice"] == pytest.approx(0.3, abs=1e-6)
    assert begun["notice"] - started == pytest.approx(8.0, abs=0.01)
    (said,) = messages
    assert said["version"] == 1
    assert said["reason"] == "deadline_exceeded"
    assert said["message"].startswith("deadline 'hang' exceeded")
    assert (said["event"], said["sent_by"], said["error"]) == ({"order": 1}, "handler", None)
    assert said["request_id"]
    assert said["report"]["tasks"][0]["awaiting"][-1]["function"] == "sleep"
    (sent,) = named(told, "aws.notice_sent")
    assert sent.fields["reason"] == "deadline_exceeded"


async def test_an_error_is_told_unless_switched_off() -> None:
    """Type, message with notes, traceback; the error is the answer all the same."""
    messages: list[dict[str, Any]] = []

    async def tell(said: dict[str, Any]) -> None:
        messages.append(said)

    assert isinstance(await invoked(aws.handler(notice=tell, notice_errors=False)(fail)), OutOfStock)
    assert messages == []
    assert isinstance(await invoked(aws.handler(notice=tell)(fail), {"order": 1}), OutOfStock)
    (said,) = messages
    assert (said["reason"], said["message"]) == ("error", "OutOfStock: no more of it")
    assert said["report"] is None
    assert (said["error"]["type"], said["error"]["message"]) == ("OutOfStock", "no more of it")
    assert "in fail" in said["error"]["traceback"]


async def test_a_success_is_told_to_nobody() -> None:
    """Nor is a cut that the mitigation's own error follows told twice."""
    messages: list[dict[str, Any]] = []

    async def tell(said: dict[str, Any]) -> None:
        messages.append(said)

    @aws.handler(notice=tell)
    async def work(event: Any, context: Any) -> Any:
        return event

    assert await invoked(work, 1) == 1
    assert messages == []
    function = aws.handler(notice=tell, margin=0.3)(hang)

    @function.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        raise OutOfStock

    assert isinstance(await invoked(function, seconds=0.4), OutOfStock)
    assert [said["reason"] for said in messages] == ["deadline_exceeded"]


@pytest.mark.parametrize(("body", "ends", "kind"), [(hang, 9.9, DeadlineExceeded), (fail, 1.9, OutOfStock)])
async def test_a_notice_that_hangs_delays_no_further_than_its_share(
    virtual_clock: VirtualClock, told: list[Event], body: Any, ends: float, kind: type[Exception]
) -> None:
    """An expiry's until the mitigation's share ends, an error's for as long; then the error leaves."""
    loop = asyncio.get_running_loop()

    async def tell(said: dict[str, Any]) -> None:
        await asyncio.sleep(3600)

    started = loop.time()
    assert isinstance(await invoked(aws.handler(notice=tell, margin=2.0)(body)), kind)
    assert loop.time() - started == pytest.approx(ends, abs=0.01)
    (failed,) = named(told, "aws.notice_failed")
    assert "DeadlineExceeded" in failed.fields["error"]


@pytest.mark.parametrize(("body", "ends"), [(hang, 10.0), (fail, 2.5)])
async def test_a_notice_that_swallows_its_cut_is_left_behind(
    virtual_clock: VirtualClock, told: list[Event], body: Any, ends: float
) -> None:
    """The answer waits for a moment, at most half of the response's share, and goes."""

    async def tell(said: dict[str, Any]) -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

    loop = asyncio.get_running_loop()
    started = loop.time()
    assert isinstance(await invoked(aws.handler(notice=tell, margin=2.0)(body)), Exception)
    assert loop.time() - started <= ends
    assert named(told, "aws.left_running")


async def test_the_sdk_is_loaded_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an init phase the first notice loads it, when time is short; no response waits for that."""
    loading, loaded = threading.Event(), threading.Event()

    def load(_: object) -> None:
        loading.set()
        loaded.wait()
        raise LookupError

    monkeypatch.setattr(OwnClient, "_load", load)
    function = aws.handler(notice=f"https://sqs.us-east-1.amazonaws.com/{ACCOUNT}/lost", margin=1.0)(hang)

    @function.on_exceeded
    async def _(exceeded: object, event: Any, context: Any) -> str:
        return "partial"

    try:
        assert await invoked(function, seconds=1.2) == "partial"
        assert loading.is_set()
    finally:
        loaded.set()


async def test_a_notice_that_fails_hides_nothing(told: list[Event]) -> None:
    """The error is the body's; the event says what became of the notice."""

    async def tell(said: dict[str, Any]) -> None:
        raise ConnectionError("no route")

    assert isinstance(await invoked(aws.handler(notice=tell)(fail)), OutOfStock)
    (failed,) = named(told, "aws.notice_failed")
    assert failed.level == logging.WARNING
    assert failed.fields["error"] == "ConnectionError('no route')"
    assert failed.fields["request_id"]


async def test_redact_that_fails_is_told_in_the_log_and_to_nobody_else(told: list[Event]) -> None:
    """With what it raised: otherwise an empty event would be a riddle."""
    messages: list[dict[str, Any]] = []

    async def tell(said: dict[str, Any]) -> None:
        messages.append(said)

    def redact(said: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("card 4111")

    await invoked(aws.handler(notice=tell, redact=redact)(fail), {"card": "4111"})
    (failed,) = named(told, "aws.redaction_failed")
    assert failed.fields["error"] == "KeyError('card 4111')"
    assert failed.fields["request_id"] == messages[0]["request_id"]
    assert "4111" not in json.dumps(messages)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("service", "operation", "parameter", "wrong"),
    [
        ("sqs", "SendMesage", "QueueUrl", "no operation 'SendMesage', but SendMessage"),
        ("sqs", "SendMessage", "Queue", 'Unknown parameter in input: "Queue"'),
        ("sqss", "SendMessage", "QueueUrl", "Unknown service: 'sqss'"),
    ],
)
@pytest.mark.usefixtures("moto_server")
async def test_a_mistake_in_a_notice_is_named(
    told: list[Event], service: str, operation: str, parameter: str, wrong: str
) -> None:
    """When its client is made: in Lambda's init phase, and not when the time is up, months later."""
    notice = aws.Notice(service, operation, {parameter: "q", "MessageBody": "{message}"})
    await invoked(aws.handler(notice=notice, margin=4.0)(fail))
    (failed,) = named(told, "aws.notice_failed")
    assert wrong in failed.fields["error"].replace("\\", "")


# --- arguments and the environment ------------------------------------------------------------------------


async def tell_nobody(said: dict[str, Any]) -> None:
    """Be a target."""


@pytest.mark.parametrize(
    ("options", "kind", "wrong"),
    [
        ({"notice": 3}, TypeError, "notice: expected an aws.Notice"),
        ({"notice": lambda said: None}, TypeError, "notice: expected an aws.Notice"),
        ({"notice": "lost"}, ValueError, "notice: 'lost' is neither"),
        ({"notice": tell_nobody, "redact": "card"}, TypeError, "redact: expected a plain function"),
        ({"notice": tell_nobody, "redact": tell_nobody}, TypeError, "redact: expected a plain function"),
        ({"notice": tell_nobody, "helper": True}, TypeError, "helper: it sends an aws.Notice"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], kind: type[Exception], wrong: str) -> None:
    """When the function is made."""
    handler: Any = aws.handler
    with pytest.raises(kind, match=wrong):
        handler(**options)(hang)


def test_a_wrong_variable_is_said_and_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stack's functions work on; the log has the fix."""
    monkeypatch.setenv("DEADLINE_NOTICE", "lost")
    aws.handler(hang)
    assert "DEADLINE_NOTICE is not used, notice: 'lost' is neither the ARN" in caplog.text


def test_a_helper_without_a_notice_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """The variable may be set elsewhere, so it is no error."""
    aws.handler(helper=True)(hang)
    assert "helper=True does nothing for hang" in caplog.text


def test_a_helper_elsewhere_than_on_linux_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Development on another system goes on without it."""
    monkeypatch.setattr("sys.platform", "darwin")
    aws.handler(helper=True, notice=aws.Notice.invoke("tell"))(hang)
    assert "helper=True does nothing for hang: it needs Linux, this is darwin" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="the helper needs Linux")
def test_a_helper_that_cannot_be_forked_costs_nothing_but_itself(
    told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The invocation goes on, the event says why, and no descriptor stays open however often it is tried."""

    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("os.fork", fork)
    helper = Helper(aws.Notice.invoke("tell"), None)
    descriptors = Path("/proc/self/fd")
    open_before = len(list(descriptors.iterdir()))
    for _ in range(3):
        helper.arm({}, 1.0)
        assert helper.stand_down()
    assert len(list(descriptors.iterdir())) == open_before
    assert [event.fields["error"] for event in told] == [
        repr(BlockingIOError(11, "Resource temporarily unavailable"))
    ] * 3


# --- the real services, as moto has them ------------------------------------------------------------------


class Services:
    """moto's, by plain clients."""

    def __init__(self, clients: dict[str, Any]) -> None:
        self._clients = clients
        self.queue = ""
        self._queue_arn = ""

    async def set_up(self) -> None:
        sqs = self._clients["sqs"]
        self.queue = (await sqs.create_queue(QueueName="lost"))["QueueUrl"]
        self._queue_arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:lost"

    async def topic(self) -> str:
        """A topic that sends to the queue."""
        sns = self._clients["sns"]
        arn: str = (await sns.create_topic(Name="lost"))["TopicArn"]
        await sns.subscribe(
            TopicArn=arn,
            Protocol="sqs",
            Endpoint=self._queue_arn,
            Attributes={"RawMessageDelivery": "true"},
        )
        return arn

    async def bus(self) -> str:
        """An event bus with a rule that sends to the queue."""
        events = self._clients["events"]
        arn: str = (await events.create_event_bus(Name="ours"))["EventBusArn"]
        await events.put_rule(Name="r", EventBusName="ours", EventPattern='{"source": ["deadline"]}')
        target = {"Id": "1", "Arn": self._queue_arn}
        await events.put_targets(Rule="r", EventBusName="ours", Targets=[target])
        return arn

    async def received(self) -> list[dict[str, Any]]:
        answer = await self._clients["sqs"].receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10)
        return [json.loads(one["Body"]) for one in answer.get("Messages", [])]


@pytest.fixture
async def services(moto_server: MotoServer) -> AsyncIterator[Services]:
    session = aioboto3.Session()
    async with session.client("sqs") as sqs, session.client("sns") as sns, session.client("events") as events:
        services = Services({"sqs": sqs, "sns": sns, "events": events})
        await services.set_up()
        yield services


@pytest.mark.slow
@pytest.mark.parametrize("through", ["queue", "topic", "bus"])
@pytest.mark.parametrize("body", [hang, fail])
async def test_it_arrives(services: Services, through: str, body: Any) -> None:
    """Through SQS, SNS and EventBridge, in SQS; on expiry and on an error, once."""
    target = services.queue if through == "queue" else await getattr(services, through)()
    function = aws.handler(notice=target, margin=4.0)(body)
    await invoked(function, {"order": 1}, seconds=4.2)
    (said,) = await services.received()
    if through == "bus":
        assert (said["source"], said["detail-type"]) == (
            "deadline",
            {"hang": "deadline_exceeded", "fail": "error"}[body.__name__],
        )
        said = said["detail"]
    assert said["event"] == {"order": 1}
    assert said["reason"] == {"hang": "deadline_exceeded", "fail": "error"}[body.__name__]


@pytest.mark.slow
async def test_a_slow_answer_brings_no_second_notice(
    services: Services, moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt is not given up for another, however quick the ones before were: both might arrive."""
    with FaultProxy(moto_server.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        function = aws.handler(notice=services.queue, margin=8.0)(fail)
        for _ in range(LEARNT):
            await invoked(function, seconds=8.2)
        proxy.add(Delay(1.0))
        await invoked(function, seconds=8.2)
        assert len([one for one in proxy.log if one.request.operation == "SendMessage"]) == LEARNT + 1


@pytest.mark.slow
async def test_a_function_is_invoked(
    moto_server: MotoServer, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an asynchronous event, by name and by ARN, which moto accepts."""
    # Without Docker moto leaves sockets to it open, so it is told not to look for functions.
    monkeypatch.setitem(default_user_config, "lambda", {"use_docker": False})
    arn = f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:tell"
    for target in (aws.Notice.invoke("tell"), arn):
        await invoked(aws.handler(notice=target, margin=4.0)(fail))
    assert len(named(told, "aws.notice_sent")) == 2


@pytest.mark.slow
async def test_a_long_event_arrives_cut_or_redacted(services: Services) -> None:
    """A queue would refuse it otherwise; with a `redact` nothing of it leaves."""

    def redact(said: dict[str, Any]) -> dict[str, Any]:
        del said["event"]["card"]
        return said

    event = {"card": "4111", "items": ["é"] * 300_000}
    await invoked(aws.handler(notice=services.queue, redact=redact, margin=4.0)(fail), event)
    (said,) = await services.received()
    assert said["cut"] == ["event"]
    assert said["event"] is None
    assert "4111" not in json.dumps(said)
    await invoked(aws.handler(notice=services.queue, margin=4.0)(fail), event)
    (said,) = await services.received()
    assert said["event"].startswith('{"card": "4111", "items": [')


@pytest.mark.slow
async def test_the_variable_serves_a_whole_stack(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument wins over it."""
    monkeypatch.setenv("DEADLINE_NOTICE", f" {services.queue} ")
    await invoked(aws.handler(margin=4.0)(fail))
    await invoked(aws.handler(notice=tell_nobody)(fail))
    assert len(await services.received()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("listens", [True, False])
async def test_a_dead_target_costs_no_response(
    services: Services, told: list[Event], monkeypatch: pytest.MonkeyPatch, *, listens: bool
) -> None:
    """One that accepts and never answers, or none at all: the mitigation's answer is in time."""
    with socket.create_server(("127.0.0.1", 0)) as dead:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{dead.getsockname()[1]}")
        if not listens:
            dead.close()
        function = aws.handler(notice=services.queue, margin=4.0)(hang)

        @function.on_exceeded
        async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
            return context.get_remaining_time_in_millis()

        context = FakeContext(4.2)
        assert await function.invoke(None, context) > 1000
        assert context.get_remaining_time_in_millis() > 0
    assert len(named(told, "aws.notice_failed")) == 1


@pytest.mark.slow
async def test_what_eventbridge_refuses_inside_is_a_failure(
    services: Services, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PutEvents answers 200 and says in the entry what it did not take."""
    notice = aws.Notice(
        "events",
        "PutEvents",
        {"Entries": [{"Source": "s", "DetailType": "t", "Detail": "not JSON: {message}"}]},
    )
    await invoked(aws.handler(notice=notice, margin=4.0)(fail))
    (failed,) = named(told, "aws.notice_failed")
    assert "MalformedDetail" in failed.fields["error"]

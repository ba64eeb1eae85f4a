"""`aws.handler` below the decorators of Powertools: the real package, and idempotency's table in moto."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import uuid
from typing import TYPE_CHECKING, Any

import aws_xray_sdk
import boto3
import pytest
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from aws_lambda_powertools.logging import utils
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.middleware_factory import lambda_handler_decorator
from aws_lambda_powertools.utilities.batch import (
    AsyncBatchProcessor,
    EventType,
    async_process_partial_response,
)
from aws_lambda_powertools.utilities.data_classes import SQSEvent, event_source
from aws_lambda_powertools.utilities.idempotency import DynamoDBPersistenceLayer, idempotent
from aws_lambda_powertools.utilities.idempotency.exceptions import IdempotencyAlreadyInProgressError
from aws_xray_sdk.core import xray_recorder
from aws_xray_sdk.core.async_recorder import AsyncAWSXRayRecorder
from aws_xray_sdk.core.context import Context
from botocore.loaders import create_loader
from botocore.session import get_session

from deadline import DeadlineExceeded, aws, deadline
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deadline import Event
    from deadline.testing import MotoServer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_environment")]

# A session of its own would read the SDK's models of services again: most of a test's time.
_MODELS = create_loader()

SOON = 0.4
"""Seconds of an invocation that is meant to run out of time."""


class MoveTimeout(DeadlineExceeded):
    pass


class Tracing:
    """A tracer, and what the X-Ray SDK would send to its daemon. Making one takes long."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.recorder = AsyncAWSXRayRecorder()
        _hang_up(self.recorder)
        self.recorder.configure(emitter=self, sampling=False, context=Context())
        self.tracer = Tracer(service="orders", disabled=False, auto_patch=False, provider=self.recorder)

    def send_entity(self, entity: Any) -> None:
        """Be the SDK's emitter."""
        self.sent.append(entity)


class Powertools:
    """One of each, and what they put out."""

    def __init__(self, tracing: Tracing) -> None:
        session = get_session()
        session.register_component("data_loader", _MODELS)
        self.dynamodb = boto3.Session(botocore_session=session).client("dynamodb")
        self._lines = io.StringIO()
        self.logger = Logger(service=f"orders-{uuid.uuid4()}", stream=self._lines)
        self.tracing, self.tracer = tracing, tracing.tracer
        self.metrics = Metrics(namespace="shop", service="orders")
        self.metrics.clear_metrics()  # all of a process's share them
        self.store = DynamoDBPersistenceLayer(table_name="idempotency", boto3_client=self.dynamodb)

    def stack(self, function: Any) -> Any:
        """All of them, in the order that docs/powertools.md gives: the first is the lowest."""
        for decorate in (
            self.metrics.log_metrics,
            marked,
            idempotent(persistence_store=self.store),
            self.tracer.capture_lambda_handler,
            self.logger.inject_lambda_context,
        ):
            function = decorate(function)
        return function

    def records(self) -> list[dict[str, Any]]:
        """The lines that were logged, as CloudWatch gets them."""
        return [json.loads(line) for line in self._lines.getvalue().splitlines()]

    def call(self, function: Any, event: Any, context: FakeContext | None = None) -> Any:
        """Call it as Lambda does, in the segment that Lambda opens."""
        self.tracing.recorder.begin_segment("lambda")
        try:
            return function(event, context or FakeContext(3.0))
        finally:
            self.tracing.recorder.end_segment()

    def subsegments(self) -> dict[str, Any]:
        """Those of the last call, by name."""
        found: dict[str, Any] = {}
        todo = list(self.tracing.sent[-1].subsegments)
        while todo:
            one = todo.pop()
            found[one.name] = one
            todo += one.subsegments
        return found


@lambda_handler_decorator
def marked(handler: Callable[[Any, Any], Any], event: Any, context: Any) -> Any:
    """A middleware of one's own."""
    return {**handler(event, context), "marked": True}


@pytest.fixture(scope="module")
def tracing() -> Iterator[Tracing]:
    # A tracer that was made outside of Lambda has turned all of them off.
    enabled = aws_xray_sdk.global_sdk_config.sdk_enabled()
    aws_xray_sdk.global_sdk_config.set_sdk_enabled(True)
    Tracer._reset_config()  # type: ignore[no-untyped-call]
    yield Tracing()
    Tracer._reset_config()  # type: ignore[no-untyped-call]
    aws_xray_sdk.global_sdk_config.set_sdk_enabled(enabled)


@pytest.fixture
def powertools(moto_server: MotoServer, tracing: Tracing) -> Powertools:
    made = Powertools(tracing)
    made.dynamodb.create_table(
        TableName="idempotency",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return made


@pytest.fixture(params=["plainly", "thinly"])
def stacked(request: pytest.FixtureRequest, powertools: Powertools) -> Callable[[Any], Any]:
    """Put the decorators right above `@aws.handler`, or above a `def` that calls what it made."""
    if request.param == "thinly":

        def stack(function: Any) -> Any:
            def lambda_handler(event: Any, context: Any) -> Any:
                return function(event, context)

            return powertools.stack(lambda_handler)

        return stack
    return powertools.stack


def _hang_up(recorder: AsyncAWSXRayRecorder) -> None:
    """Close the socket to X-Ray's daemon, which a recorder opens when it is made and never closes."""
    recorder.emitter._socket.close()


_hang_up(xray_recorder)  # the SDK's own is made when it is imported


# --- every decorator --------------------------------------------------------------------------------------


def test_the_answer_passes_through(
    powertools: Powertools, stacked: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """And each decorator has done its work: log, trace, metric, record."""

    @aws.handler
    async def orders(event: Any, context: Any) -> Any:
        await asyncio.sleep(0.01)
        powertools.logger.info("taken")
        powertools.metrics.add_metric("Taken", MetricUnit.Count, 1)
        return {"took": event["key"]}

    f = stacked(orders)
    context = FakeContext(3.0)
    assert powertools.call(f, {"key": 1}, context) == {"took": 1, "marked": True}
    [record] = powertools.records()
    assert record["message"] == "taken"
    assert record["function_request_id"] == context.aws_request_id
    assert [name for name in powertools.subsegments() if name.startswith("## ")]
    assert json.loads(capsys.readouterr().out)["Taken"] == [1.0]
    [item] = powertools.dynamodb.scan(TableName="idempotency")["Items"]
    assert item["status"] == {"S": "COMPLETED"}


def test_an_answer_is_replayed(powertools: Powertools, stacked: Callable[[Any], Any]) -> None:
    """Idempotency works as without us: the second event of a kind does not reach the handler."""
    taken: list[int] = []

    @aws.handler
    async def orders(event: Any, context: Any) -> Any:
        powertools.metrics.add_metric("Taken", MetricUnit.Count, 1)
        taken.append(event["key"])
        return {"took": event["key"]}

    f = stacked(orders)
    first = powertools.call(f, {"key": 1})
    assert powertools.call(f, {"key": 1}) == first
    assert taken == [1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: LookupError("no"),
        lambda: MoveTimeout("soon"),
        lambda: SystemExit(3),
        lambda: BaseExceptionGroup("all", [SystemExit(3)]),
    ],
    ids=["LookupError", "MoveTimeout", "SystemExit", "BaseExceptionGroup"],
)
def test_an_error_passes_through(
    powertools: Powertools, stacked: Callable[[Any], Any], make: Callable[[], BaseException]
) -> None:
    """Under its class name, seen by the tracer, and idempotency lets the retry run.

    The decorators catch `Exception` alone: without us, SystemExit leaves a record that says "in progress".
    """
    error = make()
    errors = [error]

    @aws.handler
    async def orders(event: Any, context: Any) -> Any:
        powertools.metrics.add_metric("Taken", MetricUnit.Count, 1)
        if errors:
            raise errors.pop()
        return {"took": event["key"]}

    f = stacked(orders)
    with pytest.raises(Exception, match=r".*") as caught:
        powertools.call(f, {"key": 1})
    assert type(caught.value).__name__ == type(error).__name__
    if isinstance(error, Exception):
        assert caught.value is error
    [traced] = [one for name, one in powertools.subsegments().items() if name.startswith("## ")]
    assert traced.fault
    assert traced.cause["exceptions"][0].type == type(error).__name__
    assert powertools.call(f, {"key": 1}) == {"took": 1, "marked": True}


def test_an_expiry_is_answered(
    powertools: Powertools, stacked: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """`on_exceeded` answers, what it logs has the request's id, and its metrics are put out."""

    @aws.handler
    async def orders(event: Any, context: Any) -> Any:
        powertools.logger.append_keys(order=event["key"])
        await asyncio.sleep(60)

    @orders.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        powertools.logger.warning("cut")
        powertools.metrics.add_metric("Cut", MetricUnit.Count, 1)
        return {"status": "partial"}

    context = FakeContext(SOON)
    assert powertools.call(stacked(orders), {"key": 7}, context) == {"status": "partial", "marked": True}
    [record] = powertools.records()
    assert (record["message"], record["order"]) == ("cut", 7)
    assert record["function_request_id"] == context.aws_request_id
    assert json.loads(capsys.readouterr().out)["Cut"] == [1.0]


def test_an_expiry_without_mitigation_fails(powertools: Powertools, stacked: Callable[[Any], Any]) -> None:
    """With the handler's error, which the tracer sees as well."""

    @aws.handler(error=MoveTimeout)
    async def orders(event: Any, context: Any) -> Any:
        powertools.metrics.add_metric("Taken", MetricUnit.Count, 1)
        await asyncio.sleep(60)

    with pytest.raises(MoveTimeout, match="deadline 'orders' exceeded"):
        powertools.call(stacked(orders), {"key": 1}, FakeContext(SOON))
    [traced] = [one for name, one in powertools.subsegments().items() if name.startswith("## ")]
    assert traced.cause["exceptions"][0].type == "MoveTimeout"


# --- on_exceeded and invoke, from above -------------------------------------------------------------------


def test_on_exceeded_is_reached_through_the_decorators(powertools: Powertools) -> None:
    """They use functools.wraps, which copies attributes; type checkers do not know of it."""

    @aws.handler
    async def orders(event: Any, context: Any) -> Any:
        powertools.metrics.add_metric("Taken", MetricUnit.Count, 1)
        await asyncio.sleep(60)

    async def mitigate(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        powertools.metrics.add_metric("Cut", MetricUnit.Count, 1)
        return {"status": "partial"}

    f = powertools.stack(orders)
    f.on_exceeded(mitigate)
    assert powertools.call(f, {"key": 1}, FakeContext(SOON)) == {"status": "partial", "marked": True}


async def test_invoke_passes_the_decorators_by(powertools: Powertools) -> None:
    """However it is reached, it runs what is below them."""

    @aws.handler
    async def orders(event: Any, context: Any) -> Any:
        return {"took": event["key"]}

    f = powertools.stack(orders)
    assert await f.invoke({"key": 1}, FakeContext(3.0)) == {"took": 1}


# --- idempotency ------------------------------------------------------------------------------------------


def _taking_orders(powertools: Powertools, *, fails: bool) -> Any:
    """A handler whose first event takes too long: it answers with a part, or fails after mitigating."""
    turns = iter([60.0, 0.0])

    @aws.handler
    async def orders(event: Any, context: Any) -> Any:
        await asyncio.sleep(next(turns))
        return {"status": "whole"}

    @orders.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        if fails:
            raise exceeded
        return {"status": "partial"}

    return idempotent(persistence_store=powertools.store)(orders)


def test_idempotency_replays_a_partial_answer(powertools: Powertools) -> None:
    """The trap: what `on_exceeded` returns is stored as the success, and no retry ever does the rest."""
    orders = _taking_orders(powertools, fails=False)
    assert orders({"key": 1}, FakeContext(SOON)) == {"status": "partial"}
    assert orders({"key": 1}, FakeContext(3.0)) == {"status": "partial"}


def test_idempotency_forgets_a_failure(powertools: Powertools) -> None:
    """The way out: `raise exceeded` removes the record, and the retry does it all."""
    orders = _taking_orders(powertools, fails=True)
    with pytest.raises(DeadlineExceeded):
        orders({"key": 1}, FakeContext(SOON))
    assert orders({"key": 1}, FakeContext(3.0)) == {"status": "whole"}


def test_a_second_invocation_meanwhile_is_refused(powertools: Powertools) -> None:
    """The record is written before the handler runs, so that a twin of the event is refused meanwhile."""

    @idempotent(persistence_store=powertools.store)
    @aws.handler
    async def orders(event: Any, context: Any) -> Any:
        twin = asyncio.to_thread(orders, event, FakeContext(3.0))
        with pytest.raises(IdempotencyAlreadyInProgressError):
            await twin
        return {"status": "whole"}

    assert orders({"key": 1}, FakeContext(3.0)) == {"status": "whole"}


# --- logger and tracer ------------------------------------------------------------------------------------


@pytest.fixture
def deadline_logger() -> Iterator[logging.Logger]:
    """The logger `deadline`, put back as it was."""
    logger = logging.getLogger("deadline")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before


def test_our_log_lines_have_the_request_id(powertools: Powertools, deadline_logger: logging.Logger) -> None:
    """With the logger's configuration copied to the logger `deadline`, what we log is JSON of its kind."""
    utils.copy_config_to_registered_loggers(powertools.logger, include={"deadline"})

    @powertools.logger.inject_lambda_context
    @aws.handler
    async def orders(event: Any, context: Any) -> Any:
        await asyncio.sleep(60)

    context = FakeContext(SOON)
    with pytest.raises(DeadlineExceeded):
        orders({}, context)
    [record] = [record for record in powertools.records() if "aws.exceeded" in record["message"]]
    assert record["function_request_id"] == context.aws_request_id


def test_a_traced_coroutine_is_closed_when_it_is_cut(powertools: Powertools) -> None:
    """Its subsegment says that it was cancelled, and what comes next hangs on the handler's own."""

    @powertools.tracer.capture_method
    async def copy() -> None:
        await asyncio.sleep(60)

    @powertools.tracer.capture_method
    async def tell() -> str:
        return "told"

    @aws.handler
    async def orders(event: Any, context: Any) -> Any:
        await copy()

    @orders.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return {"status": await tell()}

    f = powertools.tracer.capture_lambda_handler(orders)
    assert powertools.call(f, {}, FakeContext(SOON)) == {"status": "told"}
    [handler] = powertools.tracing.sent[-1].subsegments
    assert handler.name == "## orders"
    assert [one.name.rpartition(".")[2] for one in handler.subsegments] == ["copy", "tell"]
    assert not any(one.in_progress for one in [handler, *handler.subsegments])


# --- routes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "status"), [("/orders/7", 200), ("/late", 504)])
def test_routes_are_awaited(path: str, status: int) -> None:
    """`await app.resolve_async(event, context)` runs `async def` routes under the deadline."""
    app = APIGatewayHttpResolver()

    @app.get("/orders/<key>")
    async def order(key: str) -> Any:
        await asyncio.sleep(0.01)
        return {"key": key}

    @app.get("/late")
    async def late() -> None:
        await asyncio.sleep(60)

    @aws.handler
    async def api(event: Any, context: Any) -> Any:
        return await app.resolve_async(event, context)

    @api.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> Any:
        return {"statusCode": 504}

    stage = {"http": {"method": "GET", "path": path}, "stage": "$default"}
    event = {"version": "2.0", "rawPath": path, "requestContext": stage, "headers": {}}
    assert api(event, FakeContext(SOON))["statusCode"] == status


# --- batches ----------------------------------------------------------------------------------------------


def _batch(*bodies: str) -> dict[str, Any]:
    return {
        "Records": [
            {"messageId": str(number), "body": body, "eventSource": "aws:sqs"}
            for number, body in enumerate(bodies)
        ]
    }


@pytest.mark.parametrize("on_lambda", [False, True])
@pytest.mark.filterwarnings("ignore:coroutine .*async_process_closure' was never awaited:RuntimeWarning")
def test_the_async_batch_processor_does_not_run_here(
    powertools: Powertools, monkeypatch: pytest.MonkeyPatch, *, on_lambda: bool
) -> None:
    """It starts a loop where one is running; no record is processed."""
    if on_lambda:
        monkeypatch.setenv("LAMBDA_TASK_ROOT", "/var/task")
    processed: list[str] = []

    async def process(record: Any) -> None:
        processed.append(record.body)

    @aws.handler
    async def consume(event: Any, context: Any) -> Any:
        return async_process_partial_response(
            event=event, record_handler=process, processor=AsyncBatchProcessor(EventType.SQS), context=context
        )

    with pytest.raises(RuntimeError, match="running"):
        consume(_batch("a"), FakeContext(3.0))
    assert processed == []
    gc.collect()  # the coroutine that nobody awaits is complained of here, and in no later test


def test_a_batch_by_hand(powertools: Powertools) -> None:
    """What failed, and what the time did not do for, is delivered again; what is done is not."""

    async def process(record: Any) -> None:
        if record.body == "bad":
            raise LookupError(record.body)
        await asyncio.sleep(60 if record.body == "slow" else 0)

    @aws.handler
    async def consume(event: SQSEvent, context: Any) -> Any:
        undone = {record.message_id: record for record in event.records}

        async def one(record: Any) -> None:
            try:
                await process(record)
            except Exception:
                powertools.logger.exception("left in the queue", message_id=record.message_id)
            else:
                del undone[record.message_id]

        try:
            async with deadline(context):
                await asyncio.gather(*map(one, list(undone.values())))
        except DeadlineExceeded:
            pass
        return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in undone]}

    f: Any = powertools.logger.inject_lambda_context(event_source(data_class=SQSEvent)(consume))
    answer = f(_batch("good", "bad", "slow", "good"), FakeContext(1.0))
    assert answer == {"batchItemFailures": [{"itemIdentifier": "1"}, {"itemIdentifier": "2"}]}


def test_an_answer_that_loses_work_is_warned_of(powertools: Powertools, told: list[Event]) -> None:
    """The event's source is known in a data class of theirs, too."""

    @aws.handler
    async def consume(event: SQSEvent, context: Any) -> Any:
        await asyncio.sleep(60)

    @consume.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: SQSEvent, context: Any) -> Any:
        return {"status": "partial"}

    f: Any = event_source(data_class=SQSEvent)(consume)
    assert f(_batch("a"), FakeContext(SOON)) == {"status": "partial"}
    assert [event.name for event in told] == ["aws.exceeded", "aws.work_lost"]

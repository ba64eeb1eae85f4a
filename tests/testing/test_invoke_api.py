"""The Invoke API: a real client, real processes, and what becomes of events that fail."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from deadline.testing import InvokeApi
from deadline.testing._emulator.lambda_function import continued

pytest.importorskip("awslambdaric")
pytestmark = pytest.mark.slow

FUNCTION = """
import json, os, time

import boto3

folder = os.environ["LAMBDA_TASK_ROOT"]

def echo(event, context):
    print("from the function")
    client = context.client_context
    return {
        "event": event, "id": context.aws_request_id, "arn": context.invoked_function_arn,
        "name": context.function_name, "custom": client.custom if client else None,
        "trace": os.environ["_X_AMZN_TRACE_ID"],
    }

def fails(event, context):
    with open(folder + "/ids", "a") as ids:
        print(context.aws_request_id, file=ids)
    raise KeyError("gone")

def recovers(event, context):
    if not os.path.exists(folder + "/tried"):
        open(folder + "/tried", "w").close()
        os._exit(3)
    return "now"

def calls(event, context):
    "Invoke another function, or itself, as the event says."
    client = boto3.client("lambda")
    answer = client.invoke(**event["invoke"], Payload=json.dumps(event.get("with")))
    return {"status": answer["StatusCode"], "payload": json.loads(answer["Payload"].read() or b"null")}

def again(event, context):
    client = boto3.client("lambda")
    client.invoke(FunctionName=context.invoked_function_arn, InvocationType="Event", Payload=b"{}")

def waits(event, context):
    while not os.path.exists(folder + "/go"):
        time.sleep(0.01)
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "function.py").write_text(FUNCTION)
    return tmp_path


@pytest.fixture
async def client(invoke_api: InvokeApi, sdk: Any) -> AsyncIterator[Any]:
    async with sdk.client("lambda", endpoint_url=invoke_api.url) as client:
        yield client


async def payload(answer: dict[str, Any]) -> Any:
    return json.loads(await answer["Payload"].read())


def text(size: int) -> io.BytesIO:
    """So many bytes of JSON; aiohttp takes large ones from a file only."""
    return io.BytesIO(b'"%s"' % (b"x" * (size - 2)))


async def idle(api: InvokeApi) -> list[str]:
    """Wait for the events; return how the runs ended."""
    await asyncio.to_thread(api.wait_idle)
    return [run.invocation.status for run in api.log]


async def test_a_request_waits_for_its_response(invoke_api: InvokeApi, client: Any, code: Path) -> None:
    """The function gets event, context, client context and trace; the caller its response and the log."""
    arn = invoke_api.add("function.echo", path=code, name="echo", aliases=["live"], timeout=30)
    context = base64.b64encode(json.dumps({"custom": {"hop": "1"}}).encode()).decode()
    answer = await client.invoke(
        FunctionName=arn, Qualifier="live", ClientContext=context, LogType="Tail", Payload=b'{"a": 1}'
    )
    assert answer["StatusCode"] == 200
    assert answer["ExecutedVersion"] == "$LATEST"
    assert "FunctionError" not in answer
    told = await payload(answer)
    assert told["event"] == {"a": 1}
    assert told["arn"] == f"{arn}:live"
    assert told["name"] == "echo"
    assert told["custom"] == {"hop": "1"}
    assert told["id"] == answer["ResponseMetadata"]["RequestId"]
    assert "from the function" in base64.b64decode(answer["LogResult"]).decode()
    for name in ("echo:live", "123456789012:function:echo", f"{arn}:$LATEST"):
        assert (await client.invoke(FunctionName=name, Payload=b"{}"))["StatusCode"] == 200
    assert len(invoke_api.log) == 4


async def test_an_error_is_an_answer(invoke_api: InvokeApi, client: Any, code: Path) -> None:
    """A function that fails is no error of the API's; the payload says what it was. It is not retried."""
    invoke_api.add("function.fails", path=code, timeout=30)
    answer = await client.invoke(FunctionName="function", Payload=b"{}")
    assert answer["StatusCode"] == 200
    assert answer["FunctionError"] == "Unhandled"
    told = await payload(answer)
    assert (told["errorType"], told["errorMessage"]) == ("KeyError", "'gone'")
    assert await idle(invoke_api) == ["error"]


async def test_an_event_is_tried_three_times_then_sent_on(
    invoke_api: InvokeApi, client: Any, code: Path
) -> None:
    """The caller does not wait; all attempts have one request id; the destination gets the record."""
    queue = boto3.client("sqs").create_queue(QueueName="failures")["QueueUrl"]
    arn = invoke_api.add("function.fails", path=code, timeout=30, on_failure=queue)
    answer = await client.invoke(FunctionName=arn, InvocationType="Event", Payload=b'"bad"')
    assert answer["StatusCode"] == 202
    assert await answer["Payload"].read() == b""
    assert await idle(invoke_api) == ["error"] * 3
    assert [run.attempt for run in invoke_api.log] == [1, 2, 3]
    assert set((code / "ids").read_text().split()) == {answer["ResponseMetadata"]["RequestId"]}
    (message,) = boto3.client("sqs").receive_message(QueueUrl=queue)["Messages"]
    record = json.loads(message["Body"])
    assert record["requestContext"]["condition"] == "RetriesExhausted"
    assert record["requestContext"]["approximateInvokeCount"] == 3
    assert record["requestContext"]["functionArn"] == f"{arn}:$LATEST"
    assert record["requestPayload"] == "bad"
    assert record["responsePayload"]["errorType"] == "KeyError"


async def test_an_event_whose_process_died_is_tried_again(
    invoke_api: InvokeApi, client: Any, code: Path
) -> None:
    """The first attempt kills its environment, the second succeeds, and there is no third."""
    invoke_api.add("function.recovers", path=code, timeout=30)
    await client.invoke(FunctionName="function", InvocationType="Event", Payload=b"{}")
    assert await idle(invoke_api) == ["error", "success"]


async def test_functions_call_each_other(invoke_api: InvokeApi, client: Any, code: Path) -> None:
    """A plain client inside of a function finds the API; a ClientContext goes no further than a request."""
    invoke_api.add("function.calls", path=code, name="calls", timeout=30)
    invoke_api.add("function.echo", path=code, name="echo", timeout=30)
    event = {"invoke": {"FunctionName": "echo"}, "with": {"b": 2}}
    told = await payload(await client.invoke(FunctionName="calls", Payload=json.dumps(event)))
    assert told["payload"]["event"] == {"b": 2}
    assert told["payload"]["trace"].count(":1") == 2
    event = {"invoke": {"FunctionName": "calls"}, "with": {"invoke": {"FunctionName": "echo"}}}
    told = await payload(await client.invoke(FunctionName="calls", Payload=json.dumps(event)))
    assert told["payload"]["payload"]["name"] == "echo"  # itself, too, in a second environment


async def test_a_chain_of_events_is_stopped_after_sixteen(
    invoke_api: InvokeApi, client: Any, code: Path
) -> None:
    """What invokes itself for ever runs 16 times; the event that was stopped goes to the destination."""
    queue = boto3.client("sqs").create_queue(QueueName="failures")["QueueUrl"]
    invoke_api.add("function.again", path=code, timeout=30, concurrency=2, on_failure=queue)
    await client.invoke(FunctionName="function", InvocationType="Event", Payload=b"{}")
    assert await idle(invoke_api) == ["success"] * 16
    (message,) = boto3.client("sqs").receive_message(QueueUrl=queue)["Messages"]
    context = json.loads(message["Body"])["requestContext"]
    assert context["condition"] == "RecursiveInvocation"
    assert context["approximateInvokeCount"] == 0


async def test_a_request_of_a_chain_that_is_too_long_is_refused(
    invoke_api: InvokeApi, client: Any, code: Path
) -> None:
    """The caller is told by a RecursiveInvocationException; with allow_recursion it is not."""
    arn = invoke_api.add("function.echo", path=code, name="stops", timeout=30)
    allowed = invoke_api.add("function.echo", path=code, name="allows", timeout=30, allow_recursion=True)
    trace = None
    for before in range(16):
        trace, count = continued(trace, arn)
        trace, _ = continued(trace, allowed)
        assert count == before

    def add_trace(params: dict[str, Any], **_: Any) -> None:
        params["headers"]["X-Amzn-Trace-Id"] = trace

    client.meta.events.register("before-call", add_trace)
    with pytest.raises(client.exceptions.RecursiveInvocationException):
        await client.invoke(FunctionName=arn, Payload=b"{}")
    told = await payload(await client.invoke(FunctionName="allows", Payload=b"{}"))
    assert ":17" in told["trace"]


async def test_what_is_refused_starts_nothing(invoke_api: InvokeApi, client: Any, code: Path) -> None:
    """Unknown names, payloads over the limits, bad JSON, a bad client context: errors as the service's."""
    invoke_api.add("function.echo", path=code, timeout=30, aliases=["live"])
    bad: list[tuple[str, dict[str, Any]]] = [
        ("ResourceNotFoundException", {"FunctionName": "nobody"}),
        ("ResourceNotFoundException", {"FunctionName": "function", "Qualifier": "other"}),
        ("InvalidRequestContentException", {"Payload": b"{"}),
        ("InvalidRequestContentException", {"ClientContext": "e30", "Payload": b"{}"}),
        ("RequestEntityTooLargeException", {"Payload": text(6_291_457)}),
        ("RequestEntityTooLargeException", {"InvocationType": "Event", "Payload": text(2**20 + 1)}),
        ("InvalidParameterValueException", {"InvocationType": "Sometimes"}),
    ]
    for code_of, arguments in bad:
        with pytest.raises(client.exceptions.ClientError) as refused:
            await client.invoke(**{"FunctionName": "function", **arguments})
        assert refused.value.response["Error"]["Code"] == code_of
    assert (await client.invoke(FunctionName="function", InvocationType="DryRun"))["StatusCode"] == 204
    assert await idle(invoke_api) == []


async def test_one_more_than_the_concurrency_is_refused_or_waits(
    invoke_api: InvokeApi, sdk: Any, code: Path
) -> None:
    """A request is told 429; an event runs when an environment is free."""
    from aiobotocore.config import AioConfig

    invoke_api.add("function.waits", path=code, timeout=30, concurrency=1)
    config = AioConfig(retries={"total_max_attempts": 1})
    async with sdk.client("lambda", endpoint_url=invoke_api.url, config=config) as client:
        await client.invoke(FunctionName="function", InvocationType="Event", Payload=b"{}")
        await client.invoke(FunctionName="function", InvocationType="Event", Payload=b"{}")
        while not invoke_api._functions["function"]._all:
            await asyncio.sleep(0.01)
        with pytest.raises(client.exceptions.TooManyRequestsException):
            await client.invoke(FunctionName="function", Payload=b"{}")
    (code / "go").touch()
    assert await idle(invoke_api) == ["success", "success"]


async def test_closing_ends_what_runs(code: Path, sdk: Any) -> None:
    """Events that run, wait or are to be tried again are forgotten, and every thread is gone."""
    with InvokeApi(minute=60) as api:
        api.add("function.waits", path=code, name="waits", timeout=30, concurrency=1)
        api.add("function.fails", path=code, name="fails", timeout=30)
        async with sdk.client("lambda", endpoint_url=api.url) as client:
            for name in ("waits", "waits", "fails"):
                await client.invoke(FunctionName=name, InvocationType="Event", Payload=b"{}")
        while not api.log:
            await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError, match="fails Event attempt 1: error, KeyError"):
            api.wait_idle(0.0)
    assert [run.function for run in api.log] == ["fails"]


def test_add_checks_its_arguments(invoke_api: InvokeApi, code: Path) -> None:
    """Each error names its argument."""
    invoke_api.add("function.echo", path=code)
    with pytest.raises(ValueError, match="name: there is a function 'function' already"):
        invoke_api.add("function.echo", path=code)
    with pytest.raises(ValueError, match="name must be"):
        invoke_api.add("function.echo", path=code, name="a b")
    with pytest.raises(ValueError, match="retries must be from 0 to 2"):
        invoke_api.add("function.echo", path=code, name="b", retries=3)
    with pytest.raises(ValueError, match="timeout must be"):
        invoke_api.add("function.echo", path=code, name="b", timeout=0)
    with pytest.raises(ValueError, match="on_failure must be a queue's URL"):
        invoke_api.add("function.echo", path=code, name="b", on_failure="arn:aws:sqs:…")
    with pytest.raises(ValueError, match="on_failure must be a queue's URL"):
        invoke_api.add("function.echo", path=code, name="b", on_failure=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"aliases: .*\['live'\]"):
        invoke_api.add("function.echo", path=code, name="b", aliases="live")
    with pytest.raises(TypeError, match="workers"):
        invoke_api.add("function.echo", path=code, name="b", workers=2)
    with pytest.raises(RuntimeError, match="not running"):
        InvokeApi().add("function.echo", path=code)
    with pytest.raises(ValueError, match="minute"):
        InvokeApi(minute=-1)

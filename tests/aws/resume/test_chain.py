"""Chains of real invocations: the runtime client, Lambda's Invoke API, retries, kills, duplicates."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import boto3
import pytest

from deadline.testing import InvokeApi, MotoServer

pytest.importorskip("awslambdaric")
pytestmark = pytest.mark.slow

FUNCTIONS = Path(__file__).parents[2] / "lambda_functions"
ARN = "arn:aws:lambda:us-east-1:123456789012:function"


def begin(api: InvokeApi, function: str, event: Any, seconds: float = 60.0) -> None:
    """Invoke it asynchronously, and wait for the end of all that follows."""
    client = boto3.client("lambda")
    client.invoke(FunctionName=function, InvocationType="Event", Payload=json.dumps(event))
    api.wait_idle(seconds)


def one_long_run(position: int) -> int:
    """The prime at a position, without any of this."""
    sieve = bytearray([1]) * 110_000
    found = 0
    for number in range(2, len(sieve)):
        if sieve[number]:
            found += 1
            if found == position:
                return number
            sieve[number * number :: number] = bytes(len(range(number * number, len(sieve), number)))
    raise AssertionError


def hops_of(api: InvokeApi) -> list[int]:
    """The hop that each run was."""
    return [(run.event.get("deadline_resume") or {"hop": 1})["hop"] for run in api.log]


def test_a_chain_with_killed_hops_finds_the_same_prime(invoke_api: InvokeApi, tmp_path: Path) -> None:
    """One hop in five dies on its way: Lambda's retry repeats it from its own start, and nothing else."""
    env = {"SCRATCH": str(tmp_path), "DEADLINE_MARGIN": "0.7"}
    invoke_api.add("resumed.killed_at_random", path=FUNCTIONS, timeout=1.5, env=env)
    begin(invoke_api, "resumed", {"position": 10_000, "seed": 9})
    runs, hops = invoke_api.log, hops_of(invoke_api)
    assert runs[-1].invocation.response == {"position": 10_000, "prime": one_long_run(10_000)}
    assert set(hops) == {1, 2, 3, 4, 5, 6}
    assert hops == sorted(hops)
    failed = [hop for hop, run in zip(hops, runs, strict=True) if run.invocation.error is not None]
    assert failed == sorted(int(path.name.removeprefix("hop-")) for path in tmp_path.iterdir()) == [3, 5]
    begins: dict[int, set[str]] = {}
    for run in runs:
        for hop, found in re.findall(r"^hop (\d+) begins at (.*)$", run.invocation.log, re.MULTILINE):
            begins.setdefault(int(hop), set()).add(found)
    assert all(len(states) == 1 for states in begins.values())
    assert len({run.event["deadline_resume"]["chain"] for run in runs if run.event != runs[0].event}) == 1


def test_the_hop_limit_stops_a_runaway(invoke_api: InvokeApi) -> None:
    """The last hop's error says so and its event is kept; all hops were the same alias, in one trace."""
    queue = boto3.client("sqs").create_queue(QueueName="failures")["QueueUrl"]
    options: Any = {"path": FUNCTIONS, "timeout": 1.0, "aliases": ["live"], "on_failure": queue, "retries": 0}
    options["env"] = {"DEADLINE_MARGIN": "0.5"}
    invoke_api.add("resumed.runaway", name="runaway", **options)
    begin(invoke_api, "runaway:live", {"a": 1})
    assert hops_of(invoke_api) == [1, 2, 3]
    assert [run.invocation.status for run in invoke_api.log] == ["success", "success", "error"]
    (message,) = boto3.client("sqs").receive_message(QueueUrl=queue)["Messages"]
    record = json.loads(message["Body"])
    assert record["responsePayload"]["errorType"] == "ResumeError"
    assert "the time was up in hop 3, and hops=3 is the most" in record["responsePayload"]["errorMessage"]
    assert record["requestPayload"]["deadline_resume"]["state"] == 2
    log = "".join(run.invocation.log for run in invoke_api.log)
    told = re.findall(r"^as (\S+) in Root=([^;]+);.*Lineage=\w+:(\d+)$", log, re.MULTILINE)
    assert told == [(f"{ARN}:runaway:live", told[0][1], count) for count in "123"]


@pytest.fixture
def tables(moto_server: MotoServer) -> Any:
    """The table of claims and the one of effects; gives a client."""
    dynamodb = boto3.client("dynamodb")
    for name in ("hops", "effects"):
        dynamodb.create_table(
            TableName=name,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
    return dynamodb


def times(dynamodb: Any) -> dict[int, int]:
    """How often each hop had its effect."""
    items = dynamodb.scan(TableName="effects")["Items"]
    return {int(item["id"]["S"].rpartition("#")[2]): int(item["times"]["N"]) for item in items}


def test_hops_that_are_delivered_twice_have_their_effects_once(
    tables: Any, invoke_api: InvokeApi, tmp_path: Path
) -> None:
    """Whichever comes first runs. Counted in DynamoDB, without any condition. A secret has the key."""
    secret = boto3.client("secretsmanager").create_secret(Name="resume", SecretString="0123456789abcdef" * 4)
    # A hop that is killed is taken over, and has its effect again: the timeout is far from what it takes.
    env = {"SCRATCH": str(tmp_path), "DEADLINE_MARGIN": "3.5", "SECRET": secret["ARN"]}
    invoke_api.add("resumed.effects", path=FUNCTIONS, timeout=5.0, env=env)
    begin(invoke_api, "resumed", {"last": 4, "copies": 2})
    assert times(tables) == {1: 1, 2: 1, 3: 1, 4: 1}
    assert Counter(hops_of(invoke_api))[2] >= 2
    assert {"hops": 4} in [run.invocation.response for run in invoke_api.log]


def test_a_hop_that_died_is_taken_over_once_its_claim_has_ended(
    tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that died at work runs again; one that died between writing and sending does not, and is sent."""
    env = {"SCRATCH": str(tmp_path), "DEADLINE_MARGIN": "0.5"}
    with InvokeApi(minute=1.5) as api:
        api.add("resumed.effects", path=FUNCTIONS, timeout=1.5, env=env)
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", api.url)
        begin(api, "resumed", {"last": 4, "die_working": [2], "die_sending": [3]})
    assert times(tables) == {1: 1, 2: 2, 3: 1, 4: 1}
    items = tables.scan(TableName="hops")["Items"]
    done = {item["id"]["S"].rpartition("#")[2]: json.loads(item["done"]["S"]) for item in items}
    assert done["4"] == {"result": {"hops": 4}}
    assert [done[hop]["deadline_resume"]["state"] for hop in "123"] == [1, 2, 3]
    assert {"hops": 4} in [run.invocation.response for run in api.log]

"""Whatever the code is doing, the mitigation gets its chance, or the helper tells: the matrix."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from deadline.testing import Emulator

if TYPE_CHECKING:
    from deadline.testing import Invocation
    from tests.aws.conftest import Queue

pytest.importorskip("awslambdaric")
pytestmark = pytest.mark.slow

FUNCTIONS = str(Path(__file__).parents[2] / "lambda_functions")
TIMEOUT = 3.0
MARGIN = 1.5
"""Wide: the rows share a machine, with one another and with other tests."""

CUT, LEFT_BEHIND, INTERRUPTED, TOLD = 1, 2, 3, 4
"""The layer that ends it. What nothing reaches is killed, after the helper process has told."""

MATRIX: Final = {
    "awaiting for ever": CUT,
    "asyncio.to_thread": CUT,
    "a finally that awaits": CUT,
    "tasks that starve the loop": CUT,
    "a loop that swallows cancellations": LEFT_BEHIND,
    "an anyio shield": LEFT_BEHIND,
    "anyio.to_thread": LEFT_BEHIND,
    "time.sleep": INTERRUPTED,
    "a busy loop": INTERRUPTED,
    "a catastrophic regular expression": INTERRUPTED,
    "a huge integer power": INTERRUPTED,
    "a synchronous boto3 call": INTERRUPTED,
    "a deadlocked threading.Lock": INTERRUPTED,
    "subprocess.run": INTERRUPTED,
    "a finally that blocks": INTERRUPTED,
    "a shield, and a finally that blocks": INTERRUPTED,
    "a blocked child of asyncio's TaskGroup": INTERRUPTED,
    "a blocked child of anyio's TaskGroup": INTERRUPTED,
    "a blocked task in gather, its error taken": INTERRUPTED,
    "a busy loop in except BaseException: pass": INTERRUPTED,
    "a C loop that holds the GIL": TOLD,
    "pbkdf2_hmac": TOLD,
    "a blocked plain callback": INTERRUPTED,
}

PLAIN_MATRIX: Final = {
    "time.sleep": INTERRUPTED,
    "a busy loop": INTERRUPTED,
    "a catastrophic regular expression": INTERRUPTED,
    "a huge integer power": INTERRUPTED,
    "a synchronous boto3 call": INTERRUPTED,
    "a deadlocked threading.Lock": INTERRUPTED,
    "subprocess.run": INTERRUPTED,
    "a finally that blocks": INTERRUPTED,
    "a pool of threads": INTERRUPTED,
    "asyncio.run, which waits": CUT,
    "asyncio.run, which blocks": INTERRUPTED,
    "asyncio.run, whose callback blocks": INTERRUPTED,
    "asyncio.run, which swallows cancellations": INTERRUPTED,
    "asyncio.run, which waits for a thread": INTERRUPTED,
    "a busy loop in except BaseException: pass": INTERRUPTED,
    "a C loop that holds the GIL": TOLD,
    "pbkdf2_hmac": TOLD,
}
"""Of a plain function, which has no second layer."""


def shoot(body: str, queue: Queue, scale: int, handler: str) -> tuple[int, str]:
    """Have the time run out once, then three invocations that do nothing.

    Returns:
        Which layer ended it, and what went wrong.
    """
    env = {"DEADLINE_MARGIN": str(MARGIN * scale), "DEADLINE_NOTICE": queue.url, "ROW": body}
    with Emulator(handler, path=FUNCTIONS, timeout=TIMEOUT * scale, env=env) as function:
        ended = function.invoke({"body": body})
        after = [function.invoke({"body": "nothing", "number": number}) for number in range(3)]
    wrong = ""
    if [one.response and one.response["number"] for one in after] != [0, 1, 2]:
        wrong = f"the next ones: {[one.status for one in after]}"
    notices = [(said["request_id"], said["sent_by"]) for said in queue.received()]
    if ended.status == "timeout":
        told = notices == [(ended.request_id, "helper")]
        return TOLD, wrong if told else f"{wrong} nobody was told: {notices}"
    if ended.status != "success" or ended.response["status"] != "mitigated":
        wrong += f"no mitigation: {ended.log}"
    if len(notices) > 1:
        wrong += f"told again: {notices}"
    if any(one.init_duration is not None for one in after):
        wrong += "the environment was lost"
    if any(says in ended.log for says in ("blocking the loop, interrupted", "aws.interrupted")):
        return INTERRUPTED, wrong
    return LEFT_BEHIND if "aws.left_behind" in ended.log else CUT, wrong


@pytest.mark.parametrize(
    ("handler", "matrix"),
    [("blocking.rescued", MATRIX), ("blocking_plainly.rescued", PLAIN_MATRIX)],
    ids=["an async def", "a plain function"],
)
def test_the_matrix(queue: Queue, handler: str, matrix: dict[str, int]) -> None:
    """Each row ends by the layer that is the first to reach it; the next three invocations are right.

    In every row the mitigation ran, or the helper's notice is out before the kill. A row that a busy machine
    has spoilt is played again with more time.
    """

    def play(body: str) -> tuple[int, str]:
        for scale in (1, 2, 4):
            found = shoot(body, queue.another(), scale, handler)
            if found == (matrix[body], ""):
                break
        return found

    with ThreadPoolExecutor(6) as pool:
        found = dict(zip(matrix, pool.map(play, matrix), strict=True))
    assert found == {body: (layer, "") for body, layer in matrix.items()}


def invoke(event: dict[str, object], function: str = "rescued") -> tuple[Invocation, Invocation]:
    """One invocation, and one after it that does nothing."""
    env = {"DEADLINE_MARGIN": str(MARGIN)}
    with Emulator(f"blocking.{function}", path=FUNCTIONS, timeout=TIMEOUT, env=env) as emulator:
        return emulator.invoke(event), emulator.invoke({"body": "nothing"})


def test_a_mitigation_that_blocks_is_interrupted_too() -> None:
    """The response's share stays: the invocation fails with what it is, and the environment lives."""
    ended, after = invoke({"body": "time.sleep", "mitigation": "time.sleep"})
    assert ended.error is not None, ended.log
    assert ended.error.type == "DeadlineExceeded"
    assert "on_exceeded did not end in time" in ended.error.message
    assert "blocked in sleep (blocking.py:" in ended.error.message
    assert after.init_duration is None
    assert after.response["status"] == "done"


def test_a_task_that_was_left_and_blocks_costs_no_response() -> None:
    """The body's answer is out long before the soft instant; the task is interrupted and named."""
    ended, after = invoke({"body": "a task left behind, which blocks"})
    assert ended.status == "success", ended.log
    assert ended.response["status"] == "done"
    assert ended.duration < TIMEOUT - MARGIN
    assert "aws.interrupted" in ended.log
    assert after.response["pid"] == ended.response["pid"]


def test_a_lifespan_that_blocks_is_interrupted_and_entered_anew() -> None:
    """Its task is none of the invocation's: that takes until the last third of the margin."""
    ended, after = invoke({"body": "nothing"}, "blocked_at_first")
    assert ended.response["status"] == "mitigated", ended.log
    assert ended.response["blocked"][-1] == "blocking_resources"
    assert after.response["status"] == "done"
    assert after.init_duration is None


def test_an_interrupted_environment_can_be_begun_anew() -> None:
    """With `recycle=True` the response is out, and the next invocation has a new loop and lifespan."""
    ended, after = invoke({"body": "time.sleep"}, "recycled")
    assert ended.error is not None
    assert ended.error.type == "DeadlineExceeded"
    assert "aws.loop_replaced" in ended.log
    assert after.response["entered"] == 2
    assert after.init_duration is None


@pytest.mark.parametrize(
    "how", [["200", "1"], ["50", "2", "last third"], ["50", "3", "last third", "uvloop"]]
)
def test_no_false_alarm(how: list[str]) -> None:
    """Invocations that end around the soft instant answer or are mitigated, and leave nothing behind.

    Those that go on into the last third, by callbacks or swallowing, leave the loop and its tasks alone.
    """
    script = str(Path(__file__).parents[2] / "harness" / "false_alarms.py")
    ended = subprocess.run(
        [sys.executable, "-W", "error", script, *how], capture_output=True, timeout=60, check=False
    )
    assert ended.stderr == b""
    told = json.loads(ended.stdout)
    assert told["wrong"] == []
    assert set(told["endings"]) >= {"response", "mitigation"}
    assert told["interrupts"] > 0

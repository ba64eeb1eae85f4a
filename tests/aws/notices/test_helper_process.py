"""The helper process under the real runtime client, in processes that are really stopped and killed."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import deadline
from deadline import aws
from deadline.aws._notices.helper_process import Helper
from deadline.aws._runtime.process_record import armed

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline.testing import Emulator
    from tests.aws.conftest import Queue

pytest.importorskip("awslambdaric")
pytestmark = pytest.mark.slow

FUNCTIONS = Path(__file__).parents[2] / "lambda_functions"
ENVIRONMENT = {"PYTHONPATH": str(Path(deadline.__file__).parent.parent)}
ARMED = 1.5
"""Seconds until the helper of `helped.stand_by` sends."""

TIMEOUT = 3.0
"""With the functions' margin of 2 s, the helper acts after 2 s."""


@pytest.fixture
def function(queue: Queue, emulator: Callable[..., Emulator]) -> Emulator:
    function = emulator("helped.blocked", path=str(FUNCTIONS), timeout=TIMEOUT)
    assert function.invoke({}).status == "success"
    return function


@pytest.mark.parametrize(("body", "line"), [("lock", "_hold_the_lock"), ("key", "_derive_a_key")])
def test_what_nothing_reaches_is_told_before_the_kill(
    function: Emulator, queue: Queue, body: str, line: str
) -> None:
    """Once, redacted, with the stack of the main process, which the log has, too."""
    ended = function.invoke({"body": body, "order": 7, "card": "4111"})
    assert ended.status == "timeout"
    (said,) = queue.received()
    assert said["event"] == {"body": body, "order": 7}
    assert (said["sent_by"], said["reason"]) == ("helper", "deadline_exceeded")
    assert (said["request_id"], said["function"]) == (ended.request_id, "helped")
    assert f" in {line}" in said["stack"]
    assert said["stack"].rstrip() in ended.log


def test_the_two_agree_on_one_notice(function: Emulator, queue: Queue) -> None:
    """Whoever sends, the other does not: invocations that wait, fail, block for long and succeed."""
    assert function.invoke({"body": "wait"}).response == {"status": "partial"}
    assert function.invoke({"body": "fail"}).status == "error"
    late = function.invoke({"body": "late"})
    assert late.status == "success", late.log
    assert sorted((said["sent_by"], said["reason"]) for said in queue.received()) == [
        ("handler", "deadline_exceeded"),
        ("handler", "error"),
        ("helper", "deadline_exceeded"),
    ]
    assert function.invoke({}).status == "success"
    assert queue.received() == []


def test_nothing_is_told_while_it_lies_frozen(function: Emulator, queue: Queue) -> None:
    """An instant that passes in the frozen environment is nobody's any more; there is one helper."""
    before = function.invoke({})
    after = function.invoke({}, freeze=TIMEOUT - 0.3)
    assert after.response == before.response
    assert len(after.response["helpers"]) == 1
    assert function.invoke({"body": "wait"}).response == {"status": "partial"}
    assert [said["sent_by"] for said in queue.received()] == ["handler"]


def test_a_helper_that_was_killed_costs_nothing(function: Emulator, queue: Queue) -> None:
    """As soon as it should have looked at its memory there is another; the event says so."""
    (helper,) = function.invoke({}).response["helpers"]
    os.kill(helper, signal.SIGKILL)
    assert "aws.helper_lost" in function.invoke({}, freeze=TIMEOUT - 0.3).log
    (another,) = function.invoke({}).response["helpers"]
    assert another != helper
    assert queue.received() == []


def test_each_forked_worker_has_its_own(queue: Queue, emulator: Callable[..., Emulator]) -> None:
    """On Managed Instances."""
    function = emulator("helped.blocked", path=str(FUNCTIONS), timeout=10.0, workers=2)
    helpers: dict[int, list[list[int]]] = {}
    for _ in range(20):
        answer = function.invoke({}).response
        helpers.setdefault(answer["pid"], []).append(answer["helpers"])
        if len(helpers) == 2:
            break
    assert all(len(own) == 1 for all_of_one in helpers.values() for own in all_of_one)
    assert len({own[0] for all_of_one in helpers.values() for own in all_of_one}) == len(helpers)


def test_whoever_is_first_is_alone(queue: Queue) -> None:
    """The main process and the helper at the same instant, again and again: exactly one has the notice."""
    helper = Helper(aws.Notice.to(queue.url), None)
    chance = random.Random(5)
    theirs = []
    try:
        for shot in range(60):
            seconds = 0.0 if shot == 0 else 0.02  # the first one waits for the helper to be there
            armed().arm((str(shot), "f", None))
            helper.arm({}, seconds)
            time.sleep(1.0 if shot == 0 else max(0.0, seconds + chance.uniform(-0.003, 0.003)))
            if not helper.stand_down():
                assert helper.has_sent(5.0)
                theirs.append(str(shot))
            time.sleep(0.005)  # it stays down when the instant has passed
    finally:
        helper.kill()
        armed().disarm()
    assert sorted(said["request_id"] for said in queue.received()) == sorted(theirs)
    assert 0 < len(theirs) < 60


def test_a_fork_of_the_main_process_has_its_own(queue: Queue) -> None:
    """What a fork does, in the middle of an invocation, neither disarms nor uses the parent's helper."""
    subprocess.run(
        [sys.executable, FUNCTIONS / "helped.py", "fork"], env=os.environ | ENVIRONMENT, check=True
    )
    assert sorted(said["request_id"] for said in queue.received()) == ["fork", "main"]


@pytest.mark.parametrize("calls", [False, True])
def test_it_dies_with_the_main_process(queue: Queue, monkeypatch: pytest.MonkeyPatch, *, calls: bool) -> None:
    """At once, whether it waits or is in the middle of a call; and it never sends after that."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if calls:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with subprocess.Popen(
            [sys.executable, FUNCTIONS / "helped.py", "stand_by", str(ARMED)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ENVIRONMENT,
        ) as main:
            assert main.stdout is not None
            helper = int(main.stdout.readline())
            armed = time.monotonic()
            silent.settimeout(ARMED)
            answer = silent.accept()[0] if calls else None
            assert _is_alive(helper)
            main.kill()
            killed = time.monotonic()
            wait_for_the_end_of(helper)
        assert time.monotonic() - killed < 1.0
        if answer is not None:
            answer.close()
    time.sleep(max(0.0, armed + ARMED + 0.3 - time.monotonic()))
    assert queue.received() == []


def wait_for_the_end_of(pid: int) -> None:
    ends = time.monotonic() + 10
    while _is_alive(pid):
        assert time.monotonic() < ends, "it lives on"
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

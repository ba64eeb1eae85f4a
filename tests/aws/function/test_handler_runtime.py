"""`aws.handler` under the real runtime client, in processes that are really killed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deadline.testing import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deadline.testing import Invocation

pytest.importorskip("awslambdaric")
pytestmark = pytest.mark.slow

FUNCTIONS = str(Path(__file__).parents[2] / "lambda_functions")
TIMEOUT = 3.0
MARGIN = 1.5
"""Wide: with 20 ms for the response, a busy machine could be killed while it answers rightly."""


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[..., Invocation]]:
    """Invoke a function; each has one environment for all tests, which is the point."""
    running: dict[str, Emulator] = {}

    def invoke(function: str, event: Any, *, freeze: float = 0.0) -> Invocation:
        if function not in running:
            emulator = Emulator(
                f"functions.{function}", path=FUNCTIONS, timeout=TIMEOUT, env={"DEADLINE_MARGIN": str(MARGIN)}
            )
            running[function] = emulator.__enter__()
        return running[function].invoke(event, freeze=freeze)

    yield invoke
    for emulator in running.values():
        emulator.__exit__(None, None, None)


def the_next_are_right(run: Callable[..., Invocation], function: str) -> None:
    """The same environment serves three more, and is still the same."""
    for number in range(3):
        after = run(function, {"number": number})
        assert after.status == "success", after.log
        assert after.response["number"] == number
        assert after.init_duration is None, "it was started anew"
        assert "INIT_START" not in after.log


def test_it_succeeds(run: Callable[..., Invocation]) -> None:
    """An `async def` answers."""
    assert run("plain", {"number": 7}).response["number"] == 7


ENDINGS = {
    "error": ("LookupError", "no such order"),
    "cancelled": ("CancelledError", ""),
    "group": ("ExceptionGroup", "several (2 sub-exceptions)\n- ValueError: one\n- KeyError: 'two'"),
    "base group": ("BaseExceptionGroup", "several (2 sub-exceptions)\n- Private: one\n- KeyError: 'two'"),
    "exit": ("SystemExit", "3"),
    "keyboard": ("KeyboardInterrupt", ""),
    "private": ("Private", "mine"),
    "exit in a task": ("SystemExit", "4"),
}


@pytest.mark.parametrize("body", ENDINGS)
def test_whatever_escapes_is_an_error_that_reads_well(run: Callable[..., Invocation], body: str) -> None:
    """The process lives, the error has its own name and says all; the next invocations are right."""
    ended = run("plain", {"body": body})
    assert ended.status == "error"
    assert ended.error is not None
    assert (ended.error.type, ended.error.message) == ENDINGS[body]
    the_next_are_right(run, "plain")


def test_an_expiry_without_mitigation_is_an_error(run: Callable[..., Invocation]) -> None:
    """It has the deadline's name, and says what was awaited; the log has the report."""
    ended = run("plain", {"body": "wait"})
    assert ended.status == "error"
    assert ended.error is not None
    assert ended.error.type == "DeadlineExceeded"
    assert "s allowed with a margin of 1.4" in ended.error.message
    assert "awaiting in _work" in ended.log
    assert "functions.py:" in ended.log
    the_next_are_right(run, "plain")


@pytest.mark.parametrize(
    ("mitigation", "error", "message"),
    [
        ("answer", None, ""),
        ("raise exceeded", "DeadlineExceeded", "deadline 'mitigated' exceeded"),
        ("raise", "LookupError", "no queue\n- caused by DeadlineExceeded: deadline 'mitigated' exceeded"),
        ("overrun", "DeadlineExceeded", "on_exceeded did not end in time"),
    ],
)
def test_the_mitigation_has_the_last_word(
    run: Callable[..., Invocation], mitigation: str, error: str | None, message: str
) -> None:
    """What it returns is the response, what it raises the error; both are told if it fails by itself."""
    ended = run("mitigated", {"body": "wait", "mitigation": mitigation})
    if error is None:
        assert ended.status == "success", ended.log
        assert ended.response["status"] == "partial"
        assert 0 < ended.response["left"] <= 1000 * MARGIN
    else:
        assert ended.error is not None
        assert ended.error.type == error
        assert message in ended.error.message
    the_next_are_right(run, "mitigated")


@pytest.mark.parametrize("body", ["swallow", "shield", "thread", "never end"])
def test_a_body_that_does_not_end_is_left_behind(run: Callable[..., Invocation], body: str) -> None:
    """By a quarter of the margin; the mitigation answers, and the next invocations are right."""
    ended = run("mitigated", {"body": body})
    assert ended.status == "success", ended.log
    assert ended.response["status"] == "partial"
    the_next_are_right(run, "mitigated")


@pytest.mark.parametrize("frozen", [0.0, 0.6])
def test_nothing_acts_in_the_next_invocation(run: Callable[..., Invocation], frozen: float) -> None:
    """A task that was left is ended before the answer, frozen in between or not."""
    ended = run("plain", {"leave": "a leftover"})
    assert "a leftover" in ended.log
    assert "aws.left_running" in ended.log
    assert run("plain", {}, freeze=frozen).response["acted"] == []


def test_a_clock_that_stood_still_changes_nothing(emulator: Callable[..., Emulator]) -> None:
    """Lambda is reported to stop the monotonic clock while it freezes: each invocation is anchored anew."""
    function = emulator(
        "functions.stood_still",
        path=FUNCTIONS,
        timeout=TIMEOUT,
        env={"DEADLINE_MARGIN": str(MARGIN), "STAND_STILL": "1"},
    )
    for frozen in (0.0, 5.0, 60.0):
        ended = function.invoke({"body": "wait", "frozen": frozen})
        assert ended.status == "success", ended.log
        assert 0 < ended.response["left"] <= 1000 * MARGIN
        assert function.invoke({"number": 1, "frozen": frozen}).response["number"] == 1


def test_a_lifespan_is_entered_once_in_each_environment(run: Callable[..., Invocation]) -> None:
    """It stays open over the invocations of one process."""
    answers = [run("with_resources", {}).response for _ in range(3)]
    assert all(answer == {"opened": [answer["pid"]], "pid": answer["pid"]} for answer in answers)


def test_each_forked_worker_has_its_own(emulator: Callable[..., Emulator]) -> None:
    """On Managed Instances the runtime client forks: every process has a loop and a lifespan of its own."""
    function = emulator("functions.with_resources", path=FUNCTIONS, timeout=10.0, workers=2)
    answers = [function.invoke({}).response for _ in range(4)]
    assert all(answer["opened"] == [answer["pid"]] for answer in answers)


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_a_failure_is_logged_once_in_the_format_of_the_log(
    emulator: Callable[..., Emulator], log_format: str
) -> None:
    """The members of a group, which the runtime does not log, as one record."""
    import json

    function = emulator(
        "functions.plain", path=FUNCTIONS, timeout=10.0, env={"AWS_LAMBDA_LOG_FORMAT": log_format}
    )
    log = function.invoke({"body": "group"}).log
    if log_format == "Text":
        assert log.count("Exception Group Traceback") == 1
        return
    records = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    (record,) = [one for one in records if one.get("logger") == "deadline"]
    assert record["level"] == "ERROR"
    assert record["deadline"]["event"] == "aws.invocation_failed"
    assert "ValueError: one" in record["message"]

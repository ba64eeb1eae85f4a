"""The command line, as its users run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import deadline
from deadline import aws
from deadline.testing import FunctionError, Invocation

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("awslambdaric")
pytest.importorskip("click")

from click.testing import CliRunner, Result

from deadline._cli import exit_code, main, outcome, summary

FUNCTION = """
import json, os, pathlib, sys, time

def handler(event, context):
    print("from the function")
    if event.get("hang"):
        pathlib.Path("pid.tmp").write_text(str(os.getpid()))
        pathlib.Path("pid.tmp").rename("pid")
        time.sleep(1000)
    if event.get("fail"):
        raise ValueError("no good")
    return {"event": event, "mine": os.environ.get("MINE")}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the module `function`."""
    (tmp_path / "function.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["run", *arguments], input=stdin)


def command(*arguments: str, code: str = "") -> list[str]:
    return [sys.executable, *(["-c", code] if code else ["-m", "deadline"]), *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(deadline.__file__).parent.parent)}


@pytest.mark.slow
def test_a_run_prints_the_log_and_the_response(folder: Path) -> None:
    """The platform's lines, the function's between them, then the response; nothing in colour."""
    result = run("function.handler", "--env", "MINE=a=b")
    start, said, end, report, response = result.output.splitlines()[1:]
    assert result.exit_code == 0
    assert start.startswith("START RequestId: ")
    assert said == "from the function"
    assert end.startswith("END RequestId: ")
    assert "\tMax Memory Used: " in report
    assert response == 'response: {"event": {}, "mine": "a=b"}'
    assert "\x1b" not in result.output


@pytest.mark.slow
def test_the_event_comes_from_a_file_or_from_standard_input(folder: Path) -> None:
    """`-` is standard input."""
    (folder / "event.json").write_text('{"from": "file"}')
    assert '"event": {"from": "file"}' in run("function.handler", "--event", "event.json").output
    assert (
        '"event": {"from": "stdin"}'
        in run("function.handler", "--event", "-", stdin='{"from": "stdin"}').output
    )


@pytest.mark.slow
def test_several_runs_are_warm_and_summed_up(folder: Path) -> None:
    """One process serves all of them, frozen in between, and a line tells how they ended."""
    begin = time.monotonic()
    result = run("function.handler", "--count", "3", "--freeze", "0.2")
    assert time.monotonic() - begin >= 0.4
    assert result.output.count("INIT_START") == 1
    assert result.output.count("REPORT ") == 3
    assert result.output.splitlines()[-1].startswith("3 invocations: 3 success; median ")


@pytest.mark.slow
def test_an_error_of_the_function_is_1(folder: Path) -> None:
    """It is told like a response."""
    result = run("function.handler", "--event", "-", stdin='{"fail": true}')
    assert (result.exit_code, result.output.splitlines()[-1]) == (1, "error: ValueError: no good")


@pytest.mark.slow
def test_a_timeout_is_3(folder: Path) -> None:
    """It is told by the platform and by us."""
    result = run("function.handler", "--timeout", "0.3", "--event", "-", stdin='{"hang": true}')
    assert result.exit_code == 3
    assert result.output.splitlines()[-1] == "timeout: Sandbox.Timedout: Task timed out after 0.30 seconds"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["function"], "handler must be a module and a function"),
        (["missing.handler"], "handler names the module 'missing'"),
        (["function.handler", "--timeout", "0"], "timeout must be more than 0"),
        (["function.handler", "--timeout", "soon"], "'soon' is not a valid float"),
        (["function.handler", "--freeze", "-1"], "Invalid value for '--freeze'"),
        (["function.handler", "--count", "0"], "Invalid value for '--count'"),
        (["function.handler", "--env", "MINE"], "write NAME=value, not 'MINE'"),
        (["function.handler", "--event", "function.py"], "function.py holds no JSON"),
        (["function.handler", "--event", "missing.json"], "No such file"),
        ([], "Missing argument"),
    ],
)
def test_wrong_usage_is_2(folder: Path, arguments: list[str], message: str) -> None:
    """The message names the argument; no function has run."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "from the function" not in result.output


@pytest.mark.slow
def test_ctrl_c_leaves_no_process(folder: Path) -> None:
    """The exit code is 130, and the function is gone."""
    (folder / "event.json").write_text('{"hang": true}')
    arguments = ["run", "function.handler", "--timeout", "600", "--event", "event.json"]
    with subprocess.Popen(command(*arguments), env=environment(), stderr=subprocess.PIPE) as process:
        try:
            assert becomes((folder / "pid").exists)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, stderr) == (130, b"")
    assert not Path("/proc", (folder / "pid").read_text()).exists()


@pytest.mark.slow
def test_without_click_the_extra_is_named(folder: Path) -> None:
    """The command says what to install, and nothing else."""
    code = "import sys; sys.modules['click'] = None; import deadline.__main__"
    done = subprocess.run(
        command(code=code), env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'this needs click, which is not installed: pip install "asyncio-deadline[cli]"\n'


@pytest.mark.slow
def test_python_m_deadline_is_the_same_command(folder: Path) -> None:
    """The help names the command."""
    done = subprocess.run(
        command("--help"), env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert "  run      Run a handler of the current folder as Lambda would" in done.stdout


def known_callers(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["callers", *arguments], input=stdin)


def test_the_callers_are_printed() -> None:
    """Each with its limit, its clock, what an error means to it, and where that is from."""
    result = known_callers()
    assert result.exit_code == 0
    blocks = result.output.split("\n\n")
    assert len(blocks) == len(aws.callers)
    (rest,) = [block for block in blocks if block.startswith("rest-api")]
    title, waits, clock, error, source = (line.strip() for line in rest.splitlines())
    assert title.endswith("API Gateway, REST API")
    assert waits.startswith("waits for the answer, 29 s: ")
    assert clock == "its clock: requestContext.requestTimeEpoch, ms"
    assert error == "an error: HTTP 502"
    assert source.startswith("https://aws.amazon.com/")
    assert source.endswith(" (2026-11-21)")


def test_the_callers_as_json() -> None:
    """The same as plain data; what is not known is null."""
    data = json.loads(known_callers("--json").output)
    assert [one["name"] for one in data] == [one.name for one in aws.callers]
    queue = next(one for one in data if one["name"] == "sqs")
    assert (queue["limit"], queue["waits"]) == (None, False)


def test_the_caller_of_one_event() -> None:
    """Only the source of the event; 1 if none is known."""
    event = '{"triggerSource": "PreSignUp_SignUp", "userPoolId": "1"}'
    result = known_callers("--event", "-", stdin=event)
    assert (result.exit_code, result.output.split()[0]) == (0, "cognito")
    result = known_callers("--event", "-", stdin="[1]")
    assert (result.exit_code, result.output) == (1, "no known source looks like this\n")


def invocation(status: str, duration: float = 0.0, response: object = None, error: str = "") -> Invocation:
    return Invocation(
        request_id="id",
        status=status,  # type: ignore[arg-type]
        response=response,
        error=FunctionError("Type", error) if error else None,
        log="",
        duration=duration,
        init_duration=None,
        max_memory_used=1,
    )


def test_the_exit_code_is_that_of_the_worst_end() -> None:
    """A timeout comes before an error, an error before success."""
    ends = [invocation("success"), invocation("timeout"), invocation("error")]
    assert [exit_code(ends[:1]), exit_code(ends[::2]), exit_code(ends)] == [0, 1, 3]


def test_the_summary_counts_and_measures() -> None:
    """Only what happened is counted; the median and the slowest are in milliseconds."""
    ends = [invocation("success", 0.001), invocation("timeout", 3.0), invocation("success", 0.002)]
    assert summary(ends) == "3 invocations: 2 success, 1 timeout; median 2.00 ms, slowest 3000.00 ms"


def test_the_outcome_is_the_response_or_why_there_is_none() -> None:
    """JSON is printed as it reads, bytes are counted, the platform's prefix is left out."""
    assert outcome(invocation("success", response={"å": None})) == 'response: {"å": null}'
    assert outcome(invocation("success", response=b"\x00\xff")) == "response: 2 bytes that are no JSON"
    assert outcome(invocation("error", error="RequestId: id Error: gone")) == "error: Type: gone"


def becomes(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within a long time."""
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True

"""The emulator: real processes, the real runtime client."""

import concurrent.futures
import contextlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deadline.testing import Emulator, FunctionError, Invocation

pytest.importorskip("awslambdaric")
pytestmark = pytest.mark.slow

# Long enough for a fresh process on a busy machine.
AMPLE = 30.0

FUNCTION = """
import os, pathlib, subprocess, sys, threading, time

calls = 0
folder = pathlib.Path(__file__).parent

def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.01)

def echo(event, context):
    return event

def counts(event, context):
    global calls
    calls += 1
    return {"calls": calls, "pid": os.getpid(), "left": context.get_remaining_time_in_millis()}

def tells(event, context):
    print("from the function")
    print("no newline", end="", file=sys.stderr)

def fails(event, context):
    raise KeyError("gone")

def leaves(event, context):
    if event == "by a signal":
        os.kill(os.getpid(), 9)
    if event is not None:
        sys.exit(event)
    return counts(event, context)

def hangs(event, context):
    if event == "answer":
        return counts(event, context)
    child = subprocess.Popen(["sleep", "1000"])
    stray = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    (folder / "hangs.tmp").write_text(f"{os.getpid()} {child.pid} {stray.pid}")
    (folder / "hangs.tmp").rename(folder / "hangs")
    time.sleep(1000)

def speaks_of_context(event, context):
    names = "function_name function_version memory_limit_in_mb invoked_function_arn"
    return {name: getattr(context, name) for name in names.split()} | {
        "aws_request_id": context.aws_request_id,
        "log_group_name": context.log_group_name,
        "custom": context.client_context and context.client_context.custom,
    }

def variables(event, context):
    return dict(os.environ)

def sized(event, context):
    return "x" * event

def no_json(event, context):
    return bytes([0, 255])

beats = []

def beat():
    while True:
        beats.append(time.monotonic())
        time.sleep(0.01)

def beats_on(event, context):
    if not beats:
        threading.Thread(target=beat, daemon=True).start()
        while len(beats) < 3:
            time.sleep(0.01)
    return max(b - a for a, b in zip(beats, [*beats[1:], time.monotonic()]))

def leaves_a_child(event, context):
    if event is None:
        beat = "while :; do date +%s%N >> beats; sleep 0.01; done"
        subprocess.Popen(["sh", "-c", beat])
        wait_for("beats")
    size = os.path.getsize("beats")
    while os.path.getsize("beats") == size:
        time.sleep(0.01)

def meets(event, context):
    (folder / event["me"]).touch()
    wait_for(event["you"])
    return os.getpid()

def goes_on(event, context):
    wait_for("go")
    (folder / event).touch()
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder with the module `function`."""
    (tmp_path / "function.py").write_text(FUNCTION)
    return tmp_path


Run = Callable[..., Emulator]


@pytest.fixture
def run(code: Path, emulator: Run) -> Run:
    """Run a function of that module."""
    return lambda name, **options: emulator(f"function.{name}", path=code, **{"timeout": AMPLE} | options)


def alive(pid: int) -> bool:
    """Whether there is such a process that is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def becomes(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within a long time."""
    end = time.monotonic() + AMPLE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def error_of(result: Invocation) -> tuple[str, str]:
    """The type and the message of a failed invocation, without its id."""
    assert result.error is not None
    return result.error.type, result.error.message.replace(result.request_id, "ID")


# Success


@pytest.mark.parametrize("event", [None, {"key": ["värde", 1.5, True]}, "text", 0])
def test_an_event_goes_there_and_back(run: Run, event: Any) -> None:
    """The response is what the function returned."""
    result = run("echo").invoke(event)
    assert (result.status, result.response, result.error) == ("success", event, None)


def test_a_response_that_is_no_json_comes_as_bytes(run: Run) -> None:
    """A function may return bytes; they are handed on as they are."""
    assert run("no_json").invoke().response == b"\x00\xff"


def test_the_second_invocation_is_warm(run: Run) -> None:
    """The process stays, and only the first one had an init phase."""
    function = run("counts")
    first, second = function.invoke(), function.invoke()
    assert (first.response["calls"], second.response["calls"]) == (1, 2)
    assert first.response["pid"] == second.response["pid"]
    assert first.init_duration is not None
    assert first.init_duration > 0
    assert second.init_duration is None


def test_the_context_tells_about_the_function(run: Run) -> None:
    """Name, version, memory, ARN, request id and what a mobile client sends are there."""
    result = run("speaks_of_context", memory=256).invoke(client_context={"custom": {"a": 1}})
    assert result.response == {
        "function_name": "function",
        "function_version": "$LATEST",
        "memory_limit_in_mb": "256",
        "invoked_function_arn": "arn:aws:lambda:us-east-1:123456789012:function:function",
        "aws_request_id": result.request_id,
        "log_group_name": "/aws/lambda/function",
        "custom": {"a": 1},
    }


def test_the_environment_is_lambdas(run: Run, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lambda's variables are set, this process's are passed on, and the function's own win."""
    monkeypatch.setenv("INHERITED", "yes")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    monkeypatch.setenv("AWS_LAMBDA_MAX_CONCURRENCY", "7")
    variables = run("variables", env={"AWS_LAMBDA_LOG_FORMAT": "JSON", "MINE": "1"}).invoke().response
    assert {
        "_HANDLER": "function.variables",
        "LAMBDA_TASK_ROOT": str(code),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "AWS_REGION": "eu-north-1",
        "INHERITED": "yes",
        "MINE": "1",
    }.items() <= variables.items()
    assert variables["_X_AMZN_TRACE_ID"].startswith("Root=1-")
    assert "AWS_LAMBDA_MAX_CONCURRENCY" not in variables


def test_the_log_reads_as_lambdas(run: Run) -> None:
    """The platform's lines stand round what the function wrote, each on a line of its own."""
    result = run("tells").invoke()
    figures = (
        r"\tDuration: [\d.]+ ms\tBilled Duration: \d+ ms\tMemory Size: 128 MB\tMax Memory Used: (\d+) MB"
    )
    lines = re.fullmatch(
        r"INIT_START Runtime Version: python:3\.\d+\.\S+\tRuntime Version ARN: local\n"
        rf"START RequestId: {result.request_id} Version: \$LATEST\n"
        r"from the function\n"
        r"no newline\n"
        rf"END RequestId: {result.request_id}\n"
        rf"REPORT RequestId: {result.request_id}{figures}\tInit Duration: [\d.]+ ms\n",
        result.log,
    )
    assert lines is not None, result.log
    assert int(lines[1]) == result.max_memory_used > 0


def test_the_log_of_an_invocation_is_its_own(run: Run) -> None:
    """A later one does not repeat what came before; the function's log has it all."""
    function = run("tells")
    first, second = function.invoke(), function.invoke()
    assert second.log.count("START ") == 1
    assert function.log == first.log + second.log


# Failure


def test_an_exception_is_told_with_its_stack(run: Run) -> None:
    """Type, message and stack are the runtime client's, and the function goes on afterwards."""
    function = run("fails")
    result = function.invoke()
    assert (result.status, result.response, error_of(result)) == ("error", None, ("KeyError", "'gone'"))
    assert result.error is not None
    assert "in fails" in result.error.stack[0]
    assert "[ERROR] KeyError: 'gone'\nTraceback (most recent call last):\n" in result.log
    assert "\tStatus: " not in result.log
    assert function.invoke().init_duration is None


@pytest.mark.parametrize(
    ("event", "how"),
    [
        (0, "without providing a reason"),
        (3, "with error: exit status 3"),
        ("by a signal", "with error: signal: killed"),
    ],
)
def test_a_process_that_ends_is_an_error_and_starts_again(run: Run, event: Any, how: str) -> None:
    """`sys.exit` and signals are "Runtime exited"; the next invocation starts anew in its own time."""
    function = run("leaves")
    before, result, after = function.invoke(), function.invoke(event), function.invoke()
    assert error_of(result) == ("Runtime.ExitError", f"RequestId: ID Error: Runtime exited {how}")
    assert result.status == "error"
    assert result.log.endswith("\tStatus: error\tError Type: Runtime.ExitError\n")
    assert (before.response["calls"], after.response["calls"]) == (1, 1)
    assert after.init_duration is None
    assert after.log.count("INIT_START") == 1
    # A process takes some ten milliseconds to start, at the very least.
    assert after.response["left"] < AMPLE * 1000 - 10
    assert after.duration > 0.01


def test_a_response_over_six_megabytes_is_refused(run: Run) -> None:
    """The largest response passes, one byte more is the platform's error."""
    function, largest = run("sized"), 6_291_556 - len('""')
    assert function.invoke(largest).status == "success"
    result = function.invoke(largest + 1)
    assert error_of(result) == (
        "Function.ResponseSizeTooLarge",
        "Response payload size (6291557 bytes) exceeded maximum allowed payload size (6291556 bytes).",
    )
    assert function.invoke(1).response == "x"


# The timeout

TIMEOUT = 4.0  # a fresh process has to fit


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[int], Invocation, Invocation]]:
    """The pids of a function and its child, its killed invocation, and the one after."""
    code = tmp_path_factory.mktemp("killed")
    (code / "function.py").write_text(FUNCTION)
    with Emulator("function.hangs", path=code, timeout=TIMEOUT) as function:
        first = function.invoke()
        pids = [int(pid) for pid in (code / "hangs").read_text().split()]
        yield pids, first, function.invoke("answer")


def test_a_timeout_kills_the_function_and_its_children(
    killed: tuple[list[int], Invocation, Invocation],
) -> None:
    """The process group and who left it are killed, and not early."""
    pids, result, _ = killed
    assert len(set(pids)) == 3
    assert becomes(lambda: not any(map(alive, pids)))
    assert result.status == "timeout"
    assert result.duration >= TIMEOUT


def test_a_timeout_is_told_as_lambda_does(killed: tuple[list[int], Invocation, Invocation]) -> None:
    """The error has the platform's type and words, and so has the log."""
    _, result, _ = killed
    assert error_of(result) == ("Sandbox.Timedout", "RequestId: ID Error: Task timed out after 4.00 seconds")
    when = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.search(rf"{when} {result.request_id} Task timed out after 4\.00 seconds\n\n", result.log)
    assert result.log.endswith("\tStatus: timeout\n")


def test_after_a_timeout_the_next_invocation_pays_the_start(
    killed: tuple[list[int], Invocation, Invocation],
) -> None:
    """Warm state is lost, files are kept, and the initialisation is part of the invocation's time."""
    pids, _, result = killed
    assert result.response["calls"] == 1
    assert result.response["pid"] not in pids
    assert result.response["left"] < TIMEOUT * 1000 - 10
    assert result.init_duration is None
    assert "Init Duration" not in result.log


def test_a_slow_post_takes_of_the_functions_time(run: Run) -> None:
    """The duration has it, and where the timeout comes first, the response is lost."""
    slow = run("echo", post_seconds=0.5).invoke(1)
    assert slow.response == 1
    assert slow.duration >= 0.5
    lost = run("echo", post_seconds=1000, timeout=0.5).invoke(1)
    assert (lost.status, lost.response) == ("timeout", None)


# The initialisation


def test_a_module_that_fails_is_tried_again_in_the_invocations_time(emulator: Run, tmp_path: Path) -> None:
    """Both phases report the error, which is what the caller gets."""
    (tmp_path / "broken.py").write_text("import no_such_thing")
    result = emulator("broken.handler", path=tmp_path, timeout=AMPLE).invoke()
    name, message = error_of(result)
    assert name == "Runtime.ImportModuleError"
    assert "No module named 'no_such_thing'" in message
    assert result.status == "error"
    for phase in ("init", "invoke"):
        report = rf"INIT_REPORT Init Duration: [\d.]+ ms\tPhase: {phase}\tStatus: error\tError Type: {name}\n"
        assert len(re.findall(report, result.log)) == 1
    assert result.log.endswith(f"\tStatus: error\tError Type: {name}\n")


def test_a_module_that_ends_the_process_once_is_initialised_in_the_invocation(
    emulator: Run, tmp_path: Path
) -> None:
    """The second try succeeds, out of the invocation's time."""
    (tmp_path / "moody.py").write_text(
        "import os, pathlib, time\n"
        "once = pathlib.Path(__file__).with_name('once')\n"
        "if not once.exists():\n"
        "    once.touch()\n"
        "    os._exit(1)\n"
        "def handler(event, context):\n"
        "    return context.get_remaining_time_in_millis()\n"
    )
    result = emulator("moody.handler", path=tmp_path, timeout=AMPLE).invoke()
    assert result.status == "success"
    assert result.response < AMPLE * 1000 - 10
    assert result.init_duration is None
    assert "Phase: init\tStatus: error\tError Type: Runtime.ExitError\nSTART" in result.log


def test_an_initialisation_without_end_is_cut_twice(emulator: Run, tmp_path: Path) -> None:
    """First at its own limit, then at the invocation's."""
    (tmp_path / "endless.py").write_text("import time; time.sleep(1000)")
    result = emulator("endless.handler", path=tmp_path, timeout=0.3, init_timeout=0.6).invoke()
    assert result.status == "timeout"
    report = r"INIT_REPORT Init Duration: ([\d.]+) ms\tPhase: (\w+)\tStatus: timeout"
    (first, init), (second, invoke) = re.findall(report, result.log)
    assert (init, invoke) == ("init", "invoke")
    assert float(first) >= 600
    assert float(second) >= 299


# Between invocations


def test_the_environment_is_frozen_between_invocations(run: Run) -> None:
    """A thread that was left running stands still meanwhile, for as long as asked."""
    function = run("beats_on")
    function.invoke()
    assert function.invoke(freeze=1.0).response >= 0.9


def test_a_process_that_the_function_started_is_frozen_too(run: Run, code: Path) -> None:
    """The whole group stands still."""
    function = run("leaves_a_child")
    function.invoke()
    function.invoke("again", freeze=1.0)
    beats = [int(beat) / 1e9 for beat in (code / "beats").read_text().split()]
    assert max(b - a for a, b in pairwise(beats)) >= 0.9


def test_invocations_at_once_take_turns(run: Run) -> None:
    """One worker takes one event at a time; callers in other threads wait."""
    function = run("counts")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(function.invoke, range(8)))
    assert sorted(result.response["calls"] for result in results) == list(range(1, 9))
    assert sum(result.init_duration is not None for result in results) == 1
    assert re.findall(r"^(START|END) ", function.log, re.MULTILINE) == ["START", "END"] * 8


# Several workers


def test_workers_run_at_once_in_processes_of_their_own(run: Run) -> None:
    """Two invocations that wait for each other both end."""
    function = run("meets", workers=2)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        one = pool.submit(function.invoke, {"me": "one", "you": "two"})
        two = pool.submit(function.invoke, {"me": "two", "you": "one"})
        assert one.result().status == two.result().status == "success"
        assert one.result().response != two.result().response


def test_a_timeout_of_a_worker_kills_nothing(run: Run, code: Path) -> None:
    """The caller is told, the code runs on, and a late answer is refused."""
    function = run("goes_on", workers=2, timeout=2.0)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for result in pool.map(function.invoke, ["one", "two"]):
            assert (result.status, error_of(result)[0]) == ("timeout", "Sandbox.Timedout")
    # Both workers are busy, so nobody takes this one, and nobody may take it later.
    assert function.invoke("three").status == "timeout"
    (code / "go").touch()
    for name in ("one", "two"):
        assert becomes((code / name).exists)
    assert becomes(lambda: function.log.count("Http response code: 400") == 2)
    assert {function.invoke("four").status for _ in range(3)} == {"success"}
    assert not (code / "three").exists()
    assert function.log.count("INIT_START") == 1


def test_a_process_that_is_quicker_than_we_are_is_answered(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for an event before the start of it has returned, as it may on a busy machine."""

    class Slow(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            time.sleep(1.5)

    monkeypatch.setattr("deadline.testing._emulator.environment.subprocess.Popen", Slow)
    assert run("echo").invoke("hello").response == "hello"


# SnapStart

HOOKS = """
import os, time
from snapshot_restore_py import register_after_restore, register_before_snapshot

happened = [("import", time.time())]
note = lambda name: happened.append((name, time.time()))
for number in (1, 2):
    register_before_snapshot(note, f"before {number}")
    register_after_restore(note, f"after {number}")

def fail(*_):
    raise LookupError("gone")

if "BEFORE" in os.environ:
    register_before_snapshot(fail)
if "AFTER" in os.environ:
    register_after_restore(fail)
if "HANG" in os.environ:
    register_after_restore(time.sleep, 60)

def tells(event, context):
    if event == "die":
        os.kill(os.getpid(), 9)
    return {"happened": happened, "pid": os.getpid(), "kind": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"],
            "log": context.log_group_name, "left": context.get_remaining_time_in_millis()}
"""


@pytest.fixture
def snapped(tmp_path: Path, emulator: Run) -> Callable[..., Emulator]:
    """Run a function with hooks; the environment says which of them fail."""
    (tmp_path / "hooks.py").write_text(HOOKS)
    return lambda **env: emulator("hooks.tells", path=tmp_path, timeout=AMPLE, env=env, snap_start=True)


def test_hooks_run_around_the_snapshot(snapped: Callable[..., Emulator]) -> None:
    """In the runtime's order, with the process frozen between, outside of the invocation's time."""
    function = snapped()
    first = function.invoke(freeze=0.5)
    names, instants = zip(*first.response["happened"], strict=True)
    assert names == ("import", "before 2", "before 1", "after 1", "after 2")
    assert instants[3] - instants[2] >= 0.5
    assert first.response["kind"] == "snap-start"
    assert first.response["log"] is None
    assert first.response["left"] > (AMPLE - 0.4) * 1000
    assert first.init_duration is not None
    assert first.restore_duration is not None
    kinds = [line.split()[0] for line in first.log.splitlines()]
    assert kinds == ["INIT_START", "INIT_REPORT", "RESTORE_START", "RESTORE_REPORT", "START", "END", "REPORT"]
    warm = function.invoke()
    assert (warm.response["pid"], warm.restore_duration) == (first.response["pid"], None)


def test_a_killed_environment_is_initialised_and_restored_anew(snapped: Callable[..., Emulator]) -> None:
    """No snapshot was taken, so that it cannot be restored twice; it is all outside of the invocation."""
    function = snapped()
    first = function.invoke()
    assert function.invoke("die").error == FunctionError.exited(
        function.log.split("START RequestId: ")[2][:36], -9
    )
    again = function.invoke()
    assert again.response["pid"] != first.response["pid"]
    assert len(again.response["happened"]) == 5
    assert again.restore_duration is not None


@pytest.mark.parametrize("when", ["BEFORE", "AFTER"])
def test_a_hook_that_fails_is_the_callers_error(snapped: Callable[..., Emulator], when: str) -> None:
    """The environment never serves."""
    result = snapped(**{when: "1"}).invoke()
    assert result.error is not None
    assert (result.error.type, result.error.message) == ("LookupError", "gone")
    assert result.restore_duration is None


def test_hooks_that_take_too_long_fail_the_restore(
    snapped: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lambda gives them ten seconds."""
    monkeypatch.setattr("deadline.testing._emulator.emulator.RESTORING", 0.5)
    result = snapped(HANG="1").invoke()
    assert result.error is not None
    assert result.error.type == "SnapStartTimeoutException"
    assert result.duration < 5.0


# The end


def test_nothing_is_left(code: Path) -> None:
    """After the block there is no process, no thread and no descriptor more than before."""
    threads, descriptors = set(threading.enumerate()), len([*Path("/proc/self/fd").iterdir()])
    with Emulator("function.counts", path=code, timeout=AMPLE) as function:
        pid = function.invoke().response["pid"]
        assert alive(pid)
    assert not alive(pid)
    assert set(threading.enumerate()) == threads
    assert len([*Path("/proc/self/fd").iterdir()]) == descriptors


def test_a_stranger_on_the_runtime_api_is_hung_up_on(code: Path) -> None:
    """A connection that stays open keeps the block from ending as little as the function does."""
    with contextlib.ExitStack() as outlives_it:
        with Emulator("function.variables", path=code, timeout=AMPLE) as function:
            host, _, port = function.invoke().response["AWS_LAMBDA_RUNTIME_API"].partition(":")
            stranger = outlives_it.enter_context(socket.create_connection((host, int(port))))
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            answer = stranger.recv(1000)
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert stranger.recv(1) == b""


def test_closing_ends_an_invocation_in_another_thread(code: Path) -> None:
    """The function dies, and who waits for it is told."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with Emulator("function.hangs", path=code, timeout=AMPLE * 10) as function:
            waiting = pool.submit(function.invoke)
            assert becomes((code / "hangs").exists)
        with pytest.raises(RuntimeError, match="the emulator is not running"):
            waiting.result(AMPLE)
    pids = [int(pid) for pid in (code / "hangs").read_text().split()]
    assert becomes(lambda: not any(map(alive, pids)))


def test_an_emulator_runs_once_and_only_in_its_block(code: Path) -> None:
    """Before, after and a second time it says so."""
    function = Emulator("function.echo", path=code)
    with pytest.raises(RuntimeError, match="use it inside `with Emulator"):
        function.invoke()
    with function:
        pass
    with pytest.raises(RuntimeError, match="the emulator is not running"):
        function.invoke()
    with pytest.raises(RuntimeError, match="make a new Emulator"):
        function.__enter__()

"""The init phase's deadline: pure parts, and under the real runtime client in processes that are killed."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import deadline
from deadline import aws
from deadline.aws import _init
from deadline.testing import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deadline.testing import Invocation

HERE = Path(__file__).parent
ROOT = str(Path(deadline.__file__).parent.parent)


# --- arguments, and where it applies ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 0}, "limit: 0.0 is no time to be ready in; write the seconds, limit=10.0 say"),
        ({"limit": float("inf")}, "limit: inf is no time"),
        ({"limit": -1}, "limit: -1.0 is negative"),
        ({"margin": -1}, "margin: -1.0 is negative"),
        ({"margin": "1"}, "margin: expected seconds"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    """Outside of Lambda as well, where nothing else happens."""
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        aws.init_deadline(**arguments)


def test_outside_of_lambda_nothing_happens() -> None:
    """No thread, and nothing to remember."""
    before = threading.enumerate()
    aws.init_deadline()
    assert threading.enumerate() == before
    assert _init._watch is None


def test_called_too_late_it_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing is being imported there is no init phase to watch."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")
    monkeypatch.setattr(_init, "imported_first", lambda _: None)
    aws.init_deadline()
    assert "call it while the function's module is imported" in caplog.text
    assert _init._watch is None


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        (None, 10.0),
        ("on-demand", 10.0),
        ("provisioned-concurrency", 130.0),
        ("snap-start", 130.0),
        ("lambda-managed-instances", 130.0),
    ],
    ids=str,
)
def test_the_limit_is_that_of_the_kind_of_initialisation(kind: str | None, limit: float) -> None:
    """Ten seconds are on-demand functions' alone."""
    assert _init.limit_of({} if kind is None else {"AWS_LAMBDA_INITIALIZATION_TYPE": kind}) == limit


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the process's own start is read from /proc")
def test_the_age_of_the_process_counts_from_its_start() -> None:
    """And not from the import of the module that asks."""
    code = "import time; time.sleep(0.3); from deadline.aws._init import process_age; print(process_age())"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    took = time.monotonic() - began
    assert 0.3 <= float(done.stdout) <= took + 0.02


def test_a_process_that_is_older_than_the_limit_counts_from_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not started for this init phase."""
    monkeypatch.setattr(_init, "process_age", lambda: 11.0)
    assert _init._begun(10.0).left() == pytest.approx(10.0, abs=0.1)
    monkeypatch.setattr(_init, "process_age", lambda: 4.0)
    assert _init._begun(10.0).left() == pytest.approx(6.0, abs=0.1)


def test_the_margin_is_at_most_half_of_the_limit() -> None:
    """A short limit keeps some time for the work."""
    assert _init.Phase(10.0).margin == 0.5
    assert _init.Phase(0.6, 2.0).margin == 0.3


# --- in processes that are killed -------------------------------------------------------------------------

LIMIT = 3.0
"""As `slow_start.py` has it. Python's start is a part of it, and takes long on a busy machine."""

CASES: dict[str, dict[str, str]] = {
    "sleep": {"LOAD": "sleep"},
    "spin": {"LOAD": "spin"},
    "lock": {"LOAD": "lock"},
    "hang": {"OPEN": "hang"},
    "block": {"OPEN": "block"},
    "swallow": {"OPEN": "swallow"},
    "fail": {"OPEN": "fail"},
    "quick": {},
}


def start(case: str) -> list[Invocation]:
    """Two invocations of a function; of one that is killed before the first, one."""
    env = {"PYTHONPATH": ROOT} | CASES[case]
    killed = "LOAD" in env
    with Emulator(
        "slow_start.handler", path=HERE, timeout=0.1 if killed else 5.0, init_timeout=LIMIT, env=env
    ) as function:
        return [function.invoke({}) for _ in range(1 if killed else 2)]


@pytest.fixture(scope="module")
def started() -> Iterator[Callable[[str], list[Invocation]]]:
    """All of them side by side. A test that is run again gets an environment of its own."""
    pytest.importorskip("awslambdaric")
    with ThreadPoolExecutor(6) as pool:
        running = {case: pool.submit(start, case) for case in CASES}
        yield lambda case: running.pop(case).result() if case in running else start(case)


def told(log: str) -> str:
    """The one event, with what stands below it, up to the platform's next line."""
    assert log.count("aws.init_exceeded") == 1, log
    return re.split(r"\n(?=INIT_|START|REPORT)", log.partition("aws.init_exceeded ")[2])[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sleep", "spin"])
def test_an_import_that_does_not_end_is_named_before_the_kill(
    started: Callable[[str], list[Invocation]], how: str
) -> None:
    """The chain of imports, what the innermost is in, and how long each has taken."""
    (ended,) = started(how)
    said = told(ended.log)
    assert re.match(
        r"seconds=2\.[5-9]\d\d limit=3\.000 importing='slow_start.py:\d+ > slow_import.py:\d+' ", said
    )
    assert re.search(r"\d\.\d\d s  slow_start \(slow_start.py:\d+\)\n", said)
    assert re.search(
        r"\d\.\d\d s    slow_import \(slow_import.py:\d+\)\n +in load \(slow_import.py:\d+\)", said
    )
    assert "s  before init_deadline was called" in said
    assert re.search(r"INIT_REPORT Init Duration: 30\d\d\.\d\d ms\tPhase: init\tStatus: timeout", ended.log)
    assert ended.log.index("aws.init_exceeded") < ended.log.index("INIT_REPORT")


@pytest.mark.slow
def test_an_import_that_holds_the_lock_leaves_its_stack(started: Callable[[str], list[Invocation]]) -> None:
    """Neither a thread nor a signal of Python's can run; `faulthandler` can."""
    (ended,) = started("lock")
    stack = ended.log.partition("Timeout (0:00:0")[2].partition("INIT_REPORT")[0]
    assert re.search(r"slow_import.py\", line \d+ in load\n", stack), ended.log
    assert re.search(r"slow_start.py\", line \d+ in <module>\n", stack)
    assert "aws.init_exceeded" not in ended.log


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hang", "block", "swallow"])
def test_a_lifespan_that_hangs_is_named_and_left_to_the_first_invocation(
    started: Callable[[str], list[Invocation]], how: str
) -> None:
    """Whatever it does: the environment is not killed, and the second time it opens."""
    first, second = started(how)
    said = told(first.log)
    assert re.match(r"seconds=2\.[5-9]\d\d limit=3\.000 importing=None opening='clients'\n", said)
    assert re.search(r"connect +slow_start\.py:\d\d", said)
    assert first.response["entered"] == 2, first.log
    assert second.response == first.response
    assert first.init_duration is not None
    assert "INIT_REPORT" not in first.log
    assert "Timeout (" not in first.log + second.log


@pytest.mark.slow
def test_a_lifespan_that_fails_fails_the_init_phase(started: Callable[[str], list[Invocation]]) -> None:
    """Its error is the function's, as without an init deadline."""
    first, _ = started("fail")
    assert first.error is not None
    assert (first.error.type, first.error.message) == ("LookupError", "no database")
    assert "aws.init_exceeded" not in first.log


@pytest.mark.slow
def test_a_quick_start_is_left_alone(started: Callable[[str], list[Invocation]]) -> None:
    """Nothing is told, and nothing goes off later."""
    first, second = started("quick")
    assert first.response["entered"] == second.response["entered"] == 1
    assert "aws." not in first.log + second.log

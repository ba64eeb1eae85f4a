"""The init phase's deadline: pure parts, and under the real runtime client in processes that are killed."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import deadline
from deadline import aws
from deadline.aws._runtime import init_phase as _init
from deadline.testing import Emulator

if TYPE_CHECKING:
    from deadline.testing import Invocation

FUNCTIONS = Path(__file__).parents[2] / "lambda_functions"
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


@pytest.mark.slow
def test_it_is_loaded_by_those_who_ask_for_it() -> None:
    """No other cold start pays for it, nor for SnapStart."""
    code = """
import sys
from deadline import aws
room = "deadline.aws._runtime"
loaded = lambda: [name for name in ("init_phase", "snap_start") if f"{room}.{name}" in sys.modules]
before = loaded(), "init_deadline" in dir(aws)
aws.init_deadline()
print(before, loaded())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "([], True) ['init_phase']\n"


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
    code = "import time; time.sleep(0.3); from deadline.aws._runtime import init_phase as init; "
    code += "print(init.process_age())"
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


# --- what is being imported -------------------------------------------------------------------------------


@pytest.fixture
def looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Import `outer`, which looks once, and imports `inner`, which looks from a function; what was seen."""
    seen: list[Any] = []
    accounts: list[_init.Account] = []

    def look(seconds: float) -> None:
        frame = sys._getframe(1)
        if not accounts:
            root = _init.imported_first(frame)
            assert root is not None
            accounts.append(_init.Account(root, 0.25))
        assert accounts[0].see(frame, seconds)
        seen.append((accounts[0].importing(), accounts[0].render()))

    (tmp_path / "outer.py").write_text("import looking\nlooking.at(9)\nlooking.at(2)\n\nimport inner\n")
    (tmp_path / "inner.py").write_text("import looking\n\ndef load():\n    looking.at(1)\n\nload()\n")
    looking: Any = types.ModuleType("looking")
    looking.at = look
    monkeypatch.setitem(sys.modules, "looking", looking)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("outer")
    for name in ("outer", "inner"):
        del sys.modules[name]
    seen.append(accounts[0].see(sys._getframe(), 1.0))
    return seen


def test_the_chain_of_imports_is_named_with_what_each_took(looks: list[Any]) -> None:
    """From the first module inward, then what else took its time. A first look counts nothing."""
    first, second, third, _ = looks
    assert first[0] == "outer.py:2"
    assert second == (
        "outer.py:3",
        "    2.00 s  outer (outer.py:3)\n    0.25 s  before init_deadline was called",
    )
    assert third[0] == "outer.py:5 > inner.py:6"
    assert third[1].splitlines() == [
        "    1.00 s  outer (outer.py:5)",
        "    1.00 s    inner (inner.py:6)",
        "                in load (inner.py:4)",
        "    0.25 s  before init_deadline was called",
        "    2.00 s  before, at outer.py:3",
    ]


def test_the_phase_is_over_when_the_first_module_is_imported(looks: list[Any]) -> None:
    """Its frame is on the stack no more, whatever is imported later."""
    assert looks[-1] is False


def test_where_nothing_is_imported_there_is_no_first_module() -> None:
    """A script's own `<module>` is none: it runs for as long as the process."""
    code = "import sys; from deadline.aws._runtime import init_phase as init; "
    code += "print(init.imported_first(sys._getframe()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "None\n"


# --- in processes that are killed -------------------------------------------------------------------------

LIMIT = 3.0
"""As `slow_start.py` has it. Python's start is a part of it, and takes long on a busy machine."""


def start(*cases: dict[str, str]) -> list[list[Invocation]]:
    """Two invocations in each environment, all side by side; of one that is killed before the first, one."""
    pytest.importorskip("awslambdaric")

    def run(case: dict[str, str]) -> list[Invocation]:
        killed = "LOAD" in case
        with Emulator(
            "slow_start.handler",
            path=FUNCTIONS,
            timeout=0.1 if killed else 5.0,
            init_timeout=LIMIT,
            env={"PYTHONPATH": ROOT} | case,
        ) as function:
            return [function.invoke({}) for _ in range(1 if killed else 2)]

    with ThreadPoolExecutor() as pool:
        return list(pool.map(run, cases))


def told(log: str) -> str:
    """The one event, with what stands below it, up to the platform's next line."""
    assert log.count("aws.init_exceeded") == 1, log
    return re.split(r"\n(?=INIT_|START|REPORT)", log.partition("aws.init_exceeded ")[2])[0]


@pytest.mark.slow
def test_an_import_that_does_not_end_is_named_before_the_kill() -> None:
    """Asleep, spinning, or holding the interpreter's lock, where only the stack can be had."""
    *named, locked = start({"LOAD": "sleep"}, {"LOAD": "spin"}, {"LOAD": "lock"})
    for (ended,) in named:
        said = told(ended.log)
        chain = r"importing='slow_start.py:\d+ > slow_import.py:\d+' opening=None\n"
        assert re.match(rf"seconds=2\.[5-9]\d\d limit=3\.000 {chain}", said)
        assert re.search(r"\d\.\d\d s  slow_start \(slow_start.py:\d+\)\n", said)
        innermost = r"\d\.\d\d s    slow_import \(slow_import.py:\d+\)\n +in load \(slow_import.py:\d+\)"
        assert re.search(innermost, said)
        assert "s  before init_deadline was called" in said
        assert re.search(
            r"INIT_REPORT Init Duration: 3\d\d\d\.\d\d ms\tPhase: init\tStatus: timeout", ended.log
        )
        assert ended.log.index("aws.init_exceeded") < ended.log.index("INIT_REPORT")
    (ended,) = locked
    stack = ended.log.partition("Timeout (0:00:0")[2].partition("INIT_REPORT")[0]
    assert re.search(r"slow_import.py\", line \d+ in load\n", stack), ended.log
    assert re.search(r"slow_start.py\", line \d+ in <module>\n", stack)
    assert "aws.init_exceeded" not in ended.log


@pytest.mark.slow
def test_a_lifespan_that_hangs_is_named_and_left_to_the_first_invocation() -> None:
    """Whatever it does: the environment is not killed, and the second time it opens."""
    for first, second in start({"OPEN": "hang"}, {"OPEN": "block"}, {"OPEN": "swallow"}):
        said = told(first.log)
        assert re.match(r"seconds=2\.[5-9]\d\d limit=3\.000 importing=None opening='clients'\n", said)
        assert re.search(r"connect +slow_start\.py:\d\d", said)
        assert first.response["entered"] == 2, first.log
        assert second.response == first.response
        assert first.init_duration is not None
        assert "INIT_REPORT" not in first.log
        assert "Timeout (" not in first.log + second.log


@pytest.mark.slow
def test_what_is_in_time_is_as_without_an_init_deadline() -> None:
    """Nothing is told of a quick start, nor goes off later; a lifespan that fails fails the init phase."""
    quick, (failed, _) = start({}, {"OPEN": "fail"})
    assert [one.response["entered"] for one in quick] == [1, 1]
    assert failed.error is not None
    assert (failed.error.type, failed.error.message) == ("LookupError", "no database")
    assert "init_exceeded" not in quick[0].log + quick[1].log + failed.log

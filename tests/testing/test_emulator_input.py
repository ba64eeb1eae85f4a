"""What the emulator refuses, and what its pure parts decide."""

import datetime as dt
import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

from deadline.testing import Emulator, FunctionError
from deadline.testing._emulator import platform_log as lines
from deadline.testing._emulator.variables import lambda_variables

pytest.importorskip("awslambdaric")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder with the module `function`, which nobody runs."""
    (tmp_path / "function.py").touch()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    return tmp_path


@pytest.mark.parametrize("handler", ["function.f", "package.module.f", "package/module.f"])
def test_handlers_are_written_as_lambda_has_them(code: Path, handler: str) -> None:
    """Dots or slashes lead to the module, the last dot to the function."""
    Emulator(handler, path=code)


@pytest.mark.parametrize(
    "handler", ["function", "", ".f", "function.", "function..f", None, "package/module"]
)
def test_a_handler_without_module_or_function_is_refused(code: Path, handler: Any) -> None:
    """The message has a handler to copy."""
    with pytest.raises(ValueError, match=r'handler must be .* such as "module.function"'):
        Emulator(handler, path=code)


def test_a_module_that_is_not_there_is_refused(code: Path) -> None:
    """It is told before anything starts, with the folder that was searched."""
    with pytest.raises(ValueError, match=rf"handler names the module 'functoin', .* {code}; set path"):
        Emulator("functoin.f", path=code)


def test_a_folder_that_is_not_there_is_refused(code: Path) -> None:
    """A file is no folder either."""
    with pytest.raises(ValueError, match="path must be the folder"):
        Emulator("function.f", path=code / "function.py")


@pytest.mark.parametrize("name", ["timeout", "init_timeout"])
@pytest.mark.parametrize("value", [0, -1, 900.1, math.inf, math.nan])
def test_a_limit_outside_lambdas_is_refused(code: Path, name: str, value: float) -> None:
    """More than 0 and at most 900 seconds, and the argument is named."""
    with pytest.raises(ValueError, match=f"^{name} must be"):
        Emulator("function.f", path=code, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"timeout": "3"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"post_seconds": -1}, ValueError),
        ({"memory": 64}, ValueError),
        ({"memory": 128.0}, TypeError),
        ({"workers": 0}, ValueError),
        ({"workers": True}, TypeError),
        ({"env": {"A": 1}}, TypeError),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(
    code: Path, option: dict[str, Any], error: type[Exception]
) -> None:
    """The message begins with the argument's name."""
    with pytest.raises(error, match=f"^{next(iter(option))} must"):
        Emulator("function.f", path=code, **option)


def test_a_snapshot_is_of_one_worker(code: Path) -> None:
    """As Lambda has it."""
    with pytest.raises(ValueError, match="snap_start is for workers=1"):
        Emulator("function.f", path=code, snap_start=True, workers=2)


@pytest.mark.parametrize(
    ("option", "seconds"),
    [
        ({}, 10.0),
        ({"timeout": 300}, 10.0),
        ({"snap_start": True}, 130.0),
        ({"snap_start": True, "timeout": 300}, 300.0),
        ({"workers": 2}, 130.0),
        ({"snap_start": True, "init_timeout": 2}, 2.0),
    ],
    ids=str,
)
def test_the_init_phase_has_lambdas_own_limit(code: Path, option: dict[str, Any], seconds: float) -> None:
    """Ten seconds are on-demand functions' alone; the function's timeout counts where it is longer."""
    assert Emulator("function.f", path=code, **option)._init_timeout == seconds


def test_an_event_that_is_no_json_is_refused(code: Path) -> None:
    """So is a client context, and a freeze where nothing freezes; no process is started for them."""
    with Emulator("function.f", path=code, workers=2) as function:
        with pytest.raises(TypeError, match="event must be what JSON can hold: .*datetime"):
            function.invoke({"when": dt.datetime.now(dt.UTC)})
        with pytest.raises(ValueError, match="event must be what JSON can hold"):
            function.invoke(math.nan)
        with pytest.raises(TypeError, match="client_context must be what JSON can hold"):
            function.invoke(client_context={"a": {1}})
        with pytest.raises(ValueError, match="freeze is for workers=1"):
            function.invoke(freeze=1.0)
        with pytest.raises(ValueError, match="freeze must be zero or more"):
            function.invoke(freeze=-1.0)
        assert function.log == ""


def test_without_the_runtime_client_the_extra_is_named(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making an emulator says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'needs awslambdaric.*pip install "asyncio-deadline\[testing\]"'):
        Emulator("function.f", path=code)


def test_elsewhere_than_on_linux_it_says_so(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime client is for Linux only."""
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(RuntimeError, match="needs Linux"):
        Emulator("function.f", path=code)


MEMORY = "\tMemory Size: 128 MB\tMax Memory Used: 40 MB"
RESTORED = "Restore Duration: 5.10 ms\tBilled Restore Duration: 6 ms"
REPORT: dict[str, Any] = {
    "duration": 0.0121,
    "init_duration": None,
    "memory": 128,
    "max_memory_used": 40,
    "error": None,
}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "Duration: 12.10 ms\tBilled Duration: 13 ms" + MEMORY),
        (
            {"init_duration": 0.1},
            "Duration: 12.10 ms\tBilled Duration: 113 ms" + MEMORY + "\tInit Duration: 100.00 ms",
        ),
        (
            {"duration": 3.0, "error": FunctionError.timed_out("id", 3)},
            "Duration: 3000.00 ms\tBilled Duration: 3000 ms" + MEMORY + "\tStatus: timeout",
        ),
        (
            {"restore_duration": 0.0051},
            f"Duration: 12.10 ms\tBilled Duration: 13 ms{MEMORY}\t{RESTORED}",
        ),
        (
            {"error": FunctionError("KeyError", "x")},
            "Duration: 12.10 ms\tBilled Duration: 13 ms" + MEMORY,
        ),
    ],
)
def test_the_report_has_the_figures(change: dict[str, Any], line: str) -> None:
    """Whole milliseconds are billed, the init phase too; only the platform's errors are a status."""
    assert lines.report("id", **REPORT | change) == f"REPORT RequestId: id\t{line}"


def variables(inherited: dict[str, str], **env: str) -> dict[str, str]:
    return lambda_variables(
        inherited, env, handler="a.b", path="/", memory=128, workers=1, runtime_api="127.0.0.1:1", tmp="/t"
    )


def test_relative_module_folders_lead_where_they_did() -> None:
    """The function runs in another folder; what it sets itself is left alone."""
    inherited = {"PYTHONPATH": ".:/absolute"}
    assert variables(inherited)["PYTHONPATH"] == f"{Path.cwd()}:/absolute"
    assert variables(inherited, PYTHONPATH=".")["PYTHONPATH"] == "."


def test_the_region_is_what_there_is() -> None:
    """The one of this process, and us-east-1 without."""

    def region(**inherited: str) -> set[str]:
        found = variables(inherited)
        return {found["AWS_REGION"], found["AWS_DEFAULT_REGION"]}

    assert region() == {"us-east-1"}
    assert region(AWS_DEFAULT_REGION="eu-west-1") == {"eu-west-1"}
    assert region(AWS_REGION="eu-north-1", AWS_DEFAULT_REGION="eu-west-1") == {"eu-north-1"}

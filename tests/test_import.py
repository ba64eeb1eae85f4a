"""What importing the package loads and offers, and the switch in the environment."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import deadline as package

ROOT = Path(__file__).parent.parent


def run(code: str, **environment: str) -> str:
    """What a fresh interpreter prints, with warnings as errors."""
    env = {key: value for key, value in os.environ.items() if key != "DEADLINE_DISABLED"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=env | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_importing_loads_no_sdk() -> None:
    """`import deadline` loads no SDK, no web client, no test tool, nothing of its own optional parts."""
    loaded = run("import deadline, sys; print(*sorted(sys.modules))").split()
    unwanted = {
        "aiobotocore", "aioboto3", "aiohttp", "boto3", "botocore", "h11", "hypothesis", "moto", "pytest",
        "awslambdaric", "cfnlint", "click", "rich", "uvloop", "unittest", "yaml", "deadline.aws",
        "deadline.testing", "deadline.asgi", "deadline.audit", "deadline._cli", "deadline._resilience",
        "deadline._work.each", "deadline._work.timeout", "deadline._propagation",
    }  # fmt: skip
    assert unwanted.isdisjoint(loaded)
    assert "deadline._core.scope" in loaded


@pytest.mark.slow
def test_importing_changes_nothing() -> None:
    """`import deadline` sets no log handler or level, no signal handler, no loop policy, starts no thread."""
    looks = "(logging.root.handlers, logging.getLogger('deadline').handlers, "
    looks += (
        "logging.getLogger('deadline').level, signal.getsignal(signal.SIGALRM), threading.active_count())"
    )
    code = f"import anyio, logging, signal, threading; before = {looks}; import deadline; "
    assert run(f"{code}print(before == {looks})") == "True"


@pytest.mark.slow
def test_what_is_loaded_later_is_there() -> None:
    """By name, by attribute, by `*` and in `dir`; asking for what is not there loads nothing."""
    code = """
import sys
import deadline
assert not hasattr(deadline, "nothing") and "deadline._resilience.breaker" not in sys.modules
assert set(deadline.__all__) <= set(dir(deadline)) and "deadline._resilience.breaker" not in sys.modules
from deadline import Breaker
assert deadline.Breaker is Breaker and "Breaker" in vars(deadline)
package = deadline
from deadline import *
assert each is package.each and fallback.__module__ == "deadline._resilience.fallback"
assert {"__version__", "Breaker", "each"} <= set(dir(package))
from deadline import aws
print(aws.__name__)
"""
    assert run(code) == "deadline.aws"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """In the words of any other module."""
    with pytest.raises(AttributeError, match="module 'deadline' has no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined]  # noqa: B018


PASS_THROUGH = """
import asyncio, math
import deadline as package
from deadline import Breaker, DeadlineExceeded, current, deadline, fallback, remaining, step, subscribe

async def slow():
    await asyncio.sleep(0.003)

async def main():
    told = []
    subscribe(told.append)
    async with deadline(0, name="off") as dl:
        ran = True
        await asyncio.sleep(0.002)
        async with deadline(0.0005, margin=3):
            with step("a step"):
                await asyncio.sleep(0.003)
        assert current() is None and remaining() == remaining(hard=True) == math.inf
        assert dl.remaining() == dl.remaining(hard=True) == math.inf
        assert (dl.soft, dl.hard, dl.margin, dl.overran, dl.expired) == (math.inf, math.inf, 0, 0, False)
        assert repr(dl) == "<Deadline 'off' disabled>"
    assert not dl.expired and dl.remaining() == math.inf
    breaker = Breaker("orders", failures=1)
    for _ in range(3):
        try:
            with breaker:
                raise KeyError
        except KeyError:
            assert breaker.state == "closed"
    async with deadline(5):
        assert (await fallback(slow, default="default", within=0.001)).source == "call"
    try:
        async with deadline(0):
            raise KeyError
    except KeyError as error:
        assert not hasattr(error, "__notes__")
    try:
        async with asyncio.timeout(0.001), deadline(0):
            await asyncio.sleep(5)
    except DeadlineExceeded:
        raise
    except TimeoutError:
        pass
    assert not told, told
    assert not asyncio.get_running_loop()._scheduled or all(
        timer.cancelled() for timer in asyncio.get_running_loop()._scheduled
    )
    return ran

try:
    print(asyncio.run(main()))
except DeadlineExceeded:
    print("cut")
"""


@pytest.mark.slow
@pytest.mark.parametrize("value", ["1", "true", "yes", "on", "TRUE", " On "])
def test_the_switch_makes_everything_pass_through(value: str) -> None:
    """`DEADLINE_DISABLED=1`: bodies run, nothing is cut, nothing is in force, nothing is told."""
    assert run(PASS_THROUGH, DEADLINE_DISABLED=value) == "True"


@pytest.mark.slow
@pytest.mark.parametrize("value", ["0", "false", "", "no", "off"])
def test_the_switch_stays_off(value: str) -> None:
    """`0`, `false` and an empty value leave deadlines in force."""
    assert run(PASS_THROUGH, DEADLINE_DISABLED=value) == "cut"


@pytest.mark.slow
def test_arguments_are_checked_although_disabled() -> None:
    """The switch hides no mistake: wrong arguments are named all the same."""
    code = "from deadline import deadline\ntry: deadline(-1)\nexcept ValueError as error: print(error)"
    assert run(code, DEADLINE_DISABLED="1").startswith("source: -1.0 is negative")


def _defined() -> set[str]:
    """Public names in the package's namespace that are no submodules, once all are loaded."""
    for name in package.__all__:
        getattr(package, name)
    return {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name not in {"TYPE_CHECKING", "later"}
    }


def test_all_names_exactly_what_is_public() -> None:
    """`__all__` is the table of contents: sorted, complete, and nothing that does not exist."""
    assert set(package.__all__) == _defined()
    assert package.__all__ == sorted(package.__all__)


@pytest.mark.parametrize("name", package.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    """Each public name and each of its public methods and properties has a docstring of its own."""
    value = getattr(package, name)
    assert inspect.getdoc(value)
    members = vars(value).items() if inspect.isclass(value) else ()
    for member, what in members:
        if not member.startswith("_") and (inspect.isfunction(what) or isinstance(what, property)):
            assert what.__doc__, f"{name}.{member}"


def test_the_package_is_typed() -> None:
    """The marker for type checkers is there."""
    assert Path(package.__file__).with_name("py.typed").exists()

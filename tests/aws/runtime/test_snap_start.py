"""SnapStart: what the runtime's hooks do, under the real runtime client, and what they cannot do in time."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import deadline
from deadline import aws
from deadline.aws._runtime import event_loop as _environment
from deadline.aws._runtime import init_phase as _init
from deadline.aws._runtime import snap_start as _snap_start
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from deadline import Event
    from deadline.testing import Emulator
    from tests.aws.conftest import Queue

FUNCTIONS = Path(__file__).parents[2] / "lambda_functions"


@pytest.mark.slow
@pytest.mark.parametrize("eager", [False, True])
def test_nothing_is_used_after_a_restore_that_was_open_before(
    queue: Queue, emulator: Callable[..., Emulator], *, eager: bool
) -> None:
    """Neither loop, lifespan, client, socket nor helper, although the handler was called while imported."""
    pytest.importorskip("awslambdaric")
    env = {"PYTHONPATH": str(Path(deadline.__file__).parent.parent)} | ({"EAGER": "1"} if eager else {})
    running = emulator("snapped.look", path=str(FUNCTIONS), timeout=10.0, snap_start=True, env=env)
    first = running.invoke({}, freeze=0.4)
    said = first.response
    assert first.status == "success", first.log
    assert said["before"]["loops"] == 2  # of the import, and of a hook that ran after ours
    assert said["before"]["sockets"] >= 6  # of each loop, its client and its helper
    assert said["same"] == [False, False]
    assert said["open"] == 0
    assert len(said["helpers before"]) == 2
    assert not any(Path(f"/proc/{helper}").exists() for helper in said["helpers before"])
    assert len(said["helpers"]) == 1
    assert said["before"]["latencies"] > 0
    assert said["latencies"] == 0
    assert said["probed"], "the breaker's time has gone on"
    *_, again = said["entered"]
    assert len(said["entered"]) == 3
    assert (again < said["began"]) == eager
    warm = running.invoke({}).response
    assert warm["entered"] == said["entered"]
    assert warm["helpers"] == said["helpers"]


# --- what the hooks cannot do ----------------------------------------------------------------------------


@pytest.fixture
def snap_start(monkeypatch: pytest.MonkeyPatch, own_environment: None) -> Iterator[None]:
    """A process of which a snapshot is going to be taken."""
    registry = pytest.importorskip("snapshot_restore_py")
    monkeypatch.setattr(registry, "_before_snapshot_registry", [])
    monkeypatch.setattr(registry, "_after_restore_registry", [])
    monkeypatch.setattr(_snap_start, "_openings", [])
    monkeypatch.setattr(_init, "_phase", None)
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start")
    yield
    made = _environment._environment
    if made is not None:
        made.close()
        _environment._environment = None


def hooks() -> tuple[list[Any], list[Any]]:
    """What the runtime would run before the snapshot, and after a restore."""
    registry = sys.modules["snapshot_restore_py"]
    return registry.get_before_snapshot(), registry.get_after_restore()


def test_the_hooks_are_registered_once(snap_start: None) -> None:
    """However many handlers there are."""
    for _ in range(3):

        @aws.handler
        async def f(event: Any, context: Any) -> None:
            pass

    assert [len(each) for each in hooks()] == [1, 1]


def test_elsewhere_there_are_no_hooks(snap_start: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable says how it is initialised."""
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")

    @aws.handler
    async def f(event: Any, context: Any) -> None:
        pass

    assert hooks() == ([], [])


def test_without_the_hooks_the_first_invocation_opens(
    snap_start: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A runtime of one's own may lack the package: it says so, and nothing is open at the snapshot."""
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", None)
    entered = []

    @asynccontextmanager
    async def clients() -> AsyncIterator[int]:
        entered.append(1)
        yield 7

    @aws.handler(lifespan=clients, eager=True)
    async def f(event: Any, context: Any, opened: int) -> int:
        return opened

    assert "this runtime has no snapshot_restore_py" in caplog.text
    assert _environment._environment is None
    assert not entered
    assert f({}, FakeContext(3.0)) == 7


@pytest.mark.slow
def test_a_lifespan_that_hangs_after_a_restore_is_left_to_the_first_invocation(
    snap_start: None, monkeypatch: pytest.MonkeyPatch, told: list[Event]
) -> None:
    """Lambda gives the hooks ten seconds and fails the restore then: it is named, cut, and entered anew."""
    monkeypatch.setattr(_init, "RESTORING", 0.2)
    entered = []

    @asynccontextmanager
    async def clients() -> AsyncIterator[int]:
        entered.append(1)
        if len(entered) == 1:
            await asyncio.sleep(60)
        yield len(entered)

    @aws.handler(lifespan=clients, eager=True)
    async def f(event: Any, context: Any, opened: int) -> int:
        return opened

    for opened in hooks():
        for hook, args, kwargs in opened:
            hook(*args, **kwargs)
    (event,) = told
    assert event.name == "aws.init_exceeded"
    assert event.fields["opening"].endswith("clients")
    assert event.fields["limit"] == 0.2
    assert 0.1 <= event.fields["seconds"] < 0.2
    assert "awaiting in lifespan" in event.fields["stack"]
    assert f({}, FakeContext(3.0)) == 2

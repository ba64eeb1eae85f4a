"""Breadcrumbs: processes that really die, and what the next one tells of them."""

from __future__ import annotations

import asyncio
import logging
import math
import mmap
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import deadline
from deadline import aws, step
from deadline._work import section
from deadline.aws._rescue import breadcrumb as _breadcrumb
from deadline.aws._rescue.breadcrumb import FOLDER, Breadcrumb, Death
from deadline.aws._rescue.stack_timer import AHEAD, StackTimer
from deadline.aws._runtime import process_record as _armed
from deadline.aws._runtime.process_record import PAGE, SEAL, ProcessRecord, Trace, read
from deadline.testing import Emulator, FakeContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadline import Event
    from tests.aws.conftest import Queue

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="breadcrumbs need Linux")

FUNCTIONS = Path(__file__).parents[2] / "lambda_functions"
TIMEOUT = 3.0
"""It pays for a cold start, on a machine that may be busy."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where breadcrumbs are."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"{FOLDER}-{os.getuid()}"


@pytest.fixture
def folder_in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, where it can be had: removing a file from a disk may take milliseconds."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  # a folder of our own in it
    with tempfile.TemporaryDirectory(dir=memory) as tmp:
        monkeypatch.setenv("TMPDIR", tmp)
        yield Path(tmp, f"{FOLDER}-{os.getuid()}")


@pytest.fixture
def fresh() -> Iterator[None]:
    """A process without a record, before and after."""
    _breadcrumb._forget()
    _armed._forget()
    yield
    _breadcrumb._forget()
    _armed._forget()


def crumbs(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def put(folder: Path, content: bytes, name: str = "01234567-1-01234567") -> Path:
    """A file of somebody who is gone."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    if len(content) >= PAGE:
        with path.open("r+b") as file:
            file.seek(SEAL.start)
            file.write(_breadcrumb.seal(name, path.stat()))
    return path


def record(who: tuple[str, str, str] = ("r-1", "orders", "7"), **armed: Any) -> bytes:
    """What somebody who is gone has left."""
    memory = mmap.mmap(-1, PAGE)
    ProcessRecord(memory).arm(who, **{"left": 3.0, **armed})
    section.watch_steps(None)
    return bytes(memory)


# --- the record -------------------------------------------------------------------------------------------


def armed(**given: Any) -> ProcessRecord:
    made = ProcessRecord(mmap.mmap(-1, PAGE + 64))
    made.arm(("r-1", "orders", "7"), **given)
    return made


def trace(of: ProcessRecord) -> Trace:
    found = read(of.memory)
    assert found is not None
    return found


def test_a_record_says_who_and_until_when() -> None:
    """On the wall clock, which the next process has, too."""
    before = time.time()
    found = trace(armed(left=3.0, stack_in=2.5))
    assert found[:3] == ("r-1", "orders", "7")
    assert before <= found.began == found.seen <= time.time()
    assert found.hard == pytest.approx(found.began + 3.0, abs=1e-5)
    assert found.stack_at == pytest.approx(found.began + 2.5, abs=1e-5)
    assert (found.step, found.status, found.told, found.event, found.stack) == ("", "", False, "", "")


def test_a_record_that_is_disarmed_says_nothing() -> None:
    """Also about what it was armed for before."""
    made = armed()
    made.told()
    made.disarm()
    assert read(made.memory) is None
    made.arm(("r-2", "orders", None))
    found = trace(made)
    assert (found.request_id, found.version, found.hard, found.told) == ("r-2", None, math.inf, False)


def test_who_is_told_of_is_kept_until_the_next() -> None:
    """A notice has been sent."""
    made = armed()
    made.told()
    assert trace(made).told


@pytest.mark.parametrize("name", ["", "ä" * 10_000, "\udc80", None, 17])
def test_any_name_fits(name: Any) -> None:
    """Whatever a context says."""
    made = armed()
    made.arm((name, name, name))
    assert trace(made).function == str(name or "")[:150].encode(errors="replace").decode()


def test_an_event_that_does_not_fit_is_cut() -> None:
    """Its beginning stays, and that it is one: what is left may be JSON, too."""
    made = armed(event=b"1" * 1000)
    assert (trace(made).event, trace(made).event_cut) == ("1" * 64, True)
    made = armed(event=b"1" * 64)
    assert (trace(made).event, trace(made).event_cut) == ("1" * 64, False)
    cut = Death(trace(armed(event=b"1" * 65)), 10.0).message()
    assert (cut["event"], cut["cut"]) == ("1" * 64, ["event"])


def test_what_a_terminal_obeys_is_taken_out() -> None:
    """Names are one line of plain text, the stack is several."""
    made = armed()
    made.arm(("r\n[ERROR] no\x1b[31m", "orders\u202e", "7\x9b"))
    found = read(bytes(made.memory) + b"in f\n\x1b]0;title\x07\x1b[2Jin\tg\r")
    assert found is not None
    assert found[:3] == ("r[ERROR] no", "orders", "7")
    assert found.stack == "in f\n]0;titlein\tg"


async def test_the_last_step_is_seen() -> None:
    """The innermost one that runs; when none does, the one that ended last, and how."""
    made = armed()
    try:
        async with deadline.deadline(60):
            seen = [trace(made)[7:9]]
            with step("outer"):
                seen.append(trace(made)[7:9])
                with step("inner"):
                    seen.append(trace(made)[7:9])
                seen.append(trace(made)[7:9])
            seen.append(trace(made)[7:9])
            with pytest.raises(LookupError), step("ä" * 1000):
                raise LookupError
            seen.append(trace(made)[7:9])
            assert trace(made).seen > trace(made).began
    finally:
        made.disarm()
    assert seen == [
        ("", ""),
        ("outer", "running"),
        ("inner", "running"),
        ("outer", "running"),
        ("outer", "done"),
        ("ä" * 150, "failed"),
    ]


async def test_steps_beside_one_another_are_seen() -> None:
    """The one that goes on, and not the one that was begun last; one of an invocation before is not."""
    made = armed()
    try:
        async with deadline.deadline(60):
            one, two, three = (step(name) for name in ("one", "two", "three"))
            for begun in (one, two, three):
                begun.__enter__()
            three.__exit__(None, None, None)
            assert trace(made)[7:9] == ("two", "running")
            two.__exit__(None, None, None)
            assert trace(made)[7:9] == ("one", "running")
            made.arm(("r-2", "orders", "7"))
            one.__exit__(None, None, None)
            assert trace(made)[7:9] == ("", "")
    finally:
        made.disarm()


async def test_a_step_is_nobody_s_business_without_a_record() -> None:
    """Nothing watches when nothing is armed."""
    armed().disarm()
    assert section._watcher is None


# --- who is dead ------------------------------------------------------------------------------------------


def death(now: float, **changed: Any) -> Death:
    found = trace(armed(left=3.0, stack_in=2.95))._replace(began=0.0, seen=1.0, hard=3.0, stack_at=2.95)
    return Death(found._replace(**changed), now)


@pytest.mark.parametrize(
    ("found", "at_timeout", "left", "ago"),
    [
        (death(10.0), False, 2.0, 9.0),
        (death(10.0, stack="in f"), True, 0.05, 7.05),
        (death(2.0, stack_at=math.inf), False, 2.0, 1.0),
        (death(10.0, stack_at=math.inf), None, 2.0, 9.0),
        (death(10.0, stack_at=math.inf, hard=math.inf), False, None, 9.0),
        (death(0.5), False, 2.0, 0.0),
    ],
)
def test_a_death_at_the_timeout_is_told_from_one_before(
    found: Death, at_timeout: object, left: float | None, ago: float
) -> None:
    """By the stack, which is written shortly before the timeout; without a timer for it, by the clock.

    A clock that was set back makes no death in the future.
    """
    fields = found.fields()
    assert fields["at_timeout"] is at_timeout
    assert fields["left"] == (left if left is None else pytest.approx(left))
    assert fields["seconds_ago"] == pytest.approx(ago)


def test_a_death_reads_well() -> None:
    """In the notice's one line."""
    assert str(death(10.0, step="copy", status="running")) == (
        "orders died before its timeout in step 'copy', with 2.000 s left; it was last heard of 9.000 s ago"
    )
    assert str(death(10.0, step="copy", status="done", stack="in f")) == (
        "orders died at its timeout after step 'copy'; it was last heard of 7.050 s ago"
    )


def test_a_notice_of_a_death_has_stack_and_event() -> None:
    """An event that was cut is the beginning of its JSON, as in every notice; it need not be there."""
    said = death(10.0, stack="in f", event='{"order": 1}').message()
    assert (said["reason"], said["request_id"], said["function_version"]) == ("died", "r-1", "7")
    assert (said["stack"], said["event"], said["cut"]) == ("in f", {"order": 1}, [])
    said = death(10.0, event='{"order": ').message()
    assert (said["stack"], said["event"], said["cut"]) == (None, '{"order": ', ["event"])
    assert death(10.0).message()["event"] is None
    assert death(10.0, event='"text"').message()["cut"] == []


def test_files_are_taken_once_and_ours_alone(folder: Path, fresh: None, told: list[Event]) -> None:
    """Mode 0600 in a folder of 0700; what is found is told, and gone."""
    put(folder, record())
    assert [one.trace.request_id for one in _breadcrumb.look_around(PAGE)] == ["r-1"]
    (own,) = crumbs(folder)
    assert re.fullmatch(_breadcrumb._NAME, own.name)
    assert (own.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert own.stat().st_size == PAGE


def test_what_is_no_breadcrumb_costs_nothing(
    folder: Path, fresh: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Garbage under our name is removed; links, folders, pipes and other names are left alone."""
    caplog.set_level(logging.DEBUG)
    armed = record()
    put(folder, b"", "01234567-1-00000000")
    put(folder, b"\xff" * 10_000, "01234567-1-00000001")
    put(folder, armed[:1000], "01234567-1-00000002")
    put(folder, armed[:64] + b"\xff" * (PAGE - 64), "01234567-1-00000003")
    put(folder, armed[:8] + b"\xff" * (PAGE - 8), "01234567-1-00000004")
    put(folder, armed[:16] + struct.pack("d", math.nan) + armed[24:], "01234567-1-00000009")
    put(folder, armed, "notes.txt")
    outside, linked = tmp_path / "outside", tmp_path / "linked"
    outside.write_bytes(armed)
    linked.write_bytes(armed)
    (folder / "01234567-1-00000005").symlink_to(outside)
    (folder / "01234567-1-00000006").mkdir()
    os.mkfifo(folder / "01234567-1-00000007")
    os.link(linked, folder / "01234567-1-00000008")
    assert _breadcrumb.look_around(PAGE) == []
    left = {path.name for path in crumbs(folder)} - {path.name for path in folder.glob(f"*-{os.getpid()}-*")}
    assert left == {"notes.txt", *(f"01234567-1-0000000{number}" for number in (5, 6, 7, 8))}
    assert outside.read_bytes() == linked.read_bytes() == armed
    assert {entry.levelname for entry in caplog.records} == {"DEBUG"}


@pytest.mark.parametrize("how", ["unsealed", "another's key", "a copy"])
def test_a_record_that_nobody_here_has_made_is_not_told(
    how: str,
    folder: Path,
    fresh: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who can only write a file below the temporary folder sends no notice. How many there were is logged."""
    monkeypatch.setenv("AWS_LAMBDA_LOG_STREAM_NAME", "another's")
    path = put(folder, record())
    if how != "another's key":
        monkeypatch.setenv("AWS_LAMBDA_LOG_STREAM_NAME", "2026/12/01/[$LATEST]0123456789abcdef")
        path = put(folder, record())
    if how == "unsealed":
        path.write_bytes(record())
    elif how == "a copy":
        content = path.read_bytes()
        path.rename(folder / "original")
        path.write_bytes(content)
    else:
        monkeypatch.setenv("AWS_LAMBDA_LOG_STREAM_NAME", "ours")
    breadcrumb = Breadcrumb("orders", file=True, event=False)
    breadcrumb.run(lambda *_: None, {}, FakeContext())
    assert breadcrumb.untold() == []
    assert "aws.died" not in caplog.text
    assert not path.exists()
    assert "1 breadcrumbs that no process of this environment has made are removed" in caplog.text


def test_reading_is_bounded(folder: Path, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One page of each file, and the contents of the last 16, within a limit; whatever their size is."""
    read_now: list[int] = []
    pread = os.pread

    def counted(file: int, length: int, offset: int) -> bytes:
        content = pread(file, length, offset)
        read_now.append(len(content))
        return content

    for number in range(100):
        path = put(folder, record((f"r-{number}", "orders", "7")), f"01234567-{number}-01234567")
        os.truncate(path, 8 * 1024 * 1024)
    monkeypatch.setattr(os, "pread", counted)
    found = [one.trace.request_id for one in _breadcrumb.look_around(PAGE)]
    assert found == [f"r-{number}" for number in range(99, 83, -1)]
    assert read_now[:100] == [PAGE] * 100
    assert len(read_now) == 116
    assert sum(read_now[100:]) == _breadcrumb.MOST_READ_AT_ONCE


def test_a_file_that_was_removed_is_made_anew(folder: Path, fresh: None) -> None:
    """At the next invocation, with the stack's timer, and without keeping what was open before."""
    breadcrumb = Breadcrumb("orders", file=True, event=True)
    open_files = []
    for number in range(5):
        breadcrumb.run(lambda *_: shutil.rmtree(folder), {"order": number}, FakeContext())
        open_files.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))

    def look(event: object, context: object) -> Trace | None:
        (path,) = crumbs(folder)
        return read(path.read_bytes())

    found = breadcrumb.run(look, {"order": 9}, FakeContext(10.0))
    assert found.event == '{"order": 9}'
    assert found.stack_at < math.inf
    assert len({*open_files}) == 1


def test_old_and_many_deaths_are_removed(
    folder: Path, fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last few are told."""
    for number in range(30):
        put(folder, record((f"r-{number}", "orders", "7")), f"01234567-{number}-01234567")
    monkeypatch.setattr("time.time", lambda: 1.0)
    put(folder, record(), "01234567-99-01234567")
    monkeypatch.undo()
    monkeypatch.setenv("TMPDIR", str(folder.parent))
    found = [one.trace.request_id for one in _breadcrumb.look_around(PAGE)]
    assert found == [f"r-{number}" for number in range(29, 13, -1)]
    assert len(crumbs(folder)) == 1
    assert "14 older deaths are not told" in caplog.text


@pytest.mark.parametrize("where", ["/nowhere/at/all", "/proc", "/dev/null"])
def test_a_folder_that_cannot_be_written_costs_a_debug_line(
    where: str,
    fresh: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And it is tried once."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TMPDIR", where)
    breadcrumb = Breadcrumb("orders", file=True, event=False)
    for _ in range(2):
        assert breadcrumb.run(lambda *_: "response", {}, FakeContext()) == "response"
    assert [entry.levelname for entry in caplog.records] == ["DEBUG"]
    assert "no breadcrumb" in caplog.text


@pytest.mark.parametrize("kind", ["a link", "open to others", "a file"])
def test_a_folder_that_is_not_ours_alone_is_not_used(
    kind: str, folder: Path, fresh: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever could write there could have us tell anything."""
    caplog.set_level(logging.DEBUG)
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    if kind == "a link":
        folder.symlink_to(elsewhere)
    elif kind == "a file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
        put(folder, record())
    assert _breadcrumb.look_around(PAGE) == []
    assert crumbs(elsewhere) == []
    assert "no breadcrumb" in caplog.text


# --- an invocation ----------------------------------------------------------------------------------------


def test_a_process_has_one_file_for_all_invocations(folder: Path, fresh: None) -> None:
    """Armed inside of it, and not after it, however it ends; a handler that calls another is one of them."""
    breadcrumb = Breadcrumb("orders", file=True, event=True)
    found = []

    def look(event: object, context: object) -> None:
        (path,) = crumbs(folder)
        found.append(read(path.read_bytes()))

    breadcrumb.run(look, {"order": 1}, FakeContext(10.0))
    breadcrumb.run(lambda *_: Breadcrumb("inner", file=True, event=False).run(look, {}, None), {}, None)
    with pytest.raises(LookupError):
        breadcrumb.run(lambda event, _: event["order"], {}, "no context at all")
    first, second = found
    assert first is not None
    assert second is not None
    assert first.event == '{"order": 1}'
    assert first.hard - first.began == pytest.approx(10.0, abs=0.1)
    assert first.hard - first.stack_at == pytest.approx(AHEAD, abs=1e-5)
    assert (second.function, second.hard, second.stack_at) == ("orders", math.inf, math.inf)
    assert read(crumbs(folder)[0].read_bytes()) is None


def test_workers_look_again(
    folder: Path, fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once in a while, where a dead one has no successor; alone a process looks once. Its own file stays."""
    breadcrumb = Breadcrumb("orders", file=True, event=False)

    def die_and_look(name: str) -> list[str]:
        put(folder, record((name, "orders", "7")))
        breadcrumb.run(lambda *_: None, {}, FakeContext())
        return [one["request_id"] for one in breadcrumb.untold()]

    assert die_and_look("r-1") == ["r-1"]
    assert die_and_look("r-2") == []
    _breadcrumb._forget()
    _armed._forget()
    monkeypatch.setenv("AWS_LAMBDA_MAX_CONCURRENCY", "8")
    for path in crumbs(folder):
        path.unlink()
    assert die_and_look("r-3") == ["r-3"]
    assert die_and_look("r-4") == []
    monkeypatch.setattr("deadline.aws._rescue.breadcrumb._looks_at", 0.0)
    assert die_and_look("r-4") == ["r-4"]
    assert [path.name for path in crumbs(folder)] == [_breadcrumb._own]


async def _nothing(event: Any, context: Any) -> str:
    return "response"


def test_only_lambda_has_breadcrumbs(
    folder: Path, fresh: None, own_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default; and not with DEADLINE_DISABLED."""
    assert aws.handler(_nothing)({}, FakeContext()) == "response"
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")
    assert aws.handler(breadcrumb=False)(_nothing)({}, FakeContext()) == "response"
    monkeypatch.setattr("deadline._core.scope.DISABLED", True)
    assert aws.handler(_nothing)({}, FakeContext()) == "response"
    monkeypatch.setattr("deadline._core.scope.DISABLED", False)
    assert not folder.exists()
    assert aws.handler(_nothing)({}, FakeContext()) == "response"
    assert len(crumbs(folder)) == 1


async def test_a_test_s_invoke_leaves_none(folder: Path, fresh: None) -> None:
    """Although it was asked for."""
    assert await aws.handler(breadcrumb=True)(_nothing).invoke({}, FakeContext()) == "response"
    assert crumbs(folder) == []


def test_what_breadcrumb_takes_is_checked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, and where it does nothing that is said."""
    with pytest.raises(TypeError, match='breadcrumb: expected True, False or "event", got 1.5'):
        aws.handler(breadcrumb=1.5)(_nothing)  # type: ignore[call-overload]
    monkeypatch.setattr("sys.platform", "darwin")
    aws.handler(breadcrumb=True)(_nothing)
    assert "breadcrumb= does nothing for _nothing: it needs Linux, this is darwin" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_the_notice_of_a_death_takes_no_longer_than_others(
    seconds: float, folder: Path, fresh: None, own_environment: None, told: list[Event]
) -> None:
    """The answer waits for it for the margin's sake at the most; what it was is lost then, and said."""
    said = []

    async def notice(message: dict[str, Any]) -> None:
        await asyncio.sleep(seconds)
        said.append((message["reason"], message["request_id"]))

    put(folder, record())
    function = aws.handler(breadcrumb=True, notice=notice, margin=0.2)(_nothing)
    began = time.monotonic()
    assert [function({}, FakeContext(30.0)) for _ in range(2)] == ["response"] * 2
    assert time.monotonic() - began < 5.0
    assert said == ([] if seconds else [("died", "r-1")])
    assert [(event.name, event.fields["request_id"]) for event in told] == [
        ("aws.died", "r-1"),
        ("aws.notice_failed" if seconds else "aws.notice_sent", "r-1"),
    ]


def test_a_python_without_ctypes_has_none(
    own_environment: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And calls its functions."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "deadline.aws._rescue.breadcrumb", None)
    assert aws.handler(_nothing)({}, FakeContext()) == "response"
    assert "no breadcrumb: ModuleNotFoundError" in caplog.text


@pytest.mark.slow
def test_a_stack_that_was_written_and_not_needed_is_taken_back(tmp_path: Path) -> None:
    """The next one stands in the same place, of all threads; a timer that is stopped writes nothing."""
    threading.Thread(target=time.sleep, args=(1.0,), daemon=True).start()
    path = tmp_path / "stack"
    path.write_bytes(b"record")
    with path.open("r+b", buffering=0) as file:
        file.seek(0, os.SEEK_END)
        timer = StackTimer(file.fileno())
        timer.start(0.02)
        timer.stop()
        time.sleep(0.04)
        assert path.read_bytes() == b"record"
        for _ in range(2):
            timer.start(0.01)
            time.sleep(0.05)
            written = path.read_text()
            assert re.match("record(Thread|Current thread)", written)
            assert "test_a_stack_that_was_written_and_not_needed" in written
            assert written.count("most recent call first") > 1
            timer.stop()
            assert path.read_bytes() == b"record"


# --- processes that die -----------------------------------------------------------------------------------


def start(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(Path(deadline.__file__).parent.parent)}
    command = [sys.executable, str(FUNCTIONS / "killed.py"), *arguments]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, **more)


def said(process: subprocess.Popen[str]) -> list[str]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.split()


@pytest.mark.slow
def test_a_thousand_deaths_are_told_once_each(folder_in_memory: Path) -> None:
    """With eight processes at a time, which share the folder; nothing is left."""
    died = said(start("many", "8", "125")) + said(start("last"))
    assert sorted(died) == sorted(f"{one}-{other}" for one in range(8) for other in range(125))
    assert len(crumbs(folder_in_memory)) == 1
    assert said(start("last")) == []


@pytest.mark.slow
def test_who_lives_is_not_told_of(folder: Path) -> None:
    """Although its fork has ended, and has ended its copy of the invocation; it is when it is killed."""
    with start("fork", stdin=subprocess.PIPE) as main:
        assert main.stdout is not None
        assert main.stdout.readline() == "forked\n"
        assert said(start("last")) == []
        main.kill()
    assert said(start("last")) == ["main"]


@pytest.mark.slow
def test_a_scan_of_the_folder_ends_nobody(folder: Path) -> None:
    """The one who opens and closes every file, its own too, is not told of; it is when it is killed."""
    with start("scan", stdin=subprocess.PIPE) as main:
        assert main.stdout is not None
        assert main.stdout.readline() == "scanned\n"
        assert said(start("last")) == []
        main.kill()
    assert said(start("last")) == ["main"]


@pytest.mark.slow
def test_a_disk_that_is_full_costs_nothing(folder: Path) -> None:
    """The kernel refuses every byte; the invocation goes on, and no file stays."""
    put(folder, record())
    assert said(start("full")) == ["r-1"]
    assert crumbs(folder) == []


# --- under the real runtime client ------------------------------------------------------------------------


class Deaths:
    """What a log tells of deaths."""

    def __init__(self, log: str) -> None:
        self.told = [
            dict(re.findall(r"(\w+)=('[^']*'|\S+)", line)) for line in log.splitlines() if "aws.died" in line
        ]
        self.stack = "\n".join(line for line in log.splitlines() if line.startswith("  File "))

    @property
    def requests(self) -> list[str]:
        return [one["request_id"].strip("'") for one in self.told]


KILLS = {
    "the mitigation blocks": {"body": "wait", "mitigation": "derive"},
    "the lock is held": {"body": "lock"},
    "SIGKILL from outside": {"body": "wait"},
    "out of memory": {"body": "memory"},
    "exit": {"body": "exit"},
}
"""Each without a helper."""

AT_TIMEOUT = {"the mitigation blocks": "in derive", "the lock is held": "in hold_the_lock"}


@pytest.fixture(scope="module")
def memory_group() -> Iterator[str]:
    """A control group for one process, which may have little memory; empty where we cannot make one."""
    for parent, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup", parent, f"deadline-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text("50000000")
            yield str(group)
        except OSError:
            continue
        else:
            return
        finally:
            group.rmdir()
    yield ""


def in_a_step(folder: Path, processes: int) -> list[int]:
    """Wait for so many processes that are in the step `work`."""
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        found = {int(path.name.split("-")[1]): read(path.read_bytes()) for path in crumbs(folder)}
        pids = [pid for pid, one in found.items() if one is not None and one.step == "work"]
        if len(pids) == processes:
            return pids
        time.sleep(0.02)
    raise TimeoutError("they do not come to their step")


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_each_death_is_told_once_by_the_next_cold_start(memory_group: str, tmp_path: Path) -> None:
    """Which request, in which step, at its timeout or before, and its stack, whatever the process did."""
    pytest.importorskip("awslambdaric")

    def play(kind: str) -> tuple[str, Deaths, Deaths]:
        tmp = tmp_path / kind
        tmp.mkdir()
        env = {"TMPDIR": str(tmp), "MEMORY_GROUP": memory_group}
        with Emulator("killed.function", path=FUNCTIONS, timeout=TIMEOUT, env=env) as function:
            if kind == "SIGKILL from outside":
                folder = tmp / f"{FOLDER}-{os.getuid()}"
                threading.Thread(target=lambda: kill(in_a_step(folder, 1))).start()
            died = function.invoke(KILLS[kind])
            assert died.status == ("timeout" if kind in AT_TIMEOUT else "error"), died.log
            return died.request_id, Deaths(function.invoke({}).log), Deaths(function.invoke({}).log)

    kinds = [kind for kind in KILLS if kind != "out of memory" or memory_group]
    with ThreadPoolExecutor(3) as pool:
        for kind, (request_id, told, again) in zip(kinds, pool.map(play, kinds), strict=True):
            assert told.requests == [request_id], kind
            assert again.requests == [], kind
            (one,) = told.told
            assert one["step"] == ("'mitigate'" if "mitigation" in kind else "'work'"), kind
            assert one["step_status"] == "'running'", kind
            assert one["at_timeout"] == str(kind in AT_TIMEOUT), kind
            assert 0.0 < float(one["seconds_ago"]) < 30.0
            assert AT_TIMEOUT.get(kind, "") in told.stack, kind
            assert bool(told.stack) == (kind in AT_TIMEOUT), kind


@pytest.mark.slow
def test_eight_workers_tell_of_eight_deaths_once_each(tmp_path: Path) -> None:
    """They share the folder, and begin at the same time."""
    pytest.importorskip("awslambdaric")
    env = {"TMPDIR": str(tmp_path)}
    folder = tmp_path / f"{FOLDER}-{os.getuid()}"
    with (
        ThreadPoolExecutor(8) as pool,
        Emulator("killed.function", path=FUNCTIONS, timeout=20.0, env=env, workers=8) as function,
    ):

        def invoke_all(event: dict[str, Any]) -> list[Any]:
            return [one.result() for one in [pool.submit(function.invoke, event) for _ in range(8)]]

        dying = [pool.submit(function.invoke, {"body": "wait"}) for _ in range(8)]
        kill(in_a_step(folder, 8))
        died = [one.result().request_id for one in dying]
        after = [one for _ in range(3) for one in invoke_all({"sleep": 0.2})]
        assert {one.status for one in after} == {"success"}
        assert sorted(Deaths(function.log).requests) == sorted(died)


@pytest.mark.slow
def test_the_notice_of_a_death_is_sent_once(queue: Queue) -> None:
    """Beside the next invocation, redacted, with the event that was asked for; after the helper's, none."""
    pytest.importorskip("awslambdaric")

    def play(options: str, body: str, timeout: float) -> tuple[str, list[str], list[dict[str, Any]]]:
        own = queue.another()
        env = {"OPTIONS": options, "DEADLINE_NOTICE": own.url}
        with Emulator("killed.function", path=FUNCTIONS, timeout=timeout, env=env) as function:
            died = function.invoke({"body": body, "order": 7, "card": "4111"})
            after = [function.invoke({}) for _ in range(2)]
            assert [one.status for one in after] == ["success"] * 2
            return died.request_id, Deaths(function.log).requests, own.received()

    with ThreadPoolExecutor(2) as pool:
        plays = ("event", "helper"), ("exit", "lock"), (20.0, 5.0)
        (alone, told, (said,)), (helped, also_told, (by_helper,)) = pool.map(play, *plays)
    assert (told, also_told) == ([alone], [helped])
    assert (said["reason"], said["request_id"], said["sent_by"]) == ("died", alone, "handler")
    assert said["event"] == {"body": "exit", "order": 7}
    assert said["message"].startswith("killed died before its timeout in step 'work', with ")
    assert (by_helper["reason"], by_helper["request_id"]) == ("deadline_exceeded", helped)
    assert by_helper["message"] == "killed ran out of time in step 'work'"


@pytest.mark.slow
def test_without_breadcrumbs_nobody_tells() -> None:
    """`breadcrumb=False`."""
    pytest.importorskip("awslambdaric")
    with Emulator("killed.function", path=FUNCTIONS, timeout=TIMEOUT, env={"OPTIONS": "none"}) as function:
        function.invoke({"body": "exit"})
        assert Deaths(function.invoke({}).log).requests == []

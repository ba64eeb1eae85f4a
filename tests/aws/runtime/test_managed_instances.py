"""On Managed Instances nobody but the handler ends an invocation: workers come back, or end and say why."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import deadline
from deadline.testing import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deadline.testing import Invocation
    from tests.aws.conftest import Queue

pytest.importorskip("awslambdaric")
pytestmark = pytest.mark.slow

FUNCTIONS = str(Path(__file__).parents[2] / "lambda_functions")
WORKERS: Final = 16
TIMEOUT, MARGIN = 3.0, 1.5

WAITING: Final = (
    "awaiting for ever",
    "asyncio.to_thread",
    "a finally that awaits",
    "a loop that swallows cancellations",
    "an anyio shield",
    "anyio.to_thread",
    "time.sleep",
    "a deadlocked threading.Lock",
    "subprocess.run",
    "a finally that blocks",
    "a blocked child of asyncio's TaskGroup",
    "a blocked child of anyio's TaskGroup",
    "a blocked task in gather, its error taken",
    "a blocked plain callback",
)
"""The kinds of the matrix that take no processor."""

BUSY: Final = (
    "a busy loop",
    "a busy loop in except BaseException: pass",
    "a catastrophic regular expression",
    "a huge integer power",
    "tasks that starve the loop",
)


def all_of(function: Emulator, events: Iterable[dict[str, Any]]) -> list[Invocation]:
    """Invoke it at once with all of these."""
    events = list(events)
    with ThreadPoolExecutor(len(events)) as pool:
        return list(pool.map(function.invoke, events))


def workers_of(function: Emulator, count: int, rounds: int = 30) -> set[int]:
    """The workers that answer."""
    found: set[int] = set()
    for _ in range(rounds):
        answers = [one.response for one in all_of(function, [{"seconds": 0.05}] * count)]
        found |= {answer["pid"] for answer in answers if answer is not None}
        if len(found) == count:
            break
    return found


def latency(function: Emulator, count: int = 30) -> float:
    """The median of ordinary invocations, in seconds."""
    return statistics.median(function.invoke({"seconds": 0.005}).duration for _ in range(count))


def test_overrunning_invocations_harm_nobody_else_and_no_worker_is_lost() -> None:
    """Every kind that can be ended is, in time for an answer; meanwhile the others are as quick as before."""
    env = {"DEADLINE_MARGIN": str(MARGIN)}
    with (
        Emulator("workers.work", path=FUNCTIONS, timeout=TIMEOUT, env=env, workers=WORKERS) as function,
        ThreadPoolExecutor(1) as pool,
    ):
        before = workers_of(function, WORKERS)
        assert len(before) == WORKERS
        quiet = latency(function)
        waiting = pool.submit(all_of, function, [{"body": body} for body in WAITING])
        time.sleep(0.3)
        beside = latency(function)
        ended = waiting.result() + all_of(function, [{"body": body} for body in BUSY])
        wrong = {
            body: (one.status, one.response)
            for body, one in zip(WAITING + BUSY, ended, strict=True)
            if one.status != "success" or one.response["status"] != "mitigated"
        }
        assert wrong == {}
        assert beside < 3 * quiet + 0.02
        assert workers_of(function, WORKERS) == before
        assert "aws.worker_ended" not in function.log


def test_a_worker_that_nothing_frees_ends_and_says_why(queue: Queue) -> None:
    """In a bounded time; the others serve on, and when none is left there is another environment."""
    env = {"DEADLINE_MARGIN": "0.5", "IMPATIENT": "1", "DEADLINE_NOTICE": queue.url}
    with Emulator("workers.work", path=FUNCTIONS, timeout=1.0, env=env, workers=3) as function:
        before = workers_of(function, 3)
        ended = all_of(function, [{"body": "stuck"}, {"body": "stuck with the interpreter"}])
        assert [one.status for one in ended] == ["timeout", "timeout"]
        bound = time.monotonic() + 0.5 + 2.0 + 3.0
        while len(alive := {pid for pid in before if is_alive(pid)}) > 1 and time.monotonic() < bound:
            time.sleep(0.05)
        assert len(alive) == 1
        assert {function.invoke({}).response["pid"] for _ in range(5)} == alive

        stuck, held = (one.request_id for one in ended)
        (line,) = re.findall("aws.worker_ended .*", function.log)
        assert f"request_id='{stuck}' step='locking' seconds=0." in line
        told = function.log.partition("aws.worker_ended")[2]
        assert f", in request {stuck}\n" in told
        assert ", in _lock_twice\n" in told
        dump = function.log.partition("Timeout (0:00:0")[2]
        assert " in _lock_twice\n" in dump
        assert f" in request {held}\n" in dump
        (said,) = queue.received()
        assert (said["request_id"], said["sent_by"]) == (stuck, "handler")
        assert "in _lock_twice" in said["stack"]

        function.invoke({"body": "stuck"})
        while any(map(is_alive, before)) and time.monotonic() < bound + 5.0:
            time.sleep(0.05)
        assert workers_of(function, 3).isdisjoint(before)


def is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended may still be waited for by its parent."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("imported", ["by each worker", "before the fork"])
def test_each_worker_has_its_own(queue: Queue, tmp_path: Path, imported: str) -> None:
    """Loop, lifespan and helper process; also if something has imported the function before the fork."""
    env = {"DEADLINE_NOTICE": queue.url, "HELPED": "1"}
    if imported == "before the fork":
        (tmp_path / "sitecustomize.py").write_text("import workers\n")
        folders = [str(tmp_path), FUNCTIONS, str(Path(deadline.__file__).parent.parent)]
        env["PYTHONPATH"] = os.pathsep.join(folders)
    with Emulator("workers.work", path=FUNCTIONS, timeout=10.0, env=env, workers=3) as function:
        workers_of(function, 3)
        found = [run.response for run in all_of(function, [{"seconds": 0.5}] * 3)]
    answers = {one["pid"]: one for one in found}
    assert len(answers) == 3
    importers = {one["importer"] for one in found}
    assert importers == set(answers) if imported == "by each worker" else len(importers - set(answers)) == 1
    assert all(one["opened"] == [pid] for pid, one in answers.items())
    helpers = [helper for one in answers.values() for helper in one["helpers"]]
    assert len(set(helpers)) == 3
    sockets = [set(one["sockets"]) for one in answers.values()]
    assert all(len(own) >= 4 for own in sockets)  # the loop's pair, the helper's, the runtime client's
    assert sum(map(len, sockets)) == len(set().union(*sockets))
    assert all(own.isdisjoint(one["sockets of the parent"]) for own in sockets for one in answers.values())


PROGRAM: Final = """
import ctypes, os, time
os.environ["AWS_LAMBDA_MAX_CONCURRENCY"] = "2"
from deadline import aws, subscribe
from deadline.aws._rescue import worker_exit as _last_resort
from deadline.testing import FakeContext
vars(_last_resort).update(PATIENCE=1.5, TELLING=0.1)

@aws.handler(margin=0.3)
async def work(event, context):
    time.sleep(event)

@aws.handler(margin=0.05)
async def late(event, context):
    mutex, until = ctypes.create_string_buffer(64), (ctypes.c_long * 2)(int(time.time() + 1.3), 0)
    library = ctypes.CDLL(None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_timedlock(mutex, until)  # for a second at the most, in C

@work.on_exceeded
async def _(exceeded, event, context):
    return "mitigated"

events = []
subscribe(lambda event: events.append(event.name))
work(0, FakeContext(0.8))
assert work(9, FakeContext(0.8)) == "mitigated"
late({}, FakeContext(0.15))
time.sleep(2.2)
print(*[name for name in events if name.startswith("aws.ended") or "worker" in name])
"""


def test_it_is_taken_back_at_the_end_of_each_invocation() -> None:
    """One that ends late, in C code that returns after all, is told, and the worker lives."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "aws.ended_late\n", done.stderr

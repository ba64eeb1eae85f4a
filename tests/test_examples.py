"""The examples do what they say, as their users run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import deadline

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.slow


def test_the_demo_shows_both_fates() -> None:
    """Plainly the function is killed and nobody is told; under a deadline it answers and tells."""
    pytest.importorskip("rich")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py"], capture_output=True, text=True, timeout=60, check=True
    )
    plain, _, ours = done.stdout.partition("under aws.handler")
    assert "KILLED at its timeout" in plain
    assert "draft.txt, final.txt  <- copied, not deleted" in plain
    assert "nobody was told" in plain
    assert "Sandbox.Timedout: Task timed out after 3.00 seconds" in plain
    assert "KILLED" not in ours
    assert '{"status": "partial", "done": ["copy"], "pending": ["delete"]}' in ours
    assert "s3.DeleteObject attempt" in ours
    assert "three_steps.py" in ours
    assert "done ['copy'], pending ['delete']" in ours
    assert "\x1b[" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_a_batch_that_stops_in_time_works_nothing_off_twice() -> None:
    """The loop is killed again and again and deletes nothing; the other one is never killed and ends."""
    pytest.importorskip("awslambdaric")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "batch.py"],
        env=os.environ | {"PYTHONPATH": str(Path(deadline.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    table = {line[:24].strip(): line[24:].split() for line in done.stdout.splitlines()[2:10]}
    assert table["killed"] == ["3", "0"]
    assert table["deleted"] == ["0", "30"]
    assert table["still in the queue"] == ["30", "0"]
    assert table["worked off"][1] == "30"
    assert table["worked off again"][1] == "0"
    assert int(table["worked off again"][0]) > 0
    assert "receive 3: returned, because the function timed out" in done.stdout
    assert "deleted, because the function succeeded" in done.stdout


@pytest.mark.parametrize(
    ("function", "code", "last"),
    [
        ("plain", 3, "timeout: Sandbox.Timedout: Task timed out after 3.00 seconds"),
        ("handler", 0, 'response: {"hello": "whoever you are", "pending": ["look up"]}'),
    ],
)
def test_hello_is_killed_or_answers(function: str, code: int, last: str) -> None:
    """Under the local Lambda the plain handler dies silently, and the other says what it waited for."""
    pytest.importorskip("awslambdaric")
    pytest.importorskip("click")
    done = subprocess.run(
        [sys.executable, "-m", "deadline", "run", f"hello.{function}", "--event", "-"],
        cwd=EXAMPLES,
        env=os.environ | {"PYTHONPATH": str(Path(deadline.__file__).parent.parent)},
        input='{"seconds": 60}',
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.splitlines()[-1] == last
    assert ("aws.exceeded" in done.stdout and "hello.py:" in done.stdout) == (function == "handler")

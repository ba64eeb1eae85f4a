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


def run(example: str) -> str:
    pytest.importorskip("aioboto3")
    pytest.importorskip("awslambdaric")
    done = subprocess.run(
        [sys.executable, EXAMPLES / example],
        env=os.environ | {"PYTHONPATH": str(Path(deadline.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_a_cut_move_is_undone() -> None:
    """Plainly it is left half done and nobody is told; as a critical section it is undone, and says so."""
    plain, _, ours = run("undo.py").partition("\nmove\n")
    assert "Task timed out after 2.00 seconds" in plain
    assert "after:    the bucket holds final.txt, the table says draft.txt  <- half done" in plain
    steps = '{"copy": "undone", "delete": "undone", "note": "undone"}'
    assert f'answer:   {{"status": "undone", "steps": {steps}}}' in ours
    assert "after:    the bucket holds draft.txt, the table says draft.txt\n" in ours


def test_a_partial_loop_loads_every_row() -> None:
    """Each call stops before its cushion, says where to go on, and the last one is done."""
    *calls, last, count = run("partial.py").splitlines()
    assert calls
    assert all("{'status': 'partial', 'next': " in call for call in calls)
    assert "{'status': 'done'}" in last
    assert count == "the table has 50 rows of 50"

"""The examples do what they say, as their users run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.slow


def test_the_demo_shows_both_fates() -> None:
    """Plainly the function is killed and nobody is told; under a deadline it answers and tells."""
    pytest.importorskip("rich")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py"], capture_output=True, text=True, timeout=60, check=True
    )
    plain, _, ours = done.stdout.partition("under deadline(context, margin=1.0)")
    assert "KILLED at its timeout" in plain
    assert "draft.txt, final.txt  <- copied, not deleted" in plain
    assert "nobody was told" in plain
    assert "KILLED" not in ours
    assert '{"status": "partial", "done": ["copy"], "pending": ["delete"]}' in ours
    assert "s3.DeleteObject attempt" in ours
    assert "three_steps.py" in ours
    assert "done ['copy'], pending ['delete']" in ours
    assert "\x1b[" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100

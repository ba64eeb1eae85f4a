"""The prime over several invocations, as a durable function finds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[3] / "examples" / "durable.py"


def test_the_durable_example_finds_the_same_prime() -> None:
    """AWS's own test kit runs it, where it is installed: it does not go together with aioboto3's pins."""
    pytest.importorskip("aws_durable_execution_sdk_python_testing")
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == 'SUCCEEDED: {"position": 10000, "prime": 104729}, 10 steps kept\n'

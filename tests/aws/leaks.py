"""What a thousand invocations leave: descriptors, threads, memory."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def check_leaves_nothing(shoot: Callable[[int], None]) -> None:
    """Fail if a thousand more shots leave a descriptor, a thread or a megabyte."""
    shoot(101)
    gc.collect()
    before = _open()
    tracemalloc.start()
    held = tracemalloc.get_traced_memory()[0]
    shoot(1000)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - held
    tracemalloc.stop()
    assert grown < 1_000_000
    assert _open() == before


def _open() -> tuple[int, int]:
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

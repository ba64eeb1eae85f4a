"""A module that takes its time, for `slow_start.py`."""

from __future__ import annotations

import os
import time

from deadline.aws._runtime.init_phase import process_age


def load() -> None:
    """Take it in the way that the environment says."""
    how = os.environ.get("LOAD")
    if how == "sleep":
        time.sleep(30)
    if how == "spin":
        while True:
            pass
    if how == "lock":
        while process_age() < 1.8:  # more than half of what there is
            time.sleep(0.01)
        sum(range(10**12))


load()

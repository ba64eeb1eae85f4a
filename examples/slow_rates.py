"""A module for `start.py` that asks a server when it is imported, and nobody answers."""

import time


def load() -> None:
    """Wait for the answer."""
    time.sleep(60)


load()

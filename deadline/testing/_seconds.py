"""A duration as a user writes it, checked once at the edge."""

import math


def checked_seconds(name: str, value: float) -> float:
    """Return `value` as a float of seconds: a finite number, zero or more.

    Raises:
        TypeError: `value` is no number (a bool is none).
        ValueError: `value` is negative, NaN or infinite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, such as {name}=1.5, not {value!r}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be zero or more finite seconds, such as {name}=1.5, not {value!r}")
    return float(value)

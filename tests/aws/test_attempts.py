"""How an AWS call's time is split into attempts."""

from __future__ import annotations

import math
import os
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import deadline
from deadline.aws._attempts import (
    MIN_ATTEMPT,
    MIN_LIMIT,
    Limits,
    attempt_limit,
    attempts_left,
    backoff,
    fits,
)

SECONDS = st.floats(min_value=0.0, max_value=1e6)
LEFT = SECONDS | st.just(math.inf)
PER_ATTEMPT = st.none() | st.floats(min_value=1e-6, max_value=1e6)
COUNT = st.integers(min_value=1, max_value=100)
LIMITS = st.builds(Limits, attempts=st.none() | COUNT, per_attempt=PER_ATTEMPT, min_attempt=SECONDS)
ATTEMPT_1_0, ATTEMPT_2_0 = Limits(min_attempt=1.0), Limits(min_attempt=2.0)


@pytest.mark.parametrize("module", ["deadline.aws", "deadline.aws._attempts", "deadline.aws._limits"])
@pytest.mark.slow
def test_importing_it_loads_no_sdk(module: str) -> None:
    """Neither the decisions nor `deadline.aws` itself load an SDK or an HTTP client."""
    heavy = {"aioboto3", "aiobotocore", "aiohttp", "boto3", "botocore", "urllib3"}
    program = f"import sys, {module}; print(sorted({heavy!r} & set(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(deadline.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert printed == "[]\n"


@pytest.mark.parametrize(
    ("left", "further", "limits", "expected"),
    [
        (2.0, 4, Limits(), 1.0),  # half of what is left
        (2.0, 1, Limits(), 1.0),  # however many could follow
        (2.0, 0, Limits(), math.inf),  # the last gets the rest
        (0.4, 1, Limits(), MIN_LIMIT),  # the shortest limit there is
        (0.399, 1, Limits(), math.inf),  # half of it would cut one that is merely slow
        (2.0, 1, ATTEMPT_1_0, 1.0),
        (1.9, 1, ATTEMPT_1_0, math.inf),  # half of it is not worth sending
        (math.inf, 4, Limits(), math.inf),  # no deadline, no limit
        (2.0, 4, Limits(per_attempt=0.01), 0.01),  # the caller knows better
        (2.0, 0, Limits(per_attempt=0.01), 0.01),  # for the last one too
        (math.inf, 0, Limits(per_attempt=3.0), 3.0),
        (0.0, 4, Limits(), math.inf),
    ],
)
def test_an_attempts_limit(left: float, further: int, limits: Limits, expected: float) -> None:
    """An attempt that another may follow gets half of what is left, the last one no limit of its own."""
    assert attempt_limit(left, further, limits) == expected


@given(LEFT, COUNT, LIMITS)
def test_a_limit_leaves_time_for_another_attempt(left: float, further: int, limits: Limits) -> None:
    """A limit by the rule is never short, and leaves as much again as it takes, enough to send another."""
    limit = attempt_limit(left, further, limits)
    if limits.per_attempt is not None:
        assert limit == limits.per_attempt
    elif limit < math.inf:
        assert limit >= MIN_LIMIT
        assert left - limit >= limit >= limits.min_attempt
        assert fits(left - limit, limits)


@given(left=st.floats(min_value=0.001, max_value=900.0), delays=st.lists(SECONDS, min_size=1, max_size=20))
def test_dead_connections_end_before_the_call(left: float, delays: list[float]) -> None:
    """Attempts that all stall and their backoffs fit into the call, whatever the SDK would wait."""
    for further, delay in zip(range(len(delays), 0, -1), delays, strict=True):
        limit = attempt_limit(left, further, Limits())
        if limit == math.inf:
            break
        left -= limit
        left -= backoff(delay, left, given_up=True)
        assert fits(left, Limits())


def test_the_split_of_two_seconds() -> None:
    """With 2 s left: 1 s, 0.25 s of backoff, 0.375 s, then at most 0.1 s and what remains."""
    left = 2.0
    spent = []
    while (limit := attempt_limit(left, 1, Limits())) < math.inf:
        pause = backoff(9.0, left - limit, given_up=True)
        spent += [limit, pause]
        left -= limit + pause
    assert spent == pytest.approx([1.0, 0.25, 0.375, 0.09375])
    assert left == pytest.approx(0.28125)


@pytest.mark.parametrize(
    ("delay", "left", "given_up", "expected"),
    [
        (0.5, 1.0, False, 0.5),
        (5.0, 1.0, False, 5.0),  # a service that asks for a pause gets it, or no retry
        (5.0, 1.0, True, 0.25),  # a dead connection asked for none
        (0.1, 1.0, True, 0.1),
        (0.0, 1.0, True, 0.0),
        (5.0, math.inf, True, 5.0),
        (5.0, 0.0, True, 0.0),
    ],
)
def test_a_backoff(delay: float, left: float, given_up: bool, expected: float) -> None:  # noqa: FBT001
    """A service's error has the SDK's backoff, an attempt given up a quarter of what is left at most."""
    assert backoff(delay, left, given_up=given_up) == expected


@given(SECONDS, LEFT, st.booleans())
def test_a_backoff_is_never_longer_than_the_sdks(delay: float, left: float, given_up: bool) -> None:  # noqa: FBT001
    """A backoff is neither negative nor longer than the SDK's own."""
    assert 0.0 <= backoff(delay, left, given_up=given_up) <= delay


@pytest.mark.parametrize(
    ("left", "limits", "delay", "expected"),
    [
        (MIN_ATTEMPT, Limits(), 0.0, True),
        (0.0199, Limits(), 0.0, False),
        (0.5, Limits(), 0.48, True),
        (0.5, Limits(), 0.4801, False),
        (2.0, ATTEMPT_2_0, 0.0, True),
        (1.999, ATTEMPT_2_0, 0.0, False),
        (1e-9, Limits(min_attempt=0.0), 0.0, True),  # 0 sends always
        (0.0, Limits(min_attempt=0.0), 0.0, True),  # also behind a shield in a block that was cut
        (math.inf, ATTEMPT_2_0, 1e6, True),
        (math.inf, Limits(min_attempt=math.inf), 0.0, True),
    ],
)
def test_what_fits(left: float, limits: Limits, delay: float, expected: bool) -> None:  # noqa: FBT001
    """An attempt fits if its backoff and the least that it takes are left."""
    assert fits(left, limits, delay) is expected


@given(LEFT, LIMITS, SECONDS, SECONDS)
def test_more_time_never_refuses(left: float, limits: Limits, delay: float, more: float) -> None:
    """What fits, fits with more time left or a shorter backoff too."""
    if fits(left, limits, delay):
        assert fits(left + more, limits, delay)
        assert fits(left, limits, delay / 2)


@pytest.mark.parametrize(
    ("attempt", "configured", "limits", "expected"),
    [
        (1, 5, Limits(), 4),
        (5, 5, Limits(), 0),
        (6, 5, Limits(), 0),  # somebody else's handler asked for another
        (1, 5, Limits(attempts=1), 0),
        (1, 5, Limits(attempts=2), 1),
        (1, 5, Limits(attempts=99), 4),  # more than configured is as configured
    ],
)
def test_attempts_left(attempt: int, configured: int, limits: Limits, expected: int) -> None:
    """The caller can lower the number of attempts and cannot raise it."""
    assert attempts_left(attempt, configured, limits) == expected


@given(COUNT, COUNT, LIMITS)
def test_attempts_left_keep_to_both_numbers(attempt: int, configured: int, limits: Limits) -> None:
    """No more follow than the client's configuration allows, nor than the caller does."""
    further = attempts_left(attempt, configured, limits)
    assert 0 <= further <= max(0, configured - attempt)
    assert limits.attempts is None or further <= max(0, limits.attempts - attempt)

"""How an AWS call's time is split into attempts."""

from __future__ import annotations

import itertools
import math
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import deadline
from deadline.aws._calls.latency import EDGES, Latency
from deadline.aws._calls.planner import (
    COLD_LIMIT,
    MIN_ATTEMPT,
    MIN_HEDGE,
    MIN_LIMIT,
    Limits,
    attempt_limit,
    attempts_left,
    backoff,
    first_look,
    fits,
    hedge_after,
)

SECONDS = st.floats(min_value=0.0, max_value=1e6)
LEFT = SECONDS | st.just(math.inf)
PER_ATTEMPT = st.none() | st.floats(min_value=1e-6, max_value=1e6)
COUNT = st.integers(min_value=1, max_value=100)
LIMITS = st.builds(Limits, attempts=st.none() | COUNT, per_attempt=PER_ATTEMPT, min_attempt=SECONDS)
ATTEMPT_2_0 = Limits(min_attempt=2.0)


@pytest.mark.parametrize(
    "module", ["deadline.aws", "deadline.aws._calls.planner", "deadline.aws._calls.limits"]
)
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


def learnt(*seconds: float, times: int = 100) -> Latency:
    """A service that answered like this, again and again."""
    latency = Latency()
    for _ in range(times // len(seconds)):
        for each in seconds:
            latency.answered(each)
    return latency


FAST = (0.015, 0.02, 0.02, 0.025, 0.03)


def history(events: list[tuple[bool, float]]) -> Latency:
    latency = Latency()
    for answered, seconds in events:
        (latency.answered if answered else latency.given_up)(seconds)
    return latency


LATENCY = st.builds(
    history, st.lists(st.tuples(st.booleans(), st.floats(min_value=0.0, max_value=100.0)), max_size=60)
)


@pytest.mark.parametrize("decide", [attempt_limit, hedge_after])
@pytest.mark.parametrize(
    ("left", "further"),
    [(2.0, 0), (math.inf, 4), (0.0, 4), (-1.0, 4), (0.06, 4)],
    ids=["the last attempt", "no deadline", "no time", "time is up", "no time for another"],
)
def test_nothing_is_given_up_for_nothing(decide: Any, left: float, further: int) -> None:
    """The last attempt, and one after which none fits, has no limit but the deadline; so without one."""
    assert decide(left, further, Limits(min_attempt=0.02), Latency()) == math.inf


@pytest.mark.parametrize("left", [0.3, 2.0, math.inf])
@pytest.mark.parametrize("further", [0, 1, 9])
def test_the_caller_knows_better(left: float, further: int) -> None:
    """`per_attempt` stands for the plan, for the last attempt too."""
    assert attempt_limit(left, further, Limits(per_attempt=0.01), learnt(*FAST)) == 0.01


@given(LEFT, COUNT, LIMITS, LATENCY)
def test_a_limit_leaves_time_for_another_attempt(
    left: float, further: int, limits: Limits, latency: Latency
) -> None:
    """Whatever was learnt, a planned limit is not short, and what is left after it is enough for another."""
    limit = attempt_limit(left, further, limits, latency)
    assert first_look("dynamodb.GetItem", further, limits, latency) <= limit
    if limits.per_attempt is not None:
        assert limit == limits.per_attempt
    elif limit < math.inf:
        assert limit >= (MIN_LIMIT if latency.answers else COLD_LIMIT)
        assert fits(left - limit - backoff(9.0, left - limit, limit), limits)
    hedge = hedge_after(left, further, limits, latency)
    assert hedge >= MIN_HEDGE
    assert hedge == math.inf or fits(left - hedge, limits)


def test_cold_a_call_is_patient_with_time_and_brisk_without() -> None:
    """Before anything is known an attempt has between a fifth of a second and a few, by what is left."""
    limits = [attempt_limit(left, 4, Limits(), Latency()) for left in (0.5, 2.0, 10.0, 900.0)]
    assert limits == sorted(limits)
    assert limits[0] == pytest.approx(0.2, abs=0.06)
    assert 0.3 < limits[1] < 0.8
    assert limits[3] < 15.0


def test_a_known_service_is_waited_for_as_long_as_it_takes() -> None:
    """A fast one that stays silent is given up soon, a slow one is not: slow is not dead."""
    assert MIN_LIMIT <= attempt_limit(2.0, 9, Limits(), learnt(*FAST)) < 0.35
    slow = learnt(0.2, 0.25, 0.25, 0.3, 0.4)
    assert attempt_limit(2.0, 9, Limits(), slow) > 0.5
    assert hedge_after(2.0, 9, Limits(), learnt(*FAST)) < 0.15
    assert hedge_after(2.0, 9, Limits(), slow) > 0.4


def test_a_service_that_has_become_slow_is_noticed_within_a_few_attempts() -> None:
    """After a hundred fast answers, three attempts given up are enough to wait for a slow one."""
    latency = learnt(*FAST)
    limits = []
    for _ in range(4):
        limits.append(attempt_limit(2.0, 9, Limits(), latency))
        latency.given_up(min(limits[-1], 0.2))
    assert limits[-1] > max(0.25, 1.2 * limits[0])


def test_a_service_that_has_recovered_is_noticed() -> None:
    """After a hundred slow answers, thirty fast ones are enough to give up soon again."""
    latency = learnt(0.4, 0.5, 0.6)
    before = attempt_limit(2.0, 9, Limits(), latency)
    for _ in range(6):
        for seconds in FAST:
            latency.answered(seconds)
    assert attempt_limit(2.0, 9, Limits(), latency) < min(0.45, before)


def test_dead_connections_among_fast_answers_do_not_make_a_service_slow() -> None:
    """One attempt in ten that never answers leaves the limit where the answers are."""
    latency = Latency()
    for number in range(300):
        if number % 10 == 9:
            latency.given_up(0.3)
            latency.tried_again(faster=True)
        else:
            latency.answered(FAST[number % 5])
    assert attempt_limit(2.0, 9, Limits(), latency) < 0.15


def test_what_others_are_answered_meanwhile_tells_a_dead_connection_from_a_slow_service() -> None:
    """Ten silent ones at once are a service that has become slow, unless others are answered meanwhile."""
    limits = {}
    for meanwhile in (0, 10):
        latency = learnt(*FAST, times=400)
        for _ in range(10):
            latency.given_up(0.16, meanwhile)
            latency.answered(0.02)
        limits[meanwhile] = attempt_limit(1.0, 9, Limits(), latency)
    assert limits[10] < 0.2 < limits[0]


def test_what_was_cut_counts() -> None:
    """An attempt cut at 50 ms tells that the answer takes longer, and is neither an answer nor nothing."""
    answered, cut = Latency(), Latency()
    for _ in range(30):
        answered.answered(0.02)
        cut.answered(0.02)
    for _ in range(10):
        cut.given_up(0.05)
    at = next(at for at, edge in enumerate(EDGES) if edge > 0.045)
    assert answered.within[at] > 0.95
    assert cut.within[at] < answered.within[at]


def test_giving_up_that_does_not_help_is_given_up() -> None:
    """Where the request itself is slow, whoever sends it, another is not faster: it is waited for."""
    latency = learnt(*FAST, *FAST, *FAST, 0.8, times=128)
    hopeful = attempt_limit(2.0, 9, Limits(), latency)
    for _ in range(20):
        latency.tried_again(faster=False)
    assert hopeful < 0.2
    assert attempt_limit(2.0, 9, Limits(), latency) > 0.8


@given(LATENCY)
def test_an_estimate_is_a_distribution(latency: Latency) -> None:
    """The probabilities rise to one at most, and so do the seconds spent; luck is a share."""
    within = latency.within
    assert all(0.0 <= one <= other <= 1.0 + 1e-6 for one, other in itertools.pairwise(within))
    assert all(0.0 <= one <= other for one, other in itertools.pairwise(latency.spent))
    assert 0.0 <= latency.luck <= 1.0


def test_an_estimate_is_small_and_does_not_grow() -> None:
    """It takes some hundred bytes, also after a hundred thousand answers, and still tells the same."""
    latency = learnt(*FAST)
    before = list(latency.within)
    for _ in range(20_000):
        for seconds in FAST:
            latency.answered(seconds)
        assert size_of(latency) < 1000
    assert list(latency.within) == pytest.approx(before, abs=0.05)


def size_of(latency: Latency) -> int:
    values = [getattr(latency, name) for name in Latency.__slots__]
    return sys.getsizeof(latency) + sum(sys.getsizeof(value) for value in values)


@pytest.mark.parametrize(
    ("delay", "left", "given_up_after", "expected"),
    [
        (0.5, 1.0, None, 0.5),
        (5.0, 1.0, None, 5.0),  # a service that asks for a pause gets it, or no retry
        (5.0, 1.0, 0.8, 0.05),  # a dead connection asked for none
        (5.0, 1.0, 16.0, 0.25),
        (0.01, 1.0, 0.8, 0.01),
        (0.0, 1.0, 0.8, 0.0),
        (5.0, math.inf, 160.0, 5.0),
        (5.0, 0.0, 0.8, 0.0),
    ],
)
def test_a_backoff(delay: float, left: float, given_up_after: float | None, expected: float) -> None:
    """A service's error has the SDK's backoff; an attempt given up a small part of what it had itself."""
    assert backoff(delay, left, given_up_after) == expected


@given(SECONDS, LEFT, st.none() | SECONDS)
def test_a_backoff_is_never_longer_than_the_sdks(delay: float, left: float, after: float | None) -> None:
    """A backoff is neither negative nor longer than the SDK's own."""
    assert 0.0 <= backoff(delay, left, after) <= delay


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

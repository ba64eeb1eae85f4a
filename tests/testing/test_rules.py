"""When a rule fires: counts, chance and windows of time. No sockets, no real clock."""

import math
from typing import Any

import pytest

from deadline.testing import Delay, Request, Stall
from deadline.testing._proxy.rules import Rules

GET = Request("GET", "/", {})
PUT = Request("PUT", "/key", {})


def is_get(request: Request) -> bool:
    return request.method == "GET"


def hits(rules: Rules, count: int, request: Request = GET) -> list[bool]:
    return [rules.take(request) is not None for _ in range(count)]


def test_after_lets_the_first_matching_requests_pass() -> None:
    """Only requests that match are counted, and the fault begins with the one after."""
    rules = Rules()
    rules.add(Stall(), is_get, after=2)
    assert hits(rules, 5, PUT) == [False] * 5
    assert hits(rules, 4) == [False, False, True, True]


def test_after_and_times_pick_one_request() -> None:
    """With both, exactly the third request of five is hit."""
    rules = Rules()
    rules.add(Stall(), times=1, after=2)
    assert hits(rules, 5) == [False, False, True, False, False]


def test_a_request_that_is_let_pass_may_meet_the_next_rule() -> None:
    """A rule that does not fire leaves the request to those added later."""
    rules = Rules()
    rules.add(Stall(), after=1)
    rules.add(Delay(1))
    assert [rules.take(GET), rules.take(GET)] == [Delay(1), Stall()]


def test_a_request_taken_by_an_older_rule_is_not_counted() -> None:
    """A rule counts what it is asked about, and the older rule comes first."""
    rules = Rules()
    rules.add(Stall(), times=2)
    rules.add(Delay(1), after=1)
    assert [rules.take(GET) for _ in range(4)] == [Stall(), Stall(), None, Delay(1)]


def test_chance_is_the_same_in_every_run() -> None:
    """One seed hits the same requests each time, about as many as asked for; another one hits others."""

    def luck(seed: int | None, rules_before: int = 0) -> list[bool]:
        rules = Rules()
        for _ in range(rules_before):
            rules.add(Stall()).remove()
        rules.add(Stall(), probability=0.25, seed=seed)
        return hits(rules, 400)

    assert luck(7) == luck(7)
    assert luck(7) != luck(8)
    assert 70 <= sum(luck(7)) <= 130
    assert luck(None) == luck(None)
    assert luck(None) != luck(None, rules_before=1)


def test_times_counts_hits_of_chance() -> None:
    """With a probability, `times` counts the requests that were hit, not those that were asked about."""
    rules = Rules()
    rules.add(Stall(), times=3, probability=0.2, seed=1)
    assert sum(hits(rules, 200)) == 3


def test_a_window_opens_and_closes() -> None:
    """A rule is asked from its window's start until just before its end, counted from when it was added."""
    instants = iter((100.0, 100.0, 100.99, 101.0, 102.49, 102.5, 200.0))
    rules = Rules(clock=lambda: next(instants))
    rules.add(Stall(), between=(1, 2.5))
    assert hits(rules, 6) == [False, False, True, True, False, False]


def test_a_window_may_stay_open() -> None:
    """Without an end, the rule holds from its start on, and counts only from then."""
    now = 0.0
    rules = Rules(clock=lambda: now)
    rules.add(Stall(), between=(5, math.inf), after=1)
    assert hits(rules, 3) == [False] * 3
    now = 5.0
    assert hits(rules, 3) == [False, True, True]


def test_all_conditions_combine() -> None:
    """Window, predicate, count and chance must all agree."""
    now = 0.0
    rules = Rules(clock=lambda: now)
    rules.add(Stall(), is_get, 2, after=1, probability=0.5, seed=3, between=(0, 10))
    assert hits(rules, 50, PUT) == [False] * 50
    first = hits(rules, 50)
    assert first[0] is False
    assert sum(first) == 2
    rules.add(Stall(), is_get, between=(0, 10))
    now = 10.0
    assert hits(rules, 5) == [False] * 5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"after": -1}, ValueError, "after must be a whole number from zero, such as after=2"),
        ({"after": 1.5}, ValueError, "after must be"),
        ({"after": True}, ValueError, "after must be"),
        ({"probability": 0}, ValueError, "probability must be above 0 and at most 1"),
        ({"probability": 1.1}, ValueError, "probability must be"),
        ({"probability": math.nan}, ValueError, "probability must be"),
        ({"probability": "0.5"}, ValueError, "probability must be"),
        ({"seed": "x"}, TypeError, "seed must be None or a whole number"),
        ({"between": 3}, ValueError, r"between must be two numbers of seconds.*between=\(0, 2.5\)"),
        ({"between": (2, 1)}, ValueError, "between must be"),
        ({"between": (-1, 1)}, ValueError, "between must be"),
        ({"between": (math.nan, 1)}, ValueError, "between must be"),
        ({"between": (0, math.nan)}, ValueError, "between must be"),
        ({"between": (math.inf, math.inf)}, ValueError, "between must be"),
    ],
)
def test_bad_conditions_are_refused(arguments: Any, error: type[Exception], message: str) -> None:
    """A condition that could never hold is refused by the argument's name, with a good example."""
    with pytest.raises(error, match=message):
        Rules().add(Stall(), **arguments)

"""How the margin is shared out: a pure function of two instants."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deadline._core.margin import (
    HELPER,
    RESPONSE,
    RESPONSE_AT_LEAST,
    SECTION,
    UNDO,
    UNWINDING,
    Shares,
    for_caller,
    helper_acts_at,
    shares,
)

instants = st.floats(min_value=0, max_value=1e6)
margins = st.floats(min_value=0, max_value=900)
unhurried = settings(deadline=None, derandomize=True, max_examples=300)


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (0.0, 4.0, Shares(1.0, 2.0, 3.0, 3.8)),
        (10.0, 11.0, Shares(10.25, 10.5, 10.75, 10.95)),
        # The twentieth of half a second is 25 ms, more than the least.
        (0.0, 0.5, Shares(0.125, 0.25, 0.375, 0.475)),
        # Of 0.2 s a twentieth would be 10 ms; the response gets its 20.
        (0.0, 0.2, Shares(0.05, 0.1, 0.15, 0.18)),
        # A short margin: the response's share comes before the section's.
        (0.0, 0.04, Shares(0.01, 0.02, 0.02, 0.02)),
        # The whole margin is the response's.
        (0.0, 0.02, Shares(0.0, 0.0, 0.0, 0.0)),
        (0.0, 0.01, Shares(0.0, 0.0, 0.0, 0.0)),
        (5.0, 5.0, Shares(5.0, 5.0, 5.0, 5.0)),
        (0.0, math.inf, Shares(math.inf, math.inf, math.inf, math.inf)),
    ],
)
def test_the_table(soft: float, hard: float, expected: Shares) -> None:
    """A quarter to unwind, half for a section, three quarters to undo, a twentieth to answer."""
    assert shares(soft, hard) == pytest.approx(expected)


@unhurried
@given(soft=instants, margin=margins)
def test_shares_come_in_order_inside_the_margin(soft: float, margin: float) -> None:
    """Each share ends no later than the next, none before soft, none after hard."""
    hard = soft + margin
    unwinding, section, undo, mitigation = shares(soft, hard)
    assert soft <= unwinding <= section <= undo <= mitigation <= hard


@unhurried
@given(soft=instants, margin=margins)
def test_the_helper_waits_for_half_of_the_margin(soft: float, margin: float) -> None:
    """When a body that does not unwind has been left behind, and never outside of the margin."""
    hard = soft + margin
    assert max(soft, shares(soft, hard).unwinding) <= helper_acts_at(soft, hard) <= hard
    assert helper_acts_at(soft, hard) == pytest.approx(soft + HELPER * (hard - soft))
    assert helper_acts_at(math.inf, math.inf) == math.inf


@unhurried
@given(soft=instants, margin=margins)
def test_the_response_gets_its_least(soft: float, margin: float) -> None:
    """The response keeps a twentieth and at least 20 ms, or the whole of a shorter margin."""
    hard = soft + margin
    margin = hard - soft  # what the floats made of it
    kept = hard - shares(soft, hard).mitigation
    dust = 4 * math.ulp(hard + 1)
    assert kept >= min(margin, max(RESPONSE * margin, RESPONSE_AT_LEAST)) - dust
    assert kept <= max(RESPONSE * margin, RESPONSE_AT_LEAST) + dust


@unhurried
@given(soft=instants, margin=margins)
def test_nobody_gets_more_than_a_share(soft: float, margin: float) -> None:
    """Unwinding never has more than a quarter of the margin, a section than half, its undo than three."""
    hard = soft + margin
    unwinding, section, undo, _ = shares(soft, hard)
    dust = 4 * math.ulp(hard + 1)
    assert unwinding - soft <= UNWINDING * (hard - soft) + dust
    assert section - soft <= SECTION * (hard - soft) + dust
    assert undo - soft <= UNDO * (hard - soft) + dust


@unhurried
@given(soft=instants, margin=margins, more=margins)
def test_more_margin_never_gives_anyone_less(soft: float, margin: float, more: float) -> None:
    """A later hard end shortens nobody's share."""
    less, larger = shares(soft, soft + margin), shares(soft, soft + margin + more)
    dust = 4 * math.ulp(soft + margin + more + 1)
    assert all(late >= early - dust for early, late in zip(less, larger, strict=True))


@unhurried
@given(margin=margins, left=margins, limit=margins, of_caller=margins)
def test_a_caller_only_shortens_and_leaves_half(
    margin: float, left: float, limit: float, of_caller: float
) -> None:
    """The cut is never later than without it, nor after the caller; half of its time is for the work."""
    soft = left - for_caller(margin, left, limit, of_caller)
    dust = 8 * math.ulp(left + limit + margin + 1)
    assert soft <= left - margin + dust
    assert soft <= limit + dust
    assert soft >= min(left - margin, limit / 2) - dust


@pytest.mark.parametrize(("soft", "hard"), [(2.0, 1.0), (math.inf, 1.0), (0.0, -math.inf)])
def test_hard_before_soft_is_an_error(soft: float, hard: float) -> None:
    """A hard end before soft is a mistake, and the message has both."""
    with pytest.raises(ValueError, match=f"^hard: {hard} is before soft, {soft}$"):
        shares(soft, hard)

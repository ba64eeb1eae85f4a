"""`timeout`: always a finite number of seconds above 0, or a refusal."""

from __future__ import annotations

import asyncio
import math
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deadline import DeadlineExceeded, InsufficientTime, deadline, timeout
from deadline.testing import VirtualLoop


def run(main: Any) -> None:
    """On a loop whose clock leaps."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


def test_outside_of_a_deadline_it_is_the_most() -> None:
    """Where `remaining()` is `inf`, with and without a loop."""
    assert timeout(5) == timeout(most=5.0) == 5.0
    assert type(timeout(5)) is float

    async def main() -> None:
        assert timeout(5.0) == 5.0
        async with deadline(None):
            assert timeout(5.0) == 5.0

    run(main)


def test_inside_it_is_what_is_left_and_no_more_than_the_most() -> None:
    """To the soft instant of the deadline that ends first."""

    async def main() -> None:
        async with deadline(4.0, margin=1.0), deadline(60.0, margin=0):
            assert timeout(5.0) == 3.0
            assert timeout(0.5) == 0.5
            await asyncio.sleep(2.5)
            assert timeout(5.0) == pytest.approx(0.5)

    run(main)


def test_with_nothing_left_it_refuses_in_the_name_of_the_deadline() -> None:
    """Where `remaining()` is 0.0, which many clients take for no limit."""

    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
            async with deadline(1.0, margin=0.5, name="order") as dl:
                try:
                    await asyncio.sleep(60)
                finally:
                    with pytest.raises(InsufficientTime, match="of deadline 'order'") as refused:
                        timeout(5.0)
                    assert refused.value.deadline is dl

    run(main)


@pytest.mark.parametrize("most", [0, -1.0, math.inf, math.nan, 10**400])
def test_a_most_that_is_no_limit_is_an_error(most: float) -> None:
    """Also where what is left would have been less."""
    with pytest.raises(ValueError, match="most: expected a finite number of seconds above 0, such as 5.0"):
        timeout(most)


@pytest.mark.parametrize("most", [None, "5", True])
def test_a_most_that_is_no_number_is_an_error(most: Any) -> None:
    """A bool is none."""
    with pytest.raises(TypeError, match="most: expected a finite number of seconds above 0, such as 5.0"):
        timeout(most)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    most=st.floats(min_value=sys.float_info.min, allow_infinity=False, allow_nan=False),
    allowed=st.floats(min_value=1e-6, max_value=1e6),
)
def test_it_is_finite_and_above_zero(most: float, allowed: float) -> None:
    """Whatever is left."""

    async def main() -> None:
        async with deadline(allowed, margin=0):
            try:
                seconds = timeout(most)
            except InsufficientTime:
                return
            assert 0 < seconds <= most
            assert math.isfinite(seconds)

    run(main)

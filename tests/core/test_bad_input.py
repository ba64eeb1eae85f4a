"""Every wrong argument is named, with what to write instead."""

from __future__ import annotations

import asyncio
import math
import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from numbers import Real
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from deadline import DeadlineExceeded, InsufficientTime, current, deadline, step, subscribe
from deadline.testing import FakeContext

KINDS = (
    "expected a Lambda context, seconds, a timedelta, an aware datetime or None; write deadline(context), "
    "deadline(2.5) or deadline(timedelta(seconds=2.5))"
)
NUMBER = "write a number such as 2.5, or a timedelta"
POSITIVE = "write the seconds as a positive number, 0.5 say"
CLAMP = "clamp what you computed with max(0.0, {0}): zero means that nothing is left"
NAN = "NaN is no number of seconds; for no limit write None"
TOO_MANY = "more seconds than a float can hold; for no limit write None"


class Opaque:
    def __repr__(self) -> str:
        return "<opaque>"


class Uncallable(Opaque):
    get_remaining_time_in_millis = 3000


class Wrapping(Opaque):
    lambda_context = None


NAIVELY = (
    "has no time zone, so it names no instant; "
    "write datetime.now(timezone.utc) + timedelta(...), or .replace(tzinfo=...)"
)
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001  # the mistake


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (True, TypeError, f"source: expected seconds, got True (bool); {NUMBER}"),
        (False, TypeError, f"source: expected seconds, got False (bool); {NUMBER}"),
        ("5", TypeError, f"source: {KINDS}; got '5' (str)"),
        (b"5", TypeError, f"source: {KINDS}; got b'5' (bytes)"),
        ([5], TypeError, f"source: {KINDS}; got [5] (list)"),
        (1j, TypeError, f"source: {KINDS}; got 1j (complex)"),
        (Decimal("2.5"), TypeError, f"source: {KINDS}; got Decimal('2.5') (Decimal)"),
        (date(2030, 1, 1), TypeError, f"source: {KINDS}; got datetime.date(2030, 1, 1) (date)"),
        (time(1, 2), TypeError, f"source: {KINDS}; got datetime.time(1, 2) (time)"),
        (Opaque(), TypeError, f"source: {KINDS}; got <opaque> (Opaque)"),
        (Uncallable(), TypeError, f"source: {KINDS}; got <opaque> (Uncallable)"),
        (Wrapping(), TypeError, f"source: {KINDS}; got <opaque> (Wrapping)"),
        (-1, ValueError, f"source: -1.0 is negative; {CLAMP.format('source')}"),
        (-1e-9, ValueError, f"source: -1e-09 is negative; {CLAMP.format('source')}"),
        (-math.inf, ValueError, f"source: -inf is negative; {CLAMP.format('source')}"),
        (Fraction(-1, 2), ValueError, f"source: -0.5 is negative; {CLAMP.format('source')}"),
        (timedelta(seconds=-1), ValueError, f"source: -1.0 is negative; {CLAMP.format('source')}"),
        (math.nan, ValueError, f"source: {NAN}"),
        (10**400, ValueError, f"source: {TOO_MANY}"),
        (Fraction(10**400), ValueError, f"source: {TOO_MANY}"),
        (
            NAIVE,
            ValueError,
            f"source: {NAIVE!r} {NAIVELY}",
        ),
    ],
    ids=repr,
)
def test_a_wrong_source(source: Any, kind: type[Exception], message: str) -> None:
    """A wrong source is refused when `deadline()` is called, at the user's own line."""
    with pytest.raises(kind, match=f"^{re.escape(message)}$") as caught:
        deadline(source)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("margin", "kind", "message"),
    [
        (True, TypeError, f"margin: expected seconds, got True (bool); {NUMBER}"),
        ("1", TypeError, f"margin: expected seconds, got '1' (str); {NUMBER}"),
        (Decimal(1), TypeError, f"margin: expected seconds, got Decimal('1') (Decimal); {NUMBER}"),
        (-0.5, ValueError, f"margin: -0.5 is negative; {POSITIVE}"),
        (timedelta(seconds=-1), ValueError, f"margin: -1.0 is negative; {POSITIVE}"),
        (math.nan, ValueError, f"margin: NaN is no number of seconds; {POSITIVE}"),
        (10**400, ValueError, f"margin: {TOO_MANY}"),
        (
            math.inf,
            ValueError,
            "margin: inf leaves no time to work in; write the seconds to keep back, 1.0 say",
        ),
    ],
    ids=repr,
)
def test_a_wrong_margin(margin: Any, kind: type[Exception], message: str) -> None:
    """A wrong margin is refused at the call, and named."""
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        deadline(5.0, margin=margin)


@pytest.mark.parametrize(
    ("name", "shown"), [(5, "5 (int)"), (b"x", "b'x' (bytes)"), (Opaque(), "<opaque> (Opaque)")]
)
def test_a_wrong_name(name: Any, shown: str) -> None:
    """A name that is no string is refused."""
    message = f"name: expected a string, got {shown}; write name='checkout'"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        deadline(1.0, name=name)


@pytest.mark.parametrize(
    "error",
    [ValueError, TimeoutError, "DeadlineExceeded", DeadlineExceeded("made"), None, lambda message: message],
)
def test_a_wrong_error(error: Any) -> None:
    """An error that is no subclass of `DeadlineExceeded` is refused, with a class to start from."""
    message = (
        f"error: expected a subclass of DeadlineExceeded, got {error!r}; "
        "write `class CheckoutTimeout(DeadlineExceeded): ...` and error=CheckoutTimeout"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        deadline(1.0, error=error)


@pytest.mark.parametrize("error", [DeadlineExceeded, InsufficientTime])
def test_our_own_errors_are_accepted(error: type[DeadlineExceeded]) -> None:
    """The class itself and our subclass are fine."""
    assert repr(deadline(1.0, error=error)) == "<Deadline not entered>"


@pytest.mark.parametrize("name", [5, None, Opaque()])
def test_a_wrong_step_name(name: Any) -> None:
    """A step's name is a string, with or without a deadline."""
    message = f"name: expected a string, got {name!r} ({type(name).__name__}); write step('copy')"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        step(name)


@pytest.mark.parametrize("subscriber", [None, "log", 5])
def test_a_wrong_subscriber(subscriber: Any) -> None:
    """A subscriber that cannot be called is refused before it is ever needed."""
    message = (
        f"subscriber: expected a function taking one Event, got {type(subscriber).__name__}; "
        "write subscribe(lambda event: ...)"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        subscribe(subscriber)


# --- contexts, which are looked at on entry ---------------------------------------------------------------


class Answering:
    """A context that gives a certain answer."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def get_remaining_time_in_millis(self) -> Any:
        return self.answer


class Raising:
    def get_remaining_time_in_millis(self) -> int:
        raise LookupError("no invocation")


class Coroutining:
    async def get_remaining_time_in_millis(self) -> int:
        return 3000


async def test_a_context_that_raises(virtual_clock: object) -> None:
    """A context whose method raises is named, with its error as the cause."""
    message = (
        "source: Raising.get_remaining_time_in_millis() raised LookupError: no invocation; "
        "pass the context that Lambda gave the handler, or plain seconds"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$") as caught:
        async with deadline(Raising()):
            pytest.fail("the body ran")
    assert isinstance(caught.value.__cause__, LookupError)
    assert current() is None


@pytest.mark.parametrize("answer", [None, "3000", math.nan, True, Decimal(3000), [3000]], ids=repr)
async def test_a_context_that_answers_nonsense(virtual_clock: object, answer: object) -> None:
    """An answer that is no number is shown."""
    message = (
        f"source: Answering.get_remaining_time_in_millis() returned {answer!r}, expected milliseconds as a "
        "number; set its return value, or pass plain seconds"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        async with deadline(Answering(answer)):
            pytest.fail("the body ran")
    assert current() is None


@pytest.mark.parametrize(
    ("make", "name"), [(Coroutining, "Coroutining"), (AsyncMock, "AsyncMock"), (MagicMock, "MagicMock")]
)
async def test_a_context_that_is_a_mock(virtual_clock: object, make: Any, name: str) -> None:
    """A mock without a return value, or with an `async def`, is named; nobody is warned of a lost coroutine.

    Warnings are errors here, so a coroutine that nobody awaited would fail this test.
    """
    with pytest.raises(
        TypeError, match=rf"^source: {name}\.get_remaining_time_in_millis\(\) returned <.*set its"
    ):
        async with deadline(make()):
            pytest.fail("the body ran")


async def test_a_class_instead_of_a_context(virtual_clock: object) -> None:
    """The context's class instead of the context is an error that names it."""
    with pytest.raises(
        TypeError, match=r"^source: type\.get_remaining_time_in_millis\(\) raised TypeError: "
    ):
        async with deadline(FakeContext):  # type: ignore[arg-type]
            pytest.fail("the body ran")


async def test_a_mock_with_a_return_value_works(virtual_clock: object) -> None:
    """A mock that was told what to return is a context."""
    context = MagicMock()
    context.get_remaining_time_in_millis.return_value = 3001
    async with deadline(context, margin=0) as dl:
        assert dl.soft == 3.0


# --- what looks odd and is accepted -----------------------------------------------------------------------


class Single(float):
    """A float of a library's own, like numpy's."""


@Real.register
class Registered:
    """A number that says so, like numpy's `float32`, which is no Python float."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


@pytest.mark.parametrize(
    "two",
    [2, 2.0, Fraction(2), Single(2), Registered(2.0), timedelta(seconds=2)],
    ids=lambda two: type(two).__name__,
)
async def test_numbers_of_all_kinds(virtual_clock: object, two: Any) -> None:
    """Whatever is a real number or a timedelta is taken as float seconds, as source and as margin."""
    async with deadline(two, margin=0) as dl:
        assert (dl.soft, type(dl.soft)) == (2.0, float)
    async with deadline(5.0, margin=two) as dl:
        assert (dl.soft, type(dl.soft)) == (3.0, float)


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, timedelta(0)], ids=repr)
async def test_zero_is_no_mistake(virtual_clock: object, zero: Any) -> None:
    """Zero means that nothing is left, and a margin of zero that nothing is kept."""
    with pytest.raises(DeadlineExceeded, match="before it began: 0.000 s left, so the body did not run"):
        async with deadline(zero):
            pytest.fail("the body ran")
    async with deadline(1.0, margin=zero) as dl:
        assert dl.margin == 0.0


@pytest.mark.parametrize(
    "zone", [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=9))]
)
async def test_an_aware_datetime_in_the_future(virtual_clock: object, zone: timezone) -> None:
    """An aware datetime of any zone is an instant on the wall clock."""
    async with deadline(datetime.now(zone) + timedelta(seconds=60), margin=1) as dl:
        assert dl.hard == pytest.approx(60.0, abs=5.0)
        assert dl.hard <= 60.0
        assert dl.margin == pytest.approx(1.0)


async def test_an_aware_datetime_in_the_past(virtual_clock: object) -> None:
    """A datetime that has passed means that nothing is left; the message does not count below zero."""
    with pytest.raises(DeadlineExceeded, match="before it began: 0.000 s left") as caught:
        async with deadline(datetime.now(UTC) - timedelta(days=1)):
            pytest.fail("the body ran")
    assert not caught.value.started
    assert caught.value.allowed < 0


@pytest.mark.parametrize(
    ("millis", "soft"), [(0, None), (1, None), (-5, None), (1001, 1.0), (1001.0, 1.0), (math.inf, math.inf)]
)
async def test_milliseconds_of_all_kinds(virtual_clock: object, millis: float, soft: float | None) -> None:
    """A context may say nothing is left, less than nothing, a float, or that there is no end."""
    if soft is None:
        with pytest.raises(DeadlineExceeded) as caught:
            async with deadline(Answering(millis), margin=0):
                pytest.fail("the body ran")
        assert not caught.value.started
    else:
        async with deadline(Answering(millis), margin=0) as dl:
            assert dl.soft == soft


async def test_times_beyond_all_clocks(virtual_clock: object) -> None:
    """Far too long is just long: a million years is no limit anybody reaches."""
    async with deadline(1e15), deadline(timedelta.max), deadline(10**300), deadline(math.inf, margin=5) as dl:
        await asyncio.sleep(1e6)
        assert not dl.expired

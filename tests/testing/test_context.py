"""The fake of Lambda's context."""

import asyncio
import inspect
import math
from typing import Any

import pytest
from awslambdaric.lambda_context import LambdaContext

from deadline.testing import FakeContext


class SettableClock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_remaining_counts_from_construction() -> None:
    """The time left is the timeout at construction and falls with the clock, in whole milliseconds."""
    clock = SettableClock(1000.25)
    context = FakeContext(3.0, clock=clock)
    assert context.get_remaining_time_in_millis() == 3000
    clock.now += 0.7
    assert context.get_remaining_time_in_millis() == 2300
    assert type(context.get_remaining_time_in_millis()) is int


@pytest.mark.parametrize("timeout_ms", [1, 290, 570, 1001, 2300, 8_050, 899_999])
def test_whole_milliseconds_come_out_whole(timeout_ms: int) -> None:
    """A timeout that is whole in milliseconds loses none to float arithmetic."""
    for start in (0.0, 0.1, 12_345.678):
        context = FakeContext(timeout_ms / 1000, clock=SettableClock(start))
        assert context.get_remaining_time_in_millis() == timeout_ms


def test_remaining_is_never_negative() -> None:
    """Once the time is up there are zero milliseconds left, for good."""
    clock = SettableClock(5.0)
    context = FakeContext(0.5, clock=clock)
    clock.now = 5.5
    assert context.get_remaining_time_in_millis() == 0
    clock.now = 50.0
    assert context.get_remaining_time_in_millis() == 0


def test_zero_timeout_is_over_at_once() -> None:
    """A timeout of zero has nothing left, not even at construction."""
    assert FakeContext(0, clock=SettableClock(7.0)).get_remaining_time_in_millis() == 0


async def test_default_clock_follows_the_running_loop(virtual_clock: object) -> None:
    """A context made while a loop runs counts in that loop's time, virtual or not."""
    context = FakeContext(900.0)
    await asyncio.sleep(899.5)
    assert context.get_remaining_time_in_millis() == 500


def test_default_clock_without_loop_is_monotonic(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context made outside any loop counts in monotonic time."""
    clock = SettableClock(100.0)
    monkeypatch.setattr("time.monotonic", clock)
    context = FakeContext(2.0)
    clock.now = 101.5
    assert context.get_remaining_time_in_millis() == 500


def test_attributes_are_those_of_the_runtime_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every public attribute of the real context is there, holding the same type."""
    for name, value in {
        "LOG_GROUP_NAME": "group",
        "LOG_STREAM_NAME": "stream",
        "FUNCTION_NAME": "function",
        "FUNCTION_MEMORY_SIZE": "128",
        "FUNCTION_VERSION": "$LATEST",
    }.items():
        monkeypatch.setenv(f"AWS_LAMBDA_{name}", value)
    real = LambdaContext("id", None, None, 0, "arn")
    fake = FakeContext()
    for name, value in vars(real).items():
        if not name.startswith("_") and name != "identity":
            assert type(getattr(fake, name)) is type(value), name
    assert fake.identity.cognito_identity_id is real.identity.cognito_identity_id is None
    assert fake.identity.cognito_identity_pool_id is real.identity.cognito_identity_pool_id is None
    assert inspect.ismethod(fake.get_remaining_time_in_millis)


def test_names_follow_from_the_function() -> None:
    """The ARN, the log group and the log stream are made of the function's name and version."""
    context = FakeContext(function_name="mover", function_version="7", memory_limit_in_mb=512)
    assert context.invoked_function_arn.endswith(":function:mover")
    assert context.log_group_name == "/aws/lambda/mover"
    assert "[7]" in context.log_stream_name
    assert context.memory_limit_in_mb == "512"
    assert FakeContext(invoked_function_arn="arn:mine").invoked_function_arn == "arn:mine"


def test_request_ids_differ_unless_given() -> None:
    """Each context is an invocation of its own, unless you name it."""
    assert FakeContext().aws_request_id != FakeContext().aws_request_id
    assert FakeContext(aws_request_id="one").aws_request_id == "one"


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, math.inf, -math.inf])
def test_impossible_timeouts_are_refused(timeout: float) -> None:
    """A timeout that is no span of time is refused by name, with an example of a good one."""
    with pytest.raises(
        ValueError, match=r"timeout must be zero or more finite seconds, such as timeout=1\.5"
    ):
        FakeContext(timeout)


@pytest.mark.parametrize("timeout", ["3", True, None, 3j])
def test_timeouts_of_other_types_are_refused(timeout: Any) -> None:
    """A timeout that is no number is refused by name, and so is a bool."""
    with pytest.raises(TypeError, match=r"timeout must be a number of seconds, such as timeout=1\.5"):
        FakeContext(timeout)


def test_other_bad_arguments_are_refused() -> None:
    """A clock that cannot be called and a memory size below one are refused by name."""
    with pytest.raises(TypeError, match="clock must be a callable"):
        FakeContext(clock=3.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="memory_limit_in_mb must be one or more"):
        FakeContext(memory_limit_in_mb=0)

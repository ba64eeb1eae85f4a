"""`on_exceeded` is asked whenever the time ran out, whatever it is that leaves the body."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from deadline import DeadlineExceeded, InsufficientTime, aws, deadline
from deadline._core.errors import ends_by_refused_retry, note_refused_retry
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from deadline import Event
    from deadline.testing import VirtualClock
    from tests.aws.conftest import Connect, Script

THROTTLES = (400, "ProvisionedThroughputExceededException")
MODES = pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])


class OutOfStock(Exception):
    """An error of the application's own."""


def handled(body: Callable[..., Coroutine[Any, Any, Any]], **options: Any) -> Any:
    """A handler whose mitigation gives what it was told."""
    function: Any = aws.handler(**options)(body)

    async def mitigate(exceeded: DeadlineExceeded, event: Any, context: Any) -> DeadlineExceeded:
        return exceeded

    function.on_exceeded(mitigate)
    return function


# --- a service that throttles to the end ------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("leaves", ["as it is", "as the application's", "out of a group"])
async def test_a_service_that_throttles_to_the_end_is_an_expiry(
    connect: Connect, script: Script, pause: Callable[[float], None], mode: str, leaves: str
) -> None:
    """The retry that does not fit is a want of time, with the service's error as its cause."""
    pause(0.05)
    client = await connect(url=script.url, retries={"mode": mode, "total_max_attempts": 99})
    script.play(*[THROTTLES] * 99)
    refused = client.exceptions.ProvisionedThroughputExceededException

    async def call() -> None:
        try:
            await client.list_tables()
        except refused as error:
            if leaves != "as the application's":
                raise
            raise OutOfStock("no more of it") from error

    async def body(event: Any, context: Any) -> None:
        if leaves == "out of a group":
            async with asyncio.TaskGroup() as group:
                group.create_task(call())
        else:
            await call()

    exceeded = await handled(body, margin=0.3).invoke({}, FakeContext(0.7))
    assert isinstance(exceeded, DeadlineExceeded)
    cause: Any = exceeded.__cause__
    if isinstance(exceeded, InsufficientTime):  # else the cut came while the client still waited
        if leaves == "out of a group":
            (cause,) = cause.exceptions
        elif leaves == "as the application's":
            assert type(cause) is OutOfStock
            cause = cause.__cause__
        assert "no retry after attempt" in cause.__notes__[0]
    assert isinstance(cause, refused)


async def test_a_refused_retry_ends_the_invocation_with_the_time_that_is_left(
    connect: Connect, script: Script, pause: Callable[[float], None]
) -> None:
    """A backoff that is longer than what is left is known at once, and the mitigation gets the time saved."""
    pause(50.0)
    client = await connect(url=script.url, retries={"mode": "standard", "total_max_attempts": 9})
    script.play(THROTTLES)

    async def body(event: Any, context: Any) -> None:
        await client.list_tables()

    exceeded = await handled(body, margin=5.0).invoke({}, FakeContext(30.0))
    assert isinstance(exceeded, InsufficientTime)
    assert exceeded.deadline is not None
    assert exceeded.deadline.name == "body"
    assert len(script.requests) == 1


@pytest.mark.parametrize("who", ["a shorter deadline", "limits"])
async def test_a_retry_that_others_refuse_is_an_error(
    connect: Connect, script: Script, pause: Callable[[float], None], who: str
) -> None:
    """Where the invocation has time enough, the service's error leaves as it is, and it pickles as ever."""
    pause(5.0)
    client = await connect(url=script.url, retries={"mode": "standard", "total_max_attempts": 9})
    script.play(THROTTLES)
    refused = client.exceptions.ProvisionedThroughputExceededException

    async def body(event: Any, context: Any) -> None:
        around = deadline(1.0) if who == "a shorter deadline" else contextlib.nullcontext()
        with aws.limits(attempts=1 if who == "limits" else None):
            async with around:
                await client.list_tables()

    with pytest.raises(Exception, match="so it says") as caught:
        await handled(body).invoke({}, FakeContext(30.0))
    assert type(caught.value).__name__ == refused.__name__
    error = caught.value.__cause__ if who == "a shorter deadline" else caught.value
    assert isinstance(error, refused)


def test_the_mark_of_a_refused_retry_pickles() -> None:
    """An error that went through an installed client goes on to another process."""
    error = OutOfStock("no more of it")
    note_refused_retry(error, "why", 12.0)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert ends_by_refused_retry(again, 12.0)
    assert not ends_by_refused_retry(again, 13.0)
    assert again.__notes__ == ["why"]


# --- a body with errors of its own ------------------------------------------------------------------------


async def test_an_error_of_the_body_after_the_cut_is_the_cause(virtual_clock: VirtualClock) -> None:
    """A body that catches its cancellation and raises something else is mitigated."""

    async def body(event: Any, context: Any) -> None:
        try:
            await asyncio.sleep(60)
        except BaseException:
            raise OutOfStock("no more of it") from None

    exceeded = await handled(body).invoke({}, FakeContext(3.0))
    assert type(exceeded) is DeadlineExceeded
    assert exceeded.deadline is not None
    assert exceeded.deadline.name == "body"
    assert type(exceeded.__cause__) is OutOfStock


async def test_a_finally_that_fails_after_the_cut_is_the_cause(virtual_clock: VirtualClock) -> None:
    """In a group, too, where what leaves is a group."""

    async def child() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise OutOfStock("no more of it")

    async def body(event: Any, context: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    exceeded = await handled(body).invoke({}, FakeContext(3.0))
    assert isinstance(exceeded.__cause__, ExceptionGroup)
    assert exceeded.__cause__.subgroup(OutOfStock) is not None


async def test_without_a_mitigation_both_are_told(virtual_clock: VirtualClock) -> None:
    """The invocation fails by its deadline, and the message has the error."""

    @aws.handler
    async def f(event: Any, context: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise OutOfStock("no more of it")

    with pytest.raises(DeadlineExceeded, match="caused by OutOfStock: no more of it"):
        await f.invoke({}, FakeContext(3.0))


async def test_an_error_within_the_time_is_no_expiry(virtual_clock: VirtualClock) -> None:
    """It fails the invocation, also in the last moment, and nobody is asked."""

    async def body(event: Any, context: Any) -> None:
        await asyncio.sleep(2.49)
        raise OutOfStock("no more of it")

    with pytest.raises(OutOfStock):
        await handled(body, margin=0.5).invoke({}, FakeContext(3.001))


async def test_an_inner_deadline_of_the_same_end_says_so_itself(virtual_clock: VirtualClock) -> None:
    """What says that this time is up is handed on as it is, after the cut as well."""
    inner: list[Any] = []

    async def body(event: Any, context: Any) -> None:
        try:
            async with deadline(context, margin=1.0):
                await asyncio.sleep(60)
        except DeadlineExceeded as exceeded:
            inner.append(exceeded)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)  # until the handler's own cut
            raise

    exceeded = await handled(body).invoke({}, FakeContext(3.0))
    assert [exceeded] == inner


async def test_what_ends_the_process_is_no_expiry(virtual_clock: VirtualClock) -> None:
    """SystemExit after the cut means what it says."""

    async def body(event: Any, context: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise SystemExit(3)

    with pytest.raises(Exception, match="3") as caught:
        await handled(body).invoke({}, FakeContext(3.0))
    assert type(caught.value).__name__ == "SystemExit"


# --- a count of cancellations that is off -----------------------------------------------------------------


async def careless() -> None:
    """Cancel the own task for a time limit of one's own, and take nothing back."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(0.01, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(1)


async def test_a_leaked_cancellation_does_not_hide_the_cut(virtual_clock: VirtualClock) -> None:
    """Nobody but the handler cancels its body, so that what leaves after the cut is the expiry."""

    async def body(event: Any, context: Any) -> None:
        await careless()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 1
        await asyncio.sleep(60)

    exceeded = await handled(body).invoke({}, FakeContext(3.0))
    assert type(exceeded) is DeadlineExceeded
    assert exceeded.elapsed == pytest.approx(exceeded.allowed)


async def test_a_leaked_cancellation_in_the_mitigation(virtual_clock: VirtualClock) -> None:
    """A mitigation that does the same and hangs did not end in time: the invocation fails by its deadline."""

    @aws.handler
    async def f(event: Any, context: Any) -> None:
        await asyncio.sleep(60)

    @f.on_exceeded
    async def _(exceeded: DeadlineExceeded, event: Any, context: Any) -> None:
        await careless()
        await asyncio.sleep(60)

    with pytest.raises(DeadlineExceeded, match="on_exceeded did not end in time"):
        await f.invoke({}, FakeContext(3.0))


async def test_a_cancellation_before_the_cut_is_no_expiry(virtual_clock: VirtualClock) -> None:
    """A body that is cancelled within its time fails as cancelled."""

    async def body(event: Any, context: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    with pytest.raises(Exception) as caught:  # noqa: PT011  # its class is made for it
        await handled(body).invoke({}, FakeContext(3.0))
    assert type(caught.value).__name__ == "CancelledError"


async def test_whoever_cancels_an_invocation_is_heard(virtual_clock: VirtualClock) -> None:
    """A test that gives up on `invoke` is cancelled, also while the body unwinds from the cut."""
    going = asyncio.Event()

    async def body(event: Any, context: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            going.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(handled(body).invoke({}, FakeContext(3.0)))
    await going.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_expiry_is_told_once(virtual_clock: VirtualClock, told: list[Event]) -> None:
    """One event for one expiry, whatever left."""

    async def body(event: Any, context: Any) -> None:
        try:
            await asyncio.sleep(60)
        except BaseException:
            raise OutOfStock from None

    await handled(body).invoke({}, FakeContext(3.0))
    assert [event.name for event in told] == ["aws.exceeded"]

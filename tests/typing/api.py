"""What a type checker makes of the public names: checked by mypy, never run."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import assert_type

from deadline import (
    Answer,
    Batch,
    Breaker,
    BreakerOpen,
    Deadline,
    DeadlineExceeded,
    Event,
    InsufficientTime,
    LastGood,
    Report,
    aws,
    current,
    deadline,
    deadline_header,
    each,
    fallback,
    remaining,
    step,
    subscribe,
    timeout,
)
from deadline.testing import FakeContext


class Context:
    """Anything with the one method is a context."""

    def get_remaining_time_in_millis(self) -> int:
        """Enough."""
        return 3000


class Mine(DeadlineExceeded):
    """A subclass of one's own."""


async def sources() -> None:
    """Every source there is."""
    async with deadline(Context(), margin=1.0, name="move", error=Mine) as dl:
        assert_type(dl, Deadline)
        assert_type(dl.remaining(), float)
        assert_type(dl.remaining(hard=True), float)
        assert_type(dl.expired, bool)
        assert_type(dl.overran, float)
        assert_type(dl.name, str | None)
    for source in (2.5, 3, None, timedelta(seconds=3), datetime.now(UTC), FakeContext(3.0)):
        async with deadline(source, margin=timedelta(seconds=1)):
            pass
    deadline("5")  # type: ignore[arg-type]
    deadline(5, error=ValueError)  # type: ignore[arg-type]


async def errors(exceeded: DeadlineExceeded, refused: InsufficientTime) -> None:
    """What an error offers."""
    assert_type(exceeded.deadline, Deadline | None)
    assert_type(exceeded.report, Report)
    assert_type(exceeded.report.done, list[str])
    assert_type(exceeded.report.to_json(), str)
    async with refused.grace(reserve=0.1) as grace:
        assert_type(grace, Deadline)
    timeout: TimeoutError = exceeded
    del timeout


def ambient() -> None:
    """Functions that read what is around."""
    assert_type(current(), Deadline | None)
    assert_type(remaining(), float)
    with step("copy"):
        pass
    subscribe(lambda event: assert_type(event, Event))()
    assert_type(aws.install(Context()), Context)
    assert_type(aws.install(Context(), breaker=Breaker), Context)
    aws.install(Context(), breaker=partial(Breaker, failures=3))
    aws.install(Context(), breaker=Breaker("orders"))  # type: ignore[arg-type]
    with aws.limits(attempts=2, per_attempt=0.5, min_attempt=0):
        pass


async def callers(event: object, context: Context) -> None:
    """Who called, and what is told to whoever is called."""
    assert_type(aws.callers, tuple[aws.Caller, ...])
    assert_type(aws.caller(event), aws.Caller | None)
    assert_type(aws.caller_left(event, limit=60.0), float)
    async with deadline(context, caller_limit=aws.caller_left(event)) as dl:
        assert_type(dl.answer_by, float)
    deadline(2.0, caller_limit=timedelta(seconds=1))
    deadline(2.0, caller_limit="auto")  # type: ignore[arg-type]
    assert_type(deadline_header(), dict[str, str])
    assert_type(timeout(most=5), float)
    timeout("5")  # type: ignore[arg-type]
    assert_type(aws.caller_left(event, header="Deadline-Remaining-Ms"), float)
    aws.handler(caller_limit="auto", header="Deadline-Remaining-Ms")
    aws.handler(caller_limit=60.0)
    aws.handler(caller_limit=None)


async def answers(breaker: Breaker, kept: LastGood, refused: BreakerOpen) -> None:
    """A decorator that keeps the signature; answers of the call's type, or the default's."""

    @breaker
    async def fetch(user: str, *, times: int = 1) -> int:
        """Something."""
        return len(user) * times

    assert_type(await fetch("ann", times=2), int)
    await fetch(1)  # type: ignore[arg-type]
    assert_type(await fallback(lambda: fetch("ann")), Answer[int])
    assert_type(await fallback(lambda: fetch("ann"), default=None), Answer[int | None])
    assert_type(await fallback(lambda: fetch("ann"), default=list[str]), Answer[int | list[str]])
    answer = await fallback(lambda: fetch("ann"), key="ann", cache=kept, default="", within="30%")
    assert_type(answer.value, int | str)
    assert_type(answer.age, float | None)
    assert_type(breaker.state, str)
    assert_type(refused.retry_in, float)
    Breaker("orders", window=timedelta(minutes=1), counts=lambda error: not isinstance(error, LookupError))
    assert_type(await each(fetch, ["ann"]), Batch[str, int])

"""Sending one attempt: as long as it is worth waiting for, alone or with another beside it.

A decision is taken when an attempt has been silent for a while, and once more at the instant that it names:
of calls that are made at the same time, the first to find the service silent has told the others by then that
it has become slow.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from typing import TYPE_CHECKING, Any, Final, NoReturn

import aiohttp
from botocore.exceptions import ReadTimeoutError

from deadline._core.cancel import cancel, complain
from deadline._report.tasks import calls
from deadline.aws._calls.attempt_timer import attempt_timer_of
from deadline.aws._calls.call import AwsCall, current_call, says_throttled
from deadline.aws._calls.hedging import Race
from deadline.aws._calls.planner import attempt_limit, first_look, hedge_after
from deadline.aws._calls.transfers import current_transfer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from deadline.aws._calls.latency import Latency

    Send = Callable[[Any], Awaitable[Any]]

_TICK: Final = 0.001
"""Seconds by which a timer may be early, and a decision put off is not worth it."""


class AttemptTimeoutError(ReadTimeoutError):
    """An attempt was given up because waiting for it was not worth it; every retry mode tries again.

    It is a botocore `ReadTimeoutError`, which is what the SDK's own limit would have raised.
    """

    fmt = 'Attempt {attempt} on endpoint URL "{endpoint_url}" was given up after its share of {seconds:.3f} s'


def send_attempt(send: Send, request: Any) -> Awaitable[Any]:
    """Send one attempt of the current call, within its limit."""
    call = current_call()
    return send(request) if call is None else _sent(call, send, request)


async def _sent(call: AwsCall, send: Send, request: Any) -> Any:
    try:
        if call.hedged() and _is_repeatable(request) and call.further() and call.left() < math.inf:
            answer = await _raced(call, send, request)
        else:
            answer = await _alone(call, send, request)
    except BaseException:
        if call.outcome == "unknown":
            call.lost = True
            transfer = current_transfer()
            if transfer is not None:
                transfer.unanswered(call.operation, call.params, call.started)
        raise
    call.outcome = "unknown" if call.lost else "answered"
    call.status = answer.status_code
    return answer


class _Patience:
    """How long one attempt is waited for.

    An object and no function that refers to itself: that would be garbage which only the collector finds,
    after each call. It cancels as `asyncio.timeout` does, whose entering and leaving cost more than all of
    this.

    Attributes:
        limit: Seconds after which it was given up, by the last decision.
        gave_up: Whether it was given up, and cancelled by nobody else; once it has ended.
    """

    __slots__ = (
        "_answers",
        "_call",
        "_cancelling",
        "_latency",
        "_now",
        "_sent",
        "_task",
        "_timer",
        "gave_up",
        "limit",
    )

    def __init__(self, call: AwsCall, latency: Latency) -> None:
        loop = asyncio.get_running_loop()
        self._call = call
        self._latency = latency
        self._answers = latency.answers
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # it is in one
        self._cancelling = self._task.cancelling()
        self._timer = attempt_timer_of(loop)
        self._now = loop.time
        self._sent = self._now()
        self.gave_up = False
        self.limit = math.inf
        look = first_look(call.name, call.further(), call.limits, latency)
        if look < math.inf:
            self._timer.begin(self, self._sent + look)

    def look(self, now: float) -> float:
        """Decide: give it up, or look again later."""
        left = self._call.left() + now - self._sent
        self.limit = attempt_limit(left, self._call.further(), self._call.limits, self._latency)
        if self._sent + self.limit > now + _TICK:
            return self._sent + self.limit
        self.gave_up = True
        if (error := cancel(self._task)) is not None:
            complain(self._task.get_loop(), "giving up an attempt raised; it ends by other means", error)
        return math.inf

    def end(self) -> float:
        """Decide no more; return the seconds that it has taken."""
        self._timer.end(self)
        if self.gave_up:
            self.gave_up = self._task.uncancel() <= self._cancelling
        return self._now() - self._sent

    def lost(self) -> None:
        """Decide no more; nobody has answered."""
        self._latency.given_up(self.end(), self._latency.answers - self._answers)


async def _alone(call: AwsCall, send: Send, request: Any) -> Any:
    latency = call.latency(request)
    patience = _Patience(call, latency)
    try:
        answer = await send(request)
    except BaseException as error:
        if not isinstance(error, asyncio.CancelledError):
            patience.end()
            raise
        patience.lost()
        if patience.gave_up:
            _give_up(call, latency, request, patience.limit, error)
        raise
    _answered(call, latency, answer, patience.end())
    return answer


async def _raced(call: AwsCall, send: Send, request: Any) -> Any:
    """Send it and, if it stays silent, again beside it: the first answer is the one."""
    loop = asyncio.get_running_loop()
    latency, budget = call.latency(request), call.budget()
    if call.attempt == 1:
        budget.earn()
    race = Race(functools.partial(_in_task, call, send, request), _drop)
    race.start(latency.answers)
    latest, beside = loop.time(), True
    try:
        while True:
            now = loop.time()
            decide = hedge_after if beside else attempt_limit
            limit = decide(call.left() + now - latest, call.further(), call.limits, latency)
            if latest + limit > now + _TICK:
                ended = await race.ended(None if limit == math.inf else latest + limit - now)
                if ended is None:
                    continue
                task, (sent, _) = ended
                if race.sent and (task.exception() is not None or await _is_failure(task.result())):
                    beside = False  # the other one may do better, and is the last
                    continue
                answer, seconds = task.result(), loop.time() - sent
                break
            if not beside:
                _give_up(call, latency, request, limit, None)
            beside = budget.spend()
            if beside:
                call.attempt += 1
                call.given_up_after = max(call.given_up_after, now - latest)
                call.tell("aws.attempt_hedged", logging.DEBUG, attempt=call.attempt, seconds=now - latest)
                race.start(latency.answers)
                latest = now
    finally:
        for sent, answers in race.sent.values():
            latency.given_up(loop.time() - sent, latency.answers - answers)
        await race.close()
    _answered(call, latency, answer, seconds)
    return answer


def _is_repeatable(request: Any) -> bool:
    """Whether it can be sent twice at the same time: a body that is read while it is sent can not."""
    return request.body is None or isinstance(request.body, bytes | str)


async def _is_failure(answer: Any) -> bool:
    """Whether another attempt may do better; DynamoDB, for one, throttles by a 400, and SQS by a 403."""
    status = answer.status_code
    if status >= 500 or status == 429:
        return True
    return status >= 400 and says_throttled(await answer.content)


def _answered(call: AwsCall, latency: Latency, answer: Any, seconds: float) -> None:
    if answer.status_code >= 400:
        return  # how fast a service refuses tells nothing of how fast it works
    latency.answered(seconds)
    if call.given_up_after:
        latency.tried_again(faster=seconds <= call.given_up_after)


def _give_up(
    call: AwsCall, latency: Latency, request: Any, seconds: float, error: BaseException | None
) -> NoReturn:
    if call.given_up_after:
        latency.tried_again(faster=False)
    call.given_up_after = max(call.given_up_after, seconds)
    call.tell("aws.attempt_timed_out", logging.INFO, attempt=call.attempt, seconds=seconds)
    raise AttemptTimeoutError(
        endpoint_url=request.url, attempt=call.attempt, seconds=seconds, error=error
    ) from error


async def _in_task(call: AwsCall, send: Send, request: Any) -> Any:
    """Send in a task of its own, which is in the call as well."""
    task = asyncio.current_task()
    assert task is not None
    calls[task] = call
    try:
        return await send(request)
    finally:
        del calls[task]


def _drop(answer: Any) -> None:
    """Close the connection of an answer that is not wanted."""
    if isinstance(answer.raw, aiohttp.ClientResponse):
        answer.raw.close()


async def presumed_sent(send: Send, request: Any) -> Any:
    """Send through a backend that does not tell when a request goes out: it may have, from here on."""
    call = current_call()
    if call is not None:
        call.outcome = "unknown"
    return await send(request)


class _Request(aiohttp.ClientRequest):
    """Tells its call when it goes out.

    aiohttp's tracing would tell it, too, for 20 to 30 µs a request.
    """

    def send(self, conn: Any) -> Coroutine[Any, Any, aiohttp.ClientResponse]:
        call = current_call()
        if call is not None:
            call.outcome = "unknown"
        return super().send(conn)


async def telling_session(get_session: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """The SDK's aiohttp session, whose requests tell when they go out."""
    session = await get_session(*args)
    session._request_class = _Request  # noqa: SLF001  # an argument of its constructor, which the SDK calls
    return session

"""The seam to aiobotocore: one mixin, one wrapped send, one gate before the retries.

Each of the three is there because the others cannot do its part (run on aiobotocore 2.25.1 and 3.10.0):

- The mixin knows when a call begins and ends, but not its attempts.
- `http_session.send`, wrapped on the instance, limits an attempt. A `before-send` handler that sends works
  only if it is the last one, and a session class in the client's config is dropped by 2.25.1 when configs
  merge.
- The gate stands before the handler `retry-config-*` that decides on a retry. A `needs-retry` handler of our
  own that answers False is a veto on 3.x, and a retry without delay on 2.25.1; one that raises loses the
  modeled class of the error. The gate answers None, which is no retry in every mode.

The call is cut by the deadline's own scope: there is no second one around it. A `DeadlineExceeded` is only
ever raised outside of the attempts, because the legacy mode retries any TimeoutError.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import operator
from typing import TYPE_CHECKING, Any, Final

from aiobotocore._helpers import resolve_awaitable
from aiobotocore.client import AioBaseClient
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from aiobotocore.utils import AioS3ExpressIdentityCache
from anyio.lowlevel import checkpoint

from deadline._core.errors import DeadlineExceeded, note_refused_retry
from deadline._core.scope import current
from deadline._report.tasks import calls
from deadline._work.section import calls_of_step
from deadline.aws._calls.attempt import AttemptTimeoutError, presumed_sent, send_attempt, telling_session
from deadline.aws._calls.call import AwsCall, configured_attempts, current_call
from deadline.aws._calls.invoke_context import tell
from deadline.aws._calls.limits import current_limits
from deadline.aws._calls.planner import Limits, backoff, fits
from deadline.aws._calls.transfers import METHODS, current_transfer, managed
from deadline.aws._calls.waiters import capped

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from deadline._core.scope import Deadline
    from deadline.aws._calls.breakers import Breakers, Make

_NO_LIMITS: Final = Limits()

_INVOKES: Final = {"Invoke", "InvokeWithResponseStream"}

_retry_quota: Final = operator.attrgetter("__self__._retry_quota._quota")


def _begun(client: Any, operation: str, params: dict[str, Any]) -> AwsCall | None:
    """The account of a call, if anybody wants one: a deadline, limits, or a step of a critical section."""
    dl, limits, of_step = current(), current_limits(), calls_of_step()
    if dl is None and limits is None and of_step is None and client.deadline_breakers is None:
        return None
    if not client.deadline_attempts:
        _wire(client)
    call = AwsCall(client, operation, params, dl, limits or _NO_LIMITS)
    if of_step is not None:
        of_step.append(call)
    return call


class DeadlineClient:
    """Mixed into a client's class, before the SDK's own.

    Attributes:
        deadline_attempts: How many attempts the client makes at most; 0 until it was wired.
    """

    deadline_attempts: int = 0
    deadline_breakers: Breakers | None = None
    deadline_hedge: bool | Collection[str] = False

    async def _make_api_call(self, operation_name: str, api_params: Any) -> Any:
        make: Make = super()._make_api_call  # type: ignore[misc]
        call = _begun(self, operation_name, api_params)
        if call is None:
            return await make(operation_name, api_params)
        dl = call.deadline
        if dl is not None and not fits(call.left(), call.limits) and not _cleans_up(operation_name):
            await _refuse(dl, call)
        make = _through_breaker(make, self, call)
        task = asyncio.current_task()
        assert task is not None
        around = calls.get(task)
        calls[task] = call
        try:
            answer = await make(operation_name, api_params)
        except Exception as error:
            if isinstance(error, DeadlineExceeded | AttemptTimeoutError):
                _forget_identity(api_params)
            if not call.refused:
                raise
            if dl is not None and isinstance(error, AttemptTimeoutError):
                # Not the service's error but ours: what ran out is the time.
                raise dl.refusal(f"{call.name} has no time for another attempt") from error
            note_refused_retry(error, call.refused, -math.inf if dl is None else dl.refusing().hard)
            raise
        except asyncio.CancelledError:
            _forget_identity(api_params)
            raise
        finally:
            if around is None:
                del calls[task]
            else:
                calls[task] = around
        call.succeeded = True
        if dl is not None:
            _keep_account(self, operation_name, api_params, answer, dl)
        return answer

    def get_waiter(self, waiter_name: str) -> Any:
        """As the SDK's, with a waiter whose polls are capped by what is left of the deadline."""
        return capped(super().get_waiter(waiter_name))  # type: ignore[misc]


def _cleans_up(operation: str) -> bool:
    """Whether a call is for what is cleaned up after a cut, which goes out however late it is."""
    transfer = current_transfer()
    return operation == "AbortMultipartUpload" or (transfer is not None and transfer.cleaning)


def _through_breaker(make: Make, client: Any, call: AwsCall) -> Make:
    breakers: Breakers | None = client.deadline_breakers
    return make if breakers is None else breakers.around(make, client, call)


def _keep_account(client: Any, operation: str, params: Any, answer: Any, dl: Deadline) -> None:
    """Remember what an answered call has opened, so that a cut can close it."""
    transfer = current_transfer()
    if transfer is not None:
        transfer.answered(operation, params, answer)
    payload = _streamed(client.meta.service_model, operation)
    if payload is not None:
        body = answer[payload]
        opened = dl.close_on_cut if transfer is None else transfer.opened
        opened(getattr(body, "__wrapped__", body))


@functools.lru_cache(maxsize=1024)
def _streamed(service: Any, operation: str) -> str | None:
    """Which part of an operation's answer is a stream. The SDK looks through its shapes each time."""
    model = service.operation_model(operation)
    if not (model.has_streaming_output or model.has_event_stream_output):
        return None
    payload: str = model.output_shape.serialization["payload"]
    return payload


def _forget_identity(params: Any) -> None:
    """Forget the session that S3 Express may have been about to create for a call that was cut or refused.

    Up to 3.8, aiobotocore keeps the task that failed in its cache, and every later call on that bucket
    raises its error without sending anything. The cache is one for all clients: the others'
    sessions are created again.
    """
    cached = getattr(AioS3ExpressIdentityCache, "_get_credentials", None)
    if cached is not None and str(params.get("Bucket", "")).endswith("--x-s3"):
        cached.cache_clear()


async def _refuse(dl: Deadline, call: AwsCall) -> None:
    # If the time is up this is a cut like any other. And a caller that tries again at once lets the loop run.
    await checkpoint()
    call.tell(
        "aws.call_refused",
        logging.INFO,
        left=call.left(),
        needs=call.limits.min_attempt,
        deadline=dl.name,
    )
    raise dl.refusal(f"{call.name} was not sent, it takes {call.limits.min_attempt:.3f} s at least")


class Gate:
    """Stands before the handler that decides on retries."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self._handler = handler

    async def __call__(self, **kwargs: Any) -> Any:
        """Answer the seconds to wait before a retry, or None for no retry."""
        call = current_call()
        if call is None:
            return await resolve_awaitable(self._handler(**kwargs))
        call.remember(kwargs["response"], kwargs["caught_exception"], kwargs["operation"])
        if (call.limits.attempts is not None or call.hedged()) and not call.further():
            return None  # the SDK has counted to its own number, and only what came one after the other
        # Asked before time is looked at: what it would not retry anyway is not refused by us.
        delay = await resolve_awaitable(self._handler(**kwargs))
        wanted = delay is not None and delay is not False
        error = kwargs["caught_exception"]
        given_up = isinstance(error, AttemptTimeoutError)
        if not wanted:
            if not given_up or not call.further():
                return None
            # Its quota is used up. But without us this attempt would have gone on until the deadline.
            delay = 0.0
        delay = backoff(delay, call.left(), error.kwargs["seconds"] if given_up else None)
        if not fits(call.left(), call.limits, delay):
            if wanted:
                self._give_back(kwargs["request_dict"]["context"])
            return _no_retry(call, delay)
        call.attempt += 1
        return delay

    def _give_back(self, context: dict[str, Any]) -> None:
        """Return what the standard mode has just paid out of its quota for a retry that is not made.

        Nothing else would: it does so after a success only, and a hundred refusals would use it up.
        """
        try:
            quota = _retry_quota(self._handler)
        except AttributeError:  # the legacy mode has none
            return
        quota.release(context.pop("retry_quota_capacity", 0))


def _tell_function(request: Any, operation_name: str, **_: Any) -> None:
    """Tell a function that is invoked how long it will be waited for, anew with each attempt."""
    call = current_call()
    if call is not None and operation_name in _INVOKES:
        tell(request, call.left)


def _no_retry(call: AwsCall, delay: float) -> None:
    call.refused = (
        f"deadline: no retry after attempt {call.attempt}: with {delay:.3f} s of backoff and "
        f"{call.limits.min_attempt:.3f} s for an attempt it does not fit into the {call.left():.3f} s left"
    )
    call.tell("aws.retry_refused", logging.INFO, attempt=call.attempt, delay=delay, left=call.left())


def _wire(client: Any) -> None:
    """Count a client's attempts, wrap its send and put the gate before its retries; once.

    This waits for the first call under a deadline, because the retries are registered after the client's
    `__init__`, and because a client that exists already is then no special case.
    """
    client.deadline_attempts = configured_attempts(client)
    http = client._endpoint.http_session  # noqa: SLF001  # the SDK has no public seam here
    if isinstance(http, AIOHTTPSession):
        session = functools.partial(telling_session, http._get_session)  # type: ignore[attr-defined]  # noqa: SLF001
        http._get_session = session  # type: ignore[attr-defined]  # noqa: SLF001
        http.send = functools.partial(send_attempt, http.send)  # type: ignore[method-assign,assignment]
    else:  # httpx's, or somebody's own
        http.send = functools.partial(send_attempt, functools.partial(presumed_sent, http.send))
    events = client.meta.events
    service = client.meta.service_model.service_id.hyphenize()
    if service == "lambda":
        events.register("before-sign.lambda", _tell_function, unique_id="deadline-travel")
    unique_id = f"retry-config-{service}"
    known = getattr(events, "_emitter", events)._unique_id_handlers.get(unique_id)  # noqa: SLF001
    if known is not None:
        events.unregister(f"needs-retry.{service}", unique_id=unique_id)
        events.register(f"needs-retry.{service}", Gate(known["handler"]), unique_id=unique_id)


def _mix_in(
    installed: dict[str, Any], base_classes: list[type], class_attributes: dict[str, Any], **_: Any
) -> None:
    base_classes.insert(0, DeadlineClient)
    class_attributes.update(_managed(class_attributes.get), **installed)


def _mix_in_table(base_classes: list[type], **_: Any) -> None:
    from deadline.aws._calls.batch_writer import DeadlineTable  # noqa: PLC0415  # only aioboto3 has resources

    base_classes.insert(0, DeadlineTable)


def _managed(attribute: Callable[[str], Any]) -> dict[str, Any]:
    """The transfer methods among a class's attributes, wrapped; only aioboto3's S3 clients have them."""
    methods = {name: attribute(name) for name in METHODS}
    return {name: managed(method) for name, method in methods.items() if method is not None}


def cover(target: Any, breakers: Breakers | None, hedge: bool | Collection[str]) -> None:  # noqa: FBT001
    """Cover a session's future clients, or one client or resource."""
    installed = {"deadline_breakers": breakers, "deadline_hedge": hedge}
    session = getattr(target, "_session", target)  # aioboto3's keeps aiobotocore's
    # A resource keeps its client.
    client: Any = getattr(getattr(target, "meta", None), "client", target)
    if isinstance(session, AioSession):
        session.unregister("creating-client-class", unique_id="deadline-install")  # it may say otherwise
        mix_in = functools.partial(_mix_in, installed)
        session.register("creating-client-class", mix_in, unique_id="deadline-install")
        session.register(
            "creating-resource-class.dynamodb.Table", _mix_in_table, unique_id="deadline-install-table"
        )
    elif not isinstance(client, AioBaseClient):
        raise TypeError(
            "session_or_client: expected an aioboto3 or aiobotocore session, client or resource, got "
            f"{target!r} ({type(target).__name__}); write aws.install(aioboto3.Session()), or "
            "`async with session.client('s3') as s3: aws.install(s3)`; boto3 itself blocks the loop"
        )
    else:
        if not isinstance(client, DeadlineClient):
            kind = type(client)
            transfers = _managed(lambda name: getattr(kind, name, None))
            client.__class__ = type(kind.__name__, (DeadlineClient, kind), transfers)
        vars(client).update(installed)

"""Waiters that stop while there is time to say so.

A waiter sleeps for seconds between its polls, and would sleep into the cut. Under a deadline it polls as
often as fits, and then raises `InsufficientTime` from the SDK's own `WaiterError`, with what is left of the
time still yours.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from botocore.exceptions import WaiterError

from deadline._core.scope import current
from deadline._events import emit
from deadline.aws._calls.limits import current_limits
from deadline.aws._calls.planner import Limits, polls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def capped(waiter: Any) -> Any:
    """Cap a waiter's attempts by what is left when it begins to wait."""
    waiter.wait = functools.partial(_wait, waiter.wait, waiter.config)
    return waiter


async def _wait(wait: Callable[..., Awaitable[Any]], model: Any, **kwargs: Any) -> Any:
    dl = current()
    if dl is None:
        return await wait(**kwargs)
    config = kwargs.pop("WaiterConfig", {})
    configured = config.get("MaxAttempts", model.max_attempts)
    delay = config.get("Delay", model.delay)
    fit = polls(dl.remaining(), delay, current_limits() or Limits())
    if fit >= configured:
        return await wait(**kwargs, WaiterConfig=config)
    try:
        return await wait(**kwargs, WaiterConfig={**config, "MaxAttempts": int(fit)})
    except WaiterError as error:
        if not error.kwargs["reason"].startswith("Max attempts exceeded"):
            raise
        emit("aws.wait_refused", logging.INFO, waiter=error.kwargs["name"], left=dl.remaining())
        raise dl.refusal(
            f"the waiter {error.kwargs['name']} has no time for another poll after {delay} s "
            "(WaiterConfig={'Delay': ...} sets others)"
        ) from error

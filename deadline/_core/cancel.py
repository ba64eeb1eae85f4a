"""Cancelling tasks that resist it.

`Task.cancel` calls the `cancel` of what the task awaits, which may be any object: its `cancel` may raise, or
take no message, as before Python 3.9. anyio stops its delivery there: the other tasks of the scope are not
cancelled, and the delivery is not repeated. anyio also goes from scope to scope by recursion, which fails for
1,000 nested ones.

So `cancel` cancels one task past what raises, and `cut` takes over a delivery that raised: it walks the
scopes in a loop, and guards each task on its own. A task whose own `cancel` fails is detached from what it
awaits, and is woken by a cancelled future instead. The object with the failing `cancel` is left as it is.
"""

# what anyio and asyncio do next is private in both, and anyio reads asyncio's as well

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deadline._events import emit, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio import CancelScope

    _Waking = Callable[[asyncio.AbstractEventLoop, "Sleep", asyncio.Future[Any]], None]

AGAIN: Final = 0.001
"""Seconds between two deliveries. anyio delivers in each turn of the loop; a task that nothing reaches would
then keep the loop busy for as long as it waits."""

FATAL: Final = (SystemExit, KeyboardInterrupt)
"""What a callback lets through: asyncio's loop is left by them."""


class Sleep(NamedTuple):
    """What a task waits for, and the callback that wakes it."""

    waiter: Any
    wake_up: Callable[[asyncio.Future[Any]], object]
    context: Context


def sleep_of(task: asyncio.Task[Any]) -> Sleep | None:
    """The sleep of a task; `None` if it is about to run, or if that cannot be told."""
    waiter = getattr(task, "_fut_waiter", None)
    for wake_up, context in getattr(waiter, "_callbacks", None) or ():
        if getattr(wake_up, "__self__", None) is task:
            return Sleep(waiter, wake_up, context)
    return None


def cut(scope: CancelScope, loop: asyncio.AbstractEventLoop, name: str | None) -> None:
    """Cancel an anyio scope, and everything in it that can be reached.

    What anyio's delivery raises is told by `deadline.cut_failed` and to the loop's exception handler. It does
    not leave this function, except SystemExit and KeyboardInterrupt.

    Args:
        scope: An entered scope.
        loop: The loop that it is on.
        name: The deadline's, for the event.
    """
    host = getattr(scope, "_host_task", None)
    asked = 0 if host is None else host.cancelling()
    try:
        scope.cancel()
    except BaseException as error:
        if host is not None:
            _count(scope, host, asked + _counted(scope))
        try:
            _deliver(scope, loop)
        finally:
            tell(loop, name, error)
        if isinstance(error, FATAL):
            raise


def tell(loop: asyncio.AbstractEventLoop, name: str | None, error: BaseException) -> None:
    """Tell that cutting a block raised `error`; does not raise."""
    emit("deadline.cut_failed", logging.ERROR, deadline=name, error=shown(error))
    complain(loop, f"cutting the block of deadline {name!r} raised; it is cut by other means", error)


def complain(loop: asyncio.AbstractEventLoop, message: str, error: BaseException) -> None:
    """Hand an error to the loop's exception handler; does not raise."""
    with contextlib.suppress(Exception):  # a loop of the user's may do anything
        loop.call_exception_handler({"message": message, "exception": error})


def _deliver(scope: CancelScope, loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what anyio would cancel, task by task, and again until the scope is left."""
    again = loop.call_later(AGAIN, _deliver, scope, loop, context=Context())
    inside: Any = scope
    inside._cancel_handle = again  # anyio starts no delivery of its own beside it
    current = asyncio.current_task(loop)
    scopes, left = [inside], False
    while scopes:
        one = scopes.pop()
        for task in tuple(one._tasks):
            if asyncio.Task.done(task):
                continue
            left = True
            with contextlib.suppress(Exception):
                if task is not current and _is_to_cancel(task, host=task is one._host_task):
                    is_host, asked = task is inside._host_task, task.cancelling()
                    # A child runs at once. When the host leaves its group, anyio cancels the child again, and
                    # that would raise if it still awaited the object.
                    cancel(task, inside._cancel_reason, at_once=not is_host)
                    if is_host:
                        _count(scope, task, asked)
        scopes += [child for child in one._child_scopes if not child._shield and not child.cancel_called]
    if not left:
        again.cancel()
        inside._cancel_handle = None


def _is_to_cancel(task: Any, *, host: bool) -> bool:
    """Whether it has begun, and waits for something that is not done: anyio's own rule."""
    if task._must_cancel or not (host or _has_begun(task)):
        return False
    waiter = task._fut_waiter
    return not isinstance(waiter, asyncio.Future) or not asyncio.Future.done(waiter)


def _has_begun(task: asyncio.Task[Any]) -> bool:
    coroutine = task.get_coro()
    return not inspect.iscoroutine(coroutine) or inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED


def _counted(scope: Any) -> int:
    return getattr(scope, "_pending_uncancellations", None) or 0


def _count(scope: Any, host: asyncio.Task[Any], asked: int) -> None:
    """Have anyio take back, on exit, the requests that the host has got beyond `asked`."""
    more = host.cancelling() - asked
    if more > 0 and getattr(scope, "_pending_uncancellations", None) is not None:
        scope._pending_uncancellations += more


def cancel(
    task: asyncio.Task[Any], reason: str | None = None, *, at_once: bool = False
) -> BaseException | None:
    """Cancel a task once, by what reaches it.

    Args:
        task: One that is not running.
        reason: The message of the CancelledError.
        at_once: Whether it may run inside of this call, if it is detached from what it awaits and no task is
            running. Otherwise it runs in the next turn of the loop.

    Returns:
        What the `cancel` of the task, or of what it awaits, raised; `None` if nothing did.
    """
    asked = task.cancelling()
    try:
        task.cancel(*([] if reason is None else [reason]))
    except BaseException as error:  # noqa: BLE001  # it is anybody's code
        failure = error
    else:
        return None
    wake = _wake if at_once and asyncio.current_task(asyncio.Task.get_loop(task)) is None else _wake_soon
    for way in (_cancel_plainly, partial(_detach, wake=wake), _cancel_waiter):
        try:
            if way(task, reason):
                break
        except BaseException:  # noqa: BLE001, S112  # the next way
            continue
    while task.cancelling() > asked + 1:
        task.uncancel()
    return failure


def _cancel_plainly(task: asyncio.Task[Any], reason: str | None) -> bool:
    """Pass by a `cancel` of the task's own class."""
    return type(task).cancel is not asyncio.Task.cancel and asyncio.Task.cancel(task, reason)


def _detach(task: asyncio.Task[Any], reason: str | None, *, wake: _Waking) -> bool:
    """Wake the task by a cancelled future; what it awaits is not touched."""
    sleep = sleep_of(task)
    if sleep is None:
        return True  # it is about to run, or nothing reaches it
    remove(sleep)
    loop = asyncio.Task.get_loop(task)
    gate = loop.create_future()
    gate.cancel(reason)
    wake(loop, sleep, gate)
    return True


def has_come(task: asyncio.Task[Any]) -> bool:
    """Whether what a task waits for is there, so that a cancellation in this turn of the loop would lose it.

    Not so if it was cancelled, or if the task is being cancelled already: two cancellations in one turn are
    one.
    """
    waiter = getattr(task, "_fut_waiter", None)
    if not isinstance(waiter, asyncio.Future) or getattr(task, "_must_cancel", False):
        return False
    return asyncio.Future.done(waiter) and not asyncio.Future.cancelled(waiter)


def may_refuse(task: asyncio.Task[Any]) -> bool:
    """Whether a task waits for an object of a class that is not asyncio's own, whose `cancel` may raise."""
    waiter = getattr(task, "_fut_waiter", None)
    return waiter is not None and getattr(type(waiter), "cancel", None) not in _ASYNCIOS


_ASYNCIOS: Final = (
    asyncio.Future.cancel,
    asyncio.Task.cancel,
    getattr(asyncio.tasks, "_GatheringFuture", asyncio.Future).cancel,
)


def remove(sleep: Sleep) -> None:
    """Have what a task waits for wake it no more."""
    if isinstance(sleep.waiter, asyncio.Future):
        asyncio.Future.remove_done_callback(sleep.waiter, sleep.wake_up)
    else:
        sleep.waiter.remove_done_callback(sleep.wake_up)


def _wake_soon(loop: asyncio.AbstractEventLoop, sleep: Sleep, gate: asyncio.Future[Any]) -> None:
    loop.call_soon(sleep.wake_up, gate, context=sleep.context)


def _wake(loop: asyncio.AbstractEventLoop, sleep: Sleep, gate: asyncio.Future[Any]) -> None:
    try:
        sleep.context.run(sleep.wake_up, gate)
    except FATAL as error:  # it is the task's, and the loop is to be left by it
        loop.call_soon(_raise, error)


def _raise(error: BaseException) -> None:
    raise error


def _cancel_waiter(task: asyncio.Task[Any], reason: str | None) -> bool:
    """Cancel what it awaits, past a `cancel` of that object's class: its callbacks cannot be compared."""
    sleep = sleep_of(task)
    return sleep is not None and asyncio.Future.cancel(sleep.waiter, reason)

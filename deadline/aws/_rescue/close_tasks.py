"""Leaving behind what does not end: its coroutine is closed, from outside.

Cancelling asks; a body that swallows it, or waits in a `finally` or behind a shield, goes on. Closing throws
a GeneratorExit instead, which ends the `finally` blocks that do not wait, the shields and the loops that
catch `Exception` or CancelledError. What remains is `except BaseException` in a loop: only the event loop
itself can be left behind then.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from deadline._core.cancel import cancel, remove, sleep_of
from deadline._report.tasks import context_of

if TYPE_CHECKING:
    from collections.abc import Iterable

ATTEMPTS: Final = 20
"""How often a coroutine is closed: once for each `finally` that waits, nested in one another."""


async def abandon(tasks: Iterable[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """Close the coroutines of suspended tasks, and end the tasks: as cancelled, where that is possible.

    A task that wakes up and finds its coroutine closed fails by a RuntimeError. A group takes that for its
    child's; if the group's own task has been closed as well, it complains to the loop, and if that is the
    lifespan's, the lifespan fails. So nothing is woken that waits. What is about to run fails like that, as
    those do that anyio cancels in each turn; it is ended first, while its group is still open.

    Returns:
        Those that could not be ended.
    """
    await asyncio.sleep(0)  # whoever was just cancelled comes to its next await
    tasks = list(tasks)
    await _end([task for task in tasks if sleep_of(task) is None])
    await _end(tasks)
    return [task for task in tasks if not task.done()]


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    """Close them, and wait for their end."""
    tasks = [task for task in tasks if not task.done()]
    if not tasks:
        return
    sleeps = [sleep_of(task) for task in tasks]
    for one in filter(None, sleeps):  # before any is closed: that may wake others
        with contextlib.suppress(Exception):  # its callbacks may refuse to be compared
            remove(one)
    for task in tasks:
        task.add_done_callback(_retrieve)
        _close(task)
    for task, sleep in zip(tasks, sleeps, strict=True):
        if sleep and getattr(task.get_coro(), "cr_frame", task) is None:
            with contextlib.suppress(Exception):  # it may be any object
                sleep.waiter.cancel()
            super(asyncio.Task, task).cancel()
            continue
        if sleep:
            sleep.waiter.add_done_callback(sleep.wake_up, context=sleep.context)
        cancel(task)
    for _ in range(3):  # a cancellation takes a turn for each task that waits for another
        await asyncio.sleep(0)


def _close(task: asyncio.Task[Any]) -> None:
    coroutine: Any = task.get_coro()
    context = context_of(task)
    try:
        context.run(int)
    except RuntimeError:  # it is the one that is running
        context = context.copy()
    for _ in range(ATTEMPTS):
        try:
            context.run(_as_task, task, coroutine.close)
        except RuntimeError as error:
            if "ignored GeneratorExit" not in str(error):
                return
        except BaseException:  # noqa: BLE001  # a `finally` may raise anything: it is closed by then
            return
        else:
            return


def _as_task(task: asyncio.Task[Any], call: Any) -> None:
    """Call something as if the task did it: cancel scopes are left by the task that entered them."""
    loop = task.get_loop()
    running = asyncio.current_task()
    assert running is not None
    asyncio._leave_task(loop, running)  # noqa: SLF001  # documented in "Extending"
    asyncio._enter_task(loop, task)  # noqa: SLF001
    try:
        call()
    finally:
        asyncio._leave_task(loop, task)  # noqa: SLF001
        asyncio._enter_task(loop, running)  # noqa: SLF001


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take the error of a task, or the loop complains that nobody did."""
    if not task.cancelled():
        task.exception()

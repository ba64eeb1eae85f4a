"""Tasks that know when and where they were started.

The end of an invocation needs both: what the body's unwinding has started may finish cleaning up, and what is
cancelled is named with the line that started it. asyncio itself keeps the line in debug mode only.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final

from deadline._report.tasks import locate

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from deadline._report.tasks import Position

_ASYNCIO: Final = asyncio.__file__.removesuffix("__init__.py")


class StartedTask(asyncio.Task[Any]):
    """A task, with the instant of its start on the loop's clock, and the code that started it."""

    __slots__ = ("started_at", "started_by")

    started_at: float
    started_by: Position | None


def start(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    **options: Any,
) -> StartedTask:
    """Start a task; for `loop.set_task_factory`."""
    task = StartedTask(coroutine, loop=loop, **options)
    task.started_at = loop.time()
    frame = sys._getframe(1)  # noqa: SLF001  # inspect's costs fifty times as much
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_ASYNCIO):
        frame = frame.f_back
    task.started_by = frame.f_code, frame.f_lasti
    return task


def started_since(task: asyncio.Task[Any], instant: float) -> bool:
    """Whether a task was started at `instant` or later; not so if another task factory has made it."""
    return isinstance(task, StartedTask) and task.started_at >= instant


def describe(task: asyncio.Task[Any]) -> str:
    """The task's name, its function, and the file and line that started it, if they are known."""
    function = getattr(task.get_coro(), "__qualname__", "?")
    started = getattr(task, "started_by", None)
    where = f", started in {locate(started)}" if started is not None else ""
    return f"{task.get_name()} ({function}{where})"

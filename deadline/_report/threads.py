"""What worker threads are doing.

A task that waits for a thread stands in `to_thread`, whatever the thread does. The function behind it is
found from the future that the task awaits. A thread of an executor runs a work item, which holds the future
that `submit` gave; asyncio chains its own future to that one by a closure. A thread of anyio holds the
awaited future itself. All of this is private to both, and looked at for the report only: if it moves, the
report is shorter.
"""

from __future__ import annotations

import functools
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from deadline._report.data import Await

if TYPE_CHECKING:
    import asyncio
    from types import CodeType, FrameType

Link: TypeAlias = "tuple[CodeType, int] | Await"

_MOST_FRAMES: Final = 50
"""Frames told of one thread, the outermost ones: those name the function that the thread was given."""

_DEEPEST: Final = 1000
"""Frames walked in one thread: it may be in a recursion."""


class Threads:
    """The worker threads of this process, seen once: when the first of them is asked for."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[int, list[Link]] | None = None

    def awaited(self, future: asyncio.Future[Any], by: Link | None) -> list[Link]:
        """Where the thread is that an awaited future stands for, outermost first; empty without one.

        Args:
            future: What a task awaits.
            by: The innermost link of the task's own chain of awaits.
        """
        if by is not None and not isinstance(by, Await) and by[0].co_name == "run_sync_in_worker_thread":
            return self.running(future)
        source = _source(future)
        return [] if source is None else self.running(source)

    def running(self, future: object) -> list[Link]:
        """Where the thread is that works on `future`, an executor's or one of anyio's, outermost first."""
        if self._seen is None:
            own = threading.get_ident()
            frames = sys._current_frames()  # noqa: SLF001  # documented, in spite of its name
            self._seen = dict(_seen(frame) for ident, frame in frames.items() if ident != own)
        return self._seen.get(id(future), [])


def _source(future: asyncio.Future[Any]) -> object:
    """The executor's future that asyncio's stands for (`asyncio.futures._chain_future`)."""
    for callback, _ in getattr(future, "_callbacks", None) or ():
        if getattr(callback, "__name__", None) == "_call_check_cancel":
            names, cells = callback.__code__.co_freevars, callback.__closure__
            return cells[names.index("source")].cell_contents if "source" in names else None
    return None


def _seen(frame: FrameType | None) -> tuple[int, list[Link]]:
    """The identity of the future that a thread works on, 0 without one, and the frames that do it."""
    chain: list[Link] = []
    for _ in range(_DEEPEST):
        if frame is None:
            break
        runner = frame.f_code.co_qualname
        if runner in _RUNNERS:
            future, called = _of_item(frame) if runner == "_WorkItem.run" else _of_anyio(frame)
            chain.reverse()
            return id(future), chain[:_MOST_FRAMES] or ([] if called is None else [without_frame(called)])
        if runner != "WorkerContext.run":  # between the two since Python 3.14
            chain.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return 0, []


_RUNNERS: Final = frozenset({"_WorkItem.run", "WorkerThread.run"})


def _of_item(frame: FrameType) -> tuple[object, object]:
    """The future and the function of an executor's work item (`concurrent.futures.thread`)."""
    item = frame.f_locals.get("self")
    task = getattr(item, "task", None) or (getattr(item, "fn", None),)  # the former since Python 3.14
    return getattr(item, "future", None), task[0]


def _of_anyio(frame: FrameType) -> tuple[object, object]:
    """The same of a thread of anyio's (`anyio._backends._asyncio`)."""
    return frame.f_locals.get("future"), frame.f_locals.get("func")


def without_frame(called: object) -> Await:
    """A function that a thread was given and that has no frame: it is written in C, or has just ended."""
    if isinstance(called, functools.partial):  # `to_thread` has a context run its function
        runs_it = getattr(called.func, "__name__", "") == "run" and called.args
        called = called.args[0] if runs_it else called.func
    name = getattr(called, "__qualname__", None) or type(called).__qualname__
    return Await(str(name), str(getattr(called, "__module__", None) or "?"), 0)

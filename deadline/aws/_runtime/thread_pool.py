"""The default executor of a process's loop, which knows what invocations have left in it.

A thread cannot be ended. One that hangs keeps its place in the default executor, which has as many as the
machine has processors, and four: after some invocations that were cut, there would be no place left for name
look-ups, and no AWS call could be made any more. So what an invocation has left is named, and the loop gets
another executor.
"""

from __future__ import annotations

import contextvars
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from deadline._report.tasks import locate
from deadline._report.threads import Threads, without_frame

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Pool(ThreadPoolExecutor):
    """A default executor, as asyncio's own is, that knows what it was given and in which context."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="asyncio")
        self._given: dict[Future[Any], tuple[contextvars.Context, Callable[..., Any]]] = {}

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As in every executor."""
        future = super().submit(fn, *args, **kwargs)
        self._given[future] = (contextvars.copy_context(), fn)
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: Future[Any]) -> None:
        self._given.pop(future, None)

    def left(self, belongs: Callable[[contextvars.Context], bool]) -> list[str]:
        """What still runs of the work that belongs, as function, file and line; what waits is taken back."""
        if not self._given:
            return []
        threads = Threads()
        going_on = [
            (future, fn)
            for future, (context, fn) in self._given.copy().items()  # threads end meanwhile
            if belongs(context) and not future.cancel() and not future.done()
        ]
        chains = [(threads.running(future), fn) for future, fn in going_on]
        return [str(locate(chain[0])) if chain else str(without_frame(fn)) for chain, fn in chains]

"""What an execution environment keeps between invocations: one event loop, and what lifespans have opened.

`asyncio.run` for each invocation closes the loop under every client that is meant to stay warm
(terricain/aioboto3#185, #233), and joins worker threads that may never end. So there is one loop for the life
of the process, run until an invocation is done, then left standing.

A lifespan has a task of its own, which enters it, waits and leaves it: a context manager that holds a task
group or a cancel scope must be left by the task that entered it.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from deadline._events import emit, shown
from deadline._interrupt.interrupted import runs_loop
from deadline.aws._runtime.started_tasks import start

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

    from deadline.aws._runtime.thread_pool import Pool

    Factory = Callable[[], AbstractAsyncContextManager[Any]]

T = TypeVar("T")

CLOSING: Final = 1.0
"""Seconds that the lifespans may take to be left when the interpreter exits. On Lambda that does not happen:
the environment is killed, unless an extension asks for a shutdown phase of at most 2 s."""


class _Ready(asyncio.Future[Any]):
    """What a lifespan gave, in time; a report that sees it awaited looks at the lifespan's task."""

    waited_for: asyncio.Task[None]

    @property
    def _children(self) -> tuple[asyncio.Task[None], ...]:
        return (self.waited_for,)


class Lifespan:
    """A context manager that is entered once and stays open.

    Args:
        factory: Makes the context manager.
        context: What its task runs in: nothing of the invocation that happens to be the first.
    """

    def __init__(self, factory: Factory, context: contextvars.Context) -> None:
        self._factory = factory
        self._context = context
        self._task: asyncio.Task[None] | None = None
        self._ready: _Ready
        self._leave: asyncio.Event

    async def resources(self) -> Any:
        """What the context manager gave; enters it if it is not open.

        Cancelled meanwhile, it stops entering, so that nothing of this invocation goes on in the next. One
        that has not stopped by then is waited for, and then entered anew.
        """
        if self._task is not None and not self._ready.done() and self._task.cancelling():
            await asyncio.wait((self._task,))
        if self._task is None or self._task.done():
            loop = asyncio.get_running_loop()
            self._ready = _Ready(loop=loop)
            self._leave = asyncio.Event()
            self._task = loop.create_task(self._live(), name="lifespan", context=self._context)
            self._ready.waited_for = self._task
        if not self._ready.done():
            try:
                await asyncio.wait((self._ready,))
            except asyncio.CancelledError:
                if not self._ready.done():
                    self._task.cancel()
                raise
        return self._ready.result()

    async def _live(self) -> None:
        ready = self._ready
        try:
            async with _checked(self._factory()) as resources:
                if not ready.done():
                    ready.set_result(resources)
                await self._leave.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(_wrapped(error))
                ready.exception()  # nobody may be waiting for it any more
            elif not isinstance(error, asyncio.CancelledError):
                emit("aws.lifespan_failed", logging.ERROR, error=shown(error))
            if isinstance(error, asyncio.CancelledError):
                raise

    async def close(self, seconds: float = CLOSING) -> bool:
        """Leave the context manager, if it is open. Returns whether that took no longer than so long."""
        if self._task is None:
            return True
        if not self._ready.done():
            self._task.cancel()
        self._leave.set()
        await asyncio.wait([self._task], timeout=seconds)
        return self._task.done()


def _checked(made: Any) -> AbstractAsyncContextManager[Any]:
    if not hasattr(made, "__aenter__"):
        raise TypeError(
            f"lifespan: it gave {made!r}, which is no async context manager; put "
            "@contextlib.asynccontextmanager above an `async def` with one `yield`"
        )
    return cast("AbstractAsyncContextManager[Any]", made)


def _wrapped(error: BaseException) -> BaseException:
    """A future takes any error but StopIteration; a cancellation of the lifespan's task is no cut of ours."""
    if isinstance(error, asyncio.CancelledError | StopIteration):
        wrapped = RuntimeError("the lifespan was cancelled while it was being entered")
        wrapped.__cause__ = error
        return wrapped
    return error


class Environment:
    """One process's loop and lifespans.

    Attributes:
        broken: Whether the loop can run no more.
    """

    def __init__(self) -> None:
        self.broken = False
        self.loop = asyncio.new_event_loop()
        self.loop.set_task_factory(start)
        self._pool = self._new_pool()
        self._lifespans: dict[Factory, Lifespan] = {}

    def lifespan(self, factory: Factory, context: contextvars.Context) -> Lifespan:
        """The lifespan of a handler, one for each factory."""
        known = self._lifespans.get(factory)
        if known is None:
            known = self._lifespans[factory] = Lifespan(factory, context)
        return known

    @runs_loop
    def run(
        self, work: Coroutine[Any, Any, T], interrupt: Callable[[BaseException], None] | None = None
    ) -> T:
        """Run a coroutine to its end.

        SystemExit and KeyboardInterrupt leave the loop from whichever task raises them. `interrupt` is told,
        if there is one, and the loop goes on until `work` is done. It goes on as well if `work` stops it. A
        loop that cannot go on is marked as `broken`: its descriptors were closed, for example.

        Raises:
            RuntimeError: A loop is running in this thread already.
            OSError, RuntimeError: The loop is broken.
        """
        if asyncio._get_running_loop() is not None or self.loop.is_running():  # noqa: SLF001  # else it raises
            work.close()
            raise RuntimeError(
                "a handler was called while an invocation was running, or inside of an event loop; there, "
                "write `await function.invoke(event, context)`"
            )
        task = self.loop.create_task(work)
        while True:
            try:
                return self.loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:  # it is the rare case
                if task.done() or interrupt is None:
                    raise
                interrupt(error)
            except (OSError, RuntimeError) as error:
                self.broken = not task.done() and not _was_stopped(error)
                if task.done() or self.broken:
                    raise

    def _new_pool(self) -> Pool:
        from deadline.aws._runtime.thread_pool import Pool  # noqa: PLC0415  # a plain function has no use for it

        pool = Pool()
        self.loop.set_default_executor(pool)
        return pool

    def leave_threads(self, belongs: Callable[[contextvars.Context], bool]) -> list[str]:
        """Give the loop a new default executor if threads of an invocation go on in this one.

        They would take the places of later work, of name look-ups above all, until there are none left. What
        else goes on in the old executor comes to its end there; its idle threads end.

        Args:
            belongs: Tells by the context in which work was given away whether it is the invocation's.

        Returns:
            What the threads do: the function that each was given, and the line it is at.
        """
        left = self._pool.left(belongs)
        if left and not self.loop.is_closed():
            self._pool.shutdown(wait=False)
            self._pool = self._new_pool()
        return left

    def close(self) -> None:
        """Leave the lifespans and close the loop."""
        if self.loop.is_running() or self.loop.is_closed():
            return

        async def leave() -> None:
            for lifespan in self._lifespans.values():
                await lifespan.close()

        self.loop.run_until_complete(leave())
        self.loop.close()


_environment: Environment | None = None
_why_replaced: str | None = None
# Loops that must be neither used nor closed: the parent's, or those with a task that does not end.
_kept: Final[list[Environment]] = []


def environment() -> Environment:
    """This process's environment, made on first use."""
    global _environment  # noqa: PLW0603  # there is one in a process, that is the point
    if _environment is None:
        _environment = Environment()
    return _environment


def _was_stopped(error: BaseException) -> bool:
    """Whether a loop ended because somebody called its `stop` (asyncio/base_events.py, uvloop/loop.pyx)."""
    return isinstance(error, RuntimeError) and str(error).startswith("Event loop stopped before Future")


def is_broken() -> bool:
    """Whether this process's loop can run no more."""
    return _environment is not None and _environment.broken


def running_environment() -> Environment | None:
    """This process's environment, if it is its loop that is running: `invoke` runs on somebody else's."""
    running = asyncio._get_running_loop()  # noqa: SLF001  # the public one raises
    return _environment if _environment is not None and _environment.loop is running else None


def replace_environment(why: str | None = None) -> None:
    """Have the next invocation begin with a new loop; lifespans are entered again there.

    Args:
        why: For the errors of objects that belong to the former loop. Default: nobody has used that.
    """
    global _environment, _why_replaced  # noqa: PLW0603
    _why_replaced = why or _why_replaced
    if _environment is not None:
        _kept.append(_environment)
        _environment = None


def explain_other_loop(error: BaseException | None) -> None:
    """Note on an error why an object belongs to another loop, if asyncio says so and a loop was replaced."""
    if _why_replaced is not None and error is not None and _names_other_loop(error):
        error.add_note(
            f"this process has a new event loop since {_why_replaced}; what an invocation has made or "
            "awaited on the former one (a lock, a queue or a client at module level, for example) cannot be "
            "used on it: make it in the lifespan, which is entered again on a new loop, or in the invocation "
            "itself"
        )


def _names_other_loop(error: BaseException) -> bool:
    """Whether asyncio refuses an object of another loop, be it in a group or behind another error."""
    seen: list[BaseException] = [error]
    for one in seen:  # it grows
        if isinstance(one, RuntimeError) and any(text in str(one) for text in _OTHER_LOOP):
            return True
        members = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        seen += [inner for inner in (*members, one.__cause__, one.__context__) if inner and inner not in seen]
    return False


# asyncio/mixins.py; asyncio/tasks.py and _asynciomodule.c.
_OTHER_LOOP: Final = ("is bound to a different event loop", "attached to a different loop")


@atexit.register
def close_environment() -> None:
    """Close what is open; the next to ask for an environment gets a new one."""
    global _environment  # noqa: PLW0603
    if _environment is not None:
        _environment.close()
        _environment = None


if hasattr(os, "register_at_fork"):
    # Lambda Managed Instances fork their workers after the import of the handler's module: a loop and its
    # sockets belong to the parent.
    os.register_at_fork(after_in_child=replace_environment)

"""One invocation: the body under its deadline, the mitigation, and what neither of them ended.

    entry           soft      unwinding        mitigation  hard
      |--- body -----|------------|-----------------|-------|
                    cut      left behind        answered

The body runs in a task of its own, so that the one that answers is free to go on without it:

1. at soft the deadline cuts the body; it unwinds, and a DeadlineExceeded ends its task;
2. a body that has not ended by its share of the margin is left behind: its coroutine is closed, and those of
   the tasks that it started. While a critical section is open in it, that is after the section's undo;
3. `on_exceeded` then runs in a fresh task, in a context from before the deadline, bounded by its own share;
4. in the end, what the invocation has started and not ended is cancelled, or closed, and named. The
   environment is frozen after the answer: whatever is left would act in the next invocation.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import math
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakSet

from deadline._errors import DeadlineExceeded
from deadline._events import emit
from deadline._margin import shares
from deadline._scope import TIE, Deadline
from deadline._sighting import context_of
from deadline._source import checked
from deadline.aws._abandon import abandon
from deadline.aws._batch_sources import loses_work

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine

    from deadline.aws._handler import Plan

DRAINING: Final = 0.2
"""Seconds for which the end of an invocation waits for the tasks that it has cancelled."""

_invocation: ContextVar[Invocation | None] = ContextVar("deadline_invocation", default=None)


class Outcome(NamedTuple):
    """How a piece of work ended: with a value, or an error of any class."""

    value: Any
    error: BaseException | None


async def _outcome(work: Coroutine[Any, Any, Any]) -> Outcome:
    """Take what `work` raises for a value: a task that raises SystemExit stops the loop."""
    try:
        return Outcome(await work, None)
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is to be told
        return Outcome(None, error)


class Invocation:
    """One call of a handler.

    Args:
        plan: The handler's.
        event: Lambda's.
        context: Lambda's, or anything that `deadline` takes.
        resources: Makes the handler's further arguments, under the deadline.

    Attributes:
        stuck: Whether a task is left that nothing could end, so that this loop must not be used again.
    """

    def __init__(
        self, plan: Plan, event: Any, context: Any, resources: Callable[[], Awaitable[tuple[Any, ...]]]
    ) -> None:
        self._plan = plan
        self._event = event
        self._context = context
        self._resources = resources
        self._given: tuple[Any, ...] = () if plan.lifespan is None else (None,)
        self._deadline = Deadline(checked(context), plan.margin, plan.name, plan.error)
        self._outer = contextvars.copy_context()
        self._outer.run(_invocation.set, self)
        self._worker: asyncio.Task[Outcome] | None = None
        self._interruption: BaseException | None = None
        self._generators: WeakSet[AsyncGenerator[Any, Any]] = WeakSet()
        self.stuck = False

    async def run(self) -> Outcome:
        """Run it to its answer, or to what the body or the mitigation raised."""
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._begins(hooks.firstiter))
        try:
            outcome = await self._work(self._body(), self._leaves_body)
            if outcome is None:
                return await self._exceeded(await self._leave_behind())
            if isinstance(outcome.error, DeadlineExceeded) and self._is_ours(outcome.error):
                return await self._exceeded(outcome.error)
            return outcome
        finally:
            sys.set_asyncgen_hooks(*hooks)
            await self._drain()

    def interrupt(self, error: BaseException) -> None:
        """End the invocation with `error`, a SystemExit or KeyboardInterrupt that stopped the loop."""
        self._interruption = error
        if self._worker is not None:
            self._worker.cancel()

    # --- the body -----------------------------------------------------------------------------------------

    async def _body(self) -> Any:
        async with self._deadline:
            self._given = await self._resources()
            return await self._plan.function(self._event, self._context, *self._given)

    def _leaves_body(self) -> float:
        dl = self._deadline
        if math.isnan(dl.soft):  # not entered: a deadline around it, of whoever called `invoke`, is past
            return math.inf
        ends = shares(dl.unheld_soft, dl.hard)
        # An open critical section undoes until its share ends; what is around it must then still unwind.
        return (ends.undo + ends.mitigation) / 2 if dl.unheld_soft < dl.soft else ends.unwinding

    def _is_ours(self, exceeded: DeadlineExceeded) -> bool:
        """Whether the invocation's time is up: by this deadline, or by one inside with the same end."""
        return exceeded.deadline is not None and exceeded.deadline.hard >= self._deadline.hard - TIE

    async def _leave_behind(self) -> DeadlineExceeded:
        exceeded = await self._deadline.give_up()
        tasks = self._unfinished()
        emit(
            "aws.left_behind",
            logging.WARNING,
            function=self._plan.name,
            seconds=self._deadline.now() - self._deadline.soft,
            tasks=_names(tasks),
        )
        self.stuck |= bool(await abandon(tasks))
        return exceeded

    # --- the mitigation -----------------------------------------------------------------------------------

    async def _exceeded(self, exceeded: DeadlineExceeded) -> Outcome:
        plan, dl = self._plan, self._deadline
        emit(
            "aws.exceeded",
            logging.WARNING,
            function=plan.name,
            request_id=getattr(self._context, "aws_request_id", None),
            mitigated=plan.mitigation is not None,
            report=exceeded.report.render(),
        )
        if plan.mitigation is None:
            return Outcome(None, exceeded)
        ends = shares(dl.unheld_soft, dl.hard).mitigation
        grace = exceeded.grace(reserve=dl.hard - ends)
        outcome = await self._work(self._mitigation(grace, exceeded), lambda: (ends + dl.hard) / 2)
        if outcome is None:
            self.stuck |= bool(await abandon(self._unfinished()))
        if outcome is None or _is_cut_of(grace, outcome.error):
            exceeded.add_note("on_exceeded did not end in time")
            return Outcome(None, exceeded)
        if outcome.error is None and not plan.warned and loses_work(self._event, outcome.value):
            plan.warned = True
            emit("aws.work_lost", logging.WARNING, function=plan.name, fix="`raise exceeded` in on_exceeded")
        if outcome.error not in {None, exceeded} and outcome.error.__cause__ is None:
            outcome.error.__cause__ = exceeded
        return outcome

    async def _mitigation(self, grace: Deadline, exceeded: DeadlineExceeded) -> Any:
        assert self._plan.mitigation is not None
        async with grace:
            return await self._plan.mitigation(exceeded, self._event, self._context, *self._given)

    # --- tasks --------------------------------------------------------------------------------------------

    async def _work(self, work: Coroutine[Any, Any, Any], leave_at: Callable[[], float]) -> Outcome | None:
        """Run `work` in a task of its own, in a context from before the deadline.

        Args:
            work: What to do.
            leave_at: When to go on without it, on the loop's clock. Asked again when that has come, because
                an open critical section puts it off.

        Returns:
            How it ended; `None` if it has not.
        """
        loop = asyncio.get_running_loop()
        worker = self._worker = loop.create_task(_outcome(work), context=self._outer.copy())
        await asyncio.sleep(0)  # it enters its deadline
        while not worker.done():
            left = leave_at() - loop.time()
            if left <= 0:
                return None
            await asyncio.wait([worker], timeout=None if left == math.inf else left)
        outcome = Outcome(None, asyncio.CancelledError()) if worker.cancelled() else worker.result()
        if self._interruption is not None and outcome.error is not None:
            return Outcome(None, self._interruption)
        return outcome

    def _unfinished(self) -> list[asyncio.Task[Any]]:
        """The tasks that this invocation has started and that are not done."""
        return [task for task in asyncio.all_tasks() if context_of(task).get(_invocation) is self]

    def _begins(
        self, firstiter: Callable[[AsyncGenerator[Any, Any]], None] | None
    ) -> Callable[[AsyncGenerator[Any, Any]], None]:
        """Keep account of the asynchronous generators that the invocation iterates."""

        def begins(generator: AsyncGenerator[Any, Any]) -> None:
            if _invocation.get() is self:
                self._generators.add(generator)
            if firstiter is not None:
                firstiter(generator)

        return begins

    async def _drain(self) -> None:
        """End and name what is left."""
        tasks = self._unfinished()
        if tasks:
            # What closes a forgotten generator is a task as well, and not one that anybody left.
            left = [task for task in tasks if inspect.iscoroutine(task.get_coro())]
            if left:
                emit("aws.left_running", logging.WARNING, function=self._plan.name, tasks=_names(left))
            for task in left:
                task.cancel()
            _, stubborn = await asyncio.wait(tasks, timeout=self._draining())
            if await abandon(stubborn):
                self.stuck = True
        for generator in list(self._generators):
            if generator.ag_frame is not None and not generator.ag_running:  # type: ignore[attr-defined]
                closing = asyncio.ensure_future(generator.aclose())
                _, stubborn = await asyncio.wait([closing], timeout=self._draining())
                await abandon(stubborn)

    def _draining(self) -> float:
        """Half of what is left, at most: the rest is for the answer."""
        left = self._deadline.hard - asyncio.get_running_loop().time()
        return DRAINING if math.isnan(left) else min(DRAINING, max(0.0, left / 2))


def _is_cut_of(dl: Deadline, error: BaseException | None) -> bool:
    return isinstance(error, DeadlineExceeded) and error.deadline is dl


def _names(tasks: list[asyncio.Task[Any]]) -> str:
    """The tasks' names and functions, a few of them."""
    names = [f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', '?')})" for task in tasks]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more

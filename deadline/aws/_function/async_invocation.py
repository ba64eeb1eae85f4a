"""One invocation: the body under its deadline, the mitigation, and what neither of them ended.

    entry           soft      unwinding        mitigation  hard
      |--- body -----|------------|-----------------|-------|
                    cut      left behind        answered

A caller that gives up before the hard end divides the time until it goes by the same rule, and the answer
goes by that. If a critical section is then still being undone, the mitigation runs beside it; and if that, or
the notice, is not over when the caller goes, the answer is posted before it (`_function.early_response`).

The body runs in a task of its own, so that the one that answers is free to go on without it:

1. at soft the deadline cuts the body; it unwinds, and a DeadlineExceeded ends its task;
2. a body that has not ended by its share of the margin is left behind: its coroutine is closed, and those of
   the tasks that it started. While a critical section is open in it, that is after the section's undo;
3. `on_exceeded` then runs in a fresh task, in a context from before the deadline, bounded by its own share,
   and beside it the notice is sent, if there is one;
4. in the end, what the invocation has started and not ended is cancelled, or closed, and named. The
   environment is frozen after the answer: whatever is left would act in the next invocation.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
import math
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from deadline._core.cancel import cancel
from deadline._core.plain import Outcome
from deadline._core.scope import Deadline
from deadline._core.source import bounded, checked
from deadline._events import emit
from deadline._report.tasks import context_of
from deadline.aws._function.outcome import (
    ends_invocation,
    errors_told_until,
    few_of,
    grace_of,
    mitigated,
    mitigates_until,
    tell_clamped,
    tell_exceeded,
    tell_lost_work,
)
from deadline.aws._rescue.alarm_guard import Guard
from deadline.aws._rescue.close_tasks import abandon
from deadline.aws._runtime.started_tasks import describe, started_since

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine

    from deadline._core.errors import DeadlineExceeded
    from deadline.aws._function.plan import Plan
    from deadline.aws._resume.hop import Hop

DRAINING: Final = 0.2
"""Seconds for which the end of an invocation waits for the tasks that it has cancelled."""

LAST_TURNS: Final = 0.002
"""Seconds that a body has to end when its unwinding share is over and every await of it is cut."""

_invocation: ContextVar[Invocation | None] = ContextVar("deadline_invocation", default=None)


class Invocation:
    """One call of a handler.

    Args:
        plan: The handler's.
        event: Lambda's.
        context: Lambda's, or anything that `deadline` takes.
        resources: Makes the handler's further arguments, under the deadline.
        post_early: Posts the response before the handler returns, and tells whether it could.

    Attributes:
        stuck: Whether a task is left that nothing could end, so that this loop must not be used again.
        told_interrupt: Whether the event `aws.exceeded` has told what was interrupted.
    """

    def __init__(
        self,
        plan: Plan,
        event: Any,
        context: Any,
        resources: Callable[[], Awaitable[tuple[Any, ...]]],
        post_early: Callable[[Any], bool] = lambda _: False,
    ) -> None:
        self._plan = plan
        self._event = event
        self._context = context
        self._resources = resources
        self._post_early = post_early
        self._given: tuple[Any, ...] = () if plan.lifespan is None else (None,)
        ends = bounded(checked(context), plan.margin, plan.caller_left(event, context))
        self._deadline = Deadline(*ends, plan.name, plan.error, interrupt=plan.interrupt, alone=True)
        self._outer = contextvars.copy_context()
        self._outer.run(_invocation.set, self)
        self._worker: asyncio.Task[Outcome] | None = None
        self._interruption: BaseException | None = None
        self._generators: WeakSet[AsyncGenerator[Any, Any]] = WeakSet()
        self._guard = Guard(self.covers)
        self._notice = None if plan.notifier is None else plan.notifier.notice(plan.name, event, context)
        self._hop = None
        if plan.resume is not None:
            self._hop = plan.resume.open(event, context, plan.outside)
            self._outer.run(plan.resume.bind, self._hop)
        self.stuck = False
        self.told_interrupt = False

    async def run(self) -> Outcome:
        """Run it to its answer, or to what the body or the mitigation raised."""
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._begins(hooks.firstiter))
        if self._plan.interrupt:
            self._guard.open()
        deaths = self._tell_of_deaths()
        try:
            outcome = await self._work(self._body(), self._answers_at)
            if outcome is None and self._goes_on():
                return await self._exceeded(self._deadline.account(), self._worker)
            if outcome is None:
                return await self._exceeded(await self._leave_behind())
            exceeded = self._ours(outcome.error)
            if exceeded is not None:
                return await self._exceeded(exceeded)
            if outcome.error is not None and self._notice and self._notice.on_error:
                until = self._telling()
                await self._told(self._tell(outcome.error, until), until)
            return outcome
        finally:
            sys.set_asyncgen_hooks(*hooks)
            try:
                await self._told_of_deaths(deaths)
                self._protect()
                await self._drain()
            finally:
                self._guard.close()

    def interrupt(self, error: BaseException) -> None:
        """End the invocation with `error`, a SystemExit or KeyboardInterrupt that stopped the loop."""
        self._interruption = error
        if self._worker is not None:
            cancel(self._worker)

    def close(self) -> None:
        """Have no helper process act for it any more; wait for one that does, until it is time to answer."""
        if self._notice is not None:
            self._notice.close(self._deadline)

    # --- the body -----------------------------------------------------------------------------------------

    async def _body(self) -> Any:
        async with self._deadline:
            tell_clamped(self._plan, self._deadline)
            if self._notice is not None:
                self._notice.arm(self._deadline)
            if self._hop is not None:
                await self._hop.read()
                self._event = self._hop.event
            self._given = await self._resources()
            if self._hop is None:
                return await self._plan.function(self._event, self._context, *self._given)
            done = await self._hop.begin(self._deadline)
            if done is not None:
                return await self._hop.repeat(done, self._given)
            result = await self._one_hop(self._hop)
        # The work is done: that the time is up meanwhile is no reason to do it again.
        await self._hop.finish(result, self._leaves_body() - self._deadline.now())
        return result

    async def _one_hop(self, hop: Hop[Any]) -> Any:
        try:
            return await self._plan.function(self._event, self._context, *self._given)
        except Exception as error:
            if self._ours(error) is None and not self._deadline.explains(error):
                await hop.release()
            raise

    def _answers_at(self) -> float:
        """When to answer without the body."""
        if math.isnan(self._deadline.soft):  # not entered: one around it, of whoever called `invoke`, is past
            return math.inf
        if self._notice is not None:
            self._notice.postpone(self._deadline)
        if not self._goes_on():
            return self._leaves_body()
        ends = self._deadline.answering()
        return (ends.section + ends.undo) / 2  # an undo that is quick is told as done

    def _goes_on(self) -> bool:
        """Whether an open section is undone for longer than the caller waits."""
        return self._is_held() and self._deadline.answer_by < self._deadline.hard

    def _is_held(self) -> bool:
        return self._deadline.unheld_soft < self._deadline.soft

    def _leaves_body(self) -> float:
        """When to leave the body behind."""
        if not self._is_held():
            return self._deadline.answering().unwinding
        # An open critical section undoes until its share ends; what is around it must then still unwind.
        ends = self._deadline.shares()
        return (ends.undo + ends.mitigation) / 2

    def _ours(self, error: BaseException | None) -> DeadlineExceeded | None:
        return ends_invocation(self._deadline, error)

    async def _leave_behind(self) -> DeadlineExceeded:
        exceeded = await self._deadline.give_up()
        self._protect()
        tasks = self._unfinished()
        emit(
            "aws.left_behind",
            logging.WARNING,
            function=self._plan.name,
            seconds=self._deadline.now() - self._deadline.soft,
            tasks=self._names(tasks),
        )
        self.stuck |= bool(await abandon(tasks))
        return exceeded

    # --- the mitigation -----------------------------------------------------------------------------------

    async def _exceeded(
        self, exceeded: DeadlineExceeded, undoing: asyncio.Task[Outcome] | None = None
    ) -> Outcome:
        """Mitigate, and tell.

        Args:
            exceeded: What happened.
            undoing: The body's task, if it goes on.
        """
        plan, dl = self._plan, self._deadline
        self._guard.protect(math.inf)  # the mitigation has a deadline of its own
        ends = dl.shares().mitigation
        telling = None
        if self._hop is not None and self._hop.snapshot is not None:
            outcome = await self._carried_on(self._hop, exceeded, undoing)
        else:
            self.told_interrupt = bool(exceeded.report.blocked)
            tell_exceeded(plan, self._context, exceeded)
            telling = self._tell(exceeded, ends) if self._notice else None
            outcome = await self._mitigated(exceeded, undoing)
        if dl.answer_by < dl.hard:
            await self._answer_in_time(outcome, [task for task in (undoing, telling) if task is not None])
        if undoing is not None and await self._ended(undoing, self._leaves_body) is None:
            await self._leave_behind()
        await self._told(telling, ends)
        return outcome

    async def _answer_in_time(self, outcome: Outcome, waiting: list[asyncio.Task[Any]]) -> None:
        """Give what outlasts the caller's time until just before that is over; then answer without it."""
        left = self._deadline.answering().mitigation - self._deadline.now()
        if waiting:
            await asyncio.wait(waiting, timeout=max(0.0, left))
        if any(not task.done() for task in waiting):
            if outcome.error is None and self._post_early(outcome.value):
                emit("aws.answered_early", logging.INFO, function=self._plan.name)
            else:
                emit("aws.answers_late", logging.WARNING, function=self._plan.name)

    async def _mitigated(self, exceeded: DeadlineExceeded, undoing: asyncio.Task[Outcome] | None) -> Outcome:
        plan = self._plan
        if plan.mitigation is None:
            return Outcome(None, exceeded)
        work = functools.partial(plan.mitigation, exceeded, self._event, self._context, *self._given)
        outcome = await self._in_grace(work, "on_exceeded", exceeded, undoing, self._mitigates_until())
        tell_lost_work(plan, self._event, outcome)
        return outcome

    async def _carried_on(
        self, hop: Hop[Any], exceeded: DeadlineExceeded, undoing: asyncio.Task[Outcome] | None
    ) -> Outcome:
        """Hand the last checkpoint on. Only a failure sends a notice, in the second half of the time."""
        until = ends = self._mitigates_until()
        if self._notice is not None:
            self._notice.stand_down()
            until = (self._deadline.now() + ends) / 2
        work = functools.partial(hop.carry_on, self._given)
        outcome = await self._in_grace(work, "handing the checkpoint on", exceeded, undoing, until)
        if outcome.error is None:
            return outcome
        failure = hop.failure(outcome.error)
        await self._told(self._tell(failure, ends) if self._notice else None, ends)
        return Outcome(None, failure)

    def _mitigates_until(self) -> float:
        return mitigates_until(self._deadline)

    async def _in_grace(
        self,
        work: Callable[[], Awaitable[Any]],
        what: str,
        exceeded: DeadlineExceeded,
        undoing: asyncio.Task[Outcome] | None,
        ends: float,
    ) -> Outcome:
        """Do what is to be done when the time is up, until `ends` at most."""
        plan, dl = self._plan, self._deadline
        hard = dl.answer_by if ends < dl.answer_by else dl.hard
        grace = grace_of(plan, hard, ends)

        async def bounded() -> Any:
            async with grace:
                return await work()

        outcome = await self._work(bounded(), lambda: (ends + hard) / 2)
        if outcome is None:
            self._protect()
            left = self._unfinished() if undoing is None else [self._worker]
            self.stuck |= bool(await abandon(task for task in left if task is not None))
        return mitigated(outcome, grace, what, exceeded)

    # --- the notice ---------------------------------------------------------------------------------------

    def _tell(self, error: BaseException, until: float) -> asyncio.Task[None]:
        assert self._notice is not None
        expired = self._ours(error) is not None
        work = self._notice.send(error, until, self._plan.outside, expired=expired)
        return asyncio.get_running_loop().create_task(work, name="notice", context=self._outer.copy())

    def _telling(self) -> float:
        return errors_told_until(self._deadline, asyncio.get_running_loop().time())

    async def _told(self, telling: asyncio.Task[None] | None, until: float) -> None:
        """Wait for the notice, no longer than it may take and a moment for its end."""
        if telling is not None:
            left = max(0.0, until - asyncio.get_running_loop().time())
            self._guard.protect(left)  # the first one loads the SDK, which blocks
            await asyncio.wait([telling], timeout=left + min(DRAINING, (self._deadline.hard - until) / 2))

    def _tell_of_deaths(self) -> asyncio.Task[None] | None:
        """Send the notices of what died before, beside the first invocation of this process."""
        breadcrumb, notifier, outside = self._plan.breadcrumb, self._plan.notifier, self._plan.outside
        deaths = breadcrumb.untold() if breadcrumb is not None else []
        if notifier is None or not deaths:
            return None

        async def tell() -> None:
            for death in deaths:
                await notifier.deliver(death, math.inf, outside)

        return asyncio.get_running_loop().create_task(tell(), name="notice", context=self._outer.copy())

    async def _told_of_deaths(self, telling: asyncio.Task[None] | None) -> None:
        """Wait for these, for as long as an error's notice may take, and end them."""
        if telling is not None:
            await self._told(telling, self._telling())
            if telling.cancel():
                await asyncio.wait([telling], timeout=self._draining())

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
        worker = self._worker = asyncio.get_running_loop().create_task(
            self._outcome(work), name=self._plan.name, context=self._outer.copy()
        )
        await asyncio.sleep(0)  # it enters its deadline
        return await self._ended(worker, leave_at)

    async def _ended(self, worker: asyncio.Task[Outcome], leave_at: Callable[[], float]) -> Outcome | None:
        while not worker.done():
            left = leave_at() - asyncio.get_running_loop().time()
            if left <= 0:
                self._deadline.cancel_on()
                await asyncio.wait([worker], timeout=LAST_TURNS)
                break
            await asyncio.wait([worker], timeout=None if left == math.inf else left)
        if not worker.done():
            return None
        outcome = Outcome(None, asyncio.CancelledError()) if worker.cancelled() else worker.result()
        if self._interruption is not None and outcome.error is not None:
            return Outcome(None, self._interruption)
        return outcome

    async def _outcome(self, work: Coroutine[Any, Any, Any]) -> Outcome:
        """Take what `work` raises for a value: a task that raises SystemExit stops the loop."""
        try:
            outcome = Outcome(await work, None)
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is to be told
            outcome = Outcome(None, error)
        self._protect()  # what it leaves running may block before anybody ends it
        return outcome

    def _unfinished(self) -> list[asyncio.Task[Any]]:
        """The tasks that this invocation has started and that are not done."""
        return [task for task in asyncio.all_tasks() if self.covers(context_of(task))]

    def covers(self, context: contextvars.Context) -> bool:
        """Whether what runs in a context was started by this invocation."""
        return context.get(_invocation) is self

    def _begins(
        self, firstiter: Callable[[AsyncGenerator[Any, Any]], None] | None
    ) -> Callable[[AsyncGenerator[Any, Any]], None]:
        """Keep account of the asynchronous generators that the invocation iterates."""

        def begins(generator: AsyncGenerator[Any, Any]) -> None:
            if _invocation.get() is self:
                with contextlib.suppress(Exception):  # the body's iteration does not depend on it
                    self._generators.add(generator)
            if firstiter is not None:
                firstiter(generator)

        return begins

    async def _drain(self) -> None:
        """End and name what is left; what cleans up after a cut, when the unwinding share is over."""
        tasks = self._unfinished()
        cleaning = [task for task in tasks if self._cleans_up(task)]
        await self._end([task for task in tasks if task not in cleaning])
        if cleaning:
            left = self._deadline.unwinds_until - self._deadline.now()
            await asyncio.wait(cleaning, timeout=max(0.0, left))
            await self._end(self._unfinished())
        for generator in list(self._generators):
            if generator.ag_frame is not None and not generator.ag_running:  # type: ignore[attr-defined]
                closing = asyncio.ensure_future(generator.aclose())
                _, stubborn = await asyncio.wait([closing], timeout=self._draining())
                await abandon(stubborn)

    def _cleans_up(self, task: asyncio.Task[Any]) -> bool:
        """Whether the unwinding started a task, or the cut found the body waiting for it behind a shield."""
        return task in self._deadline.sheltered or started_since(task, self._deadline.cut_at)

    async def _end(self, tasks: list[asyncio.Task[Any]]) -> None:
        if not tasks:
            return
        # What closes a forgotten generator is a task as well, and not one that anybody left.
        left = [task for task in tasks if inspect.iscoroutine(task.get_coro())]
        named = [task for task in left if task is not self._worker]  # whoever called `invoke` gave up
        if named:
            emit("aws.left_running", logging.WARNING, function=self._plan.name, tasks=self._names(named))
        for task in left:
            cancel(task)
        _, stubborn = await asyncio.wait(tasks, timeout=self._draining())
        if await abandon(stubborn):
            self.stuck = True

    def _protect(self) -> None:
        """Have the alarm interrupt what blocks the loop between and after the deadlines."""
        if self._plan.interrupt:
            self._guard.protect(self._draining())

    def _names(self, tasks: list[asyncio.Task[Any]]) -> str:
        """The tasks' names and functions, a few of them; the worker has the handler's name."""
        return few_of([task.get_name() if task is self._worker else describe(task) for task in tasks])

    def _draining(self) -> float:
        """Half of what is left, at most: the rest is for the answer."""
        left = self._deadline.hard - asyncio.get_running_loop().time()
        return DRAINING if math.isnan(left) else min(DRAINING, max(0.0, left / 2))

"""A plain function as a handler: one invocation, without a loop.

`_function.async_invocation` is the same for an `async def`. Here the alarm cuts the body: past the soft
instant SIGALRM raises in it, and the interrupt that leaves, or is lost on its way, becomes the deadline's own
error at the edge. Then `on_exceeded` is called, under a deadline of its own that is cut in the
same way, and beside it a thread sends the notice. Nothing can be left behind here: what no signal reaches
holds the invocation until Lambda ends it, and the helper process is who can tell.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import logging
from typing import TYPE_CHECKING, Any

from deadline._core.plain import Outcome, under
from deadline._core.scope import Deadline
from deadline._core.source import bounded, checked
from deadline._events import emit
from deadline._interrupt.interrupted import calls_user_code
from deadline.aws._function.outcome import (
    ends_invocation,
    errors_told_until,
    grace_of,
    mitigated,
    mitigates_until,
    tell_clamped,
    tell_exceeded,
    tell_lost_work,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline._core.errors import DeadlineExceeded
    from deadline.aws._function.plan import Plan
    from deadline.aws._notices.thread_sender import BackgroundSend, ThreadedNotice


@calls_user_code
def call_yours(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the user's. An interrupt may be raised in what it calls (`_interrupt.alarm`)."""
    return function(*arguments)


class PlainInvocation:
    """One call of a plain function.

    Args:
        plan: The handler's.
        event: Lambda's.
        context: Lambda's, or anything that `deadline` takes.
        post_early: Posts the response before the handler returns, and tells whether it could.

    Attributes:
        stuck: False: no loop is left.
        told_interrupt: Whether the event `aws.exceeded` has told what was interrupted.
    """

    stuck = False
    told_interrupt = False

    def __init__(
        self, plan: Plan, event: Any, context: Any, post_early: Callable[[Any], bool] = lambda _: False
    ) -> None:
        self._plan = plan
        self._post_early = post_early
        self._event = event
        self._context = context
        ends = bounded(checked(context), plan.margin, plan.caller_left(event, context))
        self._deadline = Deadline(*ends, plan.name, plan.error, interrupt=plan.interrupt, alone=True)
        self._outer = contextvars.copy_context()
        self._notice: ThreadedNotice | None = (
            None if plan.notifier is None else plan.notifier.notice(plan.name, event, context)  # type: ignore[assignment]
        )

    def run(self) -> Outcome:
        """Run it to its answer, or to what the body or the mitigation raised."""
        deaths = self._tell_of_deaths()
        try:
            return self._run()
        finally:
            if deaths is not None:
                deaths.is_over(errors_told_until(self._deadline, self._deadline.now()))

    def _run(self) -> Outcome:
        outcome = self._work(self._deadline, self._body)
        exceeded = ends_invocation(self._deadline, outcome.error)
        if exceeded is not None:
            return self._exceeded(exceeded)
        if outcome.error is not None and self._notice is not None and self._notice.on_error:
            until = errors_told_until(self._deadline, self._deadline.now())
            telling = self._notice.begin(outcome.error, until, self._plan.outside, expired=False)
            if telling is not None:
                self._notice.end(telling, until, expired=False)
        return outcome

    def _tell_of_deaths(self) -> BackgroundSend | None:
        """Send the notices of what died before, beside the first invocation of this process."""
        breadcrumb, notifier = self._plan.breadcrumb, self._plan.notifier
        deaths = breadcrumb.untold() if breadcrumb is not None else []
        return notifier.begin(deaths, self._plan.outside) if notifier is not None and deaths else None  # type: ignore[attr-defined]

    def close(self) -> None:
        """Have no helper process act for it any more; wait for one that does, until it is time to answer."""
        if self._notice is not None:
            self._notice.close(self._deadline)

    def _work(self, dl: Deadline, work: Callable[[], Any]) -> Outcome:
        """Do it in a context from before the deadline."""
        return self._outer.copy().run(under, dl, work)

    def _body(self) -> Any:
        tell_clamped(self._plan, self._deadline)
        if self._notice is not None:
            self._notice.arm(self._deadline)
        return _result(self._plan.function, self._event, self._context)

    def _exceeded(self, exceeded: DeadlineExceeded) -> Outcome:
        """Mitigate, and tell."""
        plan, dl = self._plan, self._deadline
        ends = dl.shares().mitigation
        self.told_interrupt = bool(exceeded.report.blocked)
        tell_exceeded(plan, self._context, exceeded)
        telling = None
        if self._notice is not None:
            telling = self._notice.begin(exceeded, ends, plan.outside, expired=True)
        outcome = self._mitigated(exceeded)
        if telling is not None and self._notice is not None:
            if dl.answer_by < dl.hard:
                self._answer_in_time(outcome, telling)
            self._notice.end(telling, ends, expired=True)
        return outcome

    def _mitigated(self, exceeded: DeadlineExceeded) -> Outcome:
        plan, dl = self._plan, self._deadline
        if plan.mitigation is None:
            return Outcome(None, exceeded)
        ends = mitigates_until(dl)
        grace = grace_of(plan, dl.answer_by if ends < dl.answer_by else dl.hard, ends)
        work = functools.partial(_result, plan.mitigation, exceeded, self._event, self._context)
        outcome = mitigated(self._work(grace, work), grace, "on_exceeded", exceeded)
        tell_lost_work(plan, self._event, outcome)
        return outcome

    def _answer_in_time(self, outcome: Outcome, telling: BackgroundSend) -> None:
        """Give the notice until just before the caller's time is over; then answer without it."""
        if not telling.is_over(self._deadline.answering().mitigation):
            if outcome.error is None and self._post_early(outcome.value):
                emit("aws.answered_early", logging.INFO, function=self._plan.name)
            else:
                emit("aws.answers_late", logging.WARNING, function=self._plan.name)


def _result(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the user's function returns, which is the answer itself."""
    value = call_yours(function, *arguments)
    if inspect.iscoroutine(value):
        value.close()
        raise TypeError(
            f"{getattr(function, '__qualname__', function)} returned a coroutine, which nothing runs; "
            "decorate the `async def` itself: where decorators of other libraries are stacked, @aws.handler "
            "is the lowest"
        )
    return value

"""The way into a handler: Lambda's call, a test's, and what is opened before either."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import signal
from typing import TYPE_CHECKING, Any, Final

from deadline._core import scope as _scope
from deadline._core.plain import Outcome
from deadline._events import emit
from deadline._interrupt.alarm import alarm
from deadline.aws._function.arguments import check_function
from deadline.aws._function.async_invocation import Invocation
from deadline.aws._function.early_response import post_early
from deadline.aws._function.outcome import few_of
from deadline.aws._notices.error_text import as_lambda_error, full_traceback
from deadline.aws._runtime.event_loop import (
    Lifespan,
    environment,
    explain_other_loop,
    is_broken,
    replace_environment,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from deadline.aws._function.plan import Plan

_UNSET: Final[Any] = object()


class Entry:
    """The way into an `async def`.

    Args:
        plan: What the handler was made with.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def call(self, event: Any, context: Any) -> Any:
        """An invocation by Lambda, on this process's loop."""
        if _scope.DISABLED:
            return self._disabled(event, context)
        invocation, run = self._invocation(event, context)
        interrupts, mask = alarm.raised, _blocked_signals()
        try:
            outcome = run()
        except BaseException as error:  # noqa: BLE001  # nothing but an Exception may leave
            outcome = Outcome(None, error)
        self._unblock_signals(mask, context)
        reason = (
            "left a task that nothing could end" if invocation.stuck else "was interrupted (recycle=True)"
        )
        if is_broken():
            invocation.stuck, reason = True, "left an event loop that cannot run"
            alarm.forget(environment().loop)
        if alarm.raised > interrupts:
            level = logging.INFO if invocation.told_interrupt else logging.WARNING
            emit("aws.interrupted", level, function=self.plan.name, interrupts=alarm.raised)
            invocation.stuck |= self.plan.recycle
        invocation.close()
        explain_other_loop(outcome.error)
        if invocation.stuck:
            request = getattr(context, "aws_request_id", None)
            emit("aws.loop_replaced", logging.WARNING, function=self.plan.name, reason=reason)
            replace_environment(f"request {request} of {self.plan.name} {reason}")
        return self._answer(outcome, context)

    def _unblock_signals(self, before: set[int], context: Any) -> None:
        """Unblock what an invocation has left blocked: with SIGALRM later ones would not be interrupted."""
        left = _blocked_signals() - before
        if left:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, left)
            emit(
                "aws.signals_unblocked",
                logging.WARNING,
                function=self.plan.name,
                request_id=getattr(context, "aws_request_id", None),
                signals=", ".join(sorted(signal.Signals(one).name for one in left)),
            )

    def _invocation(self, event: Any, context: Any) -> tuple[Any, Callable[[], Outcome]]:
        """An invocation, and what runs it."""
        invocation = Invocation(self.plan, event, context, self.resources, self.post_early)

        def run() -> Outcome:
            try:
                return environment().run(invocation.run(), invocation.interrupt)
            finally:
                self._leave_threads(invocation)

        return invocation, run

    def _leave_threads(self, invocation: Invocation) -> None:
        """Have no thread of an invocation take a place from later ones."""
        left = environment().leave_threads(invocation.covers)
        if left:
            emit("aws.left_threads", logging.WARNING, function=self.plan.name, threads=few_of(left))

    def _disabled(self, event: Any, context: Any) -> Any:
        return environment().run(self._plainly(event, context, self.resources))

    @staticmethod
    def post_early(value: Any) -> bool:
        """Post the response before the handler returns, if Lambda called that; tells whether it could."""
        return post_early(value, _CALLED_BY_LAMBDA)

    async def invoke(self, event: Any, context: Any = None, /, *, resources: Any = _UNSET) -> Any:
        """An invocation by a test, on the running loop."""
        if self.plan.lifespan is None and resources is not _UNSET:
            raise TypeError(f"resources: {self.plan.name} has no lifespan and takes none; leave them out")
        async with contextlib.AsyncExitStack() as stack:

            async def given() -> tuple[Any, ...]:
                if resources is not _UNSET:
                    return (resources,)
                if self.plan.lifespan is None:
                    return ()
                lifespan = Lifespan(self.plan.lifespan, self.plan.outside)
                stack.push_async_callback(lifespan.close)
                return (await lifespan.resources(),)

            if _scope.DISABLED:
                return await self._plainly(event, context, given)
            return self._answer(await Invocation(self.plan, event, context, given).run(), context)

    @staticmethod
    def check(function: Any, argument: str, takes: int) -> None:
        """Refuse what is no `async def` that takes so many arguments."""
        check_function(function, argument, takes)

    @staticmethod
    def refuse(function: Any, **options: Any) -> None:
        """Refuse options that this kind of function cannot have, by `TypeError`; there is none."""

    def register(self, mitigation: Any, /) -> Any:
        """Have `mitigation` run when the time is up."""
        self.check(mitigation, "on_exceeded", 3 if self.plan.lifespan is None else 4)
        known = self.plan.mitigation
        if known is not None:
            raise RuntimeError(
                f"on_exceeded: {self.plan.name} has {known.__qualname__} already; one answers for all"
            )
        self.plan.mitigation = mitigation
        return mitigation

    def initialise(self) -> None:
        """Open what can be opened before the first invocation."""
        if not _scope.DISABLED:
            for opened in (self.plan.notifier, self.plan.resume):
                if opened is not None:
                    opened.initialise(self.plan.outside)
        if self.plan.eager:
            from deadline.aws._runtime.init_phase import enter  # noqa: PLC0415  # most open nothing here

            assert self.plan.lifespan is not None
            enter(self.plan.lifespan, self.plan.outside, interrupt=self.plan.interrupt)

    async def resources(self) -> tuple[Any, ...]:
        """What the function takes after event and context, from this process's lifespan."""
        if self.plan.lifespan is None:
            return ()
        return (await environment().lifespan(self.plan.lifespan, self.plan.outside).resources(),)

    async def _plainly(
        self, event: Any, context: Any, resources: Callable[[], Awaitable[tuple[Any, ...]]]
    ) -> Any:
        """Run without deadlines (DEADLINE_DISABLED). Loop and lifespan stay; envelopes are still unpacked."""
        if self.plan.resume is not None:
            hop = self.plan.resume.open(event, context, self.plan.outside)
            self.plan.resume.bind(hop)
            await hop.read()
            event = hop.event
        return await self.plan.function(event, context, *await resources())

    def _answer(self, outcome: Outcome, context: Any) -> Any:
        """The value, or raise what Lambda understands."""
        error = outcome.error
        if error is None:
            return outcome.value
        if isinstance(error, KeyboardInterrupt) and "AWS_LAMBDA_RUNTIME_API" not in os.environ:
            raise error  # somebody at a keyboard wants out
        failure = as_lambda_error(error)
        if failure is error:
            raise error
        # The runtime client logs what it is given, without causes and members; all is logged here, once.
        emit(
            "aws.invocation_failed",
            logging.ERROR,
            function=self.plan.name,
            request_id=getattr(context, "aws_request_id", None),
            error=type(error).__name__,
            traceback=full_traceback(error),
        )
        raise failure


def _blocked_signals() -> set[int]:
    """The signals that this thread has blocked; none where the system has no such masks."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ())) if hasattr(signal, "pthread_sigmask") else set()


def lambda_function(entry: Entry) -> Any:
    """A function, and no object that can be called: decorators of other libraries insist."""
    plan = entry.plan
    call: Callable[[Any, Any], Any] = entry.call
    if "AWS_LAMBDA_MAX_CONCURRENCY" in os.environ and plan.interrupt and not _scope.DISABLED:
        from deadline.aws._rescue.worker_exit import with_last_resort  # noqa: PLC0415  # elsewhere Lambda kills

        call = with_last_resort(entry.call, plan.name, plan.notifier)
    if plan.breadcrumb is not None:
        call = functools.partial(plan.breadcrumb.run, call)

    @functools.wraps(plan.function)
    def function(event: Any, context: Any) -> Any:
        return call(event, context)

    made: Any = function
    made.on_exceeded = entry.register
    if inspect.iscoroutinefunction(plan.function):  # the other kind is simply called
        made.invoke = entry.invoke
    return made


# The code of the function that Lambda calls: an answer is posted early only if that stands on the stack right
# below the runtime client. Taken from the constants, because each handler makes its own function of it.
_CALLED_BY_LAMBDA: Final = next(
    code for code in lambda_function.__code__.co_consts if getattr(code, "co_name", "") == "function"
)

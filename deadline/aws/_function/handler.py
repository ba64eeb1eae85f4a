"""`handler`: an `async def`, or a plain function, as a Lambda function that ends in time."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import logging
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from deadline._core import scope as _scope
from deadline._core.errors import DeadlineExceeded, check_name_and_error
from deadline._events import emit
from deadline._interrupt.alarm import alarm
from deadline._propagation import checked_header, received
from deadline.aws._function.arguments import (
    breadcrumb_of,
    check_function,
    check_lifespan,
    checked_limit,
    checked_resume,
    margin_asked_for,
)
from deadline.aws._function.async_invocation import Invocation
from deadline.aws._function.early_response import post_early
from deadline.aws._function.outcome import Outcome, few_of
from deadline.aws._notices.error_text import full_traceback, told
from deadline.aws._runtime.event_loop import Lifespan, environment, explain_other_loop, replace_environment
from deadline.aws._sources.callers import header_left, source_left

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta

    from deadline._core.source import AskedMargin, DefaultMargin
    from deadline.aws._function.types import (
        Context_contra,
        Decorator,
        Event_contra,
        LambdaFunction,
        PlainFunction,
        Response_co,
    )
    from deadline.aws._notices.message import Redact
    from deadline.aws._notices.notice import Notice
    from deadline.aws._notices.sender import Notifier
    from deadline.aws._rescue.breadcrumb import Breadcrumb
    from deadline.aws._resume.resume import Resume

Resources = TypeVar("Resources")

_UNSET: Final[Any] = object()


@dataclass
class Plan:
    """What a handler was made with.

    Attributes:
        caller_limit: As `handler` was given it.
        header: The name, in lower case, of the request header that is read; `None`: none is.
        outside: The context of the import, in which the lifespan's task runs.
        mitigation: What was registered with `on_exceeded`.
        eager: Whether the lifespan is entered before the first invocation.
        interrupt: Whether what blocks the loop is interrupted.
        recycle: Whether the next invocation then begins with a new loop.
        warned: Whether it was said that an answer loses work; once is enough.
        clamped: Whether it was said that the margin is too large for the timeout.
    """

    function: Callable[..., Any]
    margin: AskedMargin | DefaultMargin
    name: str
    error: type[DeadlineExceeded]
    lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None
    interrupt: bool = True
    recycle: bool = False
    caller_limit: float | Literal["auto"] | None = "auto"
    notifier: Notifier | None = None
    resume: Resume[Any] | None = None
    breadcrumb: Breadcrumb | None = None
    outside: contextvars.Context = field(default_factory=contextvars.copy_context)
    mitigation: Callable[..., Any] | None = None
    warned: bool = False
    clamped: bool = False
    eager: bool = False
    header: str | None = None

    def call(self, event: Any, context: Any) -> Any:
        """An invocation by Lambda, on this process's loop."""
        if _scope.DISABLED:
            return self._disabled(event, context)
        invocation, run = self._invocation(event, context)
        interrupts = alarm.raised
        try:
            outcome = run()
        except BaseException as error:  # noqa: BLE001  # nothing but an Exception may leave
            outcome = Outcome(None, error)
        reason = (
            "left a task that nothing could end" if invocation.stuck else "was interrupted (recycle=True)"
        )
        if alarm.raised > interrupts:
            level = logging.INFO if invocation.told_interrupt else logging.WARNING
            emit("aws.interrupted", level, function=self.name, interrupts=alarm.raised)
            invocation.stuck |= self.recycle
        invocation.close()
        explain_other_loop(outcome.error)
        if invocation.stuck:
            request = getattr(context, "aws_request_id", None)
            emit("aws.loop_replaced", logging.WARNING, function=self.name, reason=reason)
            replace_environment(f"request {request} of {self.name} {reason}")
        return self._answer(outcome, context)

    def _invocation(self, event: Any, context: Any) -> tuple[Any, Callable[[], Outcome]]:
        """An invocation, and what runs it."""
        invocation = Invocation(self, event, context, self.resources, self.post_early)

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
            emit("aws.left_threads", logging.WARNING, function=self.name, threads=few_of(left))

    def _disabled(self, event: Any, context: Any) -> Any:
        return environment().run(self._plainly(event, context, self.resources))

    @staticmethod
    def post_early(value: Any) -> bool:
        """Post the response before the handler returns, if Lambda called that; tells whether it could."""
        return post_early(value, _CALLED_BY_LAMBDA)

    async def invoke(self, event: Any, context: Any = None, /, *, resources: Any = _UNSET) -> Any:
        """An invocation by a test, on the running loop."""
        if self.lifespan is None and resources is not _UNSET:
            raise TypeError(f"resources: {self.name} has no lifespan and takes none; leave them out")
        async with contextlib.AsyncExitStack() as stack:

            async def given() -> tuple[Any, ...]:
                if resources is not _UNSET:
                    return (resources,)
                if self.lifespan is None:
                    return ()
                lifespan = Lifespan(self.lifespan, self.outside)
                stack.push_async_callback(lifespan.close)
                return (await lifespan.resources(),)

            if _scope.DISABLED:
                return await self._plainly(event, context, given)
            return self._answer(await Invocation(self, event, context, given).run(), context)

    def caller_left(self, event: Any, context: Any) -> float:
        """Seconds until whoever waits for the answer gives up, as the event or that caller says."""
        limit = self.caller_limit
        if limit is None:
            return math.inf
        custom = getattr(getattr(context, "client_context", None), "custom", None)
        return min(
            source_left(event, None if limit == "auto" else limit),
            header_left(event, self.header),
            received(custom),
        )

    @staticmethod
    def check(function: Any, argument: str, takes: int) -> None:
        """Refuse what is no `async def` that takes so many arguments."""
        check_function(function, argument, takes)

    def register(self, mitigation: Any, /) -> Any:
        """Have `mitigation` run when the time is up."""
        self.check(mitigation, "on_exceeded", 3 if self.lifespan is None else 4)
        if self.mitigation is not None:
            raise RuntimeError(
                f"on_exceeded: {self.name} has {self.mitigation.__qualname__} already; one answers for all"
            )
        self.mitigation = mitigation
        return mitigation

    def initialise(self) -> None:
        """Open what can be opened before the first invocation."""
        if not _scope.DISABLED:
            for opened in (self.notifier, self.resume):
                if opened is not None:
                    opened.initialise(self.outside)
        if self.eager:
            from deadline.aws._runtime.init_phase import enter  # noqa: PLC0415  # most open nothing here

            enter(self)

    async def resources(self) -> tuple[Any, ...]:
        """What the function takes after event and context, from this process's lifespan."""
        if self.lifespan is None:
            return ()
        return (await environment().lifespan(self.lifespan, self.outside).resources(),)

    async def _plainly(
        self, event: Any, context: Any, resources: Callable[[], Awaitable[tuple[Any, ...]]]
    ) -> Any:
        """What is left with DEADLINE_DISABLED: the loop and the lifespan, and that a hop is what it is."""
        if self.resume is not None:
            hop = self.resume.open(event, context, self.outside)
            self.resume.bind(hop)
            await hop.read()
            event = hop.event
        return await self.function(event, context, *await resources())

    def _answer(self, outcome: Outcome, context: Any) -> Any:
        """The value, or raise what Lambda understands."""
        error = outcome.error
        if error is None:
            return outcome.value
        if isinstance(error, KeyboardInterrupt) and "AWS_LAMBDA_RUNTIME_API" not in os.environ:
            raise error  # somebody at a keyboard wants out
        failure = told(error)
        if failure is error:
            raise error
        # The runtime client logs what it is given, without causes and members; all is logged here, once.
        emit(
            "aws.invocation_failed",
            logging.ERROR,
            function=self.name,
            request_id=getattr(context, "aws_request_id", None),
            error=type(error).__name__,
            traceback=full_traceback(error),
        )
        raise failure


@overload
def handler(
    function: Callable[[Event_contra, Context_contra], Coroutine[Any, Any, Response_co]], /
) -> LambdaFunction[Event_contra, Context_contra, Response_co]: ...


@overload
def handler(
    function: Callable[[Event_contra, Context_contra], Response_co], /
) -> PlainFunction[Event_contra, Context_contra, Response_co]: ...


@overload
def handler(
    *,
    margin: float | timedelta | None = None,
    error: type[DeadlineExceeded] = DeadlineExceeded,
    name: str | None = None,
    lifespan: None = None,
    interrupt: bool = True,
    recycle: bool = False,
    caller_limit: float | timedelta | Literal["auto"] | None = "auto",
    header: str | None = None,
    notice: Notice | str | Callable[[dict[str, Any]], object] | None = None,
    notice_errors: bool = True,
    redact: Redact | None = None,
    helper: bool = False,
    breadcrumb: bool | Literal["event"] | None = None,
    resume: Resume[Any] | None = None,
) -> Decorator[()]: ...


@overload
def handler(
    *,
    margin: float | timedelta | None = None,
    error: type[DeadlineExceeded] = DeadlineExceeded,
    name: str | None = None,
    lifespan: Callable[[], AbstractAsyncContextManager[Resources]],
    eager: bool = False,
    interrupt: bool = True,
    recycle: bool = False,
    caller_limit: float | timedelta | Literal["auto"] | None = "auto",
    header: str | None = None,
    notice: Notice | str | Callable[[dict[str, Any]], object] | None = None,
    notice_errors: bool = True,
    redact: Redact | None = None,
    helper: bool = False,
    breadcrumb: bool | Literal["event"] | None = None,
    resume: Resume[Any] | None = None,
) -> Decorator[Resources]: ...


def handler(
    function: Any = None,
    /,
    *,
    margin: float | timedelta | None = None,
    error: type[DeadlineExceeded] = DeadlineExceeded,
    name: str | None = None,
    lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
    eager: bool = False,
    interrupt: bool = True,
    recycle: bool = False,
    caller_limit: float | timedelta | Literal["auto"] | None = "auto",
    header: str | None = None,
    notice: Notice | str | Callable[[dict[str, Any]], object] | None = None,
    notice_errors: bool = True,
    redact: Redact | None = None,
    helper: bool = False,
    breadcrumb: bool | Literal["event"] | None = None,
    resume: Resume[Any] | None = None,
) -> Any:
    """Make an `async def f(event, context)` a plain function that Lambda can call, or guard a plain one.

    Write `@aws.handler` or `@aws.handler(margin=..., ...)`, and name the function in Lambda's configuration.

    Each invocation runs in a task of its own under `deadline(context, margin)`, on one loop that lives as
    long as the process. When its time is up the work is cut and `on_exceeded` answers; without one, the
    invocation fails with `error`. A body that does not end when it is cut is left behind after a quarter of
    the margin. What an invocation leaves running is ended and named before the answer. Nothing but an
    `Exception` leaves, under the class name of what was raised, with notes, causes and group members in its
    message.

    A plain `def f(event, context)` is called as it is, without a loop: when its time is up it is interrupted,
    by SIGALRM, and `on_exceeded`, a plain function too, answers. It has no `invoke`: tests call it.

    Decorators of other libraries go above this one: they see a plain function.

    Args:
        function: The `async def`, or a plain function; with a lifespan it takes the resources as a third
            argument.
        margin: Seconds kept back before Lambda's timeout. Not negative. One that leaves no time for the work
            is half of what is left, and the event `aws.margin_clamped` says so once. Default: the
            environment's `DEADLINE_MARGIN`, at most half of what is left; without it 0.5, at most a quarter.
        error: What it fails with, a subclass of `DeadlineExceeded`; its name is what Lambda is told.
        name: The deadline's, for messages and reports. Default: the function's.
        lifespan: For an `async def` alone, as are `eager`, `recycle` and `resume`: a function that gives an
            async context manager (`contextlib.asynccontextmanager`); what that gives is open from the first
            invocation on, for the life of the process. It is entered in a task of its own, under the deadline
            of the invocation that needs it.
        eager: Enter the lifespan when the module is imported, in Lambda's time for initialising, and leave it
            to the first invocation if that is over before. Under SnapStart, after each restore; not on
            Managed Instances.
        interrupt: Interrupt what blocks the loop past the soft instant, by SIGALRM: `time.sleep`, a busy
            loop, a synchronous client. On Managed Instances, also end a worker that nothing frees. Without it
            a plain function is not cut at all.
        recycle: After an interrupt have the next invocation begin with a new loop and enter the lifespan
            again; whatever was interrupted may have left the old ones half-way. Default: go on, and
            say so by the event `aws.interrupted`.
        caller_limit: Until when whoever waits must have its answer. `"auto"`: as `aws.callers` knows of the
            event's source, and as that caller itself says in Lambda's client context (an installed client's
            `Invoke`), for which it needs the right to invoke the function. Seconds, where the source's limit
            is another one; they count from the request's own start, if the event tells it, otherwise from
            entry. `None`: Lambda's alone. The work is cut, and `on_exceeded` answers, before that; undoing
            and notices keep their time until Lambda's timeout.
        header: The request header in which callers behind API Gateway, a function URL or a load balancer tell
            how long they wait (`deadline_header` sends `"deadline-remaining-ms"`). It can only shorten, to no
            less than 0.25 s. Default: none is read, because anybody can send one and so choose the instant
            of the cut. `caller_limit=None` does not look at it either.
        notice: Who is told, beside the mitigation, when the time was up: an `aws.Notice`, what
            `aws.Notice.to` takes (an ARN, a queue's URL), or an `async def` that is called with the message,
            a dict; for a plain function a plain one, which is called in a thread. At most one an invocation.
            Default: the environment's `DEADLINE_NOTICE`.
        notice_errors: Whether errors that nobody handled are told, too.
        redact: A function that takes the message and returns what of it may leave.
        helper: Fork a process that sends the notice if this one cannot, because the loop is blocked. Linux.
        breadcrumb: Keep a file in the temporary folder, from which the next cold start tells which request a
            process has died in, and where. `"event"`: with the request's event, for the notice.
            Default: in Lambda. Linux.
        resume: An `aws.Resume`: when the time is up and there is a checkpoint, that goes on, and
            `on_exceeded` is not asked.

    Returns:
        The function, with the attributes `on_exceeded` and `invoke`: see `LambdaFunction` and
        `PlainFunction`.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        ImportError: A notice is to be sent, and there is no SDK.
    """
    check_name_and_error(name, error)
    check_lifespan(lifespan)
    limit = checked_limit(caller_limit)
    listens_to = checked_header(header)
    margin_of = margin_asked_for(margin, os.environ.get("DEADLINE_MARGIN", "").strip())

    def make(function: Callable[..., Any]) -> Any:
        takes, kind = 2 if lifespan is None else 3, Plan
        plain = callable(function) and not inspect.iscoroutinefunction(function)
        if plain:
            from deadline.aws._function.plain_invocation import PlainPlan  # noqa: PLC0415  # an `async def` has no use for it

            kind = PlainPlan
            PlainPlan.refuse(function, lifespan=lifespan, eager=eager, recycle=recycle, resume=resume)
        kind.check(function, "function", takes)
        called = getattr(function, "__name__", type(function).__name__)  # a partial has no name
        plan = kind(function, margin_of, name or called, error, lifespan, interrupt, recycle, limit)
        if resume is not None:
            plan.resume = checked_resume(resume, takes)
        if notice is not None or helper or "DEADLINE_NOTICE" in os.environ:
            from deadline.aws._notices.sender import notifier  # noqa: PLC0415  # whoever tells nobody loads nothing

            plan.notifier = notifier(
                notice, redact, plan.name, on_error=notice_errors, helper=helper, plain=plain
            )
        if not _scope.DISABLED:
            plan.breadcrumb = breadcrumb_of(plan.name, breadcrumb, helper=helper)
        plan.eager, plan.header = eager, listens_to
        if _initialises_here():
            plan.initialise()
        elif _is_copied_later():
            from deadline.aws._runtime.snap_start import when_restored  # noqa: PLC0415  # nobody else needs it

            when_restored(plan.initialise)
        return _lambda_function(plan)

    return make if function is None else make(function)


def _lambda_function(plan: Plan) -> Any:
    """A function, and no object that can be called: decorators of other libraries insist."""
    call: Callable[[Any, Any], Any] = plan.call
    if "AWS_LAMBDA_MAX_CONCURRENCY" in os.environ and plan.interrupt and not _scope.DISABLED:
        from deadline.aws._rescue.worker_exit import with_last_resort  # noqa: PLC0415  # elsewhere Lambda kills

        call = with_last_resort(plan.call, plan.name, plan.notifier)
    if plan.breadcrumb is not None:
        call = functools.partial(plan.breadcrumb.run, call)

    @functools.wraps(plan.function)
    def function(event: Any, context: Any) -> Any:
        return call(event, context)

    made: Any = function
    made.on_exceeded = plan.register
    if inspect.iscoroutinefunction(plan.function):  # the other kind is simply called
        made.invoke = plan.invoke
    return made


_CALLED_BY_LAMBDA: Final = next(
    code for code in _lambda_function.__code__.co_consts if getattr(code, "co_name", "") == "function"
)


def _initialises_here() -> bool:
    """Whether this is Lambda's init phase, in the process that will serve and not one that is copied."""
    return (
        "AWS_LAMBDA_RUNTIME_API" in os.environ
        and "AWS_LAMBDA_MAX_CONCURRENCY" not in os.environ
        and not _is_copied_later()
    )


def _is_copied_later() -> bool:
    """Whether a snapshot is taken of this process, and many go on from there."""
    return (
        "AWS_LAMBDA_RUNTIME_API" in os.environ
        and os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"
    )

"""`handler`: an `async def` as a Lambda function."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import logging
import math
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar, overload

from deadline import _scope
from deadline._errors import DeadlineExceeded
from deadline._events import emit, logger
from deadline._interrupt import alarm
from deadline._scope import check_name_and_error
from deadline._source import ANSWER_MARGIN, DefaultMargin, checked_margin, seconds
from deadline._travel import received
from deadline.aws._callers import caller_left, headers_of
from deadline.aws._early_answer import post_early
from deadline.aws._environment import Lifespan, environment, replace_environment
from deadline.aws._failure import full_traceback, told
from deadline.aws._invocation import Invocation, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta

    from deadline.aws._breadcrumb import Breadcrumb
    from deadline.aws._message import Redact
    from deadline.aws._notice import Notice
    from deadline.aws._notifier import Notifier
    from deadline.aws._resume import Resume

Event_contra = TypeVar("Event_contra", contravariant=True)
Context_contra = TypeVar("Context_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)
Resources = TypeVar("Resources")
Mitigation = TypeVar("Mitigation", bound="Callable[..., Awaitable[Any]]")

_UNSET: Final[Any] = object()


class LambdaFunction(Protocol[Event_contra, Context_contra, Response_co]):
    """What `handler` makes: a plain function that Lambda can call, with two attributes."""

    def __call__(self, event: Event_contra, context: Context_contra, /) -> Response_co:
        """Run an invocation to its answer, on the loop that this process keeps."""

    def on_exceeded(self, mitigation: Mitigation, /) -> Mitigation:
        """Register what runs when the time is up: `async def (exceeded, event, context[, resources])`.

        What it returns is the response. `raise exceeded` in it fails the invocation after mitigating, so that
        retries, dead-letter queues and error metrics do their work: the right choice for every caller that
        retries. Any other error that it raises leaves with `exceeded` as its cause.

        It has the time from the cut to the margin's last twentieth (20 ms at least), before whoever waits for
        the answer gives up (`caller_limit`) or else before Lambda's timeout, and is cut then; the
        invocation then fails with `exceeded`. `resources` is `None` if the time was up before they were open.

        Raises:
            TypeError: It is no `async def`.
        """

    async def invoke(
        self, event: Event_contra, context: Context_contra = ..., /, *, resources: Any = ...
    ) -> Response_co:
        """Run a whole invocation on the running loop, for unit tests: deadline, `on_exceeded`, draining.

        Args:
            event: What Lambda would pass.
            context: What Lambda would pass; `deadline.testing.FakeContext` is one. `None`: no limit.
            resources: Used instead of what the lifespan gives. Without them the lifespan is entered for this
                invocation and left at its end.

        Raises:
            Exception: What Lambda would be told.
        """


@dataclass
class Plan:
    """What a handler was made with.

    Attributes:
        caller_limit: As `handler` was given it.
        outside: The context of the import, in which the lifespan's task runs.
        mitigation: What was registered with `on_exceeded`.
        eager: Whether the lifespan is entered before the first invocation.
        interrupt: Whether what blocks the loop is interrupted.
        recycle: Whether the next invocation then begins with a new loop.
        warned: Whether it was said that an answer loses work; once is enough.
    """

    function: Callable[..., Awaitable[Any]]
    margin: float | DefaultMargin
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
    mitigation: Callable[..., Awaitable[Any]] | None = None
    warned: bool = False
    eager: bool = False

    def call(self, event: Any, context: Any) -> Any:
        """An invocation by Lambda, on this process's loop."""
        if _scope.DISABLED:
            return environment().run(self._plainly(event, context, self.resources))
        invocation = Invocation(
            self, event, context, self.resources, lambda value: post_early(value, _CALLED_BY_LAMBDA)
        )
        interrupts = alarm.raised
        try:
            outcome = environment().run(invocation.run(), invocation.interrupt)
        except BaseException as error:  # noqa: BLE001  # nothing but an Exception may leave
            outcome = Outcome(None, error)
        if alarm.raised > interrupts:
            emit("aws.interrupted", logging.WARNING, function=self.name, interrupts=alarm.raised)
            invocation.stuck |= self.recycle
        invocation.close()
        if invocation.stuck:
            emit("aws.loop_replaced", logging.WARNING, function=self.name)
            replace_environment()
        return self._answer(outcome, context)

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
            caller_left(event, limit=None if limit == "auto" else limit),
            received(custom),
            received(headers_of(event)),
        )

    def register(self, mitigation: Any, /) -> Any:
        """Have `mitigation` run when the time is up."""
        _check_function(mitigation, "on_exceeded", 3 if self.lifespan is None else 4)
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
            from deadline.aws._init import enter  # noqa: PLC0415  # most open nothing here

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
            hop.read()
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
    *,
    margin: float | timedelta | None = None,
    error: type[DeadlineExceeded] = DeadlineExceeded,
    name: str | None = None,
    lifespan: None = None,
    interrupt: bool = True,
    recycle: bool = False,
    caller_limit: float | timedelta | Literal["auto"] | None = "auto",
    notice: Notice | str | Callable[[dict[str, Any]], Awaitable[object]] | None = None,
    notice_errors: bool = True,
    redact: Redact | None = None,
    helper: bool = False,
    breadcrumb: bool | Literal["event"] | None = None,
    resume: Resume[Any] | None = None,
) -> Callable[
    [Callable[[Event_contra, Context_contra], Coroutine[Any, Any, Response_co]]],
    LambdaFunction[Event_contra, Context_contra, Response_co],
]: ...


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
    notice: Notice | str | Callable[[dict[str, Any]], Awaitable[object]] | None = None,
    notice_errors: bool = True,
    redact: Redact | None = None,
    helper: bool = False,
    breadcrumb: bool | Literal["event"] | None = None,
    resume: Resume[Any] | None = None,
) -> Callable[
    [Callable[[Event_contra, Context_contra, Resources], Coroutine[Any, Any, Response_co]]],
    LambdaFunction[Event_contra, Context_contra, Response_co],
]: ...


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
    notice: Notice | str | Callable[[dict[str, Any]], Awaitable[object]] | None = None,
    notice_errors: bool = True,
    redact: Redact | None = None,
    helper: bool = False,
    breadcrumb: bool | Literal["event"] | None = None,
    resume: Resume[Any] | None = None,
) -> Any:
    """Make an `async def f(event, context)` a plain function that Lambda can call.

    Write `@aws.handler` or `@aws.handler(margin=..., ...)`, and name the function in Lambda's configuration.

    Each invocation runs in a task of its own under `deadline(context, margin)`, on one loop that lives as
    long as the process. When its time is up the work is cut and `on_exceeded` answers; without one, the
    invocation fails with `error`. A body that does not end when it is cut is left behind after a quarter of
    the margin. What an invocation leaves running is ended and named before the answer. Nothing but an
    `Exception` leaves, under the class name of what was raised, with notes, causes and group members in its
    message.

    Decorators of other libraries go above this one: they see a plain function.

    Args:
        function: The `async def`; with a lifespan it takes the resources as a third argument.
        margin: Seconds kept back before Lambda's timeout. Not negative. Default: the environment's
            `DEADLINE_MARGIN`, at most half of what is left; without it 0.5, at most a quarter.
        error: What it fails with, a subclass of `DeadlineExceeded`; its name is what Lambda is told.
        name: The deadline's, for messages and reports. Default: the function's.
        lifespan: A function that gives an async context manager (`contextlib.asynccontextmanager`); what that
            gives is open from the first invocation on, for the life of the process. It is entered in a task
            of its own, under the deadline of the invocation that needs it.
        eager: Enter the lifespan when the module is imported, in Lambda's time for initialising, and leave it
            to the first invocation if that is over before. Under SnapStart, after each restore; not on
            Managed Instances.
        interrupt: Interrupt what blocks the loop past the soft instant, by SIGALRM: `time.sleep`, a busy
            loop, a synchronous client.
        recycle: After an interrupt have the next invocation begin with a new loop and enter the lifespan
            again; whatever was interrupted may have left the old ones half-way. Default: go on, and
            warn by the event `aws.interrupted`.
        caller_limit: Until when whoever waits must have its answer. `"auto"`: as `aws.callers` knows of the
            event's source, and as that caller itself says, if its deadline came along (`deadline_header`, an
            installed client's `Invoke`). Seconds, where the source's limit is another one; they count from
            the request's own start, if the event tells it, otherwise from entry. `None`: Lambda's alone.
            The work is cut, and `on_exceeded` answers, before that; undoing and notices keep their time until
            Lambda's timeout.
        notice: Who is told, beside the mitigation, when the time was up: an `aws.Notice`, what
            `aws.Notice.to` takes (an ARN, a queue's URL), or an `async def` that is called with the message,
            a dict. At most one an invocation. Default: the environment's `DEADLINE_NOTICE`.
        notice_errors: Whether errors that nobody handled are told, too.
        redact: A function that takes the message and returns what of it may leave.
        helper: Fork a process that sends the notice if this one cannot, because the loop is blocked. Linux.
        breadcrumb: Keep a file in the temporary folder, from which the next cold start tells which request a
            process has died in, and where. `"event"`: with the request's event, for the notice.
            Default: in Lambda. Linux.
        resume: An `aws.Resume`: when the time is up and there is a checkpoint, that goes on, and
            `on_exceeded` is not asked.

    Returns:
        The function, with the attributes `on_exceeded` and `invoke`: see `LambdaFunction`.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        ImportError: A notice is to be sent, and there is no SDK.
    """
    check_name_and_error(name, error)
    _check_lifespan(lifespan)
    limit = _checked_limit(caller_limit)
    margin_of = checked_margin(margin, default=_default_margin(os.environ.get("DEADLINE_MARGIN", "").strip()))

    def make(function: Callable[..., Awaitable[Any]]) -> Any:
        takes = 2 if lifespan is None else 3
        _check_function(function, "function", takes)
        called = getattr(function, "__name__", type(function).__name__)  # a partial has no name
        plan = Plan(function, margin_of, name or called, error, lifespan, interrupt, recycle, limit)
        if resume is not None:
            plan.resume = _checked_resume(resume, takes)
        if notice is not None or helper or "DEADLINE_NOTICE" in os.environ:
            from deadline.aws._notifier import notifier  # noqa: PLC0415  # whoever tells nobody loads nothing

            plan.notifier = notifier(notice, redact, plan.name, on_error=notice_errors, helper=helper)
        if not _scope.DISABLED:
            plan.breadcrumb = _breadcrumb_of(plan, breadcrumb, helper=helper)
        plan.eager = eager
        if _initialises_here():
            plan.initialise()
        elif _is_copied_later():
            from deadline.aws._snap_start import when_restored  # noqa: PLC0415  # nobody else needs it

            when_restored(plan.initialise)
        return _lambda_function(plan)

    return make if function is None else make(function)


def _lambda_function(plan: Plan) -> Any:
    """A function, and no object that can be called: decorators of other libraries insist."""
    call: Callable[[Any, Any], Any] = plan.call
    if plan.breadcrumb is not None:
        call = functools.partial(plan.breadcrumb.run, call)

    @functools.wraps(plan.function)
    def function(event: Any, context: Any) -> Any:
        return call(event, context)

    made: Any = function
    made.invoke, made.on_exceeded = plan.invoke, plan.register
    return made


def _checked_limit(limit: float | timedelta | Literal["auto"] | None) -> float | Literal["auto"] | None:
    if limit is None:
        return None
    if limit == "auto":
        return "auto"
    checked = seconds(limit, "caller_limit")
    if not checked:
        raise ValueError(
            "caller_limit: 0 leaves no time for an answer; write the seconds that the caller waits"
        )
    return checked


_CALLED_BY_LAMBDA: Final = next(
    code for code in _lambda_function.__code__.co_consts if getattr(code, "co_name", "") == "function"
)


@functools.cache  # nonsense is said once, not by each handler
def _default_margin(text: str) -> DefaultMargin:
    """The operator's, or ours."""
    if not text:
        return ANSWER_MARGIN
    try:
        return DefaultMargin(seconds(float(text), "DEADLINE_MARGIN"), 1 / 2, anywhere=True)
    except ValueError as error:
        logger.warning("DEADLINE_MARGIN=%r is no number of seconds, 0.5 is used: %s", text, error)
        return ANSWER_MARGIN


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


def _breadcrumb_of(plan: Plan, asked: object, *, helper: bool) -> Breadcrumb | None:
    """What arms the process's record; whoever has no use for it loads nothing."""
    if asked is not None and not isinstance(asked, bool) and asked != "event":
        raise TypeError(f'breadcrumb: expected True, False or "event", got {asked!r}')
    if not helper and (asked is False or (asked is None and "AWS_LAMBDA_RUNTIME_API" not in os.environ)):
        return None
    if sys.platform != "linux":
        if asked:
            logger.warning(
                "breadcrumb= does nothing for %s: it needs Linux, this is %s", plan.name, sys.platform
            )
        return None
    try:
        from deadline.aws._breadcrumb import Breadcrumb  # noqa: PLC0415
    except ImportError as error:  # a Python that was built without ctypes
        logger.debug("no breadcrumb: %r", error)
        return None
    file = "AWS_LAMBDA_RUNTIME_API" in os.environ if asked is None else bool(asked)
    return Breadcrumb(plan.name, file=file, event=asked == "event")


def _check_function(function: Any, argument: str, takes: int) -> None:
    if not inspect.iscoroutinefunction(function):
        raise TypeError(
            f"{argument}: expected an `async def`, got {function!r}; where decorators of other libraries are "
            "stacked, @aws.handler is the lowest"
        )
    try:
        inspect.signature(function).bind(*range(takes))
    except TypeError as error:
        given = ", ".join(_ARGUMENTS[argument][:takes])
        name = getattr(function, "__qualname__", function)
        raise TypeError(
            f"{argument}: {name} is called with ({given}), and {error}; of a class, decorate a bound method"
        ) from None


def _checked_resume(resume: Any, takes: int) -> Resume[Any]:
    from deadline.aws._resume import Resume  # noqa: PLC0415  # for its type only

    if not isinstance(resume, Resume):
        raise TypeError(f"resume: expected an aws.Resume, got {resume!r}; write resume=aws.Resume(Progress)")
    if callable(resume.to):
        _check_function(resume.to, "to", takes)
    return resume


_ARGUMENTS: Final = {
    "to": ("event", "context", "resources"),
    "function": ("event", "context", "resources"),
    "on_exceeded": ("exceeded", "event", "context", "resources"),
}


def _check_lifespan(lifespan: Any) -> None:
    if lifespan is None or (callable(lifespan) and not inspect.isasyncgenfunction(lifespan)):
        return
    raise TypeError(
        f"lifespan: expected a function that gives an async context manager, got {lifespan!r}; put "
        "@contextlib.asynccontextmanager above an `async def` with one `yield`, and pass the function itself"
    )

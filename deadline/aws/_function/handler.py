"""`handler`: an `async def`, or a plain function, as a Lambda function that ends in time.

What only plain functions need, or only those that tell somebody, is loaded by them.
"""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from deadline._core import scope as _scope
from deadline._core.errors import DeadlineExceeded, check_name_and_error
from deadline._propagation import checked_header
from deadline.aws._function.arguments import (
    breadcrumb_of,
    check_lifespan,
    checked_limit,
    checked_resume,
    margin_asked_for,
)
from deadline.aws._function.entry import Entry, lambda_function
from deadline.aws._function.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta
    from typing import Unpack

    from deadline.aws._function.types import (
        Context_contra,
        Decorator,
        Event_contra,
        LambdaFunction,
        Options,
        PlainFunction,
        Response_co,
    )
    from deadline.aws._notices.message import Redact
    from deadline.aws._notices.notice import Notice
    from deadline.aws._notices.sender import Notifier
    from deadline.aws._resume.resume import Resume

Resources = TypeVar("Resources")


@overload
def handler(
    function: Callable[[Event_contra, Context_contra], Coroutine[Any, Any, Response_co]], /
) -> LambdaFunction[Event_contra, Context_contra, Response_co]: ...


@overload
def handler(
    function: Callable[[Event_contra, Context_contra], Response_co], /
) -> PlainFunction[Event_contra, Context_contra, Response_co]: ...


@overload
def handler(*, lifespan: None = None, **options: Unpack[Options]) -> Decorator[()]: ...


@overload
def handler(
    *,
    lifespan: Callable[[], AbstractAsyncContextManager[Resources]],
    eager: bool = False,
    **options: Unpack[Options],
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
        takes, kind = 2 if lifespan is None else 3, Entry
        plain = callable(function) and not inspect.iscoroutinefunction(function)
        if plain:
            from deadline.aws._function.plain_entry import PlainEntry as kind  # noqa: N813, PLC0415  # see above

        kind.refuse(function, lifespan=lifespan, eager=eager, recycle=recycle, resume=resume)
        kind.check(function, "function", takes)
        called = getattr(function, "__name__", type(function).__name__)  # a partial has no name
        plan = Plan(function, margin_of, name or called, error, lifespan, interrupt, recycle, limit)
        if resume is not None:
            plan.resume = checked_resume(resume, takes)
        if notice is not None or helper or "DEADLINE_NOTICE" in os.environ:
            plan.notifier = _notifier(
                notice, redact, plan.name, on_error=notice_errors, helper=helper, plain=plain
            )
        if not _scope.DISABLED:
            plan.breadcrumb = breadcrumb_of(plan.name, breadcrumb, helper=helper)
        plan.eager, plan.header = eager, listens_to
        entry = kind(plan)
        if _initialises_here():
            entry.initialise()
        elif _is_copied_later():
            from deadline.aws._runtime.snap_start import when_restored  # noqa: PLC0415  # nobody else needs it

            when_restored(entry.initialise)
        return lambda_function(entry)

    return make if function is None else make(function)


def _notifier(
    notice: Any, redact: Redact | None, name: str, *, on_error: bool, helper: bool, plain: bool
) -> Notifier | None:
    """What sends the notices, if somebody is told; loaded by those who tell somebody."""
    from deadline.aws._notices.sender import Notifier, notifier  # noqa: PLC0415  # see above

    kind = Notifier
    if plain:
        from deadline.aws._notices.thread_sender import PlainNotifier as kind  # noqa: N813, PLC0415  # see above
    return notifier(notice, redact, name, kind, on_error=on_error, helper=helper)


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

"""What `handler` makes, to a type checker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar, TypeVarTuple, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from datetime import timedelta

    from deadline._core.errors import DeadlineExceeded
    from deadline.aws._notices.message import Redact
    from deadline.aws._notices.notice import Notice
    from deadline.aws._resume.resume import Resume

Event_contra = TypeVar("Event_contra", contravariant=True)
Context_contra = TypeVar("Context_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)
Mitigation = TypeVar("Mitigation", bound="Callable[..., Awaitable[Any]]")
Given = TypeVarTuple("Given")
PlainMitigation = TypeVar("PlainMitigation", bound="Callable[..., Any]")


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


class PlainFunction(Protocol[Event_contra, Context_contra, Response_co]):
    """What `handler` makes of a plain function: one of the same kind, with an attribute."""

    def __call__(self, event: Event_contra, context: Context_contra, /) -> Response_co:
        """Run an invocation to its answer, without a loop; tests call it, too."""

    def on_exceeded(self, mitigation: PlainMitigation, /) -> PlainMitigation:
        """Register what runs when the time is up: `def (exceeded, event, context)`.

        It is as that of an `async def`, and interrupted when its share is over.

        Raises:
            TypeError: It is an `async def`, which no loop would run.
        """


class Decorator(Protocol[*Given]):
    """What `handler(...)` gives, for both kinds of functions; a plain one is given no resources."""

    @overload
    def __call__(
        self, function: Callable[[Event_contra, Context_contra, *Given], Coroutine[Any, Any, Response_co]], /
    ) -> LambdaFunction[Event_contra, Context_contra, Response_co]: ...

    @overload
    def __call__(
        self: Decorator[()], function: Callable[[Event_contra, Context_contra], Response_co], /
    ) -> PlainFunction[Event_contra, Context_contra, Response_co]: ...


class Options(TypedDict, total=False):
    """What every handler can be made with; `handler` says what each means."""

    margin: float | timedelta | None
    error: type[DeadlineExceeded]
    name: str | None
    interrupt: bool
    recycle: bool
    caller_limit: float | timedelta | Literal["auto"] | None
    header: str | None
    notice: Notice | str | Callable[[dict[str, Any]], object] | None
    notice_errors: bool
    redact: Redact | None
    helper: bool
    breadcrumb: bool | Literal["event"] | None
    resume: Resume[Any] | None

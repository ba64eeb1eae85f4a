"""Checking what `handler` is given, so that a mistake shows where it is written."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any, Final, Literal

from deadline._core.source import ANSWER_MARGIN, AskedMargin, DefaultMargin, checked_margin, seconds
from deadline._events import logger

if TYPE_CHECKING:
    from datetime import timedelta

    from deadline.aws._rescue.breadcrumb import Breadcrumb
    from deadline.aws._resume.resume import Resume


def checked_limit(limit: float | timedelta | Literal["auto"] | None) -> float | Literal["auto"] | None:
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


def margin_asked_for(margin: float | timedelta | None, from_environment: str) -> AskedMargin | DefaultMargin:
    """The margin that the code asks for, or else the environment's or ours."""
    asked = checked_margin(margin, default=default_margin(from_environment))
    return AskedMargin(asked) if isinstance(asked, float) else asked


@functools.cache  # nonsense is said once, not by each handler
def default_margin(text: str) -> DefaultMargin:
    """The operator's, or ours."""
    if not text:
        return ANSWER_MARGIN
    try:
        return DefaultMargin(seconds(float(text), "DEADLINE_MARGIN"), 1 / 2, anywhere=True)
    except ValueError as error:
        logger.warning("DEADLINE_MARGIN=%r is no number of seconds, 0.5 is used: %s", text, error)
        return ANSWER_MARGIN


def check_function(function: Any, argument: str, takes: int) -> None:
    if not inspect.iscoroutinefunction(function):
        if argument == "function":
            raise TypeError(f"function: expected an `async def` or a plain function, got {function!r}")
        raise TypeError(f"{argument}: expected an `async def`, as the handler is one; got {function!r}")
    check_takes(function, argument, takes)


def check_takes(function: Any, argument: str, takes: int) -> None:
    """Refuse a function that cannot be called with what it will be, by `TypeError`."""
    try:
        inspect.signature(function).bind(*range(takes))
    except TypeError as error:
        given = ", ".join(_ARGUMENTS[argument][:takes])
        name = getattr(function, "__qualname__", function)
        raise TypeError(
            f"{argument}: {name} is called with ({given}), and {error}; of a class, decorate a bound method"
        ) from None


def checked_resume(resume: Any, takes: int) -> Resume[Any]:
    from deadline.aws._resume.resume import Resume  # noqa: PLC0415  # for its type only

    if not isinstance(resume, Resume):
        raise TypeError(f"resume: expected an aws.Resume, got {resume!r}; write resume=aws.Resume(Progress)")
    if callable(resume.to):
        check_function(resume.to, "to", takes)
    return resume


_ARGUMENTS: Final = {
    "to": ("event", "context", "resources"),
    "function": ("event", "context", "resources"),
    "on_exceeded": ("exceeded", "event", "context", "resources"),
}


def check_lifespan(lifespan: Any) -> None:
    if lifespan is None or (callable(lifespan) and not inspect.isasyncgenfunction(lifespan)):
        return
    raise TypeError(
        f"lifespan: expected a function that gives an async context manager, got {lifespan!r}; put "
        "@contextlib.asynccontextmanager above an `async def` with one `yield`, and pass the function itself"
    )


def breadcrumb_of(name: str, asked: object, *, helper: bool) -> Breadcrumb | None:
    """What arms the process's record; whoever has no use for it loads nothing."""
    if asked is not None and not isinstance(asked, bool) and asked != "event":
        raise TypeError(f'breadcrumb: expected True, False or "event", got {asked!r}')
    if not helper and (asked is False or (asked is None and "AWS_LAMBDA_RUNTIME_API" not in os.environ)):
        return None
    if sys.platform != "linux":
        if asked:
            logger.warning("breadcrumb= does nothing for %s: it needs Linux, this is %s", name, sys.platform)
        return None
    try:
        from deadline.aws._rescue.breadcrumb import Breadcrumb  # noqa: PLC0415  # it loads ctypes
    except ImportError as error:  # a Python that was built without ctypes
        logger.debug("no breadcrumb: %r", error)
        return None
    file = "AWS_LAMBDA_RUNTIME_API" in os.environ if asked is None else bool(asked)
    return Breadcrumb(name, file=file, event=asked == "event")

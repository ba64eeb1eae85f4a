"""What a handler was made with, as plain data; `handler` makes it, and every invocation reads it."""

from __future__ import annotations

import contextvars
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from deadline._propagation import received
from deadline.aws._sources.callers import header_left, source_left

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from deadline._core.errors import DeadlineExceeded
    from deadline._core.source import AskedMargin, DefaultMargin
    from deadline.aws._notices.sender import Notifier
    from deadline.aws._rescue.breadcrumb import Breadcrumb
    from deadline.aws._resume.resume import Resume


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

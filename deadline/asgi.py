"""A deadline for each request of an ASGI application: FastAPI, Starlette, or plain ASGI.

No framework is imported. What the middleware does follows from when the time is up:

- before the response has started, the application is cut and `on_exceeded`, or a plain 504, answers;
- after that nothing honest can be said any more, and `DeadlineExceeded` leaves: the server then ends the
  connection without the mark that a whole response ends with, so that the client can tell;
- a response that is complete stands, and so does its connection.

The ASGI specification: https://asgi.readthedocs.io/en/latest/specs/www.html.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from deadline._errors import DeadlineExceeded, says_time_is_up
from deadline._events import emit, shown
from deadline._scope import Deadline
from deadline._source import ANSWER_MARGIN, bounded, checked, checked_margin, seconds
from deadline._travel import HEADER, understood

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from datetime import timedelta

    Scope: TypeAlias = MutableMapping[str, Any]
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["DeadlineMiddleware"]

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What a header may be called, a token: RFC 9110, 5.6.2."""

_ENDS: Final = {"http.response.body", "http.response.pathsend"}
"""Messages that a response may end with."""

_BODY: Final = b"The answer took too long.\n"
_HEADERS: Final = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", str(len(_BODY)).encode()),
]


class _Response:
    """Sends a response's messages, and knows how far it is.

    Attributes:
        started: Whether it has begun.
        whole: Whether it is complete.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = self.whole = False

    async def __call__(self, message: Message) -> None:
        self.started = self.started or message["type"] == "http.response.start"
        await self._send(message)
        self.whole = message["type"] in _ENDS and not message.get("more_body")


@final
class DeadlineMiddleware:
    """An ASGI application whose requests end in time: `app.add_middleware(DeadlineMiddleware, budget=5.0)`.

    Each HTTP request runs under a deadline of its own, from its arrival here to the end of the call:
    background tasks of the framework are inside. Websockets and the lifespan pass through. `current()` is the
    deadline in every endpoint. One that is a `def` runs in a worker thread, which nothing interrupts: it is
    answered when the thread has ended.

    Under Mangum the Lambda context in the scope is the hard end, and the source that the event is from limits
    as in `aws.handler`.

    Args:
        app: The application.
        budget: Seconds for a request, more than 0. `None`: no limit but the caller's and Lambda's.
        margin: Seconds kept back to answer in when the work has been cut. Not negative; at most half of a
            limit that somebody who waits has set. Default: 0.5, at most a quarter of the time there is.
        header: The request header by which a caller tells how many milliseconds it will wait
            (`deadline_header` sends it). It can only shorten; what is no such number is ignored. `None`: not
            looked at.
        on_exceeded: An `async def (exceeded, scope)` that returns the response, an ASGI application: a
            Starlette or FastAPI `Response` is one. It runs in the margin. If it raises, or does not end in
            time, 504 answers; a response that it returned and that has started is broken off instead.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
    """

    def __init__(
        self,
        app: Application,
        *,
        budget: float | timedelta | None = None,
        margin: float | timedelta | None = None,
        header: str | None = HEADER,
        on_exceeded: Callable[[DeadlineExceeded, Scope], Awaitable[Application]] | None = None,
    ) -> None:
        if not callable(app):
            raise TypeError(f"app: expected an ASGI application, got {app!r}")
        _check_mitigation(on_exceeded)
        if header is not None and (not isinstance(header, str) or _NAME.fullmatch(header) is None):
            raise (ValueError if isinstance(header, str) else TypeError)(
                f"header: expected a header's name such as {HEADER!r}, or None, got {header!r}"
            )
        self._app = app
        self._budget = math.inf if budget is None else seconds(budget, "budget")
        if not self._budget:
            raise ValueError("budget: 0 leaves no time for any request; for no limit write None")
        self._margin = checked_margin(margin, default=ANSWER_MARGIN)
        self._header = None if header is None else header.lower().encode()
        self._on_exceeded = on_exceeded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response = _Response(send)
        dl = self._deadline(scope)
        try:
            async with dl:
                await self._app(scope, receive, response)
        except Exception as error:
            exceeded = says_time_is_up(error, lambda exceeded: exceeded.deadline is dl)
            if exceeded is None:
                raise
            emit(
                "asgi.exceeded",
                logging.WARNING,
                method=scope.get("method"),
                path=scope.get("path"),
                response_started=response.started,
                report=exceeded.report.render(),
            )
            if response.whole:
                return  # the server would close the connection, and the next request may have come on it
            if response.started:
                raise
            await self._answer(exceeded, dl, scope, receive, response)

    def _deadline(self, scope: Scope) -> Deadline:
        context, limit = scope.get("aws.context") or None, self._budget
        if self._header is not None:
            for name, value in scope.get("headers", ()):
                if name == self._header:
                    limit = min(limit, understood(value))
        if context:
            from deadline.aws._callers import source_left  # noqa: PLC0415  # for those on Lambda alone

            limit = min(limit, source_left(scope.get("aws.event"), None))
        return Deadline(*bounded(checked(context), self._margin, limit), "request", DeadlineExceeded)

    async def _answer(
        self, exceeded: DeadlineExceeded, dl: Deadline, scope: Scope, receive: Receive, response: _Response
    ) -> None:
        """Answer instead of the application, which has not begun to."""
        if self._on_exceeded is not None:
            try:
                async with exceeded.grace(reserve=dl.answer_by - dl.answering().mitigation):
                    answer = _checked(await self._on_exceeded(exceeded, scope))
                async with exceeded.grace():
                    await answer(scope, receive, response)
            except Exception as error:
                if response.started:
                    raise
                emit("asgi.mitigation_failed", logging.ERROR, path=scope.get("path"), error=shown(error))
            else:
                return
        await _gateway_timeout(scope, receive, response)


def _check_mitigation(on_exceeded: Any) -> None:
    if on_exceeded is None:
        return
    expected = "on_exceeded: expected an `async def (exceeded, scope)` that returns an ASGI response, got"
    if not inspect.iscoroutinefunction(on_exceeded):
        raise TypeError(f"{expected} {on_exceeded!r}")
    try:
        inspect.signature(on_exceeded).bind("exceeded", "scope")
    except TypeError as error:
        raise TypeError(f"{expected} {on_exceeded!r}: {error}") from None


def _checked(answer: Application) -> Application:
    if not callable(answer):
        raise TypeError(f"on_exceeded: expected it to return a response, an ASGI application, got {answer!r}")
    return answer


async def _gateway_timeout(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 504, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})

"""A deadline for each request of an ASGI application: FastAPI, Starlette, or plain ASGI.

No framework is imported. What the middleware does follows from when the time is up:

- before the response has started, the application is cut and `on_exceeded`, or a plain 504, answers, also if
  the application does not end: a thread, for example, which nothing interrupts;
- after that nothing honest can be said any more, and `DeadlineExceeded` leaves: the server then ends the
  connection without the mark that a whole response ends with, so that the client can tell;
- a response that is complete stands, and so does its connection.

The ASGI specification: https://asgi.readthedocs.io/en/latest/specs/www.html.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from deadline._core.errors import DeadlineExceeded, says_time_is_up
from deadline._core.margin import RESPONSE_AT_LEAST
from deadline._core.scope import Deadline
from deadline._core.source import ANSWER_MARGIN, Instant, bounded, checked, checked_margin, seconds
from deadline._events import REQUEST, REQUEST_GRACE, emit, shown
from deadline._propagation import checked_header, claimed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from datetime import timedelta

    Scope: TypeAlias = MutableMapping[str, Any]
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["DeadlineMiddleware"]

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
        instead: What answers in its place; messages that come after that are dropped.
        timer: What will look whether that is needed.
    """

    timer: asyncio.TimerHandle

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = self.whole = False
        self.instead: asyncio.Task[None] | None = None

    async def __call__(self, message: Message) -> None:
        if self.instead is not None:
            return
        self.started = self.started or message["type"] == "http.response.start"
        await self._send(message)
        self.whole = message["type"] in _ENDS and not message.get("more_body")


@final
class DeadlineMiddleware:
    """An ASGI application whose requests end in time: `app.add_middleware(DeadlineMiddleware, budget=5.0)`.

    Each HTTP request runs under a deadline of its own, from its arrival here to the end of the call:
    background tasks of the framework are inside. Websockets and the lifespan pass through. `current()` is the
    deadline in every endpoint. One that is a `def` runs in a worker thread, which nothing interrupts: it is
    answered for after a quarter of the margin, and what it still sends is dropped.

    Under Mangum the Lambda context in the scope is the hard end, and the source that the event is from limits
    as in `aws.handler`.

    Args:
        app: The application.
        budget: Seconds for a request, more than 0. `None`: no limit but the caller's and Lambda's.
        margin: Seconds kept back to answer in when the work has been cut. Not negative; at most half of a
            limit that somebody who waits has set. Default: 0.5, at most a quarter of the time there is.
        header: The request header by which a caller tells how many milliseconds it will wait
            (`deadline_header` sends `"deadline-remaining-ms"`). It can only shorten, to no less than 0.25 s;
            what is no such number is ignored. Default: none is read, because anybody can send one and so
            choose the instant of the cut.
        on_exceeded: An `async def (exceeded, scope)` that returns the response, an ASGI application: a
            Starlette or FastAPI `Response` is one. It runs in the margin, or, if the loop was blocked until
            that was over, for as long from then on; on Lambda never past its timeout. If it raises, or does
            not end in time, 504 answers; a response that it returned and that has started is broken off
            instead.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
    """

    def __init__(
        self,
        app: Application,
        *,
        budget: float | timedelta | None = None,
        margin: float | timedelta | None = None,
        header: str | None = None,
        on_exceeded: Callable[[DeadlineExceeded, Scope], Awaitable[Application]] | None = None,
    ) -> None:
        if not callable(app):
            raise TypeError(f"app: expected an ASGI application, got {app!r}")
        _check_mitigation(on_exceeded)
        self._app = app
        self._budget = math.inf if budget is None else seconds(budget, "budget")
        if not self._budget:
            raise ValueError("budget: 0 leaves no time for any request; for no limit write None")
        self._margin = checked_margin(margin, default=ANSWER_MARGIN)
        name = checked_header(header)
        self._header = None if name is None else name.encode()
        self._on_exceeded = on_exceeded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response = _Response(send)
        dl, outside = self._deadline(scope), copy_context()
        try:
            async with dl:
                if dl.soft == math.inf:
                    await self._app(scope, receive, response)
                    return
                at = max(dl.answering().unwinding, dl.soft + RESPONSE_AT_LEAST)
                response.timer = asyncio.get_running_loop().call_at(
                    at, self._stand_in, dl, scope, receive, response, send, context=outside
                )
                try:
                    await self._app(scope, receive, response)
                finally:
                    response.timer.cancel()
        except Exception as error:
            exceeded = says_time_is_up(error, lambda exceeded: exceeded.deadline is dl)
            if exceeded is None:
                raise
            if response.instead is not None:
                return
            _tell(exceeded, scope, response)
            if response.whole:
                return  # the server would close the connection, and the next request may have come on it
            if response.started:
                raise
            await self._answer(exceeded, dl, scope, receive, response)
        finally:
            if response.instead is not None:
                await response.instead

    def _stand_in(
        self, dl: Deadline, scope: Scope, receive: Receive, response: _Response, send: Send
    ) -> None:
        """Answer beside an application that was cut and has not ended."""
        ends = dl.answering()
        undone = (ends.section + ends.undo) / 2  # an undo that is quick is told as done
        if dl.unheld_soft < dl.soft and dl.now() < undone:
            response.timer = asyncio.get_running_loop().call_at(
                undone, self._stand_in, dl, scope, receive, response, send
            )
        elif not response.started:
            exceeded = dl.account()
            _tell(exceeded, scope, response)
            answer = self._answer(exceeded, dl, scope, receive, _Response(send))
            response.instead = asyncio.get_running_loop().create_task(answer)

    def _deadline(self, scope: Scope) -> Deadline:
        context, limit = scope.get("aws.context") or None, self._budget
        if self._header is not None:
            for name, value in scope.get("headers", ()):
                if name == self._header:
                    limit = min(limit, claimed(value))
        if context:
            from deadline.aws._sources.callers import source_left  # noqa: PLC0415  # for those on Lambda alone

            limit = min(limit, source_left(scope.get("aws.event"), None))
        return Deadline(*bounded(checked(context), self._margin, limit), REQUEST, DeadlineExceeded)

    async def _answer(
        self, exceeded: DeadlineExceeded, dl: Deadline, scope: Scope, receive: Receive, response: _Response
    ) -> None:
        """Answer instead of the application, which has not begun to."""
        if self._on_exceeded is not None:
            mitigation, response_ends = _answers_until(dl, on_lambda=bool(scope.get("aws.context")))
            try:
                async with Deadline(Instant(mitigation), 0.0, REQUEST_GRACE, DeadlineExceeded):
                    answer = _checked(await self._on_exceeded(exceeded, scope))
                async with Deadline(Instant(response_ends), 0.0, REQUEST_GRACE, DeadlineExceeded):
                    await answer(scope, receive, response)
            except Exception as error:
                if response.started:
                    raise
                emit("asgi.mitigation_failed", logging.ERROR, path=scope.get("path"), error=shown(error))
            else:
                return
        await _gateway_timeout(scope, receive, response)


def _answers_until(dl: Deadline, *, on_lambda: bool) -> tuple[float, float]:
    """Until when `on_exceeded` may last, and until when its response may."""
    ends, now = dl.answering().mitigation, dl.now()
    if now < ends:
        return ends, dl.answer_by
    if on_lambda:
        return dl.shares().mitigation, dl.hard
    late = now - dl.unheld_soft  # something blocked the loop: the server still waits
    return ends + late, dl.answer_by + late


def _tell(exceeded: DeadlineExceeded, scope: Scope, response: _Response) -> None:
    emit(
        "asgi.exceeded",
        logging.WARNING,
        method=scope.get("method"),
        path=scope.get("path"),
        response_started=response.started,
        report=exceeded.report.render(),
    )


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

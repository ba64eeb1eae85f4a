"""The notice of a plain function: it is sent in a thread, because there is no loop that could do it beside.

The thread has as long as the notice of an `async def`. One that the service keeps waiting is left alone then:
nothing but its own timeouts (`_notices.blocking_client`) can end it, and it begins no further attempt.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any

from deadline._core.errors import DeadlineExceeded
from deadline._core.plain import under
from deadline._core.scope import Deadline
from deadline._core.source import Instant
from deadline._events import emit
from deadline.aws._notices.blocking_client import BlockingClient
from deadline.aws._notices.notice import Notice
from deadline.aws._notices.sender import InvocationNotice, Notifier, tell_delivery
from deadline.aws._runtime.own_client import WARMING_UP
from deadline.aws._runtime.process_record import note_told

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

    from deadline._core.plain import Outcome


class BackgroundSend:
    """A piece of work in a thread of its own, which somebody waits for, though not for ever.

    Args:
        work: What to do.
        until: When it should be over, on the monotonic clock; it can ask the deadline in force.
        outside: The context to do it in.
    """

    def __init__(self, work: Callable[[], object], until: float, outside: contextvars.Context) -> None:
        self._work = work
        self._until = until
        self._outcome: Outcome | None = None
        # A daemon: the interpreter's end does not wait for it.
        self._thread = threading.Thread(
            target=outside.copy().run, args=(self._run,), name="notice", daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        dl = Deadline(Instant(self._until), 0.0, "notice", DeadlineExceeded)
        self._outcome = under(dl, self._work)

    def is_over(self, until: float) -> bool:
        """Wait for its end. Returns whether it has come."""
        self._thread.join(max(0.0, until - time.monotonic()))
        return self._outcome is not None

    @property
    def error(self) -> BaseException | None:
        """Why it failed, if it did; that it has not ended is a reason, too."""
        return TimeoutError("it did not end in time") if self._outcome is None else self._outcome.error


class PlainNotifier(Notifier):
    """What sends a plain function's notices."""

    plain = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._blocking = BlockingClient(self._target) if isinstance(self._target, Notice) else None

    def notice(self, name: str, event: Any, context: Any) -> ThreadedNotice:
        """The notice that an invocation may send."""
        self._last = word = ThreadedNotice(self, name, event, context)
        return word

    def initialise(self, outside: contextvars.Context) -> None:
        """Open the client, in Lambda's init phase."""
        if self._blocking is None:
            return
        failed: BaseException | None = None
        try:
            self._blocking.open()
            self._blocking.check()
            until = time.monotonic() + WARMING_UP
            connecting = BackgroundSend(self._blocking.connect, until, outside)
            if connecting.is_over(until):
                failed = connecting.error
        except Exception as error:  # noqa: BLE001  # a cold start must go on
            failed = error
        if failed is not None:
            assert isinstance(self._target, Notice)
            emit("aws.warm_up_failed", logging.WARNING, endpoint=self._target.service, error=repr(failed))

    def begin(self, messages: list[dict[str, Any]], outside: contextvars.Context) -> BackgroundSend | None:
        """Begin to send messages, one after the other, and tell how that goes; never raises an error."""

        def deliver() -> None:
            for message in messages:
                try:
                    self.send_now(message)
                except Exception as error:  # noqa: BLE001  # whatever it is, it is to be told
                    tell_delivery(message, error)
                else:
                    tell_delivery(message, None)

        try:
            return BackgroundSend(deliver, math.inf, outside)
        except RuntimeError as error:  # no thread can be started
            emit("aws.notice_failed", logging.WARNING, error=repr(error))
            return None

    def send_now(self, message: dict[str, Any]) -> None:
        """Send a message, and wait for the answer.

        Raises:
            Exception: It was not sent.
        """
        said = self.sealed(message)
        if self._blocking is None:
            self._target(said)  # type: ignore[operator]
        else:
            self._blocking.send(said)


class ThreadedNotice(InvocationNotice):
    """The one notice of a plain function's invocation."""

    _notifier: PlainNotifier

    def begin(
        self, error: BaseException, until: float, outside: contextvars.Context, *, expired: bool
    ) -> BackgroundSend | None:
        """Begin to send it, if nobody has; never raises an error.

        Args:
            error: What happened.
            until: When to give up, on the monotonic clock.
            outside: The context to do it in.
            expired: Whether `error` says that the time is up.
        """
        if self._helper is not None and not self._helper.stand_down():
            return None
        what = self._message(error, expired=expired)
        self._begun = True
        try:
            return BackgroundSend(lambda: self._notifier.send_now(what), until, outside)
        except RuntimeError as failure:  # no thread can be started
            self._tell("aws.notice_failed", logging.WARNING, error=repr(failure))
            return None

    def end(self, errand: BackgroundSend, until: float, *, expired: bool) -> None:
        """Wait for its end, and say how it was."""
        errand.is_over(until)
        if errand.error is not None:
            self._tell("aws.notice_failed", logging.WARNING, error=repr(errand.error))
        else:
            reason = "deadline_exceeded" if expired else "error"
            self._tell("aws.notice_sent", logging.INFO, reason=reason, sent_by="handler")
            note_told()

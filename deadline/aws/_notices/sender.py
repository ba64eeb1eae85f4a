"""Telling somebody that an invocation went wrong, once, whoever of the two processes does it.

The loop sends beside the mitigation, from its start on and until the mitigation's share of the margin ends.
A helper process, if there is one, sends if the loop has not got round to it by the helper's share. The loop
asks first: `Helper.stand_down` says whether the helper has sent or is sending; if not, it will not.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import logging
import math
import os
import sys
from typing import TYPE_CHECKING, Any, ClassVar

from deadline._core.margin import helper_acts_at
from deadline._core.scope import deadline
from deadline._events import emit, logger
from deadline.aws._notices.blocking_client import BlockingClient
from deadline.aws._notices.helper_process import Helper
from deadline.aws._notices.message import error_part, exceeded_part, message, sealed
from deadline.aws._notices.notice import MEGABYTE, Notice, check_answer
from deadline.aws._runtime.own_client import OwnClient
from deadline.aws._runtime.process_record import identity, note_told

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable

    from deadline._core.scope import Deadline
    from deadline.aws._notices.message import Redact

    Target = Notice | Callable[[dict[str, Any]], Awaitable[object]]


class Notifier:
    """What sends a handler's notices.

    Attributes:
        on_error: Whether an error that nobody handled is told, too.
    """

    plain: ClassVar[bool] = False
    """Whether it is for a plain function, without a loop."""

    def __init__(self, target: Target, redact: Redact | None, *, on_error: bool, helper: bool) -> None:
        self._target = target
        self._redact = redact
        self.on_error = on_error
        self._client = (
            OwnClient(target.service, target.region, target.check) if isinstance(target, Notice) else None
        )
        self.helper = Helper(target, redact) if helper and isinstance(target, Notice) else None
        self._last: InvocationNotice | None = None

    def notice(self, name: str, event: Any, context: Any) -> InvocationNotice:
        """The notice that an invocation may send."""
        self._last = InvocationNotice(self, name, event, context)
        return self._last

    def tell_at_last(self, stack: str) -> None:
        """Send the notice of an invocation that has kept the loop until now; for a thread, without a loop."""
        if self._last is not None and self.helper is None and isinstance(self._target, Notice):
            self._last.send_at_last(BlockingClient(self._target), stack)

    def initialise(self, outside: contextvars.Context) -> None:
        """Open the client, in Lambda's init phase."""
        if self._client is not None:
            self._client.initialise(outside)

    async def send(self, message: dict[str, Any], outside: contextvars.Context) -> None:
        """Send a message from the running loop.

        Raises:
            Exception: It was not sent.
        """
        said = self.sealed(message)
        if not isinstance(self._target, Notice):
            await self._target(said)
            return
        assert self._client is not None
        request = self._target.request(said)
        check_answer(await self._client.call(self._target.operation, request, outside))

    def sealed(self, message: dict[str, Any]) -> dict[str, Any]:
        """What of a message may leave, and fits."""

        def failed(error: Exception) -> None:
            emit(
                "aws.redaction_failed",
                logging.WARNING,
                function=message["function"],
                request_id=message["request_id"],
                error=repr(error),
            )

        limit = self._target.limit if isinstance(self._target, Notice) else MEGABYTE
        return sealed(message, self._redact, limit, failed)

    async def deliver(self, message: dict[str, Any], until: float, outside: contextvars.Context) -> bool:
        """Send a message from the running loop, and tell how that went; never raises an error.

        Args:
            message: What to send.
            until: When to give up, on the loop's clock.
            outside: What a client is opened in.

        Returns:
            Whether it was sent.
        """
        try:
            async with deadline(max(0.0, until - asyncio.get_running_loop().time()), name="notice"):
                await self.send(message, outside)
        except BaseException as failure:
            tell_delivery(message, failure)
            if not isinstance(failure, Exception):
                raise
            return False
        tell_delivery(message, None)
        return True


def tell_delivery(message: dict[str, Any], failure: BaseException | None) -> None:
    """Tell how it went to send a message from this process."""
    of = {"function": message["function"], "request_id": message["request_id"]}
    if failure is None:
        emit("aws.notice_sent", logging.INFO, **of, reason=message["reason"], sent_by="handler")
    else:
        emit("aws.notice_failed", logging.WARNING, **of, error=repr(failure))


class InvocationNotice:
    """The one notice of an invocation."""

    def __init__(self, notifier: Notifier, name: str, event: Any, context: Any) -> None:
        self._notifier = notifier
        # Lambda calls from outside of a loop. A test's `invoke` does not, and forks nothing.
        self._helper = notifier.helper if asyncio._get_running_loop() is None else None  # noqa: SLF001
        self._request_id, self._name, self._version = identity(name, context)
        self._event = event
        self._soft = math.inf  # as the helper knows it
        self._begun = False
        self.on_error = notifier.on_error

    def arm(self, dl: Deadline) -> None:
        """Have the helper send it, unless it is told otherwise, when its share of the margin has come."""
        if self._helper is not None:
            self._soft = dl.soft
            self._helper.arm(self._event, self._acts_in(dl))

    def postpone(self, dl: Deadline) -> None:
        """Tell the helper if the deadline has moved: a critical section holds it."""
        if self._helper is not None and dl.soft > self._soft:
            self._soft = dl.soft
            self._helper.postpone(self._acts_in(dl))

    def _acts_in(self, dl: Deadline) -> float:
        """Seconds until the helper acts; later if a critical section holds the clock."""
        return helper_acts_at(dl.soft, dl.hard) - dl.now()

    async def send(
        self, error: BaseException, until: float, outside: contextvars.Context, *, expired: bool
    ) -> None:
        """Send it, if nobody has; never raises an error.

        Args:
            error: What happened.
            until: When to give up, on the loop's clock.
            outside: What a client is opened in.
            expired: Whether `error` says that the time is up.
        """
        await asyncio.sleep(0)  # the mitigation begins before it: making a request takes milliseconds
        if self._helper is not None and not self._helper.stand_down():
            return
        what = self._message(error, expired=expired)
        self._begun = True
        if await self._notifier.deliver(what, until, outside):
            note_told()

    def _message(self, error: BaseException, *, expired: bool) -> dict[str, Any]:
        what = message(self._request_id, self._name, self._version, self._event)
        return what | (exceeded_part(error) if expired else error_part(error))

    def send_at_last(self, client: BlockingClient, stack: str) -> None:
        """Send it as the helper would, if nobody has tried."""
        if self._begun:
            return
        what = message(self._request_id, self._name, self._version, self._event) | {"stack": stack}
        try:
            client.send(self._notifier.sealed(what))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is to be told
            tell_delivery(what, error)
        else:
            tell_delivery(what, None)

    def stand_down(self) -> None:
        """Have the helper not send it: what happened is no news."""
        if self._helper is not None:
            self._helper.stand_down()

    def close(self, dl: Deadline) -> None:
        """Have the helper not send it any more; wait for one that is sending until it is time to answer."""
        if self._helper is None or self._helper.stand_down():
            return
        seconds = max(0.0, dl.shares().mitigation - dl.now())
        if self._helper.has_sent(seconds):
            self._tell("aws.notice_sent", logging.INFO, reason="deadline_exceeded", sent_by="helper")
        else:
            self._tell(
                "aws.notice_failed", logging.WARNING, error="the helper process did not send it in time"
            )

    def _tell(self, event: str, level: int, **fields: Any) -> None:
        emit(event, level, function=self._name, request_id=self._request_id, **fields)


def notifier(
    target: Notice | str | Callable[..., Any] | None,
    redact: Redact | None,
    name: str,
    kind: type[Notifier] = Notifier,
    *,
    on_error: bool,
    helper: bool,
) -> Notifier | None:
    """Check what `handler` was given, or take the environment's DEADLINE_NOTICE.

    Args:
        target: Who is told.
        redact: What is applied before.
        name: The handler's.
        kind: What is made: `PlainNotifier` for a plain function.
        on_error: Whether an error that nobody handled is told, too.
        helper: Whether a helper process stands by.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        ImportError: There is no SDK to send with.
    """
    if redact is not None and (not callable(redact) or inspect.iscoroutinefunction(redact)):
        raise TypeError(
            "redact: expected a plain function that takes the message and returns it, no `async def`; "
            f"got {redact!r}"
        )
    checked: Target | None = (
        _from_environment(plain=kind.plain) if target is None else _checked(target, plain=kind.plain)
    )
    if helper and not isinstance(checked, Notice):
        if checked is not None:
            raise TypeError("helper: it sends an aws.Notice, and cannot run a function of yours")
        logger.warning("helper=True does nothing for %s: there is neither notice= nor DEADLINE_NOTICE", name)
    if helper and sys.platform != "linux":
        logger.warning("helper=True does nothing for %s: it needs Linux, this is %s", name, sys.platform)
        helper = False
    if checked is None:
        return None
    return kind(checked, redact, on_error=on_error, helper=helper)


def _checked(target: Any, *, plain: bool) -> Target:
    is_async = is_async_callable(target)
    if is_async and plain:
        raise TypeError(
            f"notice: no loop runs {target!r} for a plain function; write it as a plain `def`, which is "
            "called with the message in a thread, or the handler as an `async def`"
        )
    if is_async or (plain and callable(target)):
        return target  # type: ignore[no-any-return]
    if isinstance(target, str):
        try:
            target = Notice.to(target)
        except ValueError as error:
            raise ValueError(f"notice: {error}") from None
    if not isinstance(target, Notice):
        function = "a plain function" if plain else "an `async def`"
        raise TypeError(
            f"notice: expected an aws.Notice, an ARN, a queue's URL or {function} that takes the message, "
            f"got {target!r}"
        )
    if importlib.util.find_spec("botocore" if plain else "aiobotocore") is None:
        raise ImportError('notice: sending it needs the SDK: pip install "asyncio-deadline[aws]"')
    return target


def is_async_callable(target: object) -> bool:
    """Whether calling it gives a coroutine: an `async def`, or an object whose `__call__` is one."""
    call = getattr(target, "__call__", None)  # noqa: B004  # its type is asked for
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(call)


def _from_environment(*, plain: bool) -> Notice | None:
    target = os.environ.get("DEADLINE_NOTICE", "").strip()
    try:
        checked = _checked(target, plain=plain) if target else None
    except (ValueError, ImportError) as error:
        logger.warning("DEADLINE_NOTICE is not used, %s", error)
        return None
    assert checked is None or isinstance(checked, Notice)
    return checked

"""The last resort on a Lambda Managed Instance: a worker that nothing frees ends itself, and says why.

There the runtime client forks as many workers as invocations may run at once. When one of these times out,
Lambda tells its caller and ends nothing: the code runs on, and the worker is gone for as long as that takes.
If a worker's process ends, the environment goes on with the others
(docs.aws.amazon.com/lambda/latest/dg/lambda-managed-instances-execution-environment.html, "Error handling and
recovery", 2026-11). The runtime client starts no other (awslambdaric 4.2.2, `MultiConcurrentRunner`).

So an invocation must be ended here, and nearly all are, inside of their margin. What remains is C code that
neither returns nor looks for signals. Left alone its worker is lost all the same, perhaps with a processor,
and nobody hears of it. So it is given `PATIENCE` past its hard end; then a thread tells why, and ends the
process. If C code keeps the interpreter's lock, no thread gets to that. `TELLING` later `faulthandler`, which
needs no lock, writes all stacks to stderr and ends the process. It takes no text of ours, so that the
request's id stands in the stack, as the name of a function.

`faulthandler.dump_traceback_later` has one slot in a process, and starts a thread: the slot is taken here and
nowhere else, and given back at the end of each invocation.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import sys
import threading
import time
import traceback
import types
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from deadline._events import emit, logger
from deadline.aws._runtime.process_record import armed, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline.aws._notices.sender import Notifier

PATIENCE: Final = 5.0
"""Seconds past its hard end for which an invocation may go on. Ending a worker is for good, and much of what
blocks in C ends by itself: a resolver that waits for its servers, a query, a checksum of something large."""

TELLING: Final = 2.0
"""Seconds for telling why, a notice included."""

STDERR: Final = 2


class _Invocation(NamedTuple):
    """What is to be told of one.

    Attributes:
        hard: When it times out, on the monotonic clock.
    """

    function: str
    request_id: str | None
    hard: float
    notifier: Notifier | None


class LastResort:
    """What ends this process, if an invocation does not end."""

    def __init__(self) -> None:
        self._running: _Invocation | None = None
        self._deciding = threading.Lock()
        self._thread: threading.Thread | None = None

    def arm(self, invocation: _Invocation) -> None:
        """End the process unless it is told otherwise in time."""
        self._running = invocation
        left = max(0.0, invocation.hard - time.monotonic())
        try:
            faulthandler.dump_traceback_later(left + PATIENCE + TELLING, exit=True, file=STDERR)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="deadline-last-resort", daemon=True)
                self._thread.start()
        except RuntimeError as error:  # too many threads
            logger.warning("nothing ends this worker if %s hangs: %r", invocation.function, error)

    def disarm(self) -> None:
        """The invocation has ended; if it is too late for that, wait for the end."""
        with self._deciding:
            self._running = None
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> NoReturn:
        """Look when it may be time; what is armed meanwhile is not due before the next look."""
        while True:
            running = self._running
            left = PATIENCE if running is None else running.hard + PATIENCE - time.monotonic()
            if running is not None and left <= 0:
                with self._deciding:
                    if self._running is running:
                        _end(running)
            else:
                time.sleep(min(left, PATIENCE))


def _end(invocation: _Invocation) -> NoReturn:
    """Tell why, and end the process."""
    step = None
    try:
        stack = _stack(_named(invocation.request_id))
        with contextlib.suppress(Exception):  # it is another thread's
            step = _step()
        emit(
            "aws.worker_ended",
            logging.ERROR,
            function=invocation.function,
            request_id=invocation.request_id,
            step=step,
            seconds=time.monotonic() - invocation.hard,
            stack=stack,
        )
        if invocation.notifier is not None:
            invocation.notifier.tell_at_last(stack)
        armed().disarm()  # it has been told: no breadcrumb
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(1)


def _stack(request: str) -> str:
    """What the main thread is doing, from the invocation on."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001
    stack = traceback.extract_stack(frame)
    begin = next((at for at, one in enumerate(stack) if one.name == request), 0)
    return "".join(traceback.format_list(stack[begin:]))


def _step() -> str | None:
    """The innermost step that is going on, from the record that breadcrumbs are made of."""
    trace = read(armed().memory)
    return trace.step if trace is not None and trace.status == "running" else None


_last_resort = LastResort()


def _forget() -> None:
    """Its thread is the parent's."""
    global _last_resort  # noqa: PLW0603  # there is one in a process
    _last_resort = LastResort()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def with_last_resort(
    call: Callable[[Any, Any], Any], name: str, notifier: Notifier | None
) -> Callable[[Any, Any], Any]:
    """Have each call, an invocation of any kind, end or end the process."""

    def run(event: Any, context: Any) -> Any:
        left = getattr(context, "get_remaining_time_in_millis", lambda: math.inf)() / 1000
        if left == math.inf:
            return call(event, context)
        request_id = getattr(context, "aws_request_id", None)
        invocation = _Invocation(name, request_id, time.monotonic() + left, notifier)
        last_resort = _last_resort
        last_resort.arm(invocation)
        try:
            return _under_name(_named(request_id))(call, event, context)
        finally:
            last_resort.disarm()
            late = time.monotonic() - invocation.hard
            if late > 0:
                emit("aws.ended_late", logging.WARNING, function=name, request_id=request_id, seconds=late)

    return run


def _named(request_id: str | None) -> str:
    return f"request {request_id}"


def _under_name(name: str) -> types.FunctionType:
    """`_calls.call`, as a function that stacks show by this name."""
    return types.FunctionType(_call.__code__.replace(co_name=name, co_qualname=name), globals())


def _call(call: Callable[[Any, Any], Any], event: Any, context: Any) -> Any:
    return call(event, context)

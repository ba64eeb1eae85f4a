"""Which places of a stack may be interrupted.

`interruptible` and `may_interrupt_callback` decide, on plain data. The rest makes that data out of frames.
From the interrupted frame outward to the first coroutine there must be nothing that keeps the loop's books.
"""

from __future__ import annotations

import gc
import inspect
from opcode import opmap
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Final, NamedTuple

from deadline._interrupt.interrupted import LOOP_RUNNERS, USER_CALLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import CodeType, FrameType


class Place(NamedTuple):
    """A frame on the stack.

    Attributes:
        module: Its module's name.
        function: Its function's name.
        awaits: Whether it is a coroutine's or an asynchronous generator's.
        unawaited: Whether it has called something that it is about to await.
        hands_on: Whether it is in the middle of a call with arguments that it was given itself.
        calls_user: Whether it calls a function of the user's, and handles whatever comes out of it.
        runs_loop: Whether it runs an event loop.
    """

    module: str
    function: str
    awaits: bool
    unawaited: bool = False
    hands_on: bool = False
    calls_user: bool = False
    runs_loop: bool = False


_NEVER: Final = frozenset({"asyncio", "anyio", "uvloop", "deadline"})
_WITHOUT_LOOP: Final = "anyio.from_thread"  # which waits for a loop in another thread
# A lock would stay locked, a module half-made, a weak reference's callback would lose the exception. They may
# block as well, so that they are spared for a while only.
_LATE: Final = frozenset(
    {"_frozen_importlib", "_frozen_importlib_external", "_weakrefset", "importlib", "logging", "weakref"}
)
# What these do themselves, at the death of something, does not block, and Python only prints what is raised.
_BOOKS: Final = frozenset({"_weakrefset", "weakref"})
# Between these and the `with` that calls them an exception leaves what they acquired, or were to release.
_LATE_FUNCTIONS: Final = frozenset({"__enter__", "__exit__", "__aenter__", "__aexit__"})


# Waits for a thread, and handles whatever comes out of that.
_JOINS: Final = ("asyncio.base_events", "shutdown_default_executor")
_WAITS: Final = ("selectors", "select")
_WAITS_IN: Final = ("asyncio.base_events", "_run_once")


def interruptible(stack: Iterable[Place], spent: float, *, own: bool, leaves_loop: bool = False) -> bool:
    """Whether an exception may be raised in the innermost place of `stack`.

    Args:
        stack: From the innermost place outward. It is not looked at beyond the first coroutine.
        spent: The share of the margin that is over, from 0.0; the more, the less is spared.
        own: Whether the running task is one of the deadline's; of others it may only be
            expected in the last third.
        leaves_loop: Whether a loop that waits may be left: it runs inside of the deadline.
    """
    if not own and spent < 2 / 3:
        return False
    waits = False
    for depth, one in enumerate(stack):
        module, function = place = one.module, one.function
        package = module.partition(".")[0]
        if (depth and one.calls_user) or (waits and place == _WAITS_IN):
            return True
        waits = leaves_loop and not depth and place == _WAITS
        kept = package in _NEVER and module != _WITHOUT_LOOP
        if kept or function == "__del__" or (not depth and package in _BOOKS):
            return False
        lost = one.unawaited and not depth  # an `__aexit__`, perhaps: its group would never be left
        if spent < 1 / 3 and (lost or package in _LATE or function in _LATE_FUNCTIONS):
            return False
        if one.awaits:
            return True
    return False


# Calls back `callback(*args)`, in a `try` that takes all but SystemExit and KeyboardInterrupt for the loop's
# exception handler. Outside of that call an exception would leave the loop.
_CALLS_BACK: Final = ("asyncio.events", "_run")
# uvloop does the same without a frame of its own: what it calls stands right on whoever runs it.
_RUNS: Final = ("asyncio.runners", "run")


def may_interrupt_callback(stack: Iterable[Place], spent: float, *, own: bool) -> bool:
    """Whether an exception may be raised in the innermost place of `stack`, where no task is running.

    In a plain callback it may, in the last third of the margin: the loop hands what leaves that to its
    exception handler, and goes on. Between them there must be nothing that keeps the loop's books.

    Args:
        stack: From the innermost place outward.
        spent: The share of the margin that is over.
        own: Whether what runs is of the deadline's. That is how a call of C code, which has no frame, is told
            from the loop's own doings.
    """
    if spent < 2 / 3:
        return False
    for depth, place in enumerate(stack):
        if place.runs_loop or (place.module, place.function) == _CALLS_BACK:
            return (place.hands_on or place.runs_loop) and (own or depth > 0)
        package = place.module.partition(".")[0]
        if package in _NEVER or place.function == "__del__" or (not depth and package in _BOOKS):
            return False
    return False


# A Python to come may have other instructions: then every coroutine counts as one that is about to await.
_CACHE, _GET_AWAITABLE, _CALL = (opmap.get(name) for name in ("CACHE", "GET_AWAITABLE", "CALL_FUNCTION_EX"))
_AWAITS: Final = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE


def outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _where(frame: FrameType) -> tuple[str, str]:
    """The names of a frame's module and function."""
    name = dict.get(frame.f_globals, "__name__")  # anybody may have put something else there
    return name if type(name) is str else "", frame.f_code.co_name


def place_of(frame: FrameType) -> Place:
    code = frame.f_code
    module, name = _where(frame)
    # What the garbage collector calls is like a `__del__`: Python prints what it raises, and goes on.
    collecting = any(_code(called) is code for called in gc.callbacks)
    name = "__del__" if collecting else name
    awaits = bool(code.co_flags & _AWAITS)
    hands_on = (module, name) == _CALLS_BACK and code.co_code[frame.f_lasti] == _CALL
    unawaited = awaits and is_unawaited(code, frame.f_lasti)
    return Place(module, name, awaits, unawaited, hands_on, _calls_user(frame), _runs_loop(frame))


def _calls_user(frame: FrameType) -> bool:
    return frame.f_code in USER_CALLS or _where(frame) == _JOINS


def _runs_loop(frame: FrameType) -> bool:
    return frame.f_code in LOOP_RUNNERS or _where(frame) == _RUNS


def _code(called: object) -> CodeType | None:
    """The code of a function or a method; asking another object for it would run code of the user's."""
    function = called.__func__ if type(called) is MethodType else called
    return function.__code__ if type(function) is FunctionType else None


def is_unawaited(code: CodeType, lasti: int) -> bool:
    """Whether the next instruction awaits what this one gives."""
    if _GET_AWAITABLE is None:
        return True
    following, at = code.co_code, lasti + 2
    while at < len(following) and following[at] == _CACHE:
        at += 2
    return at < len(following) and following[at] == _GET_AWAITABLE


def blocking_frames(frame: FrameType | None) -> list[FrameType]:
    """The frames of the blocking code, innermost first; the loop's own if it calls C code."""
    frames = list(outward(frame))
    ends = [at + 1 for at, one in enumerate(frames) if one.f_code.co_flags & _AWAITS]
    ends += [at for at, one in enumerate(frames) if _calls_user(one)]
    runs = (at for at, one in enumerate(frames) if _where(one) == _CALLS_BACK or _runs_loop(one))
    ends = ends or list(runs)[:1]
    return frames[: max(ends, default=0) or 1]

"""`fallback`: an answer in time, if not the one that was asked for.

The call gets a share of the time. If it fails, or its time is up, the last good answer for the same key is
given, and if there is none, the default. What it must not do is to hide that *everybody's* time is up: a
deadline around it that expires cuts it like any other work.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from contextvars import copy_context
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    TypeAlias,
    TypeVar,
    final,
    overload,
)

from anyio.lowlevel import checkpoint

from deadline._core import source as _source
from deadline._core.errors import DeadlineExceeded
from deadline._core.scope import Deadline, current, remaining
from deadline._events import emit, shown
from deadline._resilience.elapsed import Elapsed
from deadline._resilience.failures import LEAST_FAIR, BreakerOpen, Limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable
    from datetime import timedelta

T = TypeVar("T")
D = TypeVar("D")

Within: TypeAlias = "float | timedelta | str | None"

SHARE: Final = 1 / 2
"""Of what remains, for a call without a limit of its own: as for an AWS attempt that another may follow."""

SIZE: Final = 128
"""As in `functools.lru_cache`."""

AGE: Final = 1800.0
"""Seconds: the example of RFC 5861 (`stale-if-error`), ten minutes fresh and twenty more if there is an
error."""

_NONE: Final[Any] = object()


# --- what the caller gets ---------------------------------------------------------------------------------


class Answer(NamedTuple, Generic[T]):
    """An answer and where it comes from.

    Attributes:
        value: The answer.
        source: `call`, if it came in time; `cache`, if it is the last good one; `default`.
        age: Seconds since the call gave it: 0.0 if that was now, `None` for the default.
    """

    value: T
    source: Literal["call", "cache", "default"]
    age: float | None


@final
class LastGood:
    """The last good answer for each of some keys, for `fallback(cache=...)`.

    Make one per kind of call, where it lives as long as the process: two calls that share one must not
    share keys. Values are kept as they are, not copied. Age is counted on the wall clock, through whatever
    an environment is frozen for. It is not safe for use from several threads at once.

    Args:
        size: How many keys at most; the one that was refreshed longest ago goes first. Default 128.
        age: Seconds after which an answer is not given any more. Default 1800; `inf` for no limit.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
    """

    def __init__(self, *, size: int = SIZE, age: float | timedelta = AGE) -> None:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(
                f"size: expected a whole number, got {size!r} ({type(size).__name__}); write size=128"
            )
        if size < 1:
            raise ValueError(f"size: {size} would keep nothing; leave the cache out instead")
        self._size = size
        self._age = _source.seconds(age, "age")
        self._elapsed = Elapsed()
        self._kept: dict[Hashable, tuple[Any, float]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: Hashable, value: object) -> None:
        """Keep a good answer."""
        self._kept.pop(key, None)  # so that it becomes the newest
        self._kept[key] = value, self._elapsed()
        if len(self._kept) > self._size:
            del self._kept[next(iter(self._kept))]

    def get(self, key: Hashable) -> Answer[Any] | None:
        """The last good answer for a key, `None` if there is none that is young enough."""
        if key not in self._kept:
            return None
        value, at = self._kept[key]
        age = self._elapsed() - at
        if age > self._age:
            del self._kept[key]
            return None
        return Answer(value, "cache", age)

    def clear(self) -> None:
        """Forget all of them."""
        self._kept.clear()


@overload
async def fallback(
    call: Callable[[], Awaitable[T]],
    *,
    key: Hashable = ...,
    cache: LastGood | None = ...,
    within: Within = ...,
) -> Answer[T]: ...
@overload
async def fallback(
    call: Callable[[], Awaitable[T]],
    *,
    key: Hashable = ...,
    default: Callable[[], D],
    cache: LastGood | None = ...,
    within: Within = ...,
) -> Answer[T | D]: ...
@overload
async def fallback(
    call: Callable[[], Awaitable[T]],
    *,
    key: Hashable = ...,
    default: D,
    cache: LastGood | None = ...,
    within: Within = ...,
) -> Answer[T | D]: ...
async def fallback(
    call: Callable[[], Awaitable[Any]],
    *,
    key: Hashable = None,
    default: Any = _NONE,
    cache: LastGood | None = None,
    within: Within = None,
) -> Answer[Any]:
    """Give an answer in time: the call's, else the last good one, else the default.

    Write `answer = await fallback(lambda: fetch(user), key=user, cache=known, default=list, within=0.3)`.

    Whatever the call raises is answered for, errors of your own included: it is told as an event, because
    nobody else tells. Reading a body belongs into the call, so that its time counts and the answer can be
    kept. If there is neither a last good answer nor a default, what the call raised leaves.

    A deadline around it is never hidden: if that expires, the block is cut like any other.

    Args:
        call: Asks: a function without arguments that returns an awaitable.
        key: What the answer is kept under. One for each different answer that the call may give.
        default: The answer if there is no other; a function is called for it, without arguments and without
            waiting. `None` is a default.
        cache: Where good answers are kept.
        within: Seconds that the call may take, from now on, or a share of what is left of the deadline in
            force, as in "30%". Default: half of what is left; without a deadline no limit. 0: the call is
            not made.

    Returns:
        The answer, where it comes from, and how old it is.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        DeadlineExceeded: The call's time is up, and there is nothing else to give.
    """
    _check(call, key, default, cache)
    seconds, fair = _allowed(within)
    before = _cancellations()
    try:
        if seconds == math.inf:
            value = await call()
        else:
            around = current()
            async with Deadline(seconds, 0.0, "fallback", DeadlineExceeded) as scope:
                with Limit(scope, around, fair=fair):
                    value = await call()
    except Exception as error:
        if _is_of_a_deadline_around(error):
            raise
        if remaining() <= 0.0:
            await checkpoint()
            if _cancellations() > before:  # the error was made of the cut, and must not hide it
                raise asyncio.CancelledError from error
        answer = _instead(key, default, cache)
        if answer is None:
            raise
        emit(
            "fallback.answered",
            logging.INFO if isinstance(error, BreakerOpen) else logging.WARNING,
            call=getattr(call, "__qualname__", type(call).__qualname__),
            source=answer.source,
            age=answer.age,
            error=shown(error),
        )
        return answer
    if cache is not None:
        cache.put(key, value)
    return Answer(value, "call", 0.0)


# --- how it goes ------------------------------------------------------------------------------------------


def _instead(key: Hashable, default: Any, cache: LastGood | None) -> Answer[Any] | None:
    """What is given instead of the call's answer, `None` if there is nothing."""
    kept = None if cache is None else cache.get(key)
    if kept is not None or default is _NONE:
        return kept
    value = default() if callable(default) else default
    if inspect.iscoroutine(value):  # of a lambda or a partial, which do not show it before
        value.close()
        raise _would_be_waited_for(default)
    return Answer(value, "default", None)


def _is_of_a_deadline_around(error: BaseException) -> bool:
    """Whether it is the error of a deadline that is in force here, or holds one."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_of_a_deadline_around, error.exceptions))
    dl = error.deadline if isinstance(error, DeadlineExceeded) else None
    return dl is not None and dl.covers(copy_context())


def _allowed(within: Within) -> tuple[float, bool]:
    """Seconds for the call, and whether so many say something about who did not make it."""
    if within is not None and not isinstance(within, str):
        return _source.seconds(within, "within"), True
    seconds = remaining() * (SHARE if within is None else _share(within))
    return seconds, seconds >= LEAST_FAIR


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else math.nan
    except ValueError:
        share = math.nan
    if not 0.0 < share <= 1.0:
        raise ValueError(
            f'within: {text!r} is no share of what is left; write within="30%", or seconds as a number'
        )
    return share


def _would_be_waited_for(default: object) -> TypeError:
    return TypeError(
        f"default: {default!r} would have to be waited for; a default is a value that is at hand, or a plain "
        "function that makes one"
    )


def _check(call: Any, key: Any, default: Any, cache: Any) -> None:
    if not callable(call):
        if inspect.iscoroutine(call):
            call.close()  # or it warns that nobody awaited it
        raise TypeError(
            f"call: expected a function without arguments, got {call!r} ({type(call).__name__}); write "
            "fallback(lambda: fetch(user), ...)"
        )
    if callable(default) and inspect.iscoroutinefunction(default):
        raise _would_be_waited_for(default)
    try:
        hash(key)
    except TypeError:
        raise TypeError(
            f"key: {key!r} is not hashable; write a string, or a tuple of what it is made of"
        ) from None
    if cache is None:
        if key is not None:
            raise TypeError("key: nothing is kept without a cache; write cache=LastGood(), made once")
    elif not isinstance(cache, LastGood):
        raise TypeError(
            f"cache: expected a LastGood, got {cache!r} ({type(cache).__name__}); write cache=LastGood(), "
            "made once"
        )


def _cancellations() -> int:
    """How often the running task has been cancelled, less what was taken back."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()

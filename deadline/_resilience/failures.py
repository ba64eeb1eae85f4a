"""What a call says about its dependency, which is not what it raised.

A cancellation from outside, be it a deadline's cut or a client that hung up, says nothing: a breaker that
counts it opens because *we* were short of time. A limit of the call's own that ran out says that the
dependency is slow. An error says that it is down, but one of 400 to 499 says that it is well enough to tell
us off.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from deadline._core.cut import TIE
from deadline._core.errors import DeadlineExceeded, InsufficientTime
from deadline._core.scope import remaining
from deadline._text import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline._core.scope import Deadline

LEAST_FAIR: Final = 0.2
"""Seconds under which a *share* of what is left says nothing about who did not make it: it is short because
the deadline was near. As long as the shortest limit of an AWS attempt."""


class BreakerOpen(Exception):
    """A call was refused at once, because its dependency is down as far as anybody knows.

    Attributes:
        breaker: The breaker's name.
        retry_in: Seconds until it lets a probe through; 0.0 if one is on its way.
    """

    __module__ = "deadline"

    def __init__(self, breaker: str, retry_in: float = 0.0) -> None:
        super().__init__(breaker, retry_in)
        self.breaker = breaker
        self.retry_in = retry_in

    def __str__(self) -> str:
        when = (
            f"open for another {self.retry_in:.3f} s" if self.retry_in else "half open, and its probe is out"
        )
        return f"breaker {quoted(self.breaker)} is {when}: the call was not made"


def verdict(error: BaseException, counts: Callable[[Exception], bool]) -> bool | None:
    """What an error that ends a call says of its dependency.

    Args:
        error: What the call raised, seen where it leaves the breaker.
        counts: Tells of an error that is neither a cut nor a refusal whether it is the dependency's failure.

    Returns:
        Whether the dependency did well; `None` if nothing is known.
    """
    if isinstance(error, BaseExceptionGroup):
        said = {verdict(one, counts) for one in error.exceptions}
        return next(well for well in (False, None, True) if well in said)
    if isinstance(error, InsufficientTime | BreakerOpen):
        return None
    if isinstance(error, DeadlineExceeded) and not error.started:
        return None
    if not isinstance(error, Exception) or remaining() <= 0.0:
        # A cut, or what a library makes of being cut.
        limit = _limit.get()
        return False if limit is not None and limit.ran_out() else None
    return not counts(error)


def is_failure(error: Exception) -> bool:
    """Whether an error is its dependency's failure: every one is, but an answer of 400 to 499.

    The status is looked for where botocore, aiohttp, httpx and urllib have it.
    """
    return not 400 <= _status(error) <= 499


def _status(error: Exception) -> int:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore's ClientError
        response = response.get("ResponseMetadata")
        return int(response.get("HTTPStatusCode", 0)) if isinstance(response, Mapping) else 0
    for owner in (error, response):
        for name in ("status", "status_code", "code"):
            status = getattr(owner, name, None)
            if isinstance(status, int):
                return status
    return 0


# --- limits of a call's own that stand around the breaker -------------------------------------------------

_limit: ContextVar[Limit | None] = ContextVar("deadline_call_limit", default=None)


class Limit:
    """The time that `fallback` gives a call, whose cut says something about the dependency.

    Args:
        scope: The deadline that cuts the call.
        around: The one around that.
        fair: Whether it was long enough to say something.
    """

    __slots__ = ("_around", "_fair", "_scope", "_token")

    def __init__(self, scope: Deadline, around: Deadline | None, *, fair: bool) -> None:
        self._scope: Deadline | None = scope
        self._around = around
        self._fair = fair

    def __enter__(self) -> None:
        self._token = _limit.set(self)

    def __exit__(self, *exc_info: object) -> None:
        self._scope = None  # tasks that the call leaves running are limited no more
        with suppress(ValueError):
            _limit.reset(self._token)

    def ran_out(self) -> bool:
        """Whether this is what cuts, and nothing around it."""
        scope, around = self._scope, self._around
        if scope is None or not self._fair or not scope.expired:
            return False
        return around is None or around.remaining() > TIE

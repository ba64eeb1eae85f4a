"""What an interrupt raises, and the functions of this package on whose callees it may be raised.

They are known by their code objects, so that a function may move to another module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

F = TypeVar("F", bound="Callable[..., Any]")

USER_CALLS: Final[set[CodeType]] = set()
LOOP_RUNNERS: Final[set[CodeType]] = set()


class Interrupted(BaseException):
    """Raised in code that blocks the loop past its deadline, whose edge turns it into its own error."""


def calls_user_code(function: F) -> F:
    """Mark a function that calls a function of the user's, and handles whatever comes out of it."""
    USER_CALLS.add(function.__code__)
    return function


def runs_loop(function: F) -> F:
    """Mark a function that runs an event loop."""
    LOOP_RUNNERS.add(function.__code__)
    return function

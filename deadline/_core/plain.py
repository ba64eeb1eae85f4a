"""A deadline without a loop: a plain function called under it; only the alarm can cut it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline._core.scope import Deadline


class Outcome(NamedTuple):
    """How a piece of work ended: with a value, or an error of any class."""

    value: Any
    error: BaseException | None


def under(dl: Deadline, work: Callable[[], Any]) -> Outcome:
    """Call `work` under a deadline that is not entered yet, and take what it raises for a value."""
    try:
        dl.enter_plainly()
        try:
            value = work()
        except BaseException as error:
            dl.leave_plainly(error)
            raise
        dl.leave_plainly(None)
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is to be told
        return Outcome(None, error)
    return Outcome(value, None)

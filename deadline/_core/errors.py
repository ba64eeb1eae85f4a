"""What deadlines raise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from deadline._report.data import Report
from deadline._text import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    # A type: an error names its deadline, and a deadline raises that error. Both are public.
    from deadline._core.scope import Deadline


class DeadlineExceeded(TimeoutError):
    """The time a deadline allowed is up.

    Raised at the edge of the scope that was cut, so that nothing inside the block can eat it. To
    tell your own timeout from another's, compare `deadline` (`exceeded.deadline is dl`), or give the
    scope a subclass with `error=`.

    All times are seconds. It pickles: what is left then are the numbers and the report.

    Attributes:
        deadline: Whose time is up. `None` after unpickling, or if built by hand.
        started: False if nothing was left on entry, so that the body did not run.
        allowed: From entry to the soft instant; 0.0 or less if nothing was left on entry.
        elapsed: From entry to the moment this was raised.
        margin: Kept back between soft and hard.
    """

    __module__ = "deadline"

    deadline: Deadline | None = None
    started: bool = True
    allowed: float = math.nan
    elapsed: float = math.nan
    margin: float = 0.0
    _report: Report | Callable[[], Report] = Report()

    @property
    def report(self) -> Report:
        """What was awaited, done and left running. Made on first access, then kept."""
        report = self._report
        if not isinstance(report, Report):
            self._report = report = report()
        return report

    def grace(self, reserve: float = 0.0) -> Deadline:
        """Open the time between soft and hard for mitigation: `async with exceeded.grace(): ...`.

        It is an ordinary deadline, on the same clock, that starts where the work was cut and ends at
        the hard end; a surrounding deadline's soft instant still cuts it.

        Args:
            reserve: Seconds before the hard end that are not for the mitigation (posting the
                response, for example). Not negative.

        Raises:
            RuntimeError: There is no clock any more: this error was unpickled or built by hand.
            ValueError: `reserve` is negative or NaN.
            DeadlineExceeded: On entry, if nothing is left. A deadline without a margin leaves nothing.
        """
        if self.deadline is None:
            raise RuntimeError(
                "grace(): this DeadlineExceeded comes from another process or was built by hand, so there is "
                "no deadline whose hard end could bound it; write `async with deadline(seconds):` instead"
            )
        return self.deadline._grace(reserve)  # one concept in two files

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if key != "deadline"}
        state["_report"] = self.report
        return _rebuild, (type(self), self.args, state)


def says_time_is_up(
    error: BaseException | None, is_ours: Callable[[DeadlineExceeded], bool]
) -> DeadlineExceeded | None:
    """The error that says that the time is up; `None` if it says something else, or somebody else's time.

    A task group hands it on in a group of its own; beside another error it is that error's turn.
    """
    if isinstance(error, BaseExceptionGroup):
        found = [says_time_is_up(one, is_ours) for one in error.exceptions]
        return found[0] if all(found) else None
    return error if isinstance(error, DeadlineExceeded) and is_ours(error) else None


def note_refused_retry(error: BaseException, note: str, hard: float) -> None:
    """Mark an error of a service as the end of a call whose further attempts do not fit.

    The mark is a number, so that the error pickles as it did.

    Args:
        error: What the service said.
        note: Why there is no further attempt.
        hard: The hard end of the deadline that leaves too little time, in seconds on the loop's clock.
    """
    error.add_note(note)
    error.__dict__[_REFUSED_RETRY] = hard


def ends_by_refused_retry(error: BaseException | None, hard: float) -> bool:
    """Whether an error, or a cause of it, ended a call for want of the time until `hard`.

    A shorter deadline inside has an earlier end. In a group that is so of each member.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, BaseExceptionGroup):
            return all(ends_by_refused_retry(one, hard) for one in error.exceptions)
        if error.__dict__.get(_REFUSED_RETRY, -math.inf) >= hard:
            return True
        seen.add(id(error))
        error = error.__cause__
    return False


_REFUSED_RETRY: Final = "_deadline_refused_retry"


def _rebuild(cls: type[DeadlineExceeded], args: tuple[Any, ...], state: dict[str, Any]) -> DeadlineExceeded:
    """Build again what was pickled, past a subclass's own idea of its arguments."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InsufficientTime(DeadlineExceeded):
    """A piece of work was refused, because what is left of the deadline cannot hold it.

    Unlike a cut, a refusal is raised where it happens, before anything was sent or changed, and can be
    handled there: take a cheaper way, or let it go on to the scope's edge.
    """

    __module__ = "deadline"


def check_name_and_error(name: str | None, error: type[DeadlineExceeded]) -> None:
    """Refuse a name that is no string and an error that is not ours, by `TypeError`."""
    if name is not None and not isinstance(name, str):
        raise TypeError(
            f"name: expected a string, got {name!r} ({type(name).__name__}); write name='checkout'"
        )
    if error is not DeadlineExceeded and not (
        isinstance(error, type) and issubclass(error, DeadlineExceeded)
    ):
        raise TypeError(
            f"error: expected a subclass of DeadlineExceeded, got {error!r}; "
            "write `class CheckoutTimeout(DeadlineExceeded): ...` and error=CheckoutTimeout"
        )


def exceeded_message(
    name: str | None,
    *,
    entered: float,
    soft: float,
    hard: float,
    answer_by: float,
    margin: float,
    where: str | None,
) -> str:
    """What the error says.

    Args:
        name: The deadline's.
        entered: When the block began, on the deadline's clock, as all instants here.
        soft: When it was cut.
        hard: When the source ends.
        answer_by: When whoever waits gives up.
        margin: Seconds that were kept back.
        where: What was cut, in words that follow a text; `None`: the block did not begin.
    """
    called = f"deadline {quoted(name)}" if name else "deadline"
    kept = f" with a margin of {margin:.3f} s" if margin else ""
    if answer_by < hard:
        kept = f" for a caller that waits {answer_by - entered:.3f} s"
    if where is None:
        left = max(0.0, hard - entered)
        return f"{called} exceeded before it began: {left:.3f} s left{kept}, so the body did not run"
    return f"{called} exceeded: {soft - entered:.3f} s allowed{kept}{where}"


def build_error(cls: type[DeadlineExceeded], message: str) -> DeadlineExceeded:
    """An error of a user's class, made from the message alone.

    Raises:
        Exception: It cannot be made so.
    """
    error: object = cls(message)
    if not isinstance(error, DeadlineExceeded):
        raise TypeError(f"it made a {type(error).__name__}")
    return error

"""The edge of a block: what leaves it, and the error that tells of the cut.

What leaves is decided by count, as in `asyncio.timeout`, never by a message. A CancelledError is ours if we
cut, the task's count of cancellations, less our own, is back to what it was on entry, and no surrounding
scope of anyio's is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import math
from asyncio import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from deadline._core.anyio_seam import is_cancelled, is_shielded
from deadline._core.cancel import FATAL
from deadline._core.cut import TIE, Cut, alarm_of_process
from deadline._core.errors import (
    DeadlineExceeded,
    InsufficientTime,
    build_error,
    ends_by_refused_retry,
    exceeded_message,
    says_time_is_up,
)
from deadline._core.reading import innermost_deadline
from deadline._core.timer import Clock
from deadline._events import emit, shown
from deadline._interrupt.interrupted import Interrupted
from deadline._report.tasks import left_running, locate
from deadline._text import quoted

if TYPE_CHECKING:
    from contextvars import Token
    from types import CodeType, TracebackType

    from deadline._report.data import Report
    from deadline._report.record import Closable, Record

_NOTHING_TO_LEAVE: Final = frozenset({"disabled", "dropped"})


class Edge(Cut):
    """A deadline that decides what leaves its block."""

    __slots__ = ("_alone", "_error", "_place", "_token")

    _alone: bool
    _error: type[DeadlineExceeded]
    _place: tuple[CodeType, int]
    _token: Token[Any]

    # --- leaving --------------------------------------------------------------------------------------------

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._state in _NOTHING_TO_LEAVE:
            return
        now = self._close()
        try:
            if not self._left_by_its_task(exc):
                return
            passes = self._cut_at < math.inf and self._take_back(exc)
            if self._record is not None and (opened := self._record.resources()):
                await self._settle(self._record, opened, exc)
            if not passes:
                self._decide(exc, now)
        finally:
            # Tasks that the block started keep this object in their contexts for as long as they live.
            del self._task, self._outside, self._token
            self._scope = self._record = None

    def _take_back(self, exc: BaseException | None) -> bool:
        """Take back the cancellations that we have counted on the task.

        Returns:
            Whether what leaves is an ancestor's cut as well: one that cut in the same task while this block
            was open. If its own cancellation has not come yet, it must not come any more.
        """
        self._wait_no_more()
        if self._scope is not None:
            self._scope.remove()
        heirs = [
            dl for dl in self._around() if dl._task is self._task and self._entered < dl._cut_at < math.inf
        ]
        heirs = [dl for dl in heirs if not is_shielded(self._task, dl._outside_scopes())]
        leaves = exc is not None and is_unwinding(exc, self)
        for around in heirs:
            if leaves and not around._come:
                around._wait_no_more()
                around._come, around._edged, self._edged = True, self._edged, False
            if leaves and around is not heirs[-1]:
                around._cancel_always()
            elif not around._come:
                around._cancel_once()
        if self._edged:
            self._task.uncancel()
        return leaves and bool(heirs)

    def leave_plainly(self, exc: BaseException | None) -> None:
        """Leave what `enter_plainly` has entered, by `exc` or with a result.

        Raises:
            DeadlineExceeded: It was cut.
        """
        now = self._close()
        try:
            self._decide(exc, now)
        finally:
            del self._token
            self._record = None

    def _close(self) -> float:
        """Have nothing wake it any more. Returns what time it is."""
        self._clock.disarm(self)
        if self._interrupt:
            alarm_of_process().disarm(self)
        now = self._clock.now()
        self._state = "closed"
        self._expired = now >= self.soft
        if innermost_deadline.get() is not self and isinstance(self._clock, Clock):
            self._drop_inner()
        _reset(self._token)
        return now

    def _drop_inner(self) -> None:
        """Close the deadlines that this task entered inside and has not left, as broken-off generators do."""
        inside = innermost_deadline.get()
        inner = []
        while inside is not None and inside is not self:
            if inside._state == "open" and inside._task is self._task:
                inner.append(inside)
            inside = inside._parent
        for dl in inner if inside is self else ():
            dl._clock.disarm(dl)
            if dl._interrupt:
                alarm_of_process().disarm(dl)
            if dl._cut_at < math.inf:
                dl._take_back(None)
            dl._state = "dropped"
            emit(
                "deadline.left_open",
                logging.WARNING,
                deadline=dl.name,
                entered=str(locate(dl._place)),
                around=self.name,
            )

    def _left_by_its_task(self, exc: BaseException | None) -> bool:
        """Whether the task that entered is the one that leaves; False if it leaves no more, but is closed."""
        task = asyncio.current_task(self._clock.loop)
        if task is self._task:
            return True
        if isinstance(exc, GeneratorExit):
            return False
        raise RuntimeError(
            f"{self!r}: entered in task {quoted(self._task.get_name())} and left in "
            f"{quoted(task.get_name() if task else 'none')}; one task must do both, and a generator or an "
            "async fixture that holds a deadline over a `yield` is left by another: enter it at the work "
            "itself"
        )

    async def give_up(self) -> DeadlineExceeded:
        """Go on without a block that was cut and does not end; for the code that leaves it behind.

        Returns:
            What its edge would have raised; the report names what it was still awaiting.
        """
        now = self._clock.now()
        self._clock.disarm(self)
        if self._interrupt:
            alarm_of_process().disarm(self)
        self._state, self._expired, self._alone = "closed", True, False
        record = self.record()
        self._wait_no_more()
        if self._scope is not None:  # anyio delivers in each turn of the loop for as long as the block lasts
            self._scope.stop()
        record.look(self._task, self.covers, self._clock.now, math.inf)
        exceeded = self._exceeded(now)
        exceeded.report  # noqa: B018  # made now: what is still running will be gone
        await record.close_resources()
        return exceeded

    # --- what leaves ----------------------------------------------------------------------------------------

    def _decide(self, exc: BaseException | None, now: float) -> None:
        """Raise our own error, if it is what leaves instead.

        Args:
            exc: What leaves.
            now: When.
        """
        if exc is None and not self._interrupted:
            self._stands(now)
        elif self.explains(exc):
            raise self._expiry(exc, now)
        elif self._cut_at == math.inf and not self._interrupted:
            pass
        elif exc is not None and not is_unwinding(exc, self):
            exc.add_note(f"{self!r}: raised while its block was being cut")
            if self._is_ours(exc, now):
                self._keep_in_chain(exc, now)
        elif self._is_ours(exc, now):
            raise self._exceeded(now) from self.record().last_error() or exc

    def _keep_in_chain(self, exc: BaseException, now: float) -> None:
        """Put our own error where the cut's CancelledError stands in the context of a real error.

        `asyncio.timeout` does the same from CPython 3.13 on, for the members of a group as well.
        """
        for error in (exc, *(exc.exceptions if isinstance(exc, BaseExceptionGroup) else ())):
            at, seen = error, {id(error)}
            while (before := at.__context__) is not None and id(before) not in seen:
                if isinstance(before, CancelledError):
                    exceeded = self._exceeded(now, tell=False)
                    exceeded.__context__ = exceeded.__cause__ = before
                    at.__context__ = exceeded
                    break
                seen.add(id(before))
                at = before

    def explains(self, exc: BaseException | None) -> bool:
        """Whether an error is the expiry of a deadline that alone ends its block, as a handler's does.

        There a count of cancellations that is off means that somebody has counted wrong, and a real error
        after the cut, or for want of a retry, that the time was too short for the work.
        """
        cut = self._cut_at < math.inf or self._interrupted
        return self._alone and is_expiry(exc, self.hard - TIE, cut=cut)

    def _expiry(self, exc: BaseException | None, now: float) -> DeadlineExceeded:
        """The error for `exc`, which is then its cause. Before the instant it is a refusal."""
        if exc is None or is_unwinding(exc, self):
            error, cause = self._exceeded(now), self.record().last_error() or exc
        elif self._cut_at == math.inf and not self._interrupted and now < self.soft:
            error, cause = self.refusal("no time for another attempt of a call that failed"), exc
        else:
            error, cause = self._exceeded(now), exc
        error.__cause__ = cause
        return error

    def _stands(self, now: float) -> None:
        """A body that finishes keeps its result."""
        if now > self.soft:
            self.overran = now - self.soft
            emit("deadline.overran", logging.WARNING, deadline=self.name, seconds=self.overran)

    def _is_ours(self, exc: BaseException | None, now: float) -> bool:
        """Whether what leaves is our doing: our interrupt, or our cut and nobody else's cancellation."""
        if exc is None or holds_interrupt(exc):
            return self._interrupted or self._owner(now) is None  # a task of others may hand on its own
        if self._clock.loop is None:
            return True
        return self._task.cancelling() <= self._cancelling and not is_cancelled(self._outside)

    async def _settle(self, record: Record, opened: list[Closable], exc: BaseException | None) -> None:
        """Close what was opened in the block if it was cut; else it is for the deadline around to do."""
        around = next(self._around(), None)
        if self._interrupted if exc is None else is_unwinding(exc, self) or self.explains(exc):
            await record.close_resources()
        elif around is not None:
            for resource in opened:
                around.close_on_cut(resource)

    # --- the error ------------------------------------------------------------------------------------------

    def _exceeded(self, now: float, *, started: bool = True, tell: bool = True) -> DeadlineExceeded:
        message = self._said(started=started)
        if tell:
            self._tell(now, started=started)
        try:
            return self._filled(build_error(self._error, message), now, started=started)
        except FATAL:
            raise
        except BaseException as error:  # noqa: BLE001  # a user's class may do anything: the cut must not be lost
            plain = DeadlineExceeded(message)
            plain.add_note(
                f"error={self._error.__name__} could not be built from the message alone: {shown(error)}"
            )
            return self._filled(plain, now, started=started)

    def _said(self, *, started: bool) -> str:
        return exceeded_message(
            self.name,
            entered=self._entered,
            soft=self.soft,
            hard=self.hard,
            answer_by=self.answer_by,
            margin=self.margin,
            where=self.record().where() if started else None,
        )

    def _tell(self, now: float, *, started: bool) -> None:
        blocked = self.record().blocked_in()
        if blocked is not None:
            level = logging.INFO if self._alone else logging.WARNING  # a handler warns of the expiry itself
            emit("deadline.interrupted", level, deadline=self.name, blocked=blocked)
        emit(
            "deadline.exceeded",
            logging.INFO,
            deadline=self.name,
            started=started,
            allowed=self.soft - self._entered,
            elapsed=now - self._entered,
            margin=self.margin,
        )

    def _filled(self, error: DeadlineExceeded, now: float, *, started: bool = True) -> DeadlineExceeded:
        """Set an error's attributes to what is true of this deadline at `now`."""
        error.deadline = self  # type: ignore[assignment]  # the only kind of Edge that there is
        error.started = started
        error.allowed = self.soft - self._entered
        error.elapsed = now - self._entered
        error.margin = self.margin
        error._report = partial(self._report, self.record(), now)
        return error

    def refusal(self, message: str) -> InsufficientTime:
        """The error for a piece of work that does not fit; for the code that refuses it.

        It belongs to the deadline that leaves the least time, the outer one if two tie.
        """
        least = self.refusing()
        name = f" of deadline {quoted(least.name)}" if least.name else ""
        error = InsufficientTime(f"{message}: {least.remaining():.3f} s left{name}")
        least._filled(error, self._clock.now())
        return error

    def refusing(self) -> Self:
        """The deadline that leaves the least time, the outer one if two tie."""
        least = self
        for around in self._around():
            if around.soft <= least.soft + TIE:
                least = around
        return least

    def account(self) -> DeadlineExceeded:
        """What the edge of a cut block will raise; for the code that answers while it is being undone."""
        self.record().look(self._task, self.covers, self._clock.now, math.inf)
        exceeded = self._exceeded(self._clock.now(), tell=False)
        exceeded.report  # noqa: B018  # made now
        return exceeded

    def _report(self, record: Record, now: float) -> Report:
        return record.report(
            name=self.name,
            entered=self._entered,
            soft=self.soft,
            margin=self._kept(),
            now=now,
            left_running=left_running(self._clock.loop, self.covers, now, getattr(self, "_task", None)),
        )

    def near(self) -> None:
        super().near()
        if self._clock.early and self._clock.now() < self.wakes_at - self._clock.early:
            self._rehearse()

    def _rehearse(self) -> None:
        """Build and drop the error, so that the real one runs on warm code: cold code takes twice as long."""
        self._filled(DeadlineExceeded(self._said(started=True)), self.soft)


def _reset(token: Token[Any]) -> None:
    """Undo `set`, unless the block was entered in another context, as a test's async fixture may be."""
    try:  # noqa: SIM105  # contextlib.suppress costs a tenth of a whole scope
        innermost_deadline.reset(token)
    except ValueError:
        pass


def is_unwinding(exc: BaseException, dl: Cut) -> bool:
    """Whether nothing but cancellation leaves, and refusals of `dl` that it met in a group's children."""

    def expected(error: BaseException) -> bool:
        refused = isinstance(error, InsufficientTime) and error.deadline is dl
        return isinstance(error, CancelledError | Interrupted | BaseExceptionGroup) or refused

    if isinstance(exc, BaseExceptionGroup):
        return exc.subgroup(lambda error: not expected(error)) is None
    return isinstance(exc, CancelledError | Interrupted)


def is_expiry(exc: BaseException | None, hard: float, *, cut: bool) -> bool:
    """Whether what leaves is the expiry of a deadline whose block nobody else ends.

    After the cut that is any error. Before it that is the error of a call without time for another attempt.
    An error that says by itself that this time is up stays what it is, and so does one that ends the process.

    Args:
        exc: What leaves.
        hard: The earliest hard end that counts as that of the deadline.
        cut: Whether the block was cut or interrupted.
    """

    def says_so(exceeded: DeadlineExceeded) -> bool:
        return exceeded.deadline is not None and exceeded.deadline.hard >= hard

    if not isinstance(exc, Exception | CancelledError | Interrupted | BaseExceptionGroup):
        return False
    if says_time_is_up(exc, says_so) is not None:
        return False
    return cut or ends_by_refused_retry(exc, hard)


def holds_interrupt(exc: BaseException) -> bool:
    """Whether it is an interrupt, or has one among its members."""
    return isinstance(exc, Interrupted) or (
        isinstance(exc, BaseExceptionGroup) and exc.subgroup(Interrupted) is not None
    )

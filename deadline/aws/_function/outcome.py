"""How an invocation ends, be it an `async def`'s or a plain function's: what both say, and until when."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any, Final

from deadline._core.cut import TIE
from deadline._core.errors import DeadlineExceeded, says_time_is_up
from deadline._core.plain import Outcome
from deadline._core.scope import Deadline
from deadline._core.source import AskedMargin, Instant
from deadline._events import emit
from deadline.aws._sources.batch_response import loses_work

if TYPE_CHECKING:
    from deadline.aws._function.plan import Plan

ROUNDING: Final = 0.001
"""Seconds by which a margin may seem smaller than it was asked for."""

WITHOUT_LIMIT: Final = 1.0
"""Seconds for telling of an error where there is no deadline, and so no margin to take them from."""


def ends_invocation(dl: Deadline, error: BaseException | None) -> DeadlineExceeded | None:
    """What says that the invocation's time is up: by its deadline, or one inside with the same end."""

    def is_ours(exceeded: DeadlineExceeded) -> bool:
        return exceeded.deadline is not None and exceeded.deadline.hard >= dl.hard - TIE

    return says_time_is_up(error, is_ours)


def few_of(names: list[str]) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def tell_clamped(plan: Plan, dl: Deadline) -> None:
    """Say once if the margin that the code asks for cannot be kept under this timeout."""
    asked = plan.margin
    if isinstance(asked, AskedMargin) and not plan.clamped and dl.margin < asked.seconds - ROUNDING:
        left = dl.hard - dl.now()
        plan.clamped = True
        emit(
            "aws.margin_clamped",
            logging.WARNING,
            function=plan.name,
            margin=asked.seconds,
            left=left,
            kept=dl.margin,
            fix=f"margin={left / 4:.1g}, or a longer timeout",
        )


def tell_exceeded(plan: Plan, context: Any, exceeded: DeadlineExceeded) -> None:
    """Say that an invocation's time was up."""
    emit(
        "aws.exceeded",
        logging.WARNING,
        function=plan.name,
        request_id=getattr(context, "aws_request_id", None),
        on_exceeded=plan.mitigation is not None,
        report=exceeded.report.render(),
    )


def tell_lost_work(plan: Plan, event: Any, outcome: Outcome) -> None:
    """Say once if the mitigation's answer tells a queue that all is done."""
    if outcome.error is None and not plan.warned and loses_work(event, outcome.value):
        plan.warned = True
        emit("aws.work_lost", logging.WARNING, function=plan.name, fix="`raise exceeded` in on_exceeded")


def mitigates_until(dl: Deadline) -> float:
    """When the answer must be there; what blocked past that has let the caller go."""
    ends = dl.answering().mitigation
    return ends if dl.now() < ends else dl.shares().mitigation


def errors_told_until(dl: Deadline, now: float) -> float:
    """Until when an error is told: for as long as an expiry would be, and not longer than that."""
    if not dl.hard < math.inf:  # also if it was not entered
        return now + WITHOUT_LIMIT
    ends = dl.answering().mitigation
    return min(ends, now + ends - dl.soft)


def grace_of(plan: Plan, hard: float, ends: float) -> Deadline:
    """The deadline of what is done when the time is up."""
    name = f"{plan.name} grace"
    return Deadline(Instant(hard), hard - ends, name, DeadlineExceeded, interrupt=plan.interrupt)


def mitigated(outcome: Outcome | None, grace: Deadline, what: str, exceeded: DeadlineExceeded) -> Outcome:
    """What the invocation ends with, by how `what` has ended; `None`: it has not."""
    if outcome is None or _is_cut_of(grace, outcome.error):
        began = outcome is None or getattr(outcome.error, "started", True)
        exceeded.add_note(f"{what} {'did not end in time' if began else 'had no time to begin'}")
        return Outcome(None, exceeded)
    if outcome.error is not None:
        _add_cause(outcome.error, exceeded)
    return outcome


def _add_cause(error: BaseException, cause: BaseException) -> None:
    """Make `cause` the first of what led to `error`, if it is not among it."""
    chain = [error]
    while chain[-1].__cause__ is not None and chain[-1].__cause__ not in chain:
        chain.append(chain[-1].__cause__)
    if cause not in chain and chain[-1].__cause__ is None:
        chain[-1].__cause__ = cause


def _is_cut_of(dl: Deadline, error: BaseException | None) -> bool:
    if isinstance(error, asyncio.CancelledError):  # a count of cancellations was off: nobody else cancels it
        return dl.expired
    return isinstance(error, DeadlineExceeded) and error.deadline is dl

"""What a deadline remembers of its block: the steps, what was awaited, what is open, what stays behind.

Most blocks end in time and have none of it, so that a deadline makes its record when it first has something
to remember.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakSet

import anyio

from deadline._events import logger, shown
from deadline._report.data import Report, new_steps
from deadline._report.tasks import TaskSnapshot, locate
from deadline._text import quoted

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from contextvars import Context

    from deadline._report.breakers import BreakerAccount
    from deadline._report.data import BatchReport, SectionReport, TaskReport
    from deadline._report.tasks import Position


CLOSING: Final = 0.05
"""Seconds for which closing one thing may wait."""


class Closable(Protocol):
    """What can be closed, by waiting or without. An `aclose`, where there is one, goes before `close`."""

    def close(self) -> object: ...


def _log(message: str, culprit: object) -> None:
    """Log the error that is being handled; a logging handler of the user's may raise."""
    with contextlib.suppress(Exception):
        logger.exception(message, shown(culprit))


def _closing(resource: Closable) -> Callable[[], object]:
    close: Callable[[], object] = getattr(resource, "aclose", None) or resource.close
    return close


class Record:
    """The record of one block.

    Attributes:
        steps: In the order in which they began.
        sections: What tells of each critical section, in the order in which they were entered.
        batches: What tells of each batch, in the order in which they were begun.
        breakers: What tells of each breaker that did something out of the ordinary.
        left_behind: What could not be cleaned up, in words, or what tells of it when the report is made.
        blocked: The stack of what blocked the loop when it was interrupted, outermost first.
        inside: Of a plain function's block, what a loop that ran in it was doing when that was cut.
    """

    __slots__ = (
        "_forgettable",
        "_held",
        "_snapshot",
        "batches",
        "blocked",
        "breakers",
        "inside",
        "left_behind",
        "sections",
        "steps",
    )

    def __init__(self) -> None:
        self._snapshot: TaskSnapshot | None = None
        self.steps = new_steps()
        self.sections: list[Callable[[], SectionReport]] = []
        self.batches: list[Callable[[], BatchReport]] = []
        self.breakers: dict[object, BreakerAccount] = {}
        self._forgettable: WeakSet[Closable] = WeakSet()
        self._held: list[Closable] = []
        self.left_behind: list[str | Callable[[], str | None]] = []
        self.blocked: list[Position] = []
        self.inside: tuple[TaskReport, ...] = ()

    def opened(self, resource: Closable) -> None:
        """Remember something that the block has opened.

        What must be awaited to close cannot close itself when it is forgotten, so it is kept; the rest is
        referred to weakly.
        """
        if inspect.iscoroutinefunction(_closing(resource)):
            self._held.append(resource)
        else:
            self._forgettable.add(resource)

    def resources(self) -> list[Closable]:
        """What the block has opened."""
        return [*self._forgettable, *self._held]

    # What follows goes through the block's own objects: one that misbehaves must not save it from the cut.

    def look(
        self,
        host: asyncio.Task[object],
        belongs: Callable[[Context], bool],
        now: Callable[[], float],
        until: float,
    ) -> None:
        """See what the host and the tasks that it waits for are doing."""
        try:
            self._snapshot = TaskSnapshot(host, belongs, now, until)
        except Exception:  # noqa: BLE001  # see above
            _log("looking at %s failed: the report will not say what was awaited", host)

    def look_again(self, host: asyncio.Task[object], now: float) -> None:
        """See what the host is doing now."""
        try:
            if self._snapshot is not None:
                self._snapshot.refresh(host, now)
        except Exception:  # noqa: BLE001  # see above
            _log("looking at %s failed: the report says what was awaited a little earlier", host)

    def sheltered(self) -> tuple[asyncio.Task[object], ...]:
        """The tasks that the block waits for behind `asyncio.shield`: its cut leaves them running."""
        return () if self._snapshot is None else self._snapshot.sheltered

    async def close_resources(self) -> None:
        """Close what the block has opened."""
        for resource in self.resources():
            try:
                closed = _closing(resource)()
                if inspect.isawaitable(closed):
                    with anyio.move_on_after(CLOSING, shield=True):
                        await closed
            except Exception:  # noqa: BLE001  # see above
                _log("closing %s failed", resource)

    def last_error(self) -> BaseException | None:
        """The last error that the service gave to a call that was cut, if there was one."""
        errors = () if self._snapshot is None else self._snapshot.errors()
        return next((error() for error in errors), None)

    def where(self) -> str:
        """What was cut, in a few words: an error report often carries no more than the message."""
        # A thread may begin a step meanwhile, here and below: iterate over a copy.
        cut = next((step.name for step in reversed(tuple(self.steps)) if step.status == "cut"), None)
        calls = (task.call for task in self.inside) if self._snapshot is None else (self._snapshot.call(),)
        call = next(filter(None, calls), None)
        blocked = self.blocked_in()
        return "".join(
            [
                f", cut in step {quoted(cut)}" if cut else "",
                f", awaiting {call}" if call else "",
                f", blocked in {blocked}" if blocked else "",
            ]
        )

    def blocked_in(self) -> str | None:
        """Where the loop was blocked, in a few words."""
        return str(locate(self.blocked[-1])) if self.blocked else None

    def report(
        self,
        *,
        name: str | None,
        entered: float,
        soft: float,
        margin: float,
        now: float,
        left_running: tuple[TaskReport, ...],
    ) -> Report:
        """All of it as plain data, with times counted from entry."""
        return Report(
            name=name,
            allowed=soft - entered,
            elapsed=now - entered,
            margin=margin,
            tasks=self.inside if self._snapshot is None else self._snapshot.reports(),
            steps=tuple(step.report(entered, now) for step in tuple(self.steps)),
            sections=tuple(section() for section in tuple(self.sections)),
            batches=tuple(batch() for batch in tuple(self.batches)),
            breakers=tuple(account.report(entered) for account in tuple(self.breakers.values())),
            left_running=left_running,
            left_behind=self._left_behind(),
            blocked=tuple(map(locate, self.blocked)),
        )

    def _left_behind(self) -> tuple[str, ...]:
        words = (what if isinstance(what, str) else what() for what in tuple(self.left_behind))
        return tuple(filter(None, words))

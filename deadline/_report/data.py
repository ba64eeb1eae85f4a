"""What was awaited when time ran out, what was done, and what still runs: plain data and its rendering.

The records are named tuples, not dataclasses: making six of those takes 2 to 3 ms of every cold start.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from deadline._text import quoted, shortened

if TYPE_CHECKING:
    from deadline._report.breakers import BreakerReport

Outcome: TypeAlias = Literal["not sent", "unknown", "answered"]
Effect: TypeAlias = Literal["done", "not done", "unknown"]
Fate: TypeAlias = Literal["done", "not done", "unknown", "undone", "undo failed", "running"]
Status: TypeAlias = Literal["done", "running", "cut", "failed"]

MOST_STEPS: Final = 10_000
"""Steps remembered by one deadline; of more, the newest."""


# --- what the caller gets ---------------------------------------------------------------------------------


class Await(NamedTuple):
    """One link of a chain of awaits: where a function was waiting, in a task or in the thread it waits for.

    A function that is written in C has no line: `line` is 0 then, and `file` is its module's name.
    """

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{shortened(self.function)} ({place_in_source(self)})"


class CallReport(NamedTuple):
    """An AWS call in flight.

    Attributes:
        service: Its name in the SDK, `s3`.
        operation: Its name in the API, `DeleteObject`.
        attempt: Which try, from 1.
        seconds: Since the call began, all attempts and backoff included.
        outcome: `not sent`; `answered`, if every attempt that went out was; else `unknown`: the service may
            have done what it was asked.
    """

    service: str
    operation: str
    attempt: int
    seconds: float
    outcome: Outcome = "not sent"

    def __str__(self) -> str:
        return f"{self.service}.{self.operation} attempt {self.attempt}, {self.seconds:.3f} s, {self.outcome}"


class TaskReport(NamedTuple):
    """A task and what it awaited.

    Attributes:
        name: The task's own.
        host: Whether it is the one that entered the deadline.
        awaiting: The chain of awaits, outermost first.
        call: The AWS call it was in, if it was.
    """

    name: str
    host: bool
    awaiting: tuple[Await, ...]
    call: CallReport | None


class StepReport(NamedTuple):
    """A step and what became of it.

    Attributes:
        name: As given to `step`.
        status: `done`; `cut` by a cancellation or a refusal; `failed` with an error; still `running`.
        started: Seconds after the deadline's entry; negative if the step began before it.
        seconds: How long it took, until now if it is running.
    """

    name: str
    status: Status
    started: float
    seconds: float


class BatchReport(NamedTuple):
    """What became of the items that `each` was given, as positions from 0, in order."""

    done: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    unprocessed: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"batch: {len(self.done)} done, {len(self.failed)} failed, {len(self.unprocessed)} unprocessed"


class EffectReport(NamedTuple):
    """A step of a critical section and what became of its effect.

    Attributes:
        name: As given to `section.step`.
        fate: `done`, or `not done`; `unknown`, if it cannot be told; `undone` or `undo failed`, if its
            compensation ran; `running`.
        error: Why the compensation failed; `None` if it did not.
        unanswered: Whether a request of it was sent and never answered. It may still be on its way, also
            when the step was undone, or done by a later attempt.
    """

    name: str
    fate: Fate
    error: str | None = None
    unanswered: bool = False

    @property
    def stands(self) -> bool:
        """Whether the effect is there, or may be: of an undone one `may_land` tells."""
        return self.fate not in {"not done", "undone"}

    @property
    def may_land(self) -> bool:
        """Whether it is undone, and a request of it may still have its effect after that."""
        return self.fate == "undone" and self.unanswered

    def __str__(self) -> str:
        return f"{shortened(self.name)} {self.fate}{' (may still land)' if self.may_land else ''}"


class SectionReport(NamedTuple):
    """A critical section and what became of its effects.

    Attributes:
        name: As given to `critical`.
        status: `open`; `done`, if it was left without an error; `undone`, if it failed and nothing of it
            stands, though something may still land; `partial`, if it failed and something stands, or may.
        steps: In the order in which they began.
    """

    name: str
    status: Literal["open", "done", "undone", "partial"]
    steps: tuple[EffectReport, ...]

    @property
    def standing(self) -> list[str]:
        """Names of the steps whose effect is there, or may be."""
        return [step.name for step in self.steps if step.stands]

    @property
    def may_land(self) -> list[str]:
        """Names of the steps that are undone, and of which a request was sent and never answered."""
        return [step.name for step in self.steps if step.may_land]

    def __str__(self) -> str:
        steps = ", ".join(map(str, self.steps))
        return f"critical section {quoted(self.name)} {self.status}" + (f": {steps}" if steps else "")


class Report(NamedTuple):
    """What was going on when a deadline's time was up. Plain data: it pickles and turns into JSON.

    All times are seconds on the loop's clock.

    Attributes:
        name: The deadline's.
        allowed: From entry to the soft instant.
        elapsed: From entry to the scope's edge, where the error was raised.
        margin: From the soft to the hard instant; 0.0 without a limit.
        tasks: What each task awaited when time ran out, the host first; 64 at most.
        steps: In the order in which they began; the newest 10,000 at most.
        sections: The critical sections, in the order in which they were entered.
        batches: What `each` worked off, in the order in which they were begun.
        breakers: The breakers that changed their state or refused a call, in the order in which they first
            did.
        left_running: Tasks that the block started and that are not done: a deadline does not touch
            them, they may belong to others.
        left_behind: What a cut left at a service and could not clean up, in words.
        blocked: Where the loop was blocked when it was interrupted, the task's outermost coroutine first,
            50 frames at most; empty if it was not.
    """

    name: str | None = None
    allowed: float = 0.0
    elapsed: float = 0.0
    margin: float = 0.0
    tasks: tuple[TaskReport, ...] = ()
    steps: tuple[StepReport, ...] = ()
    sections: tuple[SectionReport, ...] = ()
    batches: tuple[BatchReport, ...] = ()
    breakers: tuple[BreakerReport, ...] = ()
    left_running: tuple[TaskReport, ...] = ()
    left_behind: tuple[str, ...] = ()
    blocked: tuple[Await, ...] = ()

    @property
    def done(self) -> list[str]:
        """Names of the steps that were completed, in the order in which they began."""
        return [step.name for step in self.steps if step.status == "done"]

    @property
    def pending(self) -> list[str]:
        """Names of the steps that were begun and not completed: cut, failed or still running."""
        return [step.name for step in self.steps if step.status != "done"]

    def to_dict(self) -> dict[str, Any]:
        """The report as dicts, lists and plain values: the attributes, plus `done` and `pending`.

        Infinite times become `None`, which JSON can hold.
        """
        plain: dict[str, Any] = _plain(self)
        return {**plain, "done": self.done, "pending": self.pending}

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        import json  # noqa: PLC0415  # a millisecond of every cold start, for what most never ask

        return json.dumps(self.to_dict(), allow_nan=False)

    def render(self, width: int = 100) -> str:
        """A timeline for a log, in lines of at most `width` columns (60 or more)."""
        from deadline._report.render import rendered  # noqa: PLC0415  # most reports are never rendered

        return "\n".join(rendered(self, max(60, width)))


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return {key: _plain(inner) for key, inner in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


# --- where something stands -------------------------------------------------------------------------------


def place_in_source(link: Await) -> str:
    return f"{short_path(link.file)}:{link.line}" if link.line else link.file


@functools.lru_cache(maxsize=256)
def short_path(path: str) -> str:
    """Where the code is, without what every path on this machine begins with."""
    for root in sorted(sys.path, key=len, reverse=True):
        if root and path.startswith(root + os.sep):
            return path[len(root) + 1 :]
    return path


# --- steps as they go -------------------------------------------------------------------------------------


class Step:
    """A step as it goes."""

    __slots__ = ("ended", "name", "started", "status")

    def __init__(self, name: str, started: float) -> None:
        self.name = name
        self.started = started
        self.ended: float | None = None
        self.status: Status = "running"

    def report(self, entered: float, now: float) -> StepReport:
        """As plain data, seen at `now` from a deadline entered at `entered`."""
        ended = now if self.ended is None else self.ended
        return StepReport(self.name, self.status, self.started - entered, max(0.0, ended - self.started))


def new_steps() -> deque[Step]:
    """Room for a deadline's steps."""
    return deque(maxlen=MOST_STEPS)

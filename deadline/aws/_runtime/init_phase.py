"""The init phase's own deadline: it names what was being imported, or opened, when the time ran out.

Lambda gives a process ten seconds to import the function's module. One that is not done then is killed, and
all of it runs again in the time of the first invocation; nothing says what took so long.

- **Imports are named and go on.** An import that is interrupted leaves a half-made module behind, in its own
  package and in every one around it, for the rest of the process's life. So a thread looks on, and takes
  no signal from anybody. It sees the stack of what is asleep, and of what spins.
- **Eager lifespans are cut**, like anything under a deadline, and entered by the first invocation.
- C code that holds the interpreter's lock keeps the thread waiting, too: a large shared library that is
  loaded, a catastrophic regular expression. `faulthandler` needs no lock. Once half of the time is over it is
  set to print the stack just before the end. A process that is ready sooner never has it set: it would go
  off in an environment that was frozen meanwhile.

The phase is over when the module that was imported first, of all that were when `init_deadline` was called,
is no longer on the stack: it may be the handler's module, or one of its imports, that calls it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from deadline._core.errors import DeadlineExceeded
from deadline._core.scope import DISABLED, deadline
from deadline._core.source import seconds
from deadline._events import emit, logger
from deadline._report.data import Await, short_path
from deadline.aws._runtime.event_loop import environment, replace_environment
from deadline.aws._runtime.snapshot import before_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextvars import Context
    from datetime import timedelta
    from types import CodeType, FrameType

    from deadline.aws._runtime.event_loop import Factory

# https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html, read in 2026-11
LIMIT: Final = 10.0
# Of SnapStart, Managed Instances and provisioned concurrency; the function's timeout, if that is longer:
# https://docs.aws.amazon.com/lambda/latest/dg/lambda-managed-instances-execution-environment.html and
# https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-python.html, read in 2026-11.
# The process is not told its timeout before there is an event.
LONG_LIMIT: Final = 130.0

RESTORING: Final = 10.0
"""Seconds for restoring a snapshot, and for all that then runs before the first event (the last page)."""

MARGIN: Final = 0.5
"""Seconds. What is told must have left the process, and a lifespan must unwind."""

LOOKING: Final = 0.05
"""Seconds between two looks at the stack, of less than 0.1 ms: that is how it knows what took how long."""

# With which share of the margin left who acts. A lifespan's own deadline cuts at the whole of it, and
# interrupts what blocks at a third; whoever comes later is for what that does not reach.
IMPORTS, OPENINGS, LOCKED = 1.0, 0.2, 0.1

DEEPEST: Final = 12
"""Functions that are shown of what the innermost module calls."""


class Phase:
    """The time that a process has until it must be ready.

    Args:
        limit: Seconds in all.
        margin: Seconds of them that are kept back, at most half.
        spent: Seconds that are over.
    """

    def __init__(self, limit: float, margin: float = MARGIN, spent: float = 0.0) -> None:
        self.limit = limit
        self.margin = min(margin, limit / 2)
        self._began = time.monotonic() - spent

    def left(self) -> float:
        """Seconds until it ends."""
        return self.limit - self.spent()

    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began


_phase: Phase | None = None
_watch: Watch | None = None


def init_deadline(*, limit: float | timedelta | None = None, margin: float | timedelta = MARGIN) -> None:
    """Name what is being imported or opened when Lambda's init phase is about to run out of time.

    Write `aws.init_deadline()` before the other imports of the function's module. It is told by the event
    `aws.init_exceeded`, at the level of an error, so that the log has it before the process is killed.
    Imports go on; an eager lifespan (`aws.handler(eager=True)`) is cut, and entered by the first invocation.

    The time counts from the start of the process, where Linux tells it, and else from this call. It ends with
    the import of the function's module. Outside of Lambda, and under `DEADLINE_DISABLED`, nothing happens.

    Args:
        limit: Seconds that the init phase may take, more than zero. Default: Lambda's own, by
            `AWS_LAMBDA_INITIALIZATION_TYPE`: 10, and 130 for provisioned concurrency, SnapStart and Managed
            Instances. Those have the function's timeout if that is longer, which the process is not told.
        margin: Seconds before that at which it is told. Default 0.5; at most half of `limit`.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
    """
    global _phase, _watch  # noqa: PLW0603  # there is one in a process
    length = limit_of(os.environ) if limit is None else seconds(limit, "limit")
    if not 0.0 < length < math.inf:
        raise ValueError(f"limit: {length} is no time to be ready in; write the seconds, limit=10.0 say")
    kept = seconds(margin, "margin")
    if DISABLED or "AWS_LAMBDA_RUNTIME_API" not in os.environ:
        return
    root = imported_first(sys._getframe(1))  # noqa: SLF001  # it is what the name says
    if root is None:
        logger.warning("aws.init_deadline does nothing here: call it while the function's module is imported")
        return
    if _watch is not None:
        _watch.end()
    _phase = _begun(length, kept)
    _watch = Watch(_phase, root)
    _watch.start()


def limit_of(variables: Mapping[str, str]) -> float:
    """Seconds that Lambda gives the init phase, by the environment's variables."""
    kind = variables.get("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
    return LIMIT if kind == "on-demand" else LONG_LIMIT


def _begun(limit: float, margin: float = MARGIN) -> Phase:
    """The phase that is going on. A process older than the limit was not started for it: count from now."""
    age = process_age()
    return Phase(limit, margin, age if age < limit else 0.0)


def process_age() -> float:
    """Seconds since this process was started, in steps of 10 ms; 0.0 where nobody knows."""
    try:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123  # pathlib costs milliseconds
            fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
        # Of all fields the 22nd, in ticks since the machine was started: proc(5).
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        return 0.0


# --- what is being imported -------------------------------------------------------------------------------


class Place(NamedTuple):
    """A module that is being imported, and the line that it is at."""

    module: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{short_path(self.file)}:{self.line}"


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def imported_first(frame: FrameType | None) -> CodeType | None:
    """The module whose import is the outermost on the stack; what `python -m` runs is none."""
    first = module = None
    for one in _outward(frame):
        if one.f_code.co_name == "<module>":
            module = one.f_code
        elif _is_importing(one):
            first = module
    return first


def _is_importing(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith("<frozen importlib")


def _place(frame: FrameType) -> Place:
    name = str(frame.f_globals.get("__name__", "?"))
    return Place(name, frame.f_code.co_filename, frame.f_lineno or 0)


class Account:
    """What took how long, by what was seen of it.

    Args:
        root: The module that is imported first.
        before: Seconds that were over before the first look.
    """

    def __init__(self, root: CodeType, before: float) -> None:
        self._root = root
        self._before = before
        self._spent: dict[Place, float] = {}
        self.chain: list[Place] = []
        """The modules being imported, the root first, as they were seen last."""
        self.inside: list[Await] = []
        """The functions that the innermost of them calls."""

    def see(self, frame: FrameType | None, since: float) -> bool:
        """Look at a stack, `since` seconds after the last look. Returns whether the root is still on it."""
        stack = list(_outward(frame))
        root = next((at for at, one in enumerate(stack) if one.f_code is self._root), None)
        if root is None:
            return False
        if not self.chain:  # the first look: nothing was seen before it
            since = 0.0
        inward = [one for one in stack[root::-1] if not _is_importing(one)]
        last = max(at for at, one in enumerate(inward) if one.f_code.co_name == "<module>")
        self.chain = [_place(one) for one in inward[: last + 1] if one.f_code.co_name == "<module>"]
        self.inside = [
            Await(one.f_code.co_name, one.f_code.co_filename, one.f_lineno or 0) for one in inward[last + 1 :]
        ]
        for place in self.chain:
            self._spent[place] = self._spent.get(place, 0.0) + since
        return True

    def importing(self) -> str:
        """The chain of imports as one text."""
        return " > ".join(map(str, self.chain))

    def render(self) -> str:
        """The chain, with the seconds that each was seen at its line; then what else took the root's time."""
        return "\n".join(self._render())

    def _render(self) -> Iterator[str]:
        for depth, place in enumerate(self.chain):
            yield f"{self._spent[place]:8.2f} s  {'  ' * depth}{place.module} ({place})"
        indent = " " * (12 + 2 * len(self.chain))
        if len(self.inside) > DEEPEST:
            yield f"{indent}... {len(self.inside) - DEEPEST} calls"
        for call in self.inside[-DEEPEST:]:
            yield f"{indent}in {call}"
        root = self.chain[0]
        others = [
            place
            for place, spent in self._spent.items()
            if place.file == root.file and place != root and spent >= LOOKING
        ]
        yield f"{self._before:8.2f} s  before init_deadline was called"
        for place in sorted(others, key=self._spent.__getitem__, reverse=True)[:3]:
            yield f"{self._spent[place]:8.2f} s  before, at {place}"


class Watch:
    """The thread that looks on.

    Args:
        phase: How long.
        root: The module whose import ends it.
    """

    def __init__(self, phase: Phase, root: CodeType) -> None:
        self._phase = phase
        self._account = Account(root, phase.spent())
        self._watched = threading.get_ident()
        self._over = threading.Event()
        self.opening: str | None = None
        """The lifespan that is being entered, under a deadline of its own."""
        self.told = False

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._look_on, name="deadline-init", daemon=True).start()

    def end(self) -> None:
        """Look on no more."""
        self._over.set()

    def _look_on(self) -> None:
        phase, armed, looked = self._phase, False, time.monotonic()
        try:
            while True:
                before, looked = looked, time.monotonic()
                frame = sys._current_frames().get(self._watched)  # noqa: SLF001  # the one way to see it
                if not self._account.see(frame, looked - before):
                    return
                del frame
                share = IMPORTS if self.opening is None else OPENINGS
                if phase.left() <= phase.margin * share:
                    self._tell()
                    return
                if not armed and phase.left() <= phase.limit / 2:
                    armed = True
                    with contextlib.suppress(Exception):  # somebody's own stderr may be no file
                        faulthandler.dump_traceback_later(
                            phase.left() - phase.margin * LOCKED, file=sys.__stderr__ or sys.stderr
                        )
                if self._over.wait(max(0.0, min(LOOKING, phase.left() - phase.margin * share))):
                    return
        finally:
            if armed:
                faulthandler.cancel_dump_traceback_later()

    def _tell(self) -> None:
        self.told = True
        importing = None if self.opening else self._account.importing()
        _tell(self._phase, importing=importing, opening=self.opening, stack=self._account.render())


def _tell(phase: Phase, *, importing: str | None, opening: str | None, stack: str) -> None:
    emit(
        "aws.init_exceeded",
        logging.ERROR,
        seconds=phase.spent(),
        limit=phase.limit,
        importing=importing,
        opening=opening,
        stack=stack,
    )


# --- what is being opened ---------------------------------------------------------------------------------


def restored() -> None:
    """Begin the phase between the restore of a snapshot and the first event."""
    global _phase  # noqa: PLW0603
    end()
    _phase = Phase(RESTORING)


@before_snapshot
def end() -> None:
    """Look on no more: what is slow from here on is not the init phase."""
    if _watch is not None:
        _watch.end()


def enter(factory: Factory, outside: Context, *, interrupt: bool) -> None:
    """Enter a lifespan before the first invocation, as long as there is time; that enters it otherwise."""
    phase = _phase or _begun(limit_of(os.environ))
    name = getattr(factory, "__qualname__", repr(factory))
    dl = deadline(max(0.0, phase.left()), margin=phase.margin, name="init", interrupt=interrupt)

    async def entered() -> None:
        async with dl:
            await environment().lifespan(factory, outside).resources()

    if _watch is not None:
        _watch.opening = name
    try:
        environment().run(entered())
    except DeadlineExceeded as exceeded:
        if exceeded.deadline is not dl:
            raise
        end()
        if _watch is None or not _watch.told:
            _tell(phase, importing=None, opening=name, stack=exceeded.report.render())
        lifespan = environment().lifespan(factory, outside)
        if not environment().run(lifespan.close(max(0.0, phase.left() / 2))):
            replace_environment()
    finally:
        if _watch is not None:
            _watch.opening = None

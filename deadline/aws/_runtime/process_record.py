"""A shared-memory record of the running invocation, read by the helper process and by the next cold start.

It is written when an invocation begins, once, for all who may have to tell of it. The helper process shares
the memory (`_notices.helper_process`). A breadcrumb is the same memory in a file, which outlives the process
(`_rescue.breadcrumb`): pages of a shared mapping belong to the file, however their writer ends.

Arming is some stores, of which the last one counts, and disarming is one. None is a system call. Whoever dies
between two of them has armed nothing.

    0   what this is                        40  bytes of each text, and of it all
    8   when it began, ends, was last       64  who: request id, function, version
        seen, its stack is written; on    2048  the last step
        the wall clock                    4064  the seal of a file (`_rescue.breadcrumb`)
                                          4096  the event, if that was asked for
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deadline._text import printable
from deadline._work.section import watch_steps

if TYPE_CHECKING:
    from deadline._report.data import Step

MAGIC: Final = b"crumb 1\n"
PAGE: Final = 4096
SEAL: Final = slice(4064, 4096)
LONGEST: Final = 150
"""Characters of a name: Lambda's have 64 at most, request ids 36."""
_LONG: Final = 3 * LONGEST

_HEAD: Final = struct.Struct("=ddddHHLLBB")
_HEAD_AT, _SEEN_AT, _STEP_LENGTH_AT, _TOLD_AT, _STATUS_AT, _ARMED_AT = 8, 24, 42, 52, 53, 56
_WHO_AT, _STEP_AT = 64, 2048
_STATUSES: Final = ("", "running", "done", "cut", "failed")

Identity = tuple[str | None, str, str | None]


class Trace(NamedTuple):
    """What a record says.

    Attributes:
        request_id: The invocation's.
        function: Its name.
        version: Its version.
        began: When it was armed, in seconds on the wall clock, as all of these.
        hard: When the platform ends it; `inf`: never.
        seen: When it was last heard of: it began, or a step began or ended.
        stack_at: When its stack is written; `inf`: never.
        step: The innermost step that was running, or else the last one that ended; empty without one.
        status: What became of that: `running`, `done`, `cut`, `failed`.
        told: Whether a notice of this invocation has been sent.
        event: Its JSON text, or the beginning of it; empty if it was not asked for.
        stack: What stands in the file behind the record: the stack of all threads, if it was written.
        event_cut: Whether `event` is its beginning alone.
    """

    request_id: str | None
    function: str
    version: str | None
    began: float
    hard: float
    seen: float
    stack_at: float
    step: str
    status: str
    told: bool
    event: str
    stack: str
    event_cut: bool = False


class ProcessRecord:
    """The record of a process.

    Args:
        memory: A shared mapping, a page at the least, all zeros. What is over has room for the event.
    """

    def __init__(self, memory: mmap.mmap | bytearray) -> None:
        self.memory = memory
        self._room = len(memory)
        self._steps: list[Step] = []
        self._watcher = self._see
        memory[: len(MAGIC)] = MAGIC

    @property
    def is_armed(self) -> bool:
        """Whether an invocation is going on."""
        return bool(self.memory[_ARMED_AT])

    def arm(
        self, who: Identity, left: float = math.inf, *, stack_in: float = math.inf, event: bytes = b""
    ) -> None:
        """Write what begins now.

        Args:
            who: Request id, function, version.
            left: Seconds until the platform ends it.
            stack_in: Seconds until its stack is written.
            event: JSON; what does not fit is left away.
        """
        memory, now = self.memory, time.time()
        text = f"{who[0] or ''}\0{who[1] or ''}\0{who[2] or ''}".encode(errors="replace")
        if len(text) > _LONG:
            text = "\0".join([str(part or "")[:LONGEST] for part in who]).encode(errors="replace")
        memory[_WHO_AT : _WHO_AT + len(text)] = text
        if event:
            kept = event[: len(memory) - PAGE]
            memory[PAGE : PAGE + len(kept)] = kept
        _HEAD.pack_into(
            memory,
            _HEAD_AT,
            now,
            now + left,
            now,
            now + stack_in,
            len(text),
            0,
            min(len(event), 0xFFFF_FFFF),  # of all of it: what is told knows whether it was cut
            self._room,
            0,
            0,
        )
        self._steps.clear()
        watch_steps(self._watcher)
        memory[_ARMED_AT] = 1

    def disarm(self) -> None:
        """It is over."""
        self.memory[_ARMED_AT] = 0
        watch_steps(None)

    def told(self) -> None:
        """A notice of this invocation has been sent: whoever finds the record sends no other."""
        self.memory[_TOLD_AT] = 1

    def _see(self, step: Step) -> None:
        """Note the step that has begun or ended; others may be running around it, or beside it."""
        if step.status == "running":
            self._steps.append(step)
        else:
            try:
                self._steps.remove(step)
            except ValueError:
                return  # it began before this invocation
            if self._steps:
                step = self._steps[-1]
        memory, name = self.memory, step.name[:LONGEST].encode(errors="replace")
        memory[_STEP_AT : _STEP_AT + len(name)] = name
        struct.pack_into("=H", memory, _STEP_LENGTH_AT, len(name))
        struct.pack_into("=d", memory, _SEEN_AT, time.time())
        memory[_STATUS_AT] = _STATUSES.index(step.status)

    def let_go(self) -> None:
        """Write to nobody's memory from now on: in a fork it is the parent's."""
        self.memory = bytearray(PAGE)


def read(content: Any) -> Trace | None:
    """What a record says, in memory or in a file; `None` if nothing is armed.

    Raises:
        ValueError: It is no record.
    """
    content = bytes(content)
    if len(content) < PAGE or not content.startswith(MAGIC):
        raise ValueError("no breadcrumb")
    if not content[_ARMED_AT]:
        return None
    head = _HEAD.unpack_from(content, _HEAD_AT)
    began, hard, seen, stack_at, of_who, of_step, of_event, room, told, status = head
    who = content[_WHO_AT : _WHO_AT + of_who].decode(errors="replace").split("\0")
    if len(who) != 3 or any(math.isnan(instant) for instant in head[:4]) or math.isinf(began):
        raise ValueError("a spoilt breadcrumb")
    event_ends = min(PAGE + of_event, max(room, PAGE))
    return Trace(
        request_id=printable(who[0], line=True) or None,
        function=printable(who[1], line=True),
        version=printable(who[2], line=True) or None,
        began=began,
        hard=hard,
        seen=seen,
        stack_at=stack_at,
        step=printable(content[_STEP_AT : _STEP_AT + of_step].decode(errors="replace"), line=True),
        status=_STATUSES[status] if status < len(_STATUSES) else "",
        told=bool(told),
        event=content[PAGE:event_ends].decode(errors="replace"),
        stack=printable(content[max(room, PAGE) :].decode(errors="replace")),
        event_cut=PAGE + of_event > min(event_ends, len(content)),
    )


def identity(function: str, context: Any) -> Identity:
    """Whose invocation it is: what Lambda's context says, or else the handler's name."""
    return (
        getattr(context, "aws_request_id", None),
        getattr(context, "function_name", None) or function,
        getattr(context, "function_version", None),
    )


_armed: ProcessRecord | None = None


def armed() -> ProcessRecord:
    """This process's record."""
    return _armed or replace(mmap.mmap(-1, PAGE))


def replace(memory: mmap.mmap) -> ProcessRecord:
    """Have this process's record in other memory from now on."""
    global _armed  # noqa: PLW0603  # there is one in a process, that is the point
    if _armed is not None:
        _armed.let_go()  # it is in a cycle: its mapping would stay until a collection
    _armed = ProcessRecord(memory)
    return _armed


def note_told() -> None:
    """What this process is doing has been told, if it is armed."""
    if _armed is not None:
        _armed.told()


def _forget() -> None:
    global _armed  # noqa: PLW0603
    if _armed is not None:
        _armed.let_go()
        _armed = None
        watch_steps(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

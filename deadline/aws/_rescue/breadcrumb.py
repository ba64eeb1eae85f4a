"""The breadcrumb: a process that was killed tells its successor.

Nothing runs in a process that is killed, by Lambda at its timeout or by the kernel for lack of memory. What
it had written into the temporary folder is there when the environment starts anew. So each process has a
small file there, made at its first invocation, and its record (`_runtime.process_record`) is a mapping of
that: a process that dies with the record armed has died in the middle of an invocation.

Who is dead? Each process holds a lock (`flock`) on its own file for as long as it lives. The kernel releases
it at the end of the process, however that comes; unlike the number of a process it is never another's. The
lock belongs to one open file, not to the process: a scan of the folder that opens and closes the file leaves
it alone, where a record lock (`lockf`) would be released. It has a descriptor of its own, which nothing maps:
a mapping would keep it in the helper process, which shares the memory. A fork closes it, and so does `exec`.

At its first invocation a process looks at the files of the others; among the workers of a Managed Instance,
where nobody succeeds a dead one, once in a while again. Whoever gets the lock of a file, and finds it still
there, has it alone: it removes it and tells, or removes it silently if nothing was armed. So each death is
told once, by one of those that share the folder. What is not ours, or no record, is passed over.

Whose record is it? A file is sealed when it is made: an HMAC of the file's name, device and inode, by a key
that the environment's processes share, the log stream's name. It has 128 random bits, and stays the same when
Lambda starts the environment anew. So what somebody could only write below the temporary folder (an archive
that was unpacked, an upload with a name of its own) is no record: its writer knows no key, and a copy of a
sealed file is another inode. Code that runs as the function's user knows the key. It has the function's
rights anyway. Outside of Lambda there is no such name, and the seal tells an accident alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import heapq
import hmac
import itertools
import json
import logging
import math
import mmap
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from deadline._core.source import seconds_left
from deadline._events import emit, logger
from deadline.aws._notices.message import LONGEST, message
from deadline.aws._rescue.stack_timer import AHEAD, StackTimer
from deadline.aws._runtime.process_record import PAGE, SEAL, Trace, armed, identity, read, replace

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER: Final = "deadline-breadcrumbs"
_NAME: Final = r"[0-9a-f]{8}-\d+-[0-9a-f]{8}"
"""The machine's boot, the process, and chance: a process's number is another's after a while."""

EVENT_ROOM: Final = 256 * 1024
"""Bytes of an event that are kept, if that is asked for: as much as most notices may have."""

MOST_LOOKED_AT: Final = 2_000
"""Files that one start looks at. Each process leaves one at most, and each start removes them."""

MOST_TOLD: Final = 16
"""Deaths that one start tells of, the last ones."""

EVERY: Final = 60.0
"""Seconds after which a worker among others looks again. It takes a tenth of a millisecond."""

OLDEST: Final = 24 * 3600.0
"""Seconds after which a death is no news any more."""

MOST_READ: Final = 256 * 1024
"""Bytes of a stack that are told."""

MOST_READ_AT_ONCE: Final = 4 * 1024 * 1024
"""Bytes of events and stacks that one start reads. Of older deaths it tells what is in the first page."""


class Death(NamedTuple):
    """Somebody's last invocation.

    Attributes:
        trace: What was armed. It has a stack if it came near its hard end.
        now: On the wall clock, when it was found.
    """

    trace: Trace
    now: float

    @property
    def seen(self) -> float:
        """When it was last heard of, on the wall clock."""
        return max(self.trace.seen, self.trace.stack_at) if self.trace.stack else self.trace.seen

    @property
    def at_timeout(self) -> bool | None:
        """Whether it died at its hard end, or had still time; `None` if that cannot be told."""
        if self.trace.stack:
            return True
        return None if self.trace.stack_at == math.inf and self.trace.hard <= self.now else False

    def fields(self) -> dict[str, Any]:
        """For the event."""
        trace = self.trace
        return {
            "function": trace.function,
            "request_id": trace.request_id,
            "step": trace.step or None,
            "step_status": trace.status or None,
            "seconds_ago": max(0.0, self.now - self.seen),
            "left": None if trace.hard == math.inf else trace.hard - self.seen,
            "at_timeout": self.at_timeout,
        }

    def message(self) -> dict[str, Any]:
        """For the notice."""
        trace, cut = self.trace, ["event"] * self.trace.event_cut
        event: Any = trace.event
        if not cut:
            try:
                event = json.loads(trace.event or "null")
            except (ValueError, RecursionError):
                cut = ["event"]
        return message(trace.request_id, trace.function, trace.version, event) | {
            "reason": "died",
            "message": str(self)[:LONGEST],
            "stack": trace.stack or None,
            "cut": cut,
        }

    def __str__(self) -> str:
        fields = self.fields()
        when = {True: "at its timeout", False: "before its timeout", None: "at its timeout or before it"}
        step = f" in step {fields['step']!r}" if fields["step_status"] == "running" else ""
        if fields["step"] and not step:
            step = f" after step {fields['step']!r}"
        left = "" if self.at_timeout or fields["left"] is None else f", with {fields['left']:.3f} s left"
        return (
            f"{fields['function']} died {when[self.at_timeout]}{step}{left}; "
            f"it was last heard of {fields['seconds_ago']:.3f} s ago"
        )


class Breadcrumb:
    """What arms the record for the invocations of a handler, in a file if that is asked for.

    Args:
        function: The handler's name.
        file: Whether there is a file, or memory alone, which the helper process reads.
        event: Whether the file has the event, too.
    """

    def __init__(self, function: str, *, file: bool, event: bool) -> None:
        self._function = function
        self._file = file
        self._event = event
        self._untold: list[dict[str, Any]] = []

    def run(self, call: Callable[[Any, Any], Any], event: Any, context: Any) -> Any:
        """Call `call(event, context)` with its record armed, in the way of every invocation."""
        if self._file and (time.monotonic() >= _looks_at or _is_gone()):
            self._look_around()
        record = armed()
        if record.is_armed:  # a handler that calls another one
            return call(event, context)
        timer, who = None, identity(self._function, context)
        if self._file:
            left = _left(context)
            timer = _timer if left < math.inf else None
            stack_in = math.inf if timer is None else left - min(AHEAD, left / 2)
            record.arm(who, left, stack_in=stack_in, event=_as_json(event) if self._event else b"")
            if timer is not None:
                timer.start(stack_in)
        else:
            record.arm(who)
        try:
            return call(event, context)
        finally:
            record.disarm()
            if timer is not None and timer is _timer:  # in a fork it is not
                timer.stop()

    def untold(self) -> list[dict[str, Any]]:
        """The messages of deaths that this process has found and nobody has asked for yet."""
        deaths, self._untold = self._untold, []
        return deaths

    def _look_around(self) -> None:
        """Look at what others have left, and tell."""
        deaths = look_around(room=PAGE + EVENT_ROOM * self._event)
        for death in deaths:
            emit("aws.died", logging.ERROR, **death.fields(), stack=death.trace.stack or None)
        self._untold += [death.message() for death in deaths if not death.trace.told]


def _left(context: Any) -> float:
    try:
        return seconds_left(context)
    except Exception:  # noqa: BLE001  # the deadline says what is wrong with it
        return math.inf


def _as_json(event: Any) -> bytes:
    try:
        return json.dumps(event, default=repr).encode()
    except (TypeError, ValueError, RecursionError):
        return b""


# --- files ------------------------------------------------------------------------------------------------

_looks_at = -math.inf  # on the monotonic clock; -inf: it has not yet, and has no file
_own = ""
_lock = -1  # the descriptor that holds the lock on the own file
_timer: StackTimer | None = None


def look_around(room: int) -> list[Death]:
    """Collect the deaths of others; the first time have the record in a file from now on. Never raises.

    Args:
        room: Bytes of the file.

    Returns:
        The deaths, the last one first.
    """
    global _looks_at, _own, _lock, _timer  # noqa: PLW0603  # there is one in a process, as there is one record
    begins = _looks_at == -math.inf or _is_gone()
    timer = _timer
    if begins:
        _forget()
    _looks_at = time.monotonic() + EVERY if "AWS_LAMBDA_MAX_CONCURRENCY" in os.environ else math.inf
    deaths = []
    try:
        folder = _open_folder()
        try:
            deaths = _collect(folder)
            if begins:
                _own, file, _lock = _create(folder, room)
        finally:
            os.close(folder)
        if begins:
            replace(mmap.mmap(file, room))
            os.lseek(file, room, os.SEEK_SET)
            if timer is None:
                _timer = StackTimer(file)
            else:
                timer.move(file)
                _timer = timer
    except Exception as error:  # noqa: BLE001  # whatever it is, it must cost no invocation
        logger.debug("no breadcrumb, or one without a stack: %r", error)
    return deaths


def _is_gone() -> bool:
    """Whether this process had a file that somebody has removed, and no invocation is going on in it."""
    try:
        return _lock != -1 and os.fstat(_lock).st_nlink == 0 and not armed().is_armed
    except OSError:
        return False


def _forget() -> None:
    """What this process has is its parent's, or is gone."""
    global _looks_at, _own, _lock, _timer
    if _lock != -1:
        with contextlib.suppress(OSError):
            os.close(_lock)
    _looks_at, _own, _lock, _timer = -math.inf, "", -1, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _open_folder() -> int:
    """A folder that nobody else can write to, in the temporary one.

    `tempfile.gettempdir` would try it out by a file, and take the current folder if there is none.
    """
    path = f"{os.environ.get('TMPDIR') or '/tmp'}/{FOLDER}-{os.getuid()}"  # noqa: S108  # Lambda's
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)  # noqa: PTH102  # pathlib would cost a cold start 4 ms
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(folder)
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        os.close(folder)
        raise PermissionError(f"{path} is not ours alone")
    return folder


def _create(folder: int, room: int) -> tuple[str, int, int]:
    """The name of a locked file, the descriptor to map it by, and the one that holds the lock.

    It has all of its space: storing into a page for which the disk has no room would end the process.
    """
    for _ in range(10):
        name = f"{_boot()}-{os.getpid()}-{os.urandom(4).hex()}"
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(lock, 0, room)
            os.pwrite(lock, seal(name, os.fstat(lock)), SEAL.start)
            file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            if os.path.sameopenfile(lock, file):
                return name, file, lock
            os.close(file)
        except (BlockingIOError, FileNotFoundError):  # somebody looks at it already, and removes it
            pass
        except OSError:
            os.unlink(name, dir_fd=folder)
            os.close(lock)
            raise
        os.close(lock)
    raise FileExistsError("no file of our own stays ours")


def seal(name: str, found: os.stat_result) -> bytes:
    """What says that a process of this environment has made this file."""
    key = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "").encode(errors="replace")
    what = f"deadline breadcrumb\0{name}\0{found.st_dev}\0{found.st_ino}".encode()
    return hmac.digest(key, what, hashlib.sha256)


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123  # see `_open_folder`
            return file.read(8)
    except OSError:
        return "0" * 8


def _collect(folder: int) -> list[Death]:
    """Take the files of those who are dead: the heads of all, the contents of the last few."""
    last: list[tuple[float, str, int, Trace]] = []  # a heap, the oldest first; the descriptors are open
    others = forged = 0
    with os.scandir(folder) as entries:
        ours = (entry.name for entry in entries if entry.name != _own and re.fullmatch(_NAME, entry.name))
        names = list(itertools.islice(ours, MOST_LOOKED_AT))
    now = time.time()
    try:
        for name in names:
            try:
                taken = _take(folder, name)
            except _ForgedError:
                forged += 1
                continue
            except (OSError, ValueError) as error:
                logger.debug("breadcrumb %s: %r", name, error)
                continue
            if taken is None:
                continue
            file, trace = taken
            if not -OLDEST <= now - trace.began <= OLDEST:
                os.close(file)
                continue
            heapq.heappush(last, (trace.began, name, file, trace))
            if len(last) > MOST_TOLD:
                os.close(heapq.heappop(last)[2])
                others += 1
        deaths = _read_whole([(file, trace) for _, _, file, trace in sorted(last, reverse=True)])
    finally:
        for _, _, file, _ in last:
            os.close(file)
    if others:
        logger.warning("%d older deaths are not told", others)
    if forged:
        logger.warning("%d breadcrumbs that no process of this environment has made are removed", forged)
    return deaths


def _read_whole(heads: list[tuple[int, Trace]]) -> list[Death]:
    """What stands behind the first pages, as far as the limit goes."""
    left, deaths = MOST_READ_AT_ONCE, []
    for file, head in heads:
        content = os.pread(file, min(left, PAGE + EVENT_ROOM + MOST_READ), 0)
        left -= len(content)
        deaths.append(Death((len(content) > PAGE and read(content)) or head, time.time()))
    return deaths


class _ForgedError(Exception):
    """A record that no process of this environment has made."""


def _take(folder: int, name: str) -> tuple[int, Trace] | None:
    """Remove the file of one who is dead.

    Returns:
        Its descriptor, and what its first page says; `None` if it is alive, or was doing nothing.

    Raises:
        _ForgedError: It is a record that was not made here.
        OSError, ValueError: It is no breadcrumb.
    """
    file = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
            raise ValueError("it is not ours")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return None  # it lives, or somebody is taking it
        if os.fstat(file).st_nlink != 1:
            return None  # somebody has taken it
        head = os.pread(file, PAGE, 0)
        os.unlink(name, dir_fd=folder)
        trace = read(head)
        if trace is None:
            return None
        if not hmac.compare_digest(head[SEAL], seal(name, found)):
            raise _ForgedError("nobody here has sealed it")
        file, taken = -1, file
        return taken, trace
    finally:
        if file != -1:
            os.close(file)

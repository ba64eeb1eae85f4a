"""The helper process: it sends the notice when the main process cannot.

Code that holds the interpreter's lock, a blocked callback and a loop that swallows everything stop the event
loop, every thread and every signal handler of the main process. So another process waits beside it.

- It is forked when the first invocation begins: 1 to 2 ms, with whatever the function has imported, and
  with `redact`, which need not be importable. A spawned interpreter would import the SDK again, for some
  tenths of a second of processor time, and the function's module for the sake of `redact`. Everything
  inherited is let go of, so no connection of the function's stays open here. `benchmarks/helper.py` measures
  both.
- Arming it is a write into shared memory, 2 µs. A record in a pipe would wake the helper, for 10 to 20 µs and
  twice an invocation. It wakes by itself instead, says when it will next, and is poked only if that is too
  late: about once in the seconds that an invocation may take.
- Instants are on the wall clock, the only one that both agree on whatever freezes the environment.

Whose notice is it? The main process takes the instant out of the memory, and looks at the clock *after* that:

- Before the instant? The helper reads the memory when its time has come, so it will find nothing: the notice
  is the main process's.
- Later, it may have read before. It says "sending" before it sends, and "down" when it is asked. So the main
  process asks, and the first of the two to come says it. The helper is one thread and reads the memory again
  before it acts, so "down" is for good.
- Neither within a moment: the main process kills the helper, waits for its end, and reads what it had still
  said. If "sending" is not there, it has sent nothing.

A generation is one invocation, so nothing of one acts in the next; and an invocation does not end while the
helper is sending for it: the main process waits, or kills it.
"""

from __future__ import annotations

import contextlib
import contextvars
import faulthandler
import gc
import logging
import marshal
import math
import mmap
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
import warnings
from typing import TYPE_CHECKING, Any, Final, NoReturn
from weakref import WeakSet

from deadline._events import emit
from deadline._text import printable
from deadline.aws._notices.blocking_client import BlockingClient
from deadline.aws._notices.message import message, sealed
from deadline.aws._notices.notice import MEGABYTE
from deadline.aws._runtime.process_record import ProcessRecord, armed, read
from deadline.aws._runtime.snapshot import before_snapshot

if TYPE_CHECKING:
    from deadline.aws._notices.message import Redact
    from deadline.aws._notices.notice import Notice

# What is in shared memory, beside the armed record: four numbers, by index, then the event. The main
# process's are a generation, the instant at which to send for it (inf: not), and for how many seconds it was
# armed; the helper's is when it looks next. A memoryview stores each with one move. `struct` clears a field
# before it writes it: the helper would read an instant of 0.0 now and then, and send twice.
_GENERATION, _INSTANT, _SPAN, _LOOKS_AT = range(4)
_EVENT: Final = 32


def _numbers(memory: mmap.mmap) -> memoryview[float]:
    return memoryview(memory)[:_EVENT].cast("d")


ROOM: Final = 16 * 1024 * 1024
"""Bytes of shared memory. A long list of small numbers takes more than it does as JSON."""

_RECORD: Final = struct.Struct("=cQ")
POKE, ASK = b"!", b"?"
DOWN, SENDING, SENT, FAILED = b"d", b"s", b"e", b"f"

DUST: Final = 0.001
"""Seconds for which a write may not be visible to the other process's processor; it is nanoseconds."""

ANSWERING: Final = 0.2
"""Seconds to wait for the helper's answer. It takes some 0.1 ms, unless the machine is busy."""

DUMPING: Final = 0.1
"""Seconds to wait for the main process's stack, which it writes in less than one millisecond."""


class Helper:
    """The main process's side.

    Args:
        notice: What to send.
        redact: Applied before it leaves.
    """

    def __init__(self, notice: Notice, redact: Redact | None) -> None:
        self._notice = notice
        self._redact = redact
        self._pid = 0  # of the helper; 0: there is none
        self._generation = 0
        self._instant = -math.inf  # of the armed generation, on the wall clock; -inf: none is
        self._sending = False

    def arm(self, event: Any, seconds: float) -> None:
        """Have the helper send a notice of what is armed in so many seconds; never raises."""
        self._sending, self._instant = False, -math.inf
        if seconds == math.inf:
            return
        try:
            if self._pid and self._armed is not armed():
                self.kill()
            if not self._pid:
                self._fork()
            try:
                self._keep((event, False))
            except (ValueError, IndexError):  # an event of Lambda's is JSON, and has at most 6 MB
                self._keep((repr(event)[:MEGABYTE], True))
            self._generation += 1
            now, shared = time.time(), self._shared
            self._instant = instant = now + seconds
            shared[_GENERATION] = self._generation
            shared[_SPAN] = seconds
            shared[_INSTANT] = instant  # the last: with it the generation is armed
            # One that is overdue was frozen, and nobody knows for how long it will sleep on.
            if not now <= shared[_LOOKS_AT] <= instant:
                self._say(POKE)
        except OSError as error:
            self._lost(repr(error))

    def postpone(self, seconds: float) -> None:
        """Move the instant of what is armed to a later one."""
        if self._instant > -math.inf:
            self._instant = time.time() + seconds
            self._shared[_INSTANT] = self._instant

    def stand_down(self) -> bool:
        """Have it not send. Returns whether that was in time: it has not sent, and will not."""
        if self._sending:
            return False
        if self._instant == -math.inf:
            return True
        self._shared[_INSTANT] = math.inf
        if time.time() >= self._instant - DUST:
            try:
                self._say(ASK)
                self._sending = not self._is_down()
            except OSError as error:
                self._sending = self._lost(repr(error))
        self._instant = -math.inf
        return not self._sending

    def has_sent(self, seconds: float) -> bool:
        """Wait for so long for the end of its sending, then end it."""
        answer = self._answer(time.monotonic() + seconds, {SENT, FAILED}) if self._pid else None
        if answer is None:
            self.kill()
        self._sending = False
        return answer == SENT

    def kill(self) -> set[bytes]:
        """End the process. Returns the answers that it left for this generation."""
        if not self._pid:
            return set()
        if self._is_alive():
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        answers = set()
        while (answer := self._answer(0.0, {DOWN, SENDING, SENT, FAILED})) is not None:
            answers.add(answer)
        self.forget()
        return answers

    def forget(self) -> None:
        """Let go of everything, and leave the process alone: in a fork it is the parent's."""
        if self._pid:
            self._pid, self._instant, self._sending = 0, -math.inf, False
            self._let_go()

    def _let_go(self) -> None:
        faulthandler.unregister(_dump_signal())
        self._socket.close()
        self._shared.release()
        self._memory.close()
        os.close(self._dump)

    def _fork(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)  # noqa: FBT003  # the standard library's own
        self._memory = mmap.mmap(-1, ROOM)  # shared, and only what is written to takes memory
        self._shared = _numbers(self._memory)
        self._shared[_INSTANT] = math.inf
        self._armed = armed()
        record = self._armed.memory  # in the fork it is nobody's
        stack, self._dump = os.pipe()
        # A signal and not `dump_traceback_later`: that has one slot in a process, which may be the user's,
        # and costs 31 µs an invocation. The handler is C, and needs no lock of the interpreter's.
        faulthandler.register(_dump_signal(), file=self._dump, all_threads=True)
        parent = os.getpid()
        with warnings.catch_warnings():
            # 3.12 warns that a lock of another thread's may be held in the child for ever. A helper that does
            # not answer is killed, so that costs a helper and no invocation.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                pid = os.fork()
                if pid == 0:
                    memories = record, self._memory
                    child = _Child(parent, (theirs, stack), memories, self._notice, self._redact)
                    contextvars.Context().run(_serve, child)  # in no deadline
            except OSError:  # no memory, or too many processes
                self._let_go()
                raise
            finally:
                theirs.close()
                os.close(stack)
        self._pid = pid
        _helpers.add(self)

    def _keep(self, event: tuple[Any, bool]) -> None:
        """Keep an event, and whether it is a text of it, which may be cut."""
        memory = marshal.dumps(event)
        self._memory[_EVENT : _EVENT + len(memory)] = memory

    def _say(self, kind: bytes) -> None:
        self._socket.send(_RECORD.pack(kind, self._generation))

    def _is_down(self) -> bool:
        answer = self._answer(time.monotonic() + ANSWERING, {DOWN, SENDING})
        return SENDING not in self.kill() if answer is None else answer == DOWN

    def _answer(self, until: float, kinds: set[bytes]) -> bytes | None:
        """The next answer of these kinds for this generation; `None` if there is none until then."""
        while select.select([self._socket], [], [], max(0.0, until - time.monotonic()))[0]:
            try:
                record = self._socket.recv(_RECORD.size)
            except OSError:
                return None
            if not record:
                return None
            kind, generation = _RECORD.unpack(record)
            if generation == self._generation and kind in kinds:
                return kind  # type: ignore[no-any-return]
        return None

    def _is_alive(self) -> bool:
        try:
            return os.waitpid(self._pid, os.WNOHANG)[0] == 0
        except ChildProcessError:  # somebody else waits for every child
            return False

    def _lost(self, error: str) -> bool:
        """It is gone: the next to be armed is another one. Returns whether it was sending."""
        self._instant = -math.inf
        emit("aws.helper_lost", logging.WARNING, error=error)
        return SENDING in self.kill()


# Whose process has been forked, by the runtime client or by a function, has none any more.
_helpers: Final[WeakSet[Helper]] = WeakSet()


def _forget_all() -> None:
    for helper in list(_helpers):
        helper.forget()


@before_snapshot
def end_all() -> None:
    """End them all, of a process that a snapshot is taken of: each that goes on from there makes its own."""
    for helper in list(_helpers):
        helper.kill()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


class _Child:
    """The helper's side."""

    def __init__(
        self,
        parent: int,
        channels: tuple[socket.socket, int],
        memories: tuple[Any, mmap.mmap],
        notice: Notice,
        redact: Redact | None,
    ) -> None:
        self._parent = parent
        self._main, self._stack = channels
        self._record, self._memory = memories
        self._shared = _numbers(self._memory)
        self._notice = notice
        self._redact = redact
        self._client = BlockingClient(notice)

    def detach(self) -> None:
        """Keep nothing of the parent's, and do not outlive it."""
        gc.disable()  # a collection would touch, and so copy, all pages that are shared with the parent
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent's end is ours
        keep = {0, 1, 2, self._main.fileno(), self._stack}
        nothing = os.open(os.devnull, os.O_RDWR)
        from pathlib import Path  # noqa: PLC0415  # not in the parent

        for name in Path("/proc/self/fd").iterdir():
            # Not closed: an object of the parent's that is freed here would close the number's next owner.
            if int(name.name) not in keep | {nothing}:
                with contextlib.suppress(OSError):
                    os.dup2(nothing, int(name.name))
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, should it be killed while we send
        if os.getppid() != self._parent:
            sys.exit()

    def warm_up(self) -> None:
        """Make the client and open a connection, so that sending takes one round trip."""
        self._client.open()
        with contextlib.suppress(Exception):
            self._client.connect()

    def run(self) -> None:
        """Serve until the parent is gone."""
        while True:
            now = time.time()  # first: what was taken out of the memory before the instant is not there then
            instant = self._shared[_INSTANT]
            if now >= instant:
                self._send()
                continue
            looks_at = instant if instant < math.inf else now + self._shared[_SPAN]
            self._shared[_LOOKS_AT] = looks_at
            if self._shared[_INSTANT] != instant:  # it may have been armed before it could read that
                continue
            if select.select([self._main], [], [], max(0.0, looks_at - now))[0]:
                record = self._main.recv(_RECORD.size)
                if not record:
                    return
                kind, generation = _RECORD.unpack(record)
                if kind == ASK:
                    self._say(DOWN, generation)

    def _send(self) -> None:
        generation = int(self._shared[_GENERATION])
        self._shared[_INSTANT] = math.inf
        self._say(SENDING, generation)
        self._say(SENT if self._has_sent() else FAILED, generation)

    def _say(self, kind: bytes, generation: int) -> None:
        self._main.send(_RECORD.pack(kind, generation))

    def _has_sent(self) -> bool:
        stack = self._main_stack()
        _write_log(f"the main process does not answer; its stack:\n{stack}")
        try:
            trace = read(self._record)
            assert trace is not None
            event, is_text = marshal.loads(memoryview(self._memory)[_EVENT:])  # noqa: S302  # the parent's
            what = message(trace.request_id, trace.function, trace.version, event)
            if trace.status == "running":
                what["message"] += f" in step {trace.step!r}"
            what |= {"sent_by": "helper", "stack": stack, "cut": ["event"] if is_text else []}
            said = sealed(what, self._redact, self._notice.limit, self._redaction_failed)
            self._client.send(said)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is to be told
            _write_log(f"the helper process could not send: {error!r}")
            return False
        ProcessRecord(self._record).told()
        return True

    def _redaction_failed(self, error: Exception) -> None:
        _write_log(f"redact failed, the notice goes without its event: {error!r}")

    def _main_stack(self) -> str:
        os.kill(self._parent, _dump_signal())
        dump = b""
        while select.select([self._stack], [], [], DUMPING if not dump else DUMPING / 10)[0]:
            dump += os.read(self._stack, 65_536)
        return dump.decode(errors="replace")


def _serve(child: _Child) -> NoReturn:
    """Be the helper process, which never returns into the parent's code."""
    try:
        child.detach()
        child.warm_up()
        child.run()
    except Exception:  # noqa: BLE001  # there is nobody to raise it to
        traceback.print_exc()
    finally:
        os._exit(0)


def _write_log(text: str) -> None:
    """Write to the log past every handler of the parent's, whose descriptors are gone."""
    print(f"deadline: {printable(text)}", file=sys.__stderr__, flush=True)


def _dump_signal() -> int:
    """One that nobody uses: the last but one of the real-time signals."""
    return signal.SIGRTMAX - 1

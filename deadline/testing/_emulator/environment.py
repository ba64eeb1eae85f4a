"""One life of an execution environment: the runtime's process, from its start to its kill."""

import contextlib
import http
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, final

from deadline.testing._emulator.invocation import LARGEST_RESPONSE, FunctionError, Request

# A posted answer: the response, or why there is none.
Answer = bytes | FunctionError


@final
class Environment:
    """A process group that runs `python -m awslambdaric`, and the events and answers it exchanges.

    It is the `Runtime` behind the runtime API. Its methods may be called from any thread.

    Attributes:
        init_error: What the runtime posted when it could not be initialised.
        exit_code: Of the first process, once it ended by itself; negative for a signal.
    """

    def __init__(
        self, handler: str, *, path: str, variables: Mapping[str, str], log: IO[bytes], post_seconds: float
    ) -> None:
        self.init_error: FunctionError | None = None
        self.exit_code: int | None = None
        self._post_seconds = post_seconds
        self._mark = f"AWS_LAMBDA_RUNTIME_API={variables['AWS_LAMBDA_RUNTIME_API']}".encode()
        self._changed = threading.Condition()
        self._reaping = threading.Lock()
        self._killed = False
        self._over = threading.Event()
        self._idle = 0
        self._at_snapshot = False
        self._events: deque[Request] = deque()
        self._answers: dict[str, Answer | None] = {}
        self._command = partial(
            subprocess.Popen[bytes],
            [sys.executable, "-m", "awslambdaric", handler],
            cwd=path,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )

    def start(self) -> None:
        """Start the process, which asks for events at once: whoever hands them out must know this first."""
        self._process = self._command()
        self._watcher = threading.Thread(target=self._watch, name="deadline-environment", daemon=True)
        self._watcher.start()

    # The runtime's side.

    def next(self) -> Request | None:
        """Wait for an event, until the environment is over."""
        with self._changed:
            self._idle += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._events or self._over.is_set())
            self._idle -= 1
            return None if self._over.is_set() else self._events.popleft()

    def post(self, request_id: str, payload: bytes, *, failed: bool) -> http.HTTPStatus:
        """Take an answer, after `post_seconds`, if it is still awaited."""
        if self._over.wait(self._post_seconds):
            return http.HTTPStatus.GONE
        fits = len(payload) <= LARGEST_RESPONSE
        with self._changed:
            if self._answers.get(request_id, b"") is not None:
                return http.HTTPStatus.BAD_REQUEST
            if failed:
                self._answers[request_id] = FunctionError.from_payload(payload)
            else:
                self._answers[request_id] = payload if fits else FunctionError.too_large(len(payload))
            self._changed.notify_all()
        return http.HTTPStatus.ACCEPTED if fits else http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    def restore(self) -> bool:
        """Wait where the snapshot is taken, until it is restored; False if the environment is over before."""
        with self._changed:
            self._at_snapshot = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._at_snapshot or self._over.is_set())
            return not self._over.is_set()

    def fail_init(self, payload: bytes) -> None:
        """Take the error; the process is going to end."""
        self.init_error = FunctionError.from_payload(payload)

    # The platform's side.

    @property
    def over(self) -> bool:
        """Whether the process has ended, or was killed."""
        return self._over.is_set()

    def wait_ready(self, until: float) -> bool:
        """Return whether the runtime asked for an event before `until`, on the monotonic clock.

        Under SnapStart it says before that that the snapshot may be taken, which is enough. With several
        workers, one of them is:
        https://docs.aws.amazon.com/lambda/latest/dg/lambda-managed-instances-execution-environment.html
        """
        with self._changed:

            def ready() -> bool:
                return self._idle > 0 or self._at_snapshot

            self._changed.wait_for(lambda: ready() or self._over.is_set(), until - time.monotonic())
            return ready() and not self._over.is_set()

    def wait_restored(self, until: float) -> bool:
        """Go on from the snapshot; return whether the runtime then asked for an event before `until`."""
        with self._changed:
            self._at_snapshot = False
            self._changed.notify_all()
        return self.wait_ready(until)

    def run(self, request: Request, until: float, *, idle_after: bool) -> Answer | None:
        """Hand out an event and return the answer; None if none came before `until`, or before the end.

        Args:
            request: The event.
            until: On the monotonic clock.
            idle_after: Wait, too, for the runtime to ask for the next event. With several workers it
                cannot be told whose asking that is.
        """

        def done() -> bool:
            answered = self._answers[request.id] is not None
            return self._over.is_set() or (answered and (self._idle > 0 or not idle_after))

        with self._changed:
            self._answers[request.id] = None
            self._events.append(request)
            self._changed.notify_all()
            self._changed.wait_for(done, until - time.monotonic())
            if request in self._events:
                self._events.remove(request)
            return self._answers.pop(request.id)

    def freeze(self) -> None:
        """Stop every process of the group where it is."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End every process of the group, now, then those that left it, and this life with them."""
        if self._process.returncode is not None:
            return  # it was before
        self._killed = True
        self._signal(signal.SIGKILL)
        _kill_strays(self._mark)
        with self._changed:
            self._over.set()
            self._changed.notify_all()
        self._watcher.join()
        with self._reaping:
            self._process.wait()

    def max_memory_used(self) -> int:
        """Return the peak of resident memory over all processes, in MB; what they share counts for each.

        It is 0 once the process has ended.
        """
        with self._reaping:
            if self._process.returncode is not None:
                return 0
            return sum(map(_peak_kb, _family(self._process.pid))) // 1024

    def _signal(self, number: signal.Signals) -> None:
        # Until the first process is reaped, its number, and the group's, belongs to nobody else.
        with self._reaping:
            if self._process.returncode is None:
                os.killpg(self._process.pid, number)

    def _watch(self) -> None:
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        with self._changed:
            if not self._killed:
                exited = ended.si_code == os.CLD_EXITED
                self.exit_code = ended.si_status if exited else -ended.si_status
            self._over.set()
            self._changed.notify_all()


def _kill_strays(mark: bytes) -> None:
    """Kill whoever inherited a variable; the descriptor holds on to the process that was looked at."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError), os.fdopen(os.pidfd_open(int(folder.name))) as process:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)


def _family(pid: int) -> list[int]:
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/task/{pid}/children").open() as children:
        return [pid, *(member for child in children.read().split() for member in _family(int(child)))]
    return [pid]


def _peak_kb(pid: int) -> int:
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/status").open() as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0

"""The stack of a process that is about to be killed, whatever it is doing.

A timer of the operating system raises a signal whose handler is `faulthandler`'s: it is C, needs no lock of
the interpreter's, and writes the Python stack of every thread into a file. So it also tells of C code that
holds the lock, of blocked callbacks, and of loops that swallow everything. It rings once, shortly before the
end of an invocation that is not over, which most never come to.

The timer is POSIX's, by ctypes. `faulthandler.dump_traceback_later` starts a thread each time, for 31 µs, and
has one slot, which may be the user's; `signal.setitimer`'s slot is the interrupt's, and the user's. Setting
this one takes 1 µs. Forks do not inherit it.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import math
import os
import signal
import time
from typing import Final

AHEAD: Final = 0.15
"""Seconds before the hard end at which the stack is written. Writing it takes less than a millisecond; but a
function with little memory has a small share of a processor, in turns that are up to a tenth of a second
apart."""


class _Event(ctypes.Structure):
    """`struct sigevent`, as Linux has it on machines of 64 bits."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("_", ctypes.c_char * 48),
    )


class _Spec(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "s", "ns"))


class StackTimer:
    """Writes the stack to a file descriptor, from where that stands, unless it is stopped before.

    Raises:
        OSError: There is no such timer here, or somebody has the signal.
    """

    def __init__(self, descriptor: int) -> None:
        if signal.getsignal(_number()) is not signal.SIG_DFL:
            raise OSError(f"signal {_number()} is in use")
        self._set, create = _functions()
        self._timer = ctypes.c_void_p()
        event = _Event(None, _number(), 0)  # SIGEV_SIGNAL
        if create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        faulthandler.register(_number(), file=descriptor, all_threads=True)
        self._spec = _Spec()
        self._address = ctypes.byref(self._spec)
        self._stopped = ctypes.byref(_Spec())
        self._descriptor = descriptor
        self._begin = os.lseek(descriptor, 0, os.SEEK_CUR)
        self._rings_at = math.inf

    def move(self, descriptor: int) -> None:
        """Write it into another file from now on; the descriptor is taken over."""
        os.dup2(descriptor, self._descriptor, inheritable=False)
        os.close(descriptor)
        self._begin = os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def start(self, seconds: float) -> None:
        """Write it in so many seconds."""
        self._rings_at = time.monotonic() + seconds
        whole = int(seconds)
        self._spec.s, self._spec.ns = whole, max(1, int((seconds - whole) * 1e9))
        self._set(self._timer, 0, self._address, None)

    def stop(self) -> None:
        """Do not write it; what was written is taken back."""
        self._set(self._timer, 0, self._stopped, None)
        if time.monotonic() >= self._rings_at:
            os.ftruncate(self._descriptor, self._begin)
            os.lseek(self._descriptor, self._begin, os.SEEK_SET)


def _functions() -> tuple[ctypes._NamedFuncPointer, ctypes._NamedFuncPointer]:
    """`timer_settime` and `timer_create`; before glibc 2.34 they are in a library of their own."""
    for name in (None, "librt.so.1"):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(name, use_errno=True)
            return library.timer_settime, library.timer_create
    raise OSError("there are no timers here")


def _number() -> int:
    """A signal that nobody uses: beside the helper's, `_notices.helper_process._dump_signal`."""
    return signal.SIGRTMAX - 2

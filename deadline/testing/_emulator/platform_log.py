r"""The log of a function: what it writes itself, and the platform's own lines between.

The wording is that of the service's text format, tabs included:
https://docs.aws.amazon.com/lambda/latest/dg/python-logging.html,
https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html, and for errors
https://docs.aws.amazon.com/lambda/latest/dg/telemetry-schema-reference.html.
"""

import datetime as dt
import math
import os
import platform
import tempfile
from typing import IO, Final, Literal, final

from deadline.testing._emulator.invocation import TIMED_OUT, FunctionError

Phase = Literal["init", "invoke"]


def init_start() -> str:
    """Return the line at the start of a process."""
    return f"INIT_START Runtime Version: python:{platform.python_version()}\tRuntime Version ARN: local"


def init_report(phase: Phase, seconds: float, error: FunctionError) -> str:
    """Return the line that tells an initialisation that failed."""
    return f"INIT_REPORT Init Duration: {_ms(seconds)}\tPhase: {phase}\t{_status(error)}"


def init_done(seconds: float) -> str:
    """Return the line that tells an init phase that a snapshot was taken after."""
    return f"INIT_REPORT Init Duration: {_ms(seconds)}"


def restore_start() -> str:
    """Return the line before a snapshot is restored.

    https://docs.aws.amazon.com/lambda/latest/dg/snapstart-monitoring.html
    """
    return init_start().replace("INIT_START", "RESTORE_START")


def restore_report(seconds: float) -> str:
    """Return the line after a snapshot was restored."""
    return f"RESTORE_REPORT Restore Duration: {_ms(seconds)}"


def start(request_id: str) -> str:
    """Return the line at the start of an invocation."""
    return f"START RequestId: {request_id} Version: $LATEST"


def failure(request_id: str, error: FunctionError, now: dt.datetime) -> str:
    """Return what the platform says of a function that did not answer; nothing if the function did."""
    if error.type == TIMED_OUT:
        message = error.message.partition("Error: ")[2]
        return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z {request_id} {message}\n"
    if error.type == "Runtime.ExitError":
        return f"{error.message}\n{error.type}"
    return ""


def end(request_id: str) -> str:
    """Return the line at the end of an invocation."""
    return f"END RequestId: {request_id}"


def report(
    request_id: str,
    *,
    duration: float,
    init_duration: float | None,
    memory: int,
    max_memory_used: int,
    error: FunctionError | None,
    restore_duration: float | None = None,
) -> str:
    """Return the line with the figures.

    The init phase is billed, too: https://aws.amazon.com/blogs/compute/aws-lambda-standardizes-billing-for-init-phase/
    """
    fields = [
        f"REPORT RequestId: {request_id}",
        f"Duration: {_ms(duration)}",
        f"Billed Duration: {math.ceil((duration + (init_duration or 0)) * 1000)} ms",
        f"Memory Size: {memory} MB",
        f"Max Memory Used: {max_memory_used} MB",
    ]
    if init_duration is not None:
        fields.append(f"Init Duration: {_ms(init_duration)}")
    if restore_duration is not None:
        fields.append(f"Restore Duration: {_ms(restore_duration)}")
        fields.append(f"Billed Restore Duration: {math.ceil(restore_duration * 1000)} ms")
    if error is not None and "." in error.type:  # the platform's names have a dot, those of classes none
        fields.append(_status(error))
    return "\t".join(fields)


def _status(error: FunctionError) -> str:
    if error.type == TIMED_OUT:
        return "Status: timeout"
    return f"Status: error\tError Type: {error.type}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


@final
class PlatformLog:
    """A file without a name, which the function's processes and the platform append to, in order.

    A file and no pipe: it never fills, nobody has to read along, and what a killed process wrote is there.
    """

    def __init__(self) -> None:
        self.file: Final[IO[bytes]] = tempfile.TemporaryFile("a+b", buffering=0)  # noqa: SIM115  # close() does

    def write(self, *lines: str) -> None:
        """Append the platform's lines, on lines of their own."""
        size = self.size()
        torn = size > 0 and os.pread(self.file.fileno(), 1, size - 1) != b"\n"
        self.file.write("".join(["\n" * torn, *(f"{line}\n" for line in lines if line)]).encode())

    def size(self) -> int:
        """Return how many bytes there are."""
        return os.fstat(self.file.fileno()).st_size

    def read(self, begin: int = 0) -> str:
        """Return what was written since the byte `begin`."""
        text = os.pread(self.file.fileno(), self.size() - begin, begin).decode(errors="replace")
        # The runtime client puts carriage returns between the lines of one traceback.
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def close(self) -> None:
        """Forget everything."""
        self.file.close()

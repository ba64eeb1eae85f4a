"""What goes into an invocation and what comes out of it."""

import dataclasses
import json
import secrets
import signal
import time
import uuid
from typing import Any, Final, Literal, Self, final

# 6 MB and a little, which is what the service says and does:
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
LARGEST_RESPONSE: Final = 6_291_556
TIMED_OUT: Final = "Sandbox.Timedout"


@final
@dataclasses.dataclass(frozen=True)
class FunctionError:
    """What a caller of Lambda reads of an invocation that failed.

    Attributes:
        type: The class of the function's exception, such as `KeyError`, or the platform's own name:
            `Sandbox.Timedout`, `Runtime.ExitError`, `Runtime.ImportModuleError`,
            `Function.ResponseSizeTooLarge`.
        message: What it says.
        stack: The lines of the traceback; empty where the platform speaks.
    """

    type: str
    message: str
    stack: tuple[str, ...] = ()

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Read the JSON in which the runtime client tells an error."""
        error = json.loads(payload)
        return cls(error["errorType"], error["errorMessage"], tuple(error["stackTrace"]))

    @classmethod
    def timed_out(cls, request_id: str, timeout: float) -> Self:
        """Say that the function took longer than `timeout` seconds."""
        message = f"RequestId: {request_id} Error: Task timed out after {timeout:.2f} seconds"
        return cls(TIMED_OUT, message)

    @classmethod
    def exited(cls, request_id: str, code: int) -> Self:
        """Say that the process is gone; a negative `code` is the signal that ended it."""
        how = "without providing a reason"
        if code > 0:
            how = f"with error: exit status {code}"
        elif code < 0:
            how = f"with error: signal: {(signal.strsignal(-code) or str(-code)).lower()}"
        return cls("Runtime.ExitError", f"RequestId: {request_id} Error: Runtime exited {how}")

    @classmethod
    def not_restored(cls, request_id: str, restoring: float) -> Self:
        """Say that the function was not initialised, or what runs after a restore took too long.

        https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-python.html
        """
        message = (
            f"RequestId: {request_id} Error: not initialised in time, or not restored in {restoring:.0f} s"
        )
        return cls("SnapStartTimeoutException", message)

    @classmethod
    def too_large(cls, size: int) -> Self:
        """Say that a response of `size` bytes is not accepted."""
        message = f"Response payload size ({size} bytes) exceeded maximum allowed payload size"
        return cls("Function.ResponseSizeTooLarge", f"{message} ({LARGEST_RESPONSE} bytes).")


@final
@dataclasses.dataclass(frozen=True)
class Invocation:
    """How an invocation ended.

    Attributes:
        request_id: The `aws_request_id` of its context.
        status: `"success"`, `"error"` (the function raised, its process ended, it could not be
            initialised) or `"timeout"`.
        response: What the function returned, after its way through JSON; bytes where it is no JSON;
            None without success.
        error: None with success.
        log: What the function wrote and the platform's own lines, from the start of the
            initialisation, where there was one, to `REPORT`. With several workers also what the
            others wrote meanwhile.
        duration: Seconds, from the event until the runtime asked for the next one, was killed or gone.
            A suppressed initialisation is part of it.
        init_duration: Seconds of the init phase, which is no part of `duration`; None unless this
            invocation was a cold start whose init phase succeeded.
        restore_duration: Seconds from the snapshot to the runtime's asking for the event, hooks included, no
            part of `duration` either; None unless a snapshot was restored for this invocation.
        max_memory_used: MB, the largest size so far of the environment's processes.
    """

    request_id: str
    status: Literal["success", "error", "timeout"]
    response: Any
    error: FunctionError | None
    log: str
    duration: float
    init_duration: float | None
    max_memory_used: int
    restore_duration: float | None = None


def new_trace() -> str:
    """Return the trace header of a chain of requests that begins here."""
    return f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)};Parent={secrets.token_hex(8)};Sampled=0"


@final
@dataclasses.dataclass(frozen=True)
class Request:
    """An event on its way to the runtime client.

    Attributes:
        deadline_ms: When the invocation times out, in milliseconds of Unix time.
        trace: Of X-Ray.
    """

    event: bytes
    deadline_ms: int
    arn: str
    client_context: bytes | None = None
    id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    trace: str = dataclasses.field(default_factory=new_trace)

    def headers(self) -> dict[str, str]:
        """Return the headers of the answer to `/runtime/invocation/next`.

        https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html#runtimes-api-next
        """
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": self.id,
            "Lambda-Runtime-Deadline-Ms": str(self.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": self.arn,
            "Lambda-Runtime-Trace-Id": self.trace,
        }
        if self.client_context is not None:
            headers["Lambda-Runtime-Client-Context"] = self.client_context.decode()
        return headers

"""A stand-in for the context object that Lambda hands to a handler."""

import asyncio
import datetime as dt
import time
import uuid
from collections.abc import Callable
from typing import final

from deadline.testing._seconds import checked_seconds


@final
class FakeIdentity:
    """The caller's Cognito identity, which is empty outside mobile apps."""

    cognito_identity_id: str | None = None
    cognito_identity_pool_id: str | None = None


@final
class FakeContext:
    """A Lambda context whose time runs out when you say so.

    It has the attributes of the runtime client's own `LambdaContext`, with the same types:
    `memory_limit_in_mb` is text there, and so it is here.

    Args:
        timeout: Seconds the invocation may take, counted from construction. Zero is an invocation
            that is over already.
        clock: Gives seconds as a float. By default the clock of the event loop that is running at
            construction, so that a context made under a virtual clock follows it, and
            `time.monotonic` where none is running.
        aws_request_id: By default a new UUID.
        function_name: Also names the log group and the function in the default ARN.
        function_version: Also part of the log stream's name.
        memory_limit_in_mb: A whole number; the attribute holds it as text.
        invoked_function_arn: By default an ARN made of the function's name.

    Attributes:
        log_group_name, log_stream_name: Made of the function's name and version.
        identity: An object whose Cognito fields are None.
        client_context, tenant_id: None.

    Raises:
        TypeError: `timeout` is no number, or `clock` cannot be called.
        ValueError: `timeout` is negative, NaN or infinite, or `memory_limit_in_mb` is below one.
    """

    def __init__(
        self,
        timeout: float = 3.0,
        *,
        clock: Callable[[], float] | None = None,
        aws_request_id: str | None = None,
        function_name: str = "function",
        function_version: str = "$LATEST",
        memory_limit_in_mb: int = 128,
        invoked_function_arn: str | None = None,
    ) -> None:
        timeout = checked_seconds("timeout", timeout)
        if clock is not None and not callable(clock):
            raise TypeError(f"clock must be a callable giving seconds, such as time.monotonic, not {clock!r}")
        if memory_limit_in_mb < 1:
            raise ValueError(
                f"memory_limit_in_mb must be one or more, such as memory_limit_in_mb=128, "
                f"not {memory_limit_in_mb!r}"
            )
        self._clock = clock or _ambient_clock()
        self._end_ms = _whole_ms(self._clock() + timeout)
        self.aws_request_id = aws_request_id or str(uuid.uuid4())
        self.function_name = function_name
        self.function_version = function_version
        self.memory_limit_in_mb = str(memory_limit_in_mb)
        self.invoked_function_arn = (
            invoked_function_arn or f"arn:aws:lambda:us-east-1:123456789012:function:{function_name}"
        )
        self.log_group_name = f"/aws/lambda/{function_name}"
        today = dt.datetime.now(dt.UTC)
        self.log_stream_name = f"{today:%Y/%m/%d}/[{function_version}]{uuid.uuid4().hex}"
        self.identity = FakeIdentity()
        self.client_context = None
        self.tenant_id: str | None = None

    def get_remaining_time_in_millis(self) -> int:
        """Return the whole milliseconds left, never less than zero.

        As in the runtime client, both ends are cut to whole milliseconds before they are subtracted.
        """
        return max(0, self._end_ms - _whole_ms(self._clock()))


def _ambient_clock() -> Callable[[], float]:
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:
        return time.monotonic


def _whole_ms(seconds: float) -> int:
    # 2.3 * 1000 is 2299.9999999999995: round off the dust, far below a nanosecond, before cutting.
    return int(round(seconds * 1000, 6))

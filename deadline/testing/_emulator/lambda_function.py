"""A function as the Invoke API sees it: environments as they are needed, and a queue that tries again.

Lambda starts another execution environment where all are busy; so does this, up to `concurrency`. An event
of an asynchronous invocation is tried up to two more times when the function fails, a minute after the first
attempt and two minutes after the second, with the same request id
(https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html). What then still fails
goes to the destination for failures
(https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html).
"""

import dataclasses
import datetime as dt
import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, final

from deadline.testing._emulator.emulator import Emulator
from deadline.testing._emulator.invocation import TIMED_OUT, FunctionError, Invocation, new_trace
from deadline.testing._emulator.sqs_mapping import sqs_client

InvocationType = Literal["RequestResponse", "Event"]

# https://docs.aws.amazon.com/lambda/latest/dg/invocation-recursion.html: "approximately 16 times"
MOST_OF_A_CHAIN: Final = 16
KILLED: Final = (TIMED_OUT, "Runtime.ExitError")
"""Errors after which the process is gone."""

WAITS: Final = (1, 2)
"""Minutes after the first and the second attempt."""


@final
@dataclasses.dataclass(frozen=True)
class InvokeAttempt:
    """One run of a function that the Invoke API started.

    Attributes:
        function: Its name.
        invocation_type: `"RequestResponse"` or `"Event"`.
        event: What the function was given.
        attempt: From 1; of an event up to 3.
        invocation: How it ended.
    """

    function: str
    invocation_type: InvocationType
    event: Any
    attempt: int
    invocation: Invocation

    def __str__(self) -> str:
        error = self.invocation.error
        how = self.invocation.status if error is None else f"{self.invocation.status}, {error.type}"
        took = f"{self.invocation.duration:.2f} s"
        return f"{self.function} {self.invocation_type} attempt {self.attempt}: {how}, {took}"


@final
@dataclasses.dataclass(frozen=True)
class Call:
    """One request to invoke.

    Attributes:
        trace: The header that the function gets.
        depth: How often the chain of requests has invoked this function before.
    """

    event: Any
    invocation_type: InvocationType
    qualifier: str | None
    client_context: Mapping[str, Any] | None
    trace: str
    depth: int
    request_id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))


@final
class Backlog:
    """The events that are not done yet, of all functions, each in a thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()

    def add(self, deliver: Callable[[], None]) -> None:
        """Work an event off in the background."""

        def work() -> None:
            try:
                deliver()
            finally:
                with self._changed:
                    self._threads.discard(threading.current_thread())
                    self._changed.notify_all()

        thread = threading.Thread(target=work, name="deadline-event")
        with self._changed:
            self._threads.add(thread)
        thread.start()

    def wait_idle(self, seconds: float | None = None) -> bool:
        """Return whether there was nothing left before so many seconds were over."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._threads, seconds)


@final
class LambdaFunction:
    """A function that runs as often at once as `concurrency` allows.

    Args:
        name: As it is called.
        arn: Its ARN, without a qualifier.
        make: Makes an execution environment of it.
        aliases: The qualifiers that exist beside `$LATEST`.
        concurrency: The most environments.
        retries: Of an event whose run failed.
        minute: Seconds that a minute of Lambda's waits takes here.
        on_failure: The URL of the queue for events that failed to the end.
        allow_recursion: Whether a chain that comes back for ever is let go on.
        backlog: Where events wait.
        log: Where each run is noted.
    """

    def __init__(
        self,
        name: str,
        arn: str,
        make: Callable[[], Emulator],
        *,
        aliases: frozenset[str],
        concurrency: int,
        retries: int,
        minute: float,
        on_failure: str | None,
        allow_recursion: bool,
        backlog: Backlog,
        log: list[InvokeAttempt],
    ) -> None:
        self.name = name
        self.arn = arn
        self.aliases = aliases
        self._make = make
        self._concurrency = concurrency
        self._waits = [minute * wait for wait in WAITS[:retries]]
        self._on_failure = on_failure
        self._destination: Any = sqs_client(on_failure, "on_failure") if on_failure else None
        self._allow_recursion = allow_recursion
        self._backlog = backlog
        self._log = log
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._all: list[Emulator] = []
        self._idle: list[Emulator] = []

    def is_recursive(self, call: Call) -> bool:
        """Whether Lambda would stop this chain of requests here."""
        return call.depth >= MOST_OF_A_CHAIN and not self._allow_recursion

    def run(self, call: Call, *, attempt: int = 1, wait: bool = False) -> Invocation | None:
        """Run it; `None` if all environments are busy, and `wait` is false.

        Raises:
            RuntimeError: It was closed.
        """
        environment = self._take(wait=wait)
        if environment is None:
            return None
        killed = False
        try:
            invocation = environment.invoke(
                call.event,
                client_context=call.client_context,
                request_id=call.request_id,
                qualifier=call.qualifier,
                trace=call.trace,
            )
            killed = invocation.error is not None and invocation.error.type in KILLED
        finally:
            self._give_back(environment, killed=killed)
        self._log.append(InvokeAttempt(self.name, call.invocation_type, call.event, attempt, invocation))
        return invocation

    def queue(self, call: Call) -> None:
        """Run it in the background, again if it fails, and send on what fails to the end."""
        self._backlog.add(lambda: self._deliver(call))

    def close(self) -> None:
        """Kill what runs, and forget what is queued."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
        for environment in tuple(self._all):
            environment.__exit__(None, None, None)

    def _take(self, *, wait: bool) -> Emulator | None:
        with self._changed:
            while not self._closed.is_set():
                if self._idle:
                    return self._idle.pop()
                if len(self._all) < self._concurrency:
                    self._all.append(self._make().__enter__())
                    return self._all[-1]
                if not wait:
                    return None
                self._changed.wait()
            raise RuntimeError("the function was closed")

    def _give_back(self, environment: Emulator, *, killed: bool) -> None:
        """Keep an environment for the next call; one whose process is gone is given up."""
        if killed:
            environment.__exit__(None, None, None)
        with self._changed:
            if killed:
                self._all.remove(environment)
            else:
                self._idle.append(environment)
            self._changed.notify_all()

    def _deliver(self, call: Call) -> None:
        try:
            if self.is_recursive(call):
                self._send_on(call, 0, None)
                return
            for attempt, pause in enumerate([*self._waits, None], 1):
                invocation = self.run(call, attempt=attempt, wait=True)
                assert invocation is not None
                if invocation.error is None:
                    return
                if pause is None:
                    self._send_on(call, attempt, invocation.error)
                elif self._closed.wait(pause):
                    return
        except RuntimeError:
            if not self._closed.is_set():
                raise

    def _send_on(self, call: Call, attempts: int, error: FunctionError | None) -> None:
        """Tell the destination what an event has come to; without an error, its chain was stopped."""
        if self._destination is None:
            return
        record: dict[str, Any] = {
            "version": "1.0",
            "timestamp": f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
            "requestContext": {
                "requestId": call.request_id,
                "functionArn": f"{self.arn}:{call.qualifier or '$LATEST'}",
                # How the service words the second one is not documented.
                "condition": "RetriesExhausted" if error else "RecursiveInvocation",
                "approximateInvokeCount": attempts,
            },
            "requestPayload": call.event,
        }
        if error is not None:
            record["responseContext"] = {
                "statusCode": 200,
                "executedVersion": "$LATEST",
                "functionError": "Unhandled",
            }
            record["responsePayload"] = error_payload(error)
        self._destination.send_message(QueueUrl=self._on_failure, MessageBody=json.dumps(record))


def error_payload(error: FunctionError) -> dict[str, Any]:
    """Return what a caller reads of an error."""
    payload: dict[str, Any] = {"errorMessage": error.message, "errorType": error.type}
    return payload | {"stackTrace": list(error.stack)} if error.stack else payload


def continued(header: str | None, arn: str) -> tuple[str, int]:
    """Return the trace header for an invocation, and how often its chain has invoked the function before.

    Lambda counts in the header's lineage, for each function by a hash of its own. The format is nobody's
    business: clients hand the whole header on, as botocore does inside of a function.
    """
    fields = dict(field.split("=", 1) for field in (header or new_trace()).split(";") if "=" in field)
    counts = dict(one.rsplit(":", 1) for one in fields.get("Lineage", "").split("|") if ":" in one)
    mark = hashlib.sha256(arn.encode()).hexdigest()[:8]
    before = int(counts.get(mark, "0"))
    counts[mark] = str(before + 1)
    fields["Lineage"] = "|".join(f"{key}:{count}" for key, count in counts.items())
    return ";".join(f"{key}={value}" for key, value in fields.items()), before

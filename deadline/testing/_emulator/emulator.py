"""A Lambda function on this machine: the real runtime client, and a platform around it that kills."""

import contextlib
import datetime as dt
import importlib.machinery
import importlib.util
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, final

from deadline.testing._emulator import platform_log as lines
from deadline.testing._emulator.environment import Answer, Environment
from deadline.testing._emulator.invocation import TIMED_OUT, FunctionError, Invocation, Request
from deadline.testing._emulator.platform_log import Phase, PlatformLog
from deadline.testing._emulator.runtime_api import RuntimeApi
from deadline.testing._emulator.variables import function_arn, lambda_variables
from deadline.testing._extras import missing
from deadline.testing._seconds import checked_seconds

# https://docs.aws.amazon.com/lambda/latest/dg/configuration-timeout.html
LONGEST: Final = 900.0

# https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html, and for the longer ones
# https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-python.html and
# https://docs.aws.amazon.com/lambda/latest/dg/lambda-managed-instances-execution-environment.html
INITIALISING: Final = 10.0
INITIALISING_LONG: Final = 130.0
RESTORING: Final = 10.0


@final
class Emulator:
    """A Lambda function, run by Lambda's own Python runtime client, for the length of a `with` block.

        with Emulator("module.function", timeout=3.0) as function:
            result = function.invoke({"key": "value"})

    The function lives in one execution environment, a process group of its own, and is treated there as
    Lambda treats it (https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html):

    - The first invocation is a cold start: the module is imported in an init phase, which is no part of
      the invocation's time. If that fails or takes too long, it is tried again inside that time.
    - At its timeout the whole group is killed, and so it is when the runtime's process ends. The next
      invocation pays for the new start out of its own time. Files survive, and nothing else. TMPDIR is
      a folder of the environment's own, as /tmp is there.
    - Between invocations the group is frozen, by SIGSTOP.
    - With several workers it is a Lambda Managed Instance: the runtime client forks, so many invocations
      run at once, nothing is frozen, and the timeout is told to the caller but ends nothing.
    - With `snap_start` the init phase ends with the hooks that run before a snapshot. No snapshot is taken:
      the process is frozen there, and goes on with the hooks that run after a restore.

    Linux only, as the runtime client is. It runs once; every process, thread and socket of it is gone
    after the block.

    Args:
        handler: As in Lambda's configuration: `module.function`, `package.module.function` or
            `folder/module.function`.
        timeout: Seconds for one invocation, more than zero and at most 900, fractions allowed. The
            context counts to it on the wall clock, in whole milliseconds, and the kill comes on the
            monotonic one, never early.
        path: The folder with the code, where the function also runs. By default the current one.
        env: The function's environment variables. They win over Lambda's own, and those over the ones
            of this process, which are passed on, `AWS_ENDPOINT_URL` for one.
        memory: The MB to tell the function; nothing enforces them.
        workers: More than one for a Managed Instance with that concurrency.
        init_timeout: Seconds for the init phase. By default Lambda's: 10; for SnapStart and a Managed
            Instance 130, or `timeout` if that is longer.
        snap_start: Run the init phase as SnapStart does, and the runtime's hooks. One worker only.
        post_seconds: Seconds that the runtime API takes before it accepts a response or an error. The
            function's time goes on meanwhile.

    Raises:
        ImportError: the runtime client is not installed.
        RuntimeError: this is not Linux.
        TypeError, ValueError: an argument is no such thing, or `handler` names a module that is not there.
    """

    def __init__(
        self,
        handler: str,
        *,
        timeout: float = 3.0,
        path: str | os.PathLike[str] = ".",
        env: Mapping[str, str] | None = None,
        memory: int = 128,
        workers: int = 1,
        init_timeout: float | None = None,
        post_seconds: float = 0.0,
        snap_start: bool = False,
    ) -> None:
        if sys.platform != "linux":
            raise RuntimeError(
                f"the emulator needs Linux, as Lambda's runtime client does; this is {sys.platform}"
            )
        if importlib.util.find_spec("awslambdaric") is None:
            raise missing("awslambdaric")
        self._path = _checked_path(path)
        self._handler = _checked_handler(handler, self._path)
        self._timeout = _checked_limit("timeout", timeout)
        self._post_seconds = checked_seconds("post_seconds", post_seconds)
        self._env = _checked_env(env or {})
        self._memory = checked_count("memory", memory, 128, 10_240)
        self._workers = checked_count("workers", workers, 1, 1_600)
        if snap_start and self._workers > 1:
            raise ValueError("snap_start is for workers=1: a Managed Instance takes no snapshot")
        self._snap_start = snap_start
        if init_timeout is None:
            short = self._workers == 1 and not snap_start
            init_timeout = INITIALISING if short else max(INITIALISING_LONG, self._timeout)
        self._init_timeout = _checked_limit("init_timeout", init_timeout)
        self._environment: Environment | None = None
        self._max_memory_used = 0
        self._entered = False
        self._closed = threading.Event()
        self._lock = threading.Lock()  # for the environment that is the current one
        self._starting = threading.Lock()
        self._slots = threading.BoundedSemaphore(self._workers)

    @property
    def timeout(self) -> float:
        """Seconds for one invocation."""
        return self._timeout

    @property
    def log(self) -> str:
        """Everything that the function and the platform have written so far.

        Raises:
            RuntimeError: the emulator is not running.
        """
        self._check_running()
        return self._log.read()

    def invoke(
        self,
        event: Any = None,
        *,
        freeze: float = 0.0,
        client_context: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        qualifier: str | None = None,
        trace: str | None = None,
    ) -> Invocation:
        """Invoke the function and wait for it; from async code, by `asyncio.to_thread`.

        May be called from any thread. While every worker is busy a call waits, and its time has not begun;
        Lambda would start another environment, or, for a Managed Instance, refuse.

        Args:
            event: What goes through JSON.
            freeze: Seconds that the environment lies frozen before; with `snap_start` also between the
                snapshot and its restore. At any other cold start there is nothing to freeze, and it only
                waits.
            client_context: What a mobile client would send, for `context.client_context`.
            request_id: The context's `aws_request_id`; a new one by default. Lambda's retry of an event has
                the id of the first attempt.
            qualifier: The version or alias that is called; it ends the context's `invoked_function_arn`.
            trace: The X-Ray header of the chain of requests that this one belongs to, a new one by default.

        Returns:
            How it ended. A function that fails raises nothing here.

        Raises:
            RuntimeError: the emulator is not running, or was closed meanwhile.
            TypeError, ValueError: `event` or `client_context` cannot be written as JSON, `freeze` is
                negative, or there are several workers, which nothing freezes.
        """
        body = _as_json("event", event)
        context = None if client_context is None else _as_json("client_context", client_context)
        freeze = checked_seconds("freeze", freeze)
        names = {"id": request_id, "trace": trace}
        given = {name: value for name, value in names.items() if value is not None}
        if freeze and self._workers > 1:
            raise ValueError("freeze is for workers=1: a Managed Instance is never frozen")
        with self._slots:
            self._check_running()
            return self._invoke(body, context, freeze, qualifier, given)

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("an emulator runs once: make a new Emulator")
        self._entered = True
        with contextlib.ExitStack() as stack:
            self._log = PlatformLog()
            stack.callback(self._log.close)
            tmp = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="deadline-", ignore_cleanup_errors=True)
            )
            self._api = stack.enter_context(RuntimeApi())
            stack.callback(self._close_environment)
            self._resources = stack.pop_all()
        self._variables = lambda_variables(
            os.environ,
            self._env,
            handler=self._handler,
            path=self._path,
            memory=self._memory,
            workers=self._workers,
            runtime_api=self._api.address,
            tmp=tmp,
            snap_start=self._snap_start,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def _invoke(
        self,
        body: bytes,
        client_context: bytes | None,
        freeze: float,
        qualifier: str | None,
        given: dict[str, str],
    ) -> Invocation:
        begin = self._log.size()
        with self._starting:
            is_new = self._environment is None or (self._snap_start and self._environment.over)
            init_duration = self._init_phase() if is_new else None
            self._closed.wait(freeze)
            self._check_running()
            restore_duration = self._restore() if is_new and self._snap_start else None
            # The wall clock first, so that the kill never comes before what the context promised.
            end, started = time.time() + self._timeout, time.monotonic()
            arn = function_arn(self._variables, qualifier)
            request = Request(body, int(end * 1000), arn, client_context, **given)
            self._log.write(lines.start(request.id))
            environment, error = self._wake(request.id, started + self._timeout)
        answer: Answer | None = error
        if answer is None:
            answer = environment.run(request, started + self._timeout, idle_after=self._workers == 1)
        duration = time.monotonic() - started
        self._note_memory(environment)
        if answer is None:
            answer = self._failure(environment, request.id)
        error = answer if isinstance(answer, FunctionError) else None
        self._settle(environment, error)
        self._check_running()
        self._log.write(
            lines.failure(request.id, error, dt.datetime.now(dt.UTC)) if error else "",
            lines.end(request.id),
            lines.report(
                request.id,
                duration=duration,
                init_duration=None if self._snap_start else init_duration,
                restore_duration=restore_duration,
                memory=self._memory,
                max_memory_used=self._max_memory_used,
                error=error,
            ),
        )
        return Invocation(
            request_id=request.id,
            status="success" if error is None else "timeout" if error.type == TIMED_OUT else "error",
            response=_parsed(answer) if isinstance(answer, bytes) else None,
            error=error,
            log=self._log.read(begin),
            duration=duration,
            init_duration=init_duration,
            max_memory_used=self._max_memory_used,
            restore_duration=restore_duration,
        )

    def _init_phase(self) -> float | None:
        """Start the first environment; return the seconds it took, or None if it has to be tried again."""
        _, outcome = self._start("init", time.monotonic() + self._init_timeout)
        return outcome if isinstance(outcome, float) else None

    def _restore(self) -> float | None:
        """Let a new environment go on from its snapshot; return the seconds, or None if it is over."""
        environment = self._environment
        assert environment is not None
        if environment.over:
            return None
        started = time.monotonic()
        self._log.write(lines.restore_start())
        environment.thaw()
        if not environment.wait_restored(started + RESTORING):
            environment.kill()
            return None
        seconds = time.monotonic() - started
        self._log.write(lines.restore_report(seconds))
        return seconds

    def _wake(self, request_id: str, until: float) -> tuple[Environment, FunctionError | None]:
        """Return an environment that is ready, started anew if need be, or why it is not."""
        environment = self._environment
        if environment is not None and not environment.over:
            environment.thaw()
            return environment, None
        if environment is not None and self._snap_start:
            if environment.init_error is None and environment.exit_code is None:
                return environment, FunctionError.not_restored(request_id, RESTORING)
            return environment, self._failure(environment, request_id)
        if environment is not None:
            environment.kill()  # it has ended by itself since the last invocation
        environment, outcome = self._start("invoke", until, request_id)
        return environment, outcome if isinstance(outcome, FunctionError) else None

    def _start(
        self, phase: Phase, until: float, request_id: str = ""
    ) -> tuple[Environment, float | FunctionError]:
        """Start a process; return the seconds until it was ready. One that is not in time is killed."""
        started = time.monotonic()
        self._log.write(lines.init_start())
        with self._lock:
            self._check_running()
            environment = self._api.runtime = self._environment = Environment(
                self._handler,
                path=self._path,
                variables=self._variables,
                log=self._log.file,
                post_seconds=self._post_seconds,
            )
            environment.start()
        ready = environment.wait_ready(until)
        seconds = time.monotonic() - started
        if ready:
            self._note_memory(environment)
            if self._snap_start:
                environment.freeze()
                self._log.write(lines.init_done(seconds))
            return environment, seconds
        error = self._failure(environment, request_id)
        environment.kill()
        self._check_running()
        self._log.write(lines.init_report(phase, seconds, error))
        return environment, error

    def _failure(self, environment: Environment, request_id: str) -> FunctionError:
        """Return why there is no answer: the initialisation failed, the process ended, the time is up."""
        if environment.over and environment.init_error is not None:
            return environment.init_error
        if environment.exit_code is not None:
            return FunctionError.exited(request_id, environment.exit_code)
        return FunctionError.timed_out(request_id, self._timeout)

    def _settle(self, environment: Environment, error: FunctionError | None) -> None:
        """Kill or freeze what is left of the environment after an invocation."""
        timed_out = error is not None and error.type == TIMED_OUT
        if environment.over or (timed_out and self._workers == 1):
            environment.kill()
        elif self._workers == 1:
            environment.freeze()

    def _note_memory(self, environment: Environment) -> None:
        self._max_memory_used = max(self._max_memory_used, environment.max_memory_used())

    def _close_environment(self) -> None:
        with self._lock:
            self._closed.set()
        if self._environment is not None:
            self._environment.kill()

    def _check_running(self) -> None:
        if not self._entered or self._closed.is_set():
            raise RuntimeError(
                'the emulator is not running: use it inside `with Emulator("module.function") as function:`'
            )


def _checked_path(path: str | os.PathLike[str]) -> str:
    folder = Path(path).resolve()
    if not folder.is_dir():
        raise ValueError(
            f"path must be the folder with the function's code, not {str(path)!r}, which is none"
        )
    return str(folder)


def _checked_handler(handler: str, path: str) -> str:
    if not isinstance(handler, str) or not re.fullmatch(r"[^./]+([./][^./]+)*\.[^./]+", handler):
        raise ValueError(
            f'handler must be a module and a function, such as "module.function", not {handler!r}'
        )
    module = re.split("[./]", handler)[0]
    if importlib.machinery.PathFinder.find_spec(module, [path, *sys.path]) is None:
        raise ValueError(
            f"handler names the module {module!r}, which is not in {path}; set path to its folder or cd there"
        )
    return handler


def _checked_limit(name: str, value: float) -> float:
    seconds = checked_seconds(name, value)
    if not 0 < seconds <= LONGEST:
        raise ValueError(
            f"{name} must be more than 0 and at most 900 seconds, such as {name}=3, not {value!r}"
        )
    return seconds


def checked_count(name: str, value: int, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, such as {name}={least}, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, such as {name}={least}, not {value!r}")
    return value


def _checked_env(env: Mapping[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(
                f'env must map text to text, such as env={{"NAME": "value"}}, not {name!r}: {value!r}'
            )
    return dict(env)


def _as_json(name: str, value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be what JSON can hold: {error}") from error


def _parsed(response: bytes) -> Any:
    try:
        return json.loads(response)
    except ValueError:
        return response

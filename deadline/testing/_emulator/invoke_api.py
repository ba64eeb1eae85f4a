"""Lambda's Invoke API over HTTP: functions on this machine that call each other, and themselves.

https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html, read 2026-11: 6 MB for a synchronous
invocation, 1 MB for an asynchronous one, and a ClientContext for synchronous ones only. The code of a payload
that is too large is what the service is seen to answer, `RequestEntityTooLargeException`; the documentation
calls it `RequestTooLargeException`.
"""

import base64
import binascii
import http
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Collection
from types import TracebackType
from typing import Any, Final, NoReturn, Self, final

from deadline.testing._emulator.api_server import ApiServer, Connection
from deadline.testing._emulator.emulator import Emulator, checked_count
from deadline.testing._emulator.invocation import Invocation
from deadline.testing._emulator.lambda_function import (
    Backlog,
    Call,
    InvocationType,
    InvokeAttempt,
    LambdaFunction,
    continued,
    error_payload,
)
from deadline.testing._emulator.variables import function_arn, region_of
from deadline.testing._seconds import checked_seconds

LARGEST: Final[dict[InvocationType, int]] = {"RequestResponse": 6_291_456, "Event": 1_048_576}
LONGEST_CONTEXT: Final = 3_583
TAIL: Final = 4_096
"""Bytes of the log that a caller may ask for."""

_PATH: Final = re.compile("/2015-03-31/functions/([^/]+)/invocations")
_NAME: Final = re.compile(
    r"(?:arn:[^:]+:lambda:[^:]+:|)(?:\d{12}:)?(?:function:)?(?P<name>[\w-]+)(?::(?P<qualifier>[$\w-]+))?"
)


@final
class InvokeApi:
    """Several Lambda functions, and the API that invokes them, for the length of a `with` block.

        with InvokeApi() as api:
            api.add("orders.handler", path="src", timeout=3.0)
            client = boto3.client("lambda", endpoint_url=api.url)
            client.invoke(FunctionName="orders", InvocationType="Event", Payload=b"{}")
            api.wait_idle()

    The functions find the API in their environment, so that they can invoke each other, and themselves. What
    the operations other than `Invoke` would set is an argument of `add`.

    Args:
        minute: Seconds that a minute takes, of those that Lambda waits before it tries an event again.

    Attributes:
        log: Every run so far, in the order in which they ended.

    Raises:
        TypeError, ValueError: `minute` is no number of seconds.
    """

    def __init__(self, *, minute: float = 0.05) -> None:
        self._minute = checked_seconds("minute", minute)
        self._functions: dict[str, LambdaFunction] = {}
        self._server: ApiServer[InvokeApi] | None = None
        self._lock = threading.Lock()
        self._backlog = Backlog()
        self.log: list[InvokeAttempt] = []

    @property
    def url(self) -> str:
        """Of the endpoint, for a client's `endpoint_url` or for `AWS_ENDPOINT_URL_LAMBDA`.

        Raises:
            RuntimeError: The API is not running.
        """
        if self._server is None:
            raise RuntimeError("the API is not running: use it inside `with InvokeApi() as api:`")
        return f"http://{self._server.address}"

    def add(
        self,
        handler: str,
        *,
        name: str | None = None,
        aliases: Collection[str] = (),
        concurrency: int = 10,
        retries: int = 2,
        on_failure: str | None = None,
        allow_recursion: bool = False,
        **options: Any,
    ) -> str:
        """Add a function.

        Args:
            handler: As in Lambda's configuration: `module.function`.
            name: What it is called. By default the module's name, with dashes for dots.
            aliases: Qualifiers that exist beside `$LATEST`; they all are the same code.
            concurrency: The most that run at once, each in an environment of its own. One more synchronous
                invocation is refused (429), an event waits.
            retries: 0 to 2, of an event whose run failed.
            on_failure: The URL of a queue for what became of an event that failed to the end.
            allow_recursion: Lambda stops a chain of requests that has invoked a function 16 times; not this
                one.
            **options: What `Emulator` takes: `timeout`, `path`, `env`, `memory`, `init_timeout`,
                `post_seconds`.

        Returns:
            Its ARN.

        Raises:
            TypeError, ValueError: An argument is wrong, or there is a function of that name.
            RuntimeError: The API is not running.
        """
        url = self.url
        name = name or handler.replace("/", ".").rpartition(".")[0].replace(".", "-")
        if not re.fullmatch(r"[\w-]{1,64}", name):
            raise ValueError(f"name must be up to 64 letters, digits, dashes and underscores, not {name!r}")
        if isinstance(aliases, str):
            raise TypeError(f"aliases: a text is a collection of letters; write aliases={[aliases]!r}")
        if "workers" in options:
            raise TypeError("workers: a function behind the API has environments, see concurrency")
        env = {
            "AWS_ENDPOINT_URL_LAMBDA": url,
            **(options.pop("env", None) or {}),
            "AWS_LAMBDA_FUNCTION_NAME": name,
        }

        def make() -> Emulator:
            return Emulator(handler, env=env, **options)

        make()  # says now what is wrong with the arguments
        function = LambdaFunction(
            name,
            function_arn({"AWS_REGION": region_of(os.environ), "AWS_LAMBDA_FUNCTION_NAME": name}),
            make,
            aliases=frozenset(aliases),
            concurrency=checked_count("concurrency", concurrency, 1, 100),
            retries=checked_count("retries", retries, 0, 2),
            minute=self._minute,
            on_failure=on_failure,
            allow_recursion=allow_recursion,
            backlog=self._backlog,
            log=self.log,
        )
        with self._lock:
            if name in self._functions:
                raise ValueError(f"name: there is a function {name!r} already; give this one another name=")
            self._functions[name] = function
        return function.arn

    def wait_idle(self, seconds: float = 30.0) -> None:
        """Wait until no event is queued, running or to be tried again; those that these send, too.

        Raises:
            TimeoutError: After so many seconds something still was.
        """
        if not self._backlog.wait_idle(checked_seconds("seconds", seconds)):
            runs = "".join(f"\n{run}" for run in self.log)
            raise TimeoutError(f"there still are events after {seconds:g} s; so far:{runs or ' no runs'}")

    def __enter__(self) -> Self:
        self._server = ApiServer[InvokeApi](self, _Connection, "deadline-invoke-api").__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        server, self._server = self._server, None
        for function in self._functions.values():
            function.close()
        if server is not None:
            server.__exit__(kind, error, trace)
        self._backlog.wait_idle()

    def function(self, name: str, qualifier: str | None) -> tuple[LambdaFunction, str | None]:
        """Return the function that a request names, and the qualifier that it names.

        Raises:
            Refusal: There is none.
        """
        match = _NAME.fullmatch(name)
        function = self._functions.get(match["name"]) if match else None
        qualifier = qualifier or (match and match["qualifier"]) or None
        if function is None or (qualifier not in {None, "$LATEST"} and qualifier not in function.aliases):
            arn = f"{name}:{qualifier}" if qualifier and not name.endswith(f":{qualifier}") else name
            raise Refusal(
                http.HTTPStatus.NOT_FOUND, "ResourceNotFoundException", f"Function not found: {arn}"
            )
        return function, qualifier


class Refusal(Exception):
    """A request that starts nothing, in the service's words."""

    def __init__(self, status: http.HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def _bad(code: str, message: str) -> NoReturn:
    raise Refusal(http.HTTPStatus.BAD_REQUEST, code, message)


class _Connection(Connection[InvokeApi]):
    def do_POST(self) -> None:  # noqa: N802  # http.server calls it
        body = self.body()
        try:
            self._invoke(body)
        except Refusal as refusal:
            self._refuse(refusal)
        except RuntimeError:  # it is being closed
            self.close_connection = True

    def _invoke(self, body: bytes) -> None:
        url = urllib.parse.urlsplit(self.path)
        path = _PATH.fullmatch(url.path)
        if path is None:
            raise Refusal(http.HTTPStatus.NOT_FOUND, "UnknownOperationException", "only Invoke is known here")
        named = urllib.parse.parse_qs(url.query).get("Qualifier", [None])[0]
        function, qualifier = self.server.api.function(urllib.parse.unquote(path[1]), named)
        kind = self.headers.get("X-Amz-Invocation-Type") or "RequestResponse"
        if kind == "DryRun":
            self.answer(http.HTTPStatus.NO_CONTENT)
            return
        if kind not in LARGEST:
            _bad("InvalidParameterValueException", f"Value '{kind}' at 'invocationType' is none of the enum")
        _check_size(kind, body)
        trace, depth = continued(self.headers.get("X-Amzn-Trace-Id"), function.arn)
        context = _client_context(self.headers.get("X-Amz-Client-Context"))
        # "Lambda passes the ClientContext object to your function for synchronous invocations only."
        context = context if kind == "RequestResponse" else None
        call = Call(_parsed(body), kind, qualifier, context, trace, depth)
        if kind == "Event":
            function.queue(call)
            self.answer(http.HTTPStatus.ACCEPTED, b"", {"x-amzn-RequestId": call.request_id})
            return
        if function.is_recursive(call):
            message = "The function was invoked too often by one chain of requests, and was stopped."
            _bad("RecursiveInvocationException", message)
        invocation = function.run(call)
        if invocation is None:
            too_many = http.HTTPStatus.TOO_MANY_REQUESTS
            raise Refusal(too_many, "TooManyRequestsException", "Rate Exceeded.")
        self._answer_with(invocation)

    def _answer_with(self, invocation: Invocation) -> None:
        headers = {
            "Content-Type": "application/json",
            "x-amzn-RequestId": invocation.request_id,
            "X-Amz-Executed-Version": "$LATEST",
        }
        if self.headers.get("X-Amz-Log-Type") == "Tail":
            headers["X-Amz-Log-Result"] = base64.b64encode(invocation.log.encode()[-TAIL:]).decode()
        if invocation.error is None:
            response = invocation.response
            body = response if isinstance(response, bytes) else json.dumps(response).encode()
        else:
            headers["X-Amz-Function-Error"] = "Unhandled"
            body = json.dumps(error_payload(invocation.error)).encode()
        self.answer(http.HTTPStatus.OK, body, headers)

    def _refuse(self, refusal: Refusal) -> None:
        body = json.dumps({"Type": "User", "message": str(refusal)}).encode()
        headers = {"Content-Type": "application/json", "x-amzn-ErrorType": refusal.code}
        self.answer(refusal.status, body, headers)


def _check_size(kind: InvocationType, body: bytes) -> None:
    largest = LARGEST[kind]
    if len(body) > largest:
        raise Refusal(
            http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "RequestEntityTooLargeException",
            f"{len(body)} byte payload is too large for the {kind} invocation type (limit {largest} bytes)",
        )


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError as error:
        _bad("InvalidRequestContentException", f"Could not parse request body into json: {error}")


def _client_context(header: str | None) -> dict[str, Any] | None:
    if header is None:
        return None
    try:
        context = json.loads(base64.b64decode(header, validate=True))
    except (ValueError, binascii.Error):
        context = None
    if not isinstance(context, dict) or len(header) > LONGEST_CONTEXT:
        _bad(
            "InvalidRequestContentException",
            f"Client context must be an object in JSON and base64, of at most {LONGEST_CONTEXT} bytes",
        )
    return context

"""One AWS call of an installed client, while it is made."""

from __future__ import annotations

import asyncio
import functools
import math
from typing import TYPE_CHECKING, Any, Final

from botocore.retries.standard import ThrottledRetryableChecker

from deadline._events import emit
from deadline._report.tasks import Call, calls
from deadline.aws._calls.hedging import budget_of, hedges
from deadline.aws._calls.latency import Latency, latency_of
from deadline.aws._calls.planner import Limits, attempts_left

if TYPE_CHECKING:
    from deadline._core.scope import Deadline
    from deadline.aws._calls.hedging import Budget

# What the retry modes do if the configuration does not say. Legacy: botocore/data/_retry.json; standard and
# adaptive: botocore/retries/standard.py, DEFAULT_MAX_ATTEMPTS.
_LEGACY_ATTEMPTS: Final = {"dynamodb": 10}
_LEGACY_DEFAULT: Final = 5
_STANDARD_DEFAULT: Final = 3

_checker: Final[Any] = ThrottledRetryableChecker
_THROTTLED: Final = frozenset(_checker._THROTTLED_ERROR_CODES)  # noqa: SLF001  # the SDK's own list
_THROTTLED_BYTES: Final = tuple(code.encode() for code in _THROTTLED)
_THROTTLED_STATUSES: Final = frozenset({429, 503})


class AwsCall(Call):
    """A call of an installed client.

    Attributes:
        name: `service.Operation`.
        given_up_after: Seconds after which an attempt of it was not waited for alone any more, 0 before that.
        lost: Whether an attempt was sent that nobody answered.
        refused: Why no further attempt was made, if it was us who refused it.
    """

    __slots__ = (
        "_client",
        "deadline",
        "given_up_after",
        "limits",
        "lost",
        "name",
        "params",
        "refused",
    )

    def __init__(
        self, client: Any, operation: str, params: dict[str, Any], dl: Deadline | None, limits: Limits
    ) -> None:
        started = asyncio.get_running_loop().time() if dl is None else dl.now()
        super().__init__(client.meta.service_model.service_name, operation, started)
        self._client = client
        self.name = f"{self.service}.{operation}"
        self.deadline = dl
        self.params = params
        self.limits = limits
        self.refused: str | None = None
        self.lost = False
        self.given_up_after = 0.0

    def left(self) -> float:
        """Seconds until the call is cut."""
        return math.inf if self.deadline is None else self.deadline.until_cancelled()

    def further(self) -> int:
        """How many attempts could follow the present one."""
        return attempts_left(self.attempt, self._client.deadline_attempts, self.limits)

    def hedged(self) -> bool:
        """Whether a further attempt may join one in flight."""
        asked = self.limits.hedge
        if asked is None:
            asked = self._client.deadline_hedge
        return bool(asked) and hedges(asked, self.name)

    def latency(self, request: Any) -> Latency:
        """What such requests took so far. A large one takes longer than a small one of the same operation."""
        body = request.body
        size = 0
        if body:  # asking a request for a header that is not there takes its time
            length = len(body) if isinstance(body, bytes) else int(request.headers.get("Content-Length") or 0)
            size = max(0, length.bit_length() - _SMALL) // 2
        return latency_of(self._client.meta.endpoint_url, self.name, size)

    def tell(self, event: str, level: int, **fields: Any) -> None:
        """Tell what happens to it."""
        emit(event, level, service=self.service, operation=self.operation, **fields)

    def budget(self) -> Budget:
        """What may be sent besides."""
        return budget_of(self._client.meta.endpoint_url)

    def remember(self, response: Any, exception: BaseException | None, operation: Any) -> None:
        """Remember how an attempt went."""
        if exception is not None:
            self.error = lambda: exception
        elif response is not None and response[0].status_code >= 300:
            self.error = functools.partial(_modeled, self._client, response[1], operation.name)
            code = response[1].get("Error", {}).get("Code")
            if response[0].status_code in _THROTTLED_STATUSES or code in _THROTTLED:
                self.budget().throttled()
        else:
            self.error = None


def says_throttled(content: bytes) -> bool:
    """Whether an answer's body names one of the errors by which services ask for less."""
    return any(code in content for code in _THROTTLED_BYTES)


_SMALL: Final = 16
"""Bits of the length of a request that is like any smaller one: 64 KiB."""


def configured_attempts(client: Any) -> int:
    """How many attempts a client makes at most."""
    retries = client.meta.config.retries or {}
    if "total_max_attempts" in retries:
        return int(retries["total_max_attempts"])
    if retries.get("mode") in {"standard", "adaptive"}:
        return _STANDARD_DEFAULT
    return _LEGACY_ATTEMPTS.get(client.meta.service_model.service_name, _LEGACY_DEFAULT)


def _modeled(client: Any, parsed: dict[str, Any], operation: str) -> BaseException:
    """The error that the client would have raised for this answer."""
    error: BaseException = client.exceptions.from_code(parsed.get("Error", {}).get("Code"))(parsed, operation)
    return error


def current_call() -> AwsCall | None:
    """The call that the current task is in."""
    call = calls.get(asyncio.current_task())  # type: ignore[arg-type]  # None is in no dict of tasks
    return call if isinstance(call, AwsCall) else None

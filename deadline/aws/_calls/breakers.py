"""A breaker for each endpoint and operation of installed clients.

One for a whole service would be opened by one throttled table operation, or kept closed by the many that do
well.
"""

from __future__ import annotations

from asyncio import CancelledError
from typing import TYPE_CHECKING, Any, final
from urllib.parse import urlsplit

from anyio.lowlevel import checkpoint

from deadline._resilience.breaker import Breaker
from deadline._resilience.failures import BreakerOpen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from deadline._report.tasks import Call

    Make = Callable[[str, Any], Awaitable[Any]]


@final
class Breakers:
    """The breakers of the clients of one session.

    Args:
        make: Makes one from its name.

    Raises:
        TypeError: It does not.
    """

    def __init__(self, make: Callable[[str], Breaker]) -> None:
        self._make = make
        self._made: dict[tuple[str, str], Breaker] = {}
        if isinstance(make, Breaker) or not callable(make) or not isinstance(make("deadline"), Breaker):
            raise TypeError(
                f"breaker: expected what makes a breaker from its name, got {make!r}; write "
                "breaker=Breaker, or breaker=functools.partial(Breaker, failures=3)"
            )

    def of(self, client: Any, operation: str) -> Breaker:
        """The breaker for an operation at a client's endpoint."""
        key = client.meta.endpoint_url, operation
        breaker = self._made.get(key)
        if breaker is None:
            name = f"{client.meta.service_model.service_name}.{operation} {urlsplit(key[0]).netloc}"
            breaker = self._made[key] = self._make(name)
        return breaker

    def around(self, make: Make, client: Any, call: Call) -> Make:
        """What makes a client's call, through the call's breaker."""
        if call.operation in NOT_WATCHED:
            return make

        async def watched(operation: str, params: Any) -> Any:
            try:
                with _Watched(self.of(client, operation), call):
                    return await make(operation, params)
            except BreakerOpen:
                await checkpoint()  # as under a decorated function
                raise

        return watched


NOT_WATCHED = frozenset({"AbortMultipartUpload"})
"""What cleans up after a cut goes out whatever state its service is in."""


class _Watched:
    """A call through its breaker. A call that is cut speaks by its last attempt that came to an end."""

    def __init__(self, breaker: Breaker, call: Call) -> None:
        self._breaker = breaker
        self._call = call

    def __enter__(self) -> None:
        self._breaker.__enter__()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, CancelledError) and self._call.error is not None:
            self._breaker.leave(well=not self._breaker.counts(self._call.error()))  # type: ignore[arg-type]
        elif isinstance(exc, Exception) and self._call.error is None and self._call.outcome == "not sent":
            self._breaker.leave(well=None)  # botocore found fault with it before it asked anybody
        else:
            self._breaker.__exit__(exc_type, exc, traceback)

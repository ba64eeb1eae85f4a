"""A client that a handler's own calls go through, opened once for the life of an execution environment."""

from __future__ import annotations

import contextlib
import logging
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from deadline._events import emit, shown
from deadline.aws._calls.install import install
from deadline.aws._calls.limits import limits
from deadline.aws._calls.warm_up import warm_up
from deadline.aws._runtime.event_loop import Lifespan, environment, running_environment

if TYPE_CHECKING:
    import contextvars
    from collections.abc import AsyncIterator, Callable

ATTEMPTS: Final = 2
WARMING_UP: Final = 1.0
"""Seconds for opening a connection in the init phase."""


class OwnClient:
    """A client of one service.

    Args:
        service: As botocore calls it: `sqs`.
        region: Where it is; `None` for the function's own.
        check: Looks at botocore's model of the service when the client is opened.
    """

    def __init__(
        self, service: str, region: str | None = None, check: Callable[[Any], None] = lambda _: None
    ) -> None:
        self._service = service
        self._region = region
        self._check = check

    def initialise(self, outside: contextvars.Context) -> None:
        """Open it, in Lambda's init phase: a small function has no time for it in its margin."""
        kept = environment().lifespan(self._client, outside)
        environment().run(self._warmed(kept))

    async def call(self, operation: str, request: dict[str, Any], outside: contextvars.Context) -> Any:
        """Call an operation, named as the API calls it, from the running loop.

        Raises:
            Exception: It was not done, or nobody knows.
        """
        async with contextlib.AsyncExitStack() as stack:
            kept = running_environment()
            if kept is not None:
                client = await kept.lifespan(self._client, outside).resources()
            else:
                client = await stack.enter_async_context(self._client())
            from botocore import xform_name  # noqa: PLC0415  # importing deadline.aws loads no SDK

            # A silent attempt is not given up for another: both might arrive. Refused ones are tried again.
            with limits(attempts=ATTEMPTS, per_attempt=math.inf):
                answer = await getattr(client, xform_name(operation))(**request)
                for part in answer.values():
                    if hasattr(part, "read"):  # the body of Lambda's Invoke: unread, it holds its connection
                        await part.read()
                return answer

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        # Without an init phase it is opened when time is short: what blocks the loop makes the response late.
        session: Any = install(await anyio.to_thread.run_sync(self._load, abandon_on_cancel=True))
        async with session.create_client(self._service, region_name=self._region) as client:
            self._check(client.meta.service_model)
            yield client

    def _load(self) -> Any:
        """A session that has read what a client is made of: tenths of a second, with the SDK's import."""
        from aiobotocore.session import get_session  # noqa: PLC0415  # aioboto3 brings it, too

        session: Any = get_session()
        loader = session.get_component("data_loader")
        for data in ("service-2", "endpoint-rule-set-1"):
            loader.load_service_model(self._service, data)
        return session

    async def _warmed(self, lifespan: Lifespan) -> None:
        try:
            client = await lifespan.resources()
            with anyio.move_on_after(WARMING_UP):
                await warm_up(client)
        except Exception as error:  # noqa: BLE001  # a cold start must go on
            emit("aws.warm_up_failed", logging.WARNING, endpoint=self._service, error=shown(error))

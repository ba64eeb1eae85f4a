"""A Lambda function that invokes the next one of a chain, and says what it had left."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from deadline import DeadlineExceeded, aws, remaining

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def client() -> AsyncIterator[Any]:
    """Open for the life of the process."""
    session: Any = aws.install(get_session())
    config = AioConfig(retries={"max_attempts": 0}, read_timeout=20)
    async with session.create_client("lambda", config=config) as opened:
        yield opened


@aws.handler(lifespan=client, eager=True)
async def handler(event: dict[str, Any], context: Any, client: Any) -> dict[str, Any]:
    """Say what is left, then ask the next one."""
    left = {context.function_name: remaining()}
    if not event["chain"]:
        await asyncio.sleep(event.get("sleep", 0.0))
        return left
    name, *rest = event["chain"]
    answer = await client.invoke(FunctionName=name, Payload=json.dumps(event | {"chain": rest}).encode())
    theirs: dict[str, Any] = json.loads(await answer["Payload"].read())
    return left | theirs


@handler.on_exceeded
async def _(exceeded: DeadlineExceeded, event: Any, context: Any, client: Any) -> dict[str, Any]:
    return {"exceeded": context.function_name}

"""A FastAPI application whose requests end in time: `uvicorn web:app`, or `web.handler` as a Lambda function.

`GET /orders/1?seconds=60` has a slow dependency. It is answered before the request's budget is over and, on
Lambda, before API Gateway gives up and before the function is killed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from mangum import Mangum

from deadline import DeadlineExceeded, remaining, step
from deadline.asgi import DeadlineMiddleware

if TYPE_CHECKING:
    from collections.abc import MutableMapping

app = FastAPI()


async def too_late(exceeded: DeadlineExceeded, scope: MutableMapping[str, Any]) -> JSONResponse:
    """Say what there is to say."""
    return JSONResponse({"path": scope["path"], "pending": exceeded.report.pending}, status_code=504)


app.add_middleware(DeadlineMiddleware, budget=5.0, on_exceeded=too_late)


@app.get("/orders/{number}")
async def order(number: int, seconds: float = 0.0) -> dict[str, Any]:
    """Look an order up."""
    with step("look up"):
        await asyncio.sleep(seconds)
    return {"number": number, "left": remaining()}


handler = Mangum(app, lifespan="off")

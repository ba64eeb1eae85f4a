"""The time that is left, in the client context of an invocation whose answer somebody waits for.

The client context is JSON in base64, and only synchronous invocations have it
(docs.aws.amazon.com/lambda/latest/api/API_Invoke.html). What the function's `context.client_context.custom`
shows is its part `custom`, for whatever a caller likes; one more key there does nobody harm.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

from deadline._propagation import HEADER, encode, received

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST: Final = 3_583
"""Bytes of base64, as the page above says."""

_FIELD: Final = "X-Amz-Client-Context"
_SYNCHRONOUS: Final = {None, "RequestResponse"}


def with_time_left(context: str | None, left: float) -> str | None:
    """A client context that also tells how long the caller will wait.

    Args:
        context: The user's own, in base64.
        left: Seconds.

    Returns:
        The new one; `None` if the user's is to stay as it is: there is nothing to tell, it says something
        sooner by itself, it is not what Lambda takes, or it has no room.
    """
    try:
        parts: Any = {} if context is None else json.loads(base64.b64decode(context))
        custom = parts.get("custom") or {}
        if received(custom) <= left:
            return None
        new = parts | {"custom": custom | {HEADER: encode(left)}}
    except (ValueError, TypeError, AttributeError):
        return None
    encoded = base64.b64encode(json.dumps(new, ensure_ascii=False).encode()).decode()
    return encoded if encode(left) is not None and len(encoded) <= LARGEST else None


def tell(request: Any, left: Callable[[], float]) -> None:
    """Put it into a request of `Invoke` that is about to be signed."""
    headers = request.headers
    if headers.get("X-Amz-Invocation-Type") not in _SYNCHRONOUS:
        return
    new = with_time_left(headers.get(_FIELD), left())
    if new is not None:
        del headers[_FIELD]  # else there would be two
        headers[_FIELD] = new

"""Answering before the handler returns: for a caller that would be gone by then.

Lambda takes a response when the runtime posts it, and the environment goes on until the runtime asks for the
next event. The runtime client does the one right after the other, so a handler answers by returning. Where an
undo or a notice outlasts the caller, that is too late. The response is then posted in the runtime client's
own way, by its own object, and its second post, of what the handler returns in the end, is left out once
(docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html; "Running code after returning a response from an AWS
Lambda function", AWS Compute Blog, 2023, has a custom runtime do it like this).

The object is found on the stack, where it stands right above the handler (awslambdaric 4.2.2, bootstrap.py,
`handle_event_request`). If anything stands between, a decorator say, that may have a say in what the response
looks like, and nothing is posted early.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import CodeType, FrameType

_RUNTIME: Final = "handle_event_request"


def post_early(value: Any, handler: CodeType) -> bool:
    """Post `value` as the response of the invocation that is going on; to be called inside of it.

    Args:
        value: What the handler will return.
        handler: The code of the function that Lambda has called.

    Returns:
        Whether it was posted. If not, nothing has happened.
    """
    runtime = _runtime(handler)
    if runtime is None:
        return False
    try:
        client, invoke_id = runtime["lambda_runtime_client"], runtime["invoke_id"]
        result, content_type = client.marshaller.marshal_response(value)
        more = [runtime["invocation_id"]] if "invocation_id" in runtime else []
        client.post_invocation_result(invoke_id, result, content_type, *more)
    except Exception:  # noqa: BLE001  # whatever it is, returning will tell
        return False
    _leave_out_the_next(client, invoke_id)
    return True


def _runtime(handler: CodeType) -> dict[str, Any] | None:
    """The variables of the runtime client's function that has called the handler, if it was that."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  # there is no other way to the caller
    while frame is not None and frame.f_code is not handler:
        frame = frame.f_back
    frame = frame and frame.f_back
    return frame.f_locals if frame is not None and frame.f_code.co_name == _RUNTIME else None


def _leave_out_the_next(client: Any, invoke_id: str) -> None:
    """Have the client's next post, for this invocation, do nothing: the platform refuses a second one."""
    post_result, post_error = client.post_invocation_result, client.post_invocation_error

    def instead(post: Any) -> Any:
        def once(posted: str, *more: Any) -> None:
            del client.post_invocation_result, client.post_invocation_error
            if posted != invoke_id:
                post(posted, *more)

        return once

    client.post_invocation_result, client.post_invocation_error = instead(post_result), instead(post_error)

"""AWS errors, in the shape of the protocol that the request speaks.

An SDK finds the error's code where its service's protocol puts it, and nowhere else: the same 503
with a body of another protocol parses as the code "503". What is sent here is what botocore's parsers
(`botocore/parsers.py`) look for, and the codes are those its retry tables know
(`botocore/data/_retry.json`, `botocore/retries/standard.py`).
"""

import dataclasses
import enum
import json
import re
from typing import ClassVar, Final, final
from xml.sax.saxutils import escape

from deadline.testing._proxy.faults import Fault, Wire, _check_status
from deadline.testing._proxy.request import Request

_REQUEST_ID: Final = "00000000-0000-4000-8000-000000000000"


class Protocol(enum.Enum):
    """How a service of AWS writes its errors."""

    JSON = enum.auto()
    REST_JSON = enum.auto()
    CBOR = enum.auto()
    QUERY = enum.auto()
    EC2 = enum.auto()
    S3 = enum.auto()
    REST_XML = enum.auto()


def protocol_of(request: Request) -> Protocol:
    """Return the protocol that a request speaks.

    A REST request tells no more than the service it is signed for: S3 and two others speak XML, the
    rest JSON. An unsigned one is taken for S3, which is what anonymous calls are made to.
    """
    service = request.service
    if request.headers.get("smithy-protocol") == "rpc-v2-cbor":
        return Protocol.CBOR
    if "x-amz-target" in request.headers:
        return Protocol.JSON
    if request.is_form:
        return Protocol.EC2 if service == "ec2" else Protocol.QUERY
    if not service or service.startswith("s3"):
        return Protocol.S3
    return Protocol.REST_XML if service in ("cloudfront", "route53") else Protocol.REST_JSON


def error_answer(request: Request, status: int, code: str, message: str) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers that say `code` to the client that sent `request`."""
    protocol = protocol_of(request)
    xml = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    request_id = f"<RequestId>{_REQUEST_ID}</RequestId>"
    headers = {"Content-Type": "text/xml", "x-amzn-RequestId": _REQUEST_ID}
    match protocol:
        case Protocol.JSON:
            said = {"__type": _SHAPE_PREFIX.get(request.service, "") + code, "message": message}
            headers["Content-Type"] = request.headers.get("content-type", "application/x-amz-json-1.0")
            if request.headers.get("x-amzn-query-mode") == "true":
                headers["x-amzn-query-error"] = f"{code};{'Sender' if status < 500 else 'Receiver'}"
            return json.dumps(said).encode(), headers
        case Protocol.REST_JSON:
            headers |= {"Content-Type": "application/json", "x-amzn-ErrorType": code}
            return json.dumps({"message": message}).encode(), headers
        case Protocol.CBOR:
            headers |= {"Content-Type": "application/cbor", "smithy-protocol": "rpc-v2-cbor"}
            return _cbor({"__type": code, "message": message}), headers
        case Protocol.EC2:
            request_id = f"<RequestID>{_REQUEST_ID}</RequestID>"
            text = f"<Response><Errors><Error>{xml}</Error></Errors>{request_id}</Response>"
        case Protocol.S3:
            headers |= {"Content-Type": "application/xml", "x-amz-request-id": _REQUEST_ID}
            text = f"<Error>{xml}{request_id}<HostId>proxy</HostId></Error>"
        case _:
            fault = "Sender" if status < 500 else "Receiver"
            text = f"<ErrorResponse><Error><Type>{fault}</Type>{xml}</Error>{request_id}</ErrorResponse>"
    return (head + text).encode(), headers


_SHAPE_PREFIX: Final = {"dynamodb": "com.amazonaws.dynamodb.v20120810#", "sqs": "com.amazonaws.sqs#"}

# What each says when it throttles, where that differs from its protocol's usual words. SQS's 403 is the
# one that botocore's legacy retries wait for (`_retry.json`).
_THROTTLES: Final = {
    "dynamodb": (400, "ProvisionedThroughputExceededException"),
    "kinesis": (400, "ProvisionedThroughputExceededException"),
    "sqs": (403, "RequestThrottled"),
    "lambda": (429, "TooManyRequestsException"),
}
_USUAL_THROTTLES: Final = {
    Protocol.JSON: (400, "ThrottlingException"),
    Protocol.REST_JSON: (429, "ThrottlingException"),
    Protocol.CBOR: (400, "ThrottlingException"),
    Protocol.QUERY: (400, "Throttling"),
    Protocol.EC2: (503, "RequestLimitExceeded"),
    Protocol.S3: (503, "SlowDown"),
    Protocol.REST_XML: (400, "Throttling"),
}


def _cbor(texts: dict[str, str]) -> bytes:
    # RFC 8949: a map of so many pairs (major type 5), texts with a length in two bytes (major type 3).
    parts = [bytes([0xA0 + len(texts)])]
    for text in (part for pair in texts.items() for part in pair):
        encoded = text.encode()
        parts.append(b"\x79" + len(encoded).to_bytes(2, "big") + encoded)
    return b"".join(parts)


@final
@dataclasses.dataclass(frozen=True)
class AwsErrorAnswer(Fault):
    """The client gets an error of AWS; nothing is sent upstream, so there is no effect.

    The answer has the shape of the request's protocol (JSON, query, S3's XML, ...), so that SDKs parse
    it to the error class of that code, and retry it if they retry that code.

    Args:
        code: Such as `"ConditionalCheckFailedException"`.
        status: The HTTP status, 400 to 599.
        message: The error's text.

    Raises:
        TypeError, ValueError: `code` is no text or empty, or `status` is none of an error.
    """

    code: str
    status: int = 400
    message: str = "told so by the fault proxy"
    needs_http: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_code(self.code)
        _check_status(self.status)
        if self.status < 400:
            raise ValueError(f"status must be one of an error, such as status=400, not {self.status!r}")

    async def play(self, wire: Wire) -> None:
        """Answer."""
        body, headers = error_answer(wire.request, self.status, self.code, self.message)
        await wire.answer(self.status, body, headers)


@final
@dataclasses.dataclass(frozen=True)
class Throttling(Fault):
    """The service throttles, in its own words. Made by `throttling`."""

    code: str | None = None
    needs_http: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.code is not None:
            _check_code(self.code)

    async def play(self, wire: Wire) -> None:
        """Answer."""
        usual = _USUAL_THROTTLES[protocol_of(wire.request)]
        status, code = _THROTTLES.get(wire.request.service, usual)
        body, headers = error_answer(wire.request, status, self.code or code, "Rate exceeded")
        await wire.answer(status, body, headers)


def throttling(code: str | None = None) -> Fault:
    """Let the service throttle, in its own words; nothing is sent upstream.

    DynamoDB and Kinesis say `ProvisionedThroughputExceededException` (400), SQS `RequestThrottled`
    (403), S3 `SlowDown` (503), Lambda `TooManyRequestsException` (429), EC2 `RequestLimitExceeded`
    (503), other services `ThrottlingException` or `Throttling`, as their protocol has it. All retry
    modes of the SDK retry these.

    Args:
        code: Another code, such as `"ThrottlingException"`, which DynamoDB's on-demand tables use.
    """
    return Throttling(code)


def slow_down() -> Fault:
    """Answer 503 `SlowDown`, as S3 does to too many requests; nothing is sent upstream."""
    return AwsErrorAnswer("SlowDown", 503, "Please reduce your request rate.")


def service_unavailable() -> Fault:
    """Answer 503 `ServiceUnavailable`, which every retry mode retries; nothing is sent upstream."""
    return AwsErrorAnswer("ServiceUnavailable", 503, "Service is unable to handle request.")


def _check_code(code: object) -> None:
    if not isinstance(code, str) or not re.fullmatch(r"[\w.]+", code):
        raise ValueError(f'code must be an error code, such as code="ThrottlingException", not {code!r}')

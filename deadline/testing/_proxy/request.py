"""One HTTP request as the proxy saw it, and what of AWS can be read from it."""

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping
from typing import Final, final

# Signature version 4 signs for one service, in the header or, for a presigned URL, in the query:
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
_SCOPE: Final = re.compile(r"Credential=[^/\s,&]+/\d{8}/[^/\s,&]+/([^/\s,&]+)/aws4_request")


@final
@dataclasses.dataclass(frozen=True)
class Request:
    """One HTTP request, as it came from the client.

    Attributes:
        method: Such as `"PUT"`. Empty where the proxy passes TLS through: no request can be read there.
        path: The request's target, with its query: `"/bucket/key?uploads"`.
        headers: Names in lower case; a repeated header's values are joined by a comma.
        body: The whole body, with any chunked transfer coding taken off.
    """

    method: str
    path: str
    headers: Mapping[str, str] = dataclasses.field(repr=False)
    body: bytes = dataclasses.field(default=b"", repr=False)

    @property
    def operation(self) -> str:
        """The AWS operation, such as `"PutItem"`, as far as the request names it.

        It comes from the header `x-amz-target` or from `Action` in a form. REST services, S3 among
        them, name it nowhere: it is `""`, and `method` and `path` have to do.
        """
        if target := self.headers.get("x-amz-target"):
            return target.rpartition(".")[2]
        if self.is_form:
            form = urllib.parse.parse_qs(self.body.decode("utf-8", "replace"))
            return form.get("Action", [""])[0]
        return ""

    @property
    def service(self) -> str:
        """The AWS service that the request is signed for, such as `"dynamodb"` or `"s3"`.

        It comes from the signature, so it is the signing name: `"states"` for Step Functions. An
        unsigned request has none: it is `""`.
        """
        signed = self.headers.get("authorization", "") or urllib.parse.unquote(self.path)
        scope = _SCOPE.search(signed)
        return scope[1] if scope else ""

    @property
    def is_form(self) -> bool:
        """Whether the body is a form, as the services of the older query protocols send it."""
        return self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")

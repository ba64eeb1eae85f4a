"""How long each event source waits for its answer."""

from __future__ import annotations

from typing import Final, NamedTuple


class Caller(NamedTuple):
    """What is known of an event source; `limit` in seconds, `None` if nobody waits or it is not known."""

    name: str
    title: str
    limit: float | None
    waits: bool | None
    note: str
    source: str
    checked: str = "2026-11-21"


_GATEWAY: Final = "https://docs.aws.amazon.com/apigateway/latest/developerguide/"
_EDGE: Final = "https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/cloudfront-limits.html"

callers: Final[tuple[Caller, ...]] = (
    Caller("rest-api", "API Gateway, REST API", 29.0, True, "the default", _GATEWAY + "limits.html"),
    Caller("http-api", "API Gateway, HTTP API", 30.0, True, "", _GATEWAY + "http-api-quotas.html"),
    Caller("websocket-api", "API Gateway, WebSocket API", 29.0, True, "", _GATEWAY + "limits.html"),
    Caller("function-url", "Lambda function URL", None, True, "", "https://docs.aws.amazon.com/lambda/"),
    Caller("alb", "Application Load Balancer", 60.0, True, "", "https://docs.aws.amazon.com/elasticloadbalancing/"),
    Caller("vpc-lattice", "VPC Lattice, event version 2.0", None, True, "", "https://docs.aws.amazon.com/vpc-lattice/"),
    Caller("appsync", "AppSync resolver", 30.0, True, "", "https://docs.aws.amazon.com/general/latest/gr/appsync.html"),
    Caller("cognito", "Cognito user pool trigger", 5.0, True, "", "https://docs.aws.amazon.com/cognito/"),
    Caller("connect", "Amazon Connect contact flow", 8.0, True, "", "https://docs.aws.amazon.com/connect/"),
    Caller("alexa", "Alexa skill", 8.0, True, "", "https://developer.amazon.com/en-US/docs/alexa/"),
    Caller("edge-viewer", "Lambda@Edge, viewer request or response", 5.0, True, "", _EDGE),
    Caller("edge-origin", "Lambda@Edge, origin request or response", 30.0, True, "", _EDGE),
)

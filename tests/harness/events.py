"""An event of every source that is known, as AWS documents it, shortened where nothing looks."""

from __future__ import annotations

from typing import Any, Final

STARTED: Final = 1_790_000_000.25
"""When each of them was sent, in seconds since the epoch."""

_ARN: Final = "arn:aws:{}:us-east-1:123456789012:{}"

EVENTS: Final[dict[str, dict[str, Any]]] = {
    "function-url": {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/orders",
        "headers": {"host": "abcdefgh.lambda-url.us-east-1.on.aws", "x-forwarded-proto": "https"},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abcdefgh",
            "domainName": "abcdefgh.lambda-url.us-east-1.on.aws",
            "http": {"method": "GET", "path": "/orders", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
            "routeKey": "$default",
            "stage": "$default",
            "timeEpoch": int(STARTED * 1000),
        },
        "isBase64Encoded": False,
    },
    "http-api": {
        "version": "2.0",
        "routeKey": "GET /orders",
        "rawPath": "/orders",
        "headers": {"Host": "api.example.com"},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abcdefgh",
            "domainName": "abcdefgh.execute-api.us-east-1.amazonaws.com",
            "http": {"method": "GET", "path": "/orders", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
            "stage": "$default",
            "timeEpoch": int(STARTED * 1000),
        },
        "isBase64Encoded": False,
    },
    "websocket-api": {
        "requestContext": {
            "routeKey": "send",
            "eventType": "MESSAGE",
            "messageDirection": "IN",
            "stage": "production",
            "connectedAt": int((STARTED - 3000) * 1000),
            "requestTimeEpoch": int(STARTED * 1000),
            "connectionId": "L0SM9cOFvHcCIhw=",
            "apiId": "abcdefgh",
        },
        "body": "{}",
        "isBase64Encoded": False,
    },
    "rest-api": {
        "resource": "/orders",
        "path": "/orders",
        "httpMethod": "GET",
        "headers": {"Host": "abcdefgh.execute-api.us-east-1.amazonaws.com"},
        "multiValueHeaders": {"Host": ["abcdefgh.execute-api.us-east-1.amazonaws.com"]},
        "requestContext": {
            "resourceId": "123456",
            "stage": "prod",
            "httpMethod": "GET",
            "requestTime": "21/Sep/2026:12:53:20 +0000",
            "requestTimeEpoch": int(STARTED * 1000),
            "apiId": "abcdefgh",
        },
        "body": None,
    },
    "alb": {
        "requestContext": {
            "elb": {"targetGroupArn": _ARN.format("elasticloadbalancing", "targetgroup/orders/1")}
        },
        "httpMethod": "GET",
        "path": "/orders",
        "headers": {
            "host": "orders.example.com",
            "x-amzn-trace-id": f"Self=1-{int(STARTED):08x}-124567;Root=1-00000001-abcdef012345678912345678",
        },
        "body": "",
        "isBase64Encoded": False,
    },
    "vpc-lattice": {
        "version": "2.0",
        "path": "/orders",
        "method": "GET",
        "headers": {"host": ["orders.example.com"]},
        "requestContext": {
            "serviceNetworkArn": _ARN.format("vpc-lattice", "servicenetwork/sn-1"),
            "serviceArn": _ARN.format("vpc-lattice", "service/svc-1"),
            "targetGroupArn": _ARN.format("vpc-lattice", "targetgroup/tg-1"),
            "region": "us-east-1",
            "timeEpoch": str(int(STARTED * 1e6)),
        },
    },
    "appsync": {
        "arguments": {"id": "1"},
        "identity": None,
        "source": None,
        "request": {"headers": {"host": "abcdefgh.appsync-api.us-east-1.amazonaws.com"}},
        "info": {
            "fieldName": "order",
            "parentTypeName": "Query",
            "selectionSetList": ["id"],
            "variables": {},
        },
        "prev": None,
        "stash": {},
    },
    "cognito": {
        "version": "1",
        "triggerSource": "PreSignUp_SignUp",
        "region": "us-east-1",
        "userPoolId": "us-east-1_abcdefgh",
        "userName": "a",
        "request": {"userAttributes": {}},
        "response": {},
    },
    "connect": {
        "Name": "ContactFlowEvent",
        "Details": {"ContactData": {"Channel": "VOICE", "ContactId": "1"}, "Parameters": {}},
    },
    "alexa": {
        "version": "1.0",
        "session": {"new": True},
        "context": {"System": {"application": {"applicationId": "amzn1.ask.skill.1"}}},
        "request": {"type": "LaunchRequest", "timestamp": "2026-09-21T12:53:20Z"},
    },
    "edge-viewer": {
        "Records": [
            {"cf": {"config": {"distributionId": "E1", "eventType": "viewer-request"}, "request": {}}}
        ]
    },
    "edge-origin": {
        "Records": [
            {"cf": {"config": {"distributionId": "E1", "eventType": "origin-response"}, "request": {}}}
        ]
    },
    "s3-batch": {
        "invocationSchemaVersion": "1.0",
        "invocationId": "1",
        "job": {"id": "1"},
        "tasks": [{"taskId": "1", "s3Key": "a", "s3VersionId": "1", "s3BucketArn": "arn:aws:s3:::bucket"}],
    },
    "durable": {
        "DurableExecutionArn": _ARN.format("lambda", "function:orders:1/durable-execution/1/2"),
        "CheckpointToken": "token",
        "InitialExecutionState": {"Operations": [], "NextMarker": ""},
        "UpdatedOperationIds": [],
    },
    "sqs": {
        "Records": [
            {
                "messageId": "1",
                "body": "{}",
                "attributes": {
                    "ApproximateFirstReceiveTimestamp": str(int(STARTED * 1000)),
                    "SentTimestamp": str(int(STARTED * 1000)),
                },
                "eventSource": "aws:sqs",
                "eventSourceARN": _ARN.format("sqs", "orders"),
            }
        ]
    },
    "kinesis": {
        "Records": [
            {
                "kinesis": {"data": "", "sequenceNumber": "1", "approximateArrivalTimestamp": STARTED},
                "eventSource": "aws:kinesis",
                "eventName": "aws:kinesis:record",
            }
        ]
    },
    "dynamodb": {
        "Records": [
            {
                "eventName": "INSERT",
                "eventSource": "aws:dynamodb",
                "dynamodb": {"ApproximateCreationDateTime": STARTED, "SequenceNumber": "1"},
            }
        ]
    },
    "sns": {
        "Records": [
            {
                "EventSource": "aws:sns",
                "EventVersion": "1.0",
                "Sns": {"Message": "{}", "Timestamp": "2026-09-21T12:53:20.250Z"},
            }
        ]
    },
    "s3": {
        "Records": [
            {
                "eventVersion": "2.5",
                "eventSource": "aws:s3",
                "eventTime": "2026-09-21T12:53:20.250Z",
                "eventName": "ObjectCreated:Put",
                "s3": {"bucket": {"name": "bucket"}, "object": {"key": "key"}},
            }
        ]
    },
    "ses": {
        "Records": [
            {
                "eventSource": "aws:ses",
                "eventVersion": "1.0",
                "ses": {"mail": {"timestamp": "2026-09-21T12:53:20.250Z"}, "receipt": {}},
            }
        ]
    },
    "eventbridge": {
        "version": "0",
        "id": "1",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "123456789012",
        "time": "2026-09-21T12:53:20Z",
        "region": "us-east-1",
        "resources": [],
        "detail": {},
    },
}

LOOK_ALIKES: Final[dict[str, Any]] = {
    "nothing": None,
    "empty": {},
    "a list of events": [EVENTS["appsync"]],
    "text": "requestContext",
    "a text that names a flow": {"Details": "ContactData is missing"},
    "a text that names a load balancer": {"requestContext": {"elb": "targetGroupArn"}},
    "no records": {"Records": []},
    "records that are none": {"Records": None},
    "a record of an unknown source": {"Records": [{"eventSource": "aws:kafka"}]},
    "a queue's name as a topic's": {"Records": [{"EventSource": "aws:sqs"}]},
    "an order with a stage": {"stage": "prod", "httpMethod": "GET"},
    "a request context that is text": {"version": "2.0", "routeKey": "$default", "requestContext": "prod"},
    "a request context that is empty": {"version": "2.0", "routeKey": "$default", "requestContext": {}},
    "a method and no stage": {"httpMethod": "GET", "requestContext": {"identity": {}}},
    "version 2.0 alone": {"version": "2.0", "requestContext": {"timeEpoch": 1}},
    "a REST API's authorizer": EVENTS["rest-api"] | {"type": "REQUEST", "methodArn": "arn:aws:execute-api"},
    "an HTTP API's authorizer": EVENTS["http-api"] | {"type": "REQUEST", "routeArn": "arn:aws:execute-api"},
    "a sender of a user pool": EVENTS["cognito"] | {"triggerSource": "CustomEmailSender_SignUp"},
    "an authorizer's token": {"type": "TOKEN", "authorizationToken": "a", "methodArn": "arn:aws:execute-api"},
    "a balancer that is none": {"requestContext": {"elb": {}}, "httpMethod": "GET"},
    "a connection that is closed": {
        "requestContext": EVENTS["websocket-api"]["requestContext"] | {"eventType": "DISCONNECT"}
    },
    "a connection that tells no event": {"requestContext": {"connectionId": "1", "stage": "prod"}},
    "info and arguments of yours": {"info": {"title": "order"}, "arguments": {}},
    "a trigger of yours": {"triggerSource": "cron"},
    "a trigger that is no text": {"triggerSource": 1, "userPoolId": 2},
    "details of yours": {"Details": {"order": 1}},
    "an application of yours": {"context": {"System": {"application": {}}}, "request": {}},
    "a content filter's record": {"Records": [{"cf": {"config": {}}}]},
    "tasks of yours": {"tasks": []},
    "an execution of yours": {"DurableExecutionArn": "1"},
    "a source of yours": {"source": "shop", "detail": {}},
    "keys that are no text": {1: 2, None: 3},
}

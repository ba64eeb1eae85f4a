"""Who calls a function, and how long that waits."""

from __future__ import annotations

from textwrap import dedent, indent

import pytest

pytest.importorskip("cfnlint")

from deadline import aws
from deadline.audit import read
from deadline.audit._model.calls import CALLERS
from deadline.audit._model.calls import calls as calls_of
from deadline.audit._model.model import Function
from deadline.audit._template.world import World

FUNCTION = "F: {Type: AWS::Lambda::Function, Properties: {FunctionName: orders}}\n"
PERMISSION = """
F: {Type: AWS::Lambda::Function, Properties: {}}
P:
  Type: AWS::Lambda::Permission
  Properties: {FunctionName: !Ref F, Principal: %s}
"""
URI = "arn:aws:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${F.Arn}/invocations"


def sam(events: str) -> str:
    return f"F: {{Type: AWS::Serverless::Function, Properties: {{Events: {{E: {events}}}}}}}"


CALLS = {
    "a REST API of SAM": (sam("{Type: Api, Properties: {Path: /, Method: get}}"), "rest-api", 29.0),
    "an HTTP API of SAM": (sam("{Type: HttpApi, Properties: {Path: /, Method: get}}"), "http-api", 30.0),
    "an HTTP API with less patience": (
        sam("{Type: HttpApi, Properties: {TimeoutInMillis: 5000}}"),
        "http-api",
        5.0,
    ),
    "a trigger of SAM": (sam("{Type: Cognito, Properties: {Trigger: PreSignUp}}"), "cognito", 5.0),
    "a sender of SAM": (sam("{Type: Cognito, Properties: {Trigger: CustomEmailSender}}"), "event", None),
    "a skill": (sam("{Type: AlexaSkill}"), "alexa", 8.0),
    "a REST API of SAM with less patience": (
        sam("{Type: Api, Properties: {TimeoutInMillis: 5000}}"),
        "rest-api",
        5.0,
    ),
    "a schedule": (sam("{Type: ScheduleV2}"), "event", None),
    "a URL of SAM": (
        "F: {Type: AWS::Serverless::Function, Properties: {FunctionUrlConfig: {AuthType: NONE}}}",
        "function-url",
        None,
    ),
    "a URL": (
        FUNCTION + "U: {Type: AWS::Lambda::Url, Properties: {TargetFunctionArn: !Ref F}}",
        "function-url",
        None,
    ),
    "a method": (
        FUNCTION
        + f"M: {{Type: AWS::ApiGateway::Method, Properties: {{Integration: {{Uri: !Sub '{URI}'}}}}}}",
        "rest-api",
        29.0,
    ),
    "a method that was raised": (
        FUNCTION
        + "M: {Type: AWS::ApiGateway::Method, Properties: {Integration: "
        + f"{{TimeoutInMillis: 120000, Uri: !Sub '{URI}'}}}}}}",
        "rest-api",
        120.0,
    ),
    "a method that does not wait": (
        FUNCTION
        + "M: {Type: AWS::ApiGateway::Method, Properties: {Integration: {RequestParameters: "
        + f"{{integration.request.header.X-Amz-Invocation-Type: \"'Event'\"}}, Uri: !Sub '{URI}'}}}}}}",
        "event",
        None,
    ),
    "a method of an alias": (
        FUNCTION
        + "A: {Type: AWS::Lambda::Alias, Properties: {FunctionName: !Ref F}}\n"
        + "M: {Type: AWS::ApiGateway::Method, Properties: {Integration: {Uri: !Join ['', [a, !Ref A, b]]}}}",
        "rest-api",
        29.0,
    ),
    "a method that names the function": (
        FUNCTION
        + "M: {Type: AWS::ApiGateway::Method, Properties: {Integration: "
        + "{Uri: 'arn:aws:apigateway:eu-west-1:lambda:path/2015-03-31/functions/"
        + "arn:aws:lambda:eu-west-1:1:function:orders/invocations'}}}",
        "rest-api",
        29.0,
    ),
    "an integration": (
        FUNCTION + "I: {Type: AWS::ApiGatewayV2::Integration, Properties: {IntegrationUri: !GetAtt F.Arn}}",
        "http-api",
        30.0,
    ),
    "an API that goes straight to it": (
        FUNCTION + "I: {Type: AWS::ApiGatewayV2::Api, Properties: {ProtocolType: HTTP, Target: !Ref F}}",
        "http-api",
        30.0,
    ),
    "a WebSocket API": (
        FUNCTION
        + "W: {Type: AWS::ApiGatewayV2::Api, Properties: {ProtocolType: WEBSOCKET}}\n"
        + "I: {Type: AWS::ApiGatewayV2::Integration, Properties: "
        + "{ApiId: !Ref W, IntegrationUri: !GetAtt F.Arn}}",
        "websocket-api",
        29.0,
    ),
    "an OpenAPI document": (
        FUNCTION
        + "R: {Type: AWS::ApiGateway::RestApi, Properties: {Body: {paths: {/orders: {get: "
        + f"{{x-amazon-apigateway-integration: {{uri: !Sub '{URI}', timeoutInMillis: 9000}}}}}}}}}}}}}}",
        "rest-api",
        9.0,
    ),
    "an OpenAPI document of an HTTP API": (
        FUNCTION
        + "R: {Type: AWS::Serverless::HttpApi, Properties: {DefinitionBody: {paths: {/orders: {get: "
        + f"{{x-amazon-apigateway-integration: {{uri: !Sub '{URI}'}}}}}}}}}}}}}}",
        "http-api",
        30.0,
    ),
    "a target group": (
        FUNCTION
        + "T: {Type: AWS::ElasticLoadBalancingV2::TargetGroup, Properties: {Targets: [{Id: !GetAtt F.Arn}]}}",
        "alb",
        60.0,
    ),
    "a target group of a patient balancer": (
        FUNCTION
        + "T: {Type: AWS::ElasticLoadBalancingV2::TargetGroup, Properties: {Targets: [{Id: !Ref F}]}}\n"
        + "L: {Type: AWS::ElasticLoadBalancingV2::Listener, Properties: {LoadBalancerArn: !Ref B, "
        + "DefaultActions: [{TargetGroupArn: !Ref T}]}}\n"
        + "B: {Type: AWS::ElasticLoadBalancingV2::LoadBalancer, Properties: {LoadBalancerAttributes: "
        + "[{Key: idle_timeout.timeout_seconds, Value: '300'}]}}",
        "alb",
        300.0,
    ),
    "a data source": (
        FUNCTION
        + "D: {Type: AWS::AppSync::DataSource, Properties: {LambdaConfig: {LambdaFunctionArn: !Ref F}}}",
        "appsync",
        30.0,
    ),
    "a data source of SAM": (
        FUNCTION
        + "D: {Type: AWS::Serverless::GraphQLApi, Properties: {DataSources: {Lambda: {S: "
        + "{FunctionArn: !GetAtt F.Arn}}}}}",
        "appsync",
        30.0,
    ),
    "a user pool": (
        FUNCTION
        + "U: {Type: AWS::Cognito::UserPool, Properties: {LambdaConfig: {PreSignUp: !GetAtt F.Arn}}}",
        "cognito",
        5.0,
    ),
    "an edge that sees viewers": (
        FUNCTION
        + "V: {Type: AWS::Lambda::Version, Properties: {FunctionName: !Ref F}}\n"
        + "D: {Type: AWS::CloudFront::Distribution, Properties: {DistributionConfig: {DefaultCacheBehavior: "
        + "{LambdaFunctionAssociations: [{EventType: viewer-request, LambdaFunctionARN: !Ref V}]}}}}",
        "edge-viewer",
        5.0,
    ),
    "an edge that sees origins": (
        FUNCTION
        + "D: {Type: AWS::CloudFront::Distribution, Properties: {DistributionConfig: {CacheBehaviors: [{"
        + "LambdaFunctionAssociations: [{EventType: origin-request, LambdaFunctionARN: !Ref F.Version}]}]}}}",
        "edge-origin",
        30.0,
    ),
    "Connect": (PERMISSION % "connect.amazonaws.com", "connect", 8.0),
    "S3": (PERMISSION % "s3.amazonaws.com", "event", None),
    "a scheduler": (
        FUNCTION + "S: {Type: AWS::Scheduler::Schedule, Properties: {Target: {Arn: !GetAtt F.Arn}}}",
        "event",
        None,
    ),
    "a state machine": (
        FUNCTION
        + "M: {Type: AWS::Serverless::StateMachine, Properties: {DefinitionSubstitutions: {Fn: !Ref F}, "
        + "Definition: {States: {Each: {Type: Map, ItemProcessor: {States: "
        + "{A: {Type: Task, Resource: '${Fn}', TimeoutSeconds: 7}}}}}}}}",
        "step-functions",
        7.0,
    ),
}


def calls(resources: str) -> list[tuple[str, float | None]]:
    text = "Transform: AWS::Serverless-2016-10-31\nResources:\n" + indent(dedent(resources), "  ")
    template = read(text)
    function = Function(World(template, {}), template.resources["F"])
    return [(call.kind, call.limit) for call in calls_of(function)]


@pytest.mark.parametrize("name", CALLS)
def test_a_caller_is_known_with_its_limit(name: str) -> None:
    """One call, of its kind."""
    resources, kind, limit = CALLS[name]
    assert calls(resources) == [(kind, limit)]


def test_the_limits_are_those_of_aws_callers() -> None:
    """There is one table, and no number of it stands here twice."""
    assert list(CALLERS.values()) == list(aws.callers)


def test_a_topic_with_a_queue_in_between_is_no_caller() -> None:
    """SAM makes the queue; a topic without it sends events."""
    assert calls(sam("{Type: SNS, Properties: {Topic: t, SqsSubscription: true}}")) == []
    assert calls(sam("{Type: SNS, Properties: {Topic: t}}")) == [("event", None)]


def test_a_gateway_that_is_not_in_the_template_has_no_known_limit() -> None:
    """A permission alone says that it calls, not how long it waits."""
    text = "Resources:\n" + indent(PERMISSION % "apigateway.amazonaws.com", "  ")
    template = read(text)
    [call] = calls_of(Function(World(template, {}), template.resources["F"]))
    assert call.limit is None
    assert "not in the template" in call.unknown


def test_a_permission_adds_nothing_to_what_is_known() -> None:
    """The method and its permission are one caller; so are the topic and its."""
    method = f"M: {{Type: AWS::ApiGateway::Method, Properties: {{Integration: {{Uri: !Sub '{URI}'}}}}}}\n"
    assert calls(PERMISSION % "apigateway.amazonaws.com" + method) == [("rest-api", 29.0)]


def test_others_are_not_taken_for_callers() -> None:
    """An output, a log group, a method of another function."""
    others = (
        "G: {Type: AWS::Logs::LogGroup, Properties: {LogGroupName: !Sub '/aws/lambda/${F}'}}\n"
        "H: {Type: AWS::Lambda::Function, Properties: {FunctionName: orders-too}}\n"
        "M: {Type: AWS::ApiGateway::Method, Properties: {Integration: {Uri: !GetAtt H.Arn}}, DependsOn: F}\n"
        "N: {Type: AWS::ApiGateway::Method, Properties: {Integration: "
        "{Uri: 'arn:aws:lambda:eu-west-1:1:function:orders-too/invocations'}}}\n"
    )
    assert calls(FUNCTION + others) == []


def test_one_caller_that_cannot_be_read_hides_no_other() -> None:
    """What is known stands beside what is not."""
    unread = "R: {Type: AWS::ApiGateway::RestApi, Properties: {Body: !ImportValue api}, DependsOn: F}\n"
    url = "U: {Type: AWS::Lambda::Url, Properties: {TargetFunctionArn: !Ref F}}\n"
    assert calls(FUNCTION + unread + url) == [("function-url", None), ("unknown", None)]

"""Each rule: a template that breaks it, one that does not, and one where it cannot tell."""

from __future__ import annotations

from textwrap import dedent, indent
from typing import NamedTuple

import pytest

pytest.importorskip("cfnlint")

from deadline.audit import RULES, audit, read


class Case(NamedTuple):
    rule: str
    breaks: str
    passes: str
    unknown: str


QUEUE = """
Q: {Type: AWS::SQS::Queue, Properties: {VisibilityTimeout: %s}}
F:
  Type: AWS::Serverless::Function
  Properties:
    Timeout: %s
    Events:
      Jobs: {Type: SQS, Properties: {Queue: !GetAtt Q.Arn, MaximumBatchingWindowInSeconds: 10}}
"""

BATCH = """
F:
  Type: AWS::Serverless::Function
  %s
  Properties:
    Timeout: 30
    Events:
      Jobs:
        Type: SQS
        Properties: {Queue: !GetAtt Q.Arn, BatchSize: %s, FunctionResponseTypes: %s}
Q: {Type: AWS::SQS::Queue}
"""

API = """
F:
  Type: AWS::Serverless::Function
  Properties:
    Timeout: %s
    Events:
      Get: {Type: HttpApi, Properties: {Path: /, Method: get, TimeoutInMillis: %s}}
"""

FED = """
F:
  Type: AWS::Serverless::Function
  Properties:
    Events:
      Jobs: {Type: SQS, Properties: {Queue: %s}}
Q: {Type: AWS::SQS::Queue, Properties: {RedrivePolicy: %s}}
"""

STREAM = """
F:
  Type: AWS::Serverless::Function
  Properties:
    Events:
      Rows:
        Type: Kinesis
        Properties:
          Stream: !GetAtt S.Arn
          MaximumRetryAttempts: %s
          DestinationConfig: {OnFailure: {Destination: %s}}
S: {Type: AWS::Kinesis::Stream}
"""

EVENTS = """
F:
  Type: AWS::Serverless::Function
  Properties:
    EventInvokeConfig: {%s}
    Events:
      Daily: {Type: Schedule, Properties: {Schedule: rate(1 day)}}
    %s
"""

MACHINE = """
F: {Type: AWS::Serverless::Function, Properties: {Timeout: 30}}
M:
  Type: AWS::StepFunctions::StateMachine
  Properties: {%s}
"""

TASK = """DefinitionString: !Sub '{"States": {"A": {"Type": "Task", "Resource": "${F.Arn}" %s}}}'"""

RATE = """
F:
  Type: AWS::Lambda::Function
  Metadata: {asyncio-deadline: {InvocationsPerSecond: 10, Deadline: %s}}
  Properties: {Timeout: 60, ReservedConcurrentExecutions: %s}
"""

SELF = """
F:
  Type: AWS::Lambda::Function
  Properties: {Role: !GetAtt R.Arn, FunctionName: again %s}
R:
  Type: AWS::IAM::Role
  Properties:
    %s
    Policies:
      - PolicyDocument:
          Statement: {Effect: Allow, Action: "lambda:Invoke*", Resource: "arn:aws:lambda:*:*:function:%s"}
"""

CASES = [
    Case("W9710", API % (60, 29_000), API % (29, 29_000), API % (60, "!ImportValue patience")),
    Case("W9711", API % (7, 29_000), API % (6, 29_000), API % ("!ImportValue slow", 29_000)),
    Case(
        "W9712",
        "F: {Type: AWS::Lambda::Function, Properties: {MemorySize: 128}}",
        "F: {Type: AWS::Lambda::Function, Properties: {Timeout: 3}}",
        "F: {Type: AWS::Lambda::Function, Properties: {Fn::Transform: {Name: AWS::Include}}}",
    ),
    Case(
        "W9713",
        "F: {Type: AWS::Lambda::Function, Properties: {Timeout: 900}}",
        "F: {Type: AWS::Lambda::Function, Properties: {Timeout: 899}}",
        "F: {Type: AWS::Lambda::Function, Properties: {Timeout: !ImportValue slow}}",
    ),
    Case("W9720", QUEUE % (189, 30), QUEUE % (190, 30), QUEUE % ("!ImportValue hidden", 30)),
    Case("E9721", QUEUE % (29, 30), QUEUE % (30, 30), QUEUE % ("!Ref AWS::StackName", 30)),
    Case(
        "W9722",
        BATCH % ("", 2, "[]"),
        BATCH % ("", 2, "[ReportBatchItemFailures]"),
        BATCH % ("", 2, "[!ImportValue types]"),
    ),
    Case(
        "W9723",
        BATCH % ("Metadata: {asyncio-deadline: {SecondsPerItem: 3.1}}", 10, "[]"),
        BATCH % ("Metadata: {asyncio-deadline: {SecondsPerItem: 3}}", 10, "[]"),
        BATCH % ("Metadata: {asyncio-deadline: {SecondsPerItem: 3}}", "!ImportValue size", "[]"),
    ),
    Case(
        "W9730",
        EVENTS % ("MaximumRetryAttempts: 1", "Timeout: 3"),
        EVENTS % ("DestinationConfig: {OnFailure: {Type: SQS}}", "Timeout: 3"),
        "F: {Type: AWS::Serverless::Function, Properties: {Events: {Fn::Transform: {Name: AWS::Include}}}}",
    ),
    Case(
        "W9731",
        FED % ("!GetAtt Q.Arn", "!Ref AWS::NoValue"),
        FED % ("!GetAtt Q.Arn", "{maxReceiveCount: 5}"),
        FED % ("!ImportValue queue", "{maxReceiveCount: 5}"),
    ),
    Case("W9732", STREAM % (-1, "x"), STREAM % (3, "x"), STREAM % ("!ImportValue tries", "x")),
    Case(
        "W9733",
        EVENTS % ("", "Policies: [DynamoDBWritePolicy: {TableName: t}]"),
        EVENTS % ("", "Policies: [DynamoDBReadPolicy: {TableName: t}]"),
        EVENTS % ("", "Role: arn:aws:iam::123456789012:role/any"),
    ),
    Case(
        "W9734",
        SELF % ("", "Path: /", "again"),
        SELF % (", RecursiveLoop: Terminate", "Path: /", "again"),
        SELF % ("", "ManagedPolicyArns: [!ImportValue more]", "another"),
    ),
    Case(
        "W9740",
        MACHINE % (TASK % ""),
        MACHINE % (TASK % ', "TimeoutSeconds": 40'),
        MACHINE % "DefinitionS3Location: {Bucket: b, Key: k}",
    ),
    Case(
        "W9741",
        MACHINE % (TASK % ', "TimeoutSeconds": 29'),
        MACHINE % (TASK % ', "TimeoutSeconds": 30'),
        MACHINE % (TASK % ', "TimeoutSecondsPath": "$.patience"'),
    ),
    Case("W9750", RATE % (6, 59), RATE % (6, 60), RATE % (6, "!ImportValue reserved")),
]


def template(resources: str) -> str:
    return "Transform: AWS::Serverless-2016-10-31\nResources:\n" + indent(dedent(resources), "  ")


def outcome(rule: str, resources: str) -> tuple[int, int]:
    """How often it was found, and how often it could not be told."""
    result = audit(read(template(resources)))
    assert not [skip for skip in result.skipped if "internal error" in skip.why]
    return sum(one.rule == rule for one in result.findings), sum(one.rule == rule for one in result.skipped)


@pytest.mark.parametrize("case", CASES, ids=[case.rule for case in CASES])
def test_a_rule_finds_passes_and_says_when_it_cannot_tell(case: Case) -> None:
    """One finding and nothing skipped; none and nothing skipped; none and one skipped."""
    assert outcome(case.rule, case.breaks) == (1, 0)
    assert outcome(case.rule, case.passes) == (0, 0)
    assert outcome(case.rule, case.unknown) == (0, 1)


def test_every_rule_has_its_cases_and_says_all_about_itself() -> None:
    """An id that cfn-lint leaves to others, a reason, a fix, a source with its date."""
    assert sorted(RULES) == sorted(case.rule for case in CASES)
    for rule in RULES.values():
        assert rule.id[0] in "EW"
        assert rule.id[1] == "9"
        assert rule.title
        assert rule.why.endswith(".")
        assert rule.fix.endswith(".")
        assert rule.source.startswith("https://")
        assert rule.checked is None or rule.checked.startswith("20")
        assert rule.on


@pytest.mark.parametrize("case", CASES, ids=[case.rule for case in CASES])
def test_a_rule_is_silenced_where_its_finding_is_or_everywhere(case: Case) -> None:
    """By cfn-lint's own directives, on the resource and on the template; and from outside."""
    text = template(case.breaks)
    [found] = [one for one in audit(read(text)).findings if one.rule == case.rule]
    directive = f"Metadata: {{cfn-lint: {{config: {{ignore_checks: [{case.rule}]}}}}}}\n"
    assert not [one for one in audit(read(directive + text)).findings if one.rule == case.rule]
    assert not [one for one in audit(read(text), ignore=[case.rule[:4]]).findings if one.rule == case.rule]
    body = read(text)
    metadata = body.resources[found.resource].body.setdefault("Metadata", {})
    metadata["cfn-lint"] = {"config": {"ignore_checks": [case.rule]}}
    assert not [one for one in audit(body).findings if one.rule == case.rule]

"""Larger templates, written to look like what people deploy: what is found in each, and what is unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("cfnlint")

from deadline.audit import audit, read

TEMPLATES = Path(__file__).parent / "templates"

EXPECTED: dict[str, tuple[list[tuple[str, str, str]], list[tuple[str, str]]]] = {
    "balancer.yaml": (
        [
            ("W9710", "Search", ""),
        ],
        [
            ("Page", "its role is not in the template: Fn::ImportValue: role"),
            ("Search", "its role is not in the template: Fn::ImportValue: role"),
        ],
    ),
    "cdk-api.template.json": (
        [
            ("E9721", "Jobs4C0", ""),
            ("W9710", "Orders59E", ""),
            ("W9722", "OrdersSqsEventSourceJobs77", ""),
            ("W9731", "Jobs4C0", ""),
            ("W9733", "Orders59E", ""),
        ],
        [],
    ),
    "cdk-machine.template.json": (
        [
            ("W9740", "Flow3", ""),
            ("W9740", "Flow3", ""),
            ("W9741", "Flow3", ""),
        ],
        [
            ("Publish2", "its role is not in the template: arn:aws:iam::123456789012:role/publish"),
            ("Resize1", "its role is not in the template: arn:aws:iam::123456789012:role/resize"),
        ],
    ),
    "chain.yaml": (
        [
            ("W9713", "Import", ""),
            ("W9730", "Import", ""),
            ("W9734", "Import", ""),
        ],
        [],
    ),
    "edge.yaml": (
        [
            ("W9710", "Headers", ""),
            ("W9710", "Render", ""),
        ],
        [],
    ),
    "macros.yaml": (
        [],
        [
            ("", "the macro AWS::Include is not run: what it adds is not seen"),
            ("", "the macro CompanyDefaults is not run: what it adds is not seen"),
            ("Api", "Fn::Transform is not run: what it adds is not seen"),
            ("Fn::Transform", "Transform is not run: what it adds is not seen"),
            ("Hello", "Environment may come from Fn::Transform, which is not run"),
            ("Hello", "Fn::Transform is not run: what it adds is not seen"),
            ("Hello", "RecursiveLoop may come from Fn::Transform, which is not run"),
            ("Hello", "Timeout may come from Fn::Transform, which is not run"),
            ("Hello", "no cascade and no cost: Timeout may come from Fn::Transform, which is not run"),
        ],
    ),
    "modules.yaml": (
        [
            ("E9721", "QueueInvoices", ""),
            ("W9713", "WorkInvoices", ""),
            ("W9720", "QueueOrders", ""),
        ],
        [
            ("Bucket", "the module Company::S3::Secure::MODULE is not expanded: what it holds is not seen"),
            ("Fn::ForEach::Unknown", "Fn::ForEach goes over something that is not written here"),
            ("WorkInvoices", "its role is not in the template: Fn::ImportValue: worker-role"),
            ("WorkOrders", "its role is not in the template: Fn::ImportValue: worker-role"),
        ],
    ),
    "nested.yaml": (
        [],
        [
            ("Auth", "a nested stack: give its template as well"),
            ("Network", "a nested stack: give its template as well"),
            ("Queues", "a nested stack: give its template as well"),
            ("Work", "its role is not in the template: ${Network.Outputs.RoleArn}"),
            ("Work", "the queue of Jobs is not in the template"),
        ],
    ),
    "openapi.yaml": (
        [
            ("W9710", "Say", ""),
            ("W9710", "Search", ""),
        ],
        [],
    ),
    "pipeline.yaml": (
        [
            ("E9721", "Priority", ""),
            ("W9720", "Incoming", ""),
            ("W9731", "Priority", ""),
            ("W9733", "Index", ""),
        ],
        [],
    ),
    "regions.yaml": (
        [
            ("W9711", "Answer", ""),
            ("W9720", "Orders", "if Environment = production"),
            ("W9722", "Feed", "if AWS::Region = eu-west-1, if Environment = production"),
            ("W9750", "Consume", "if AWS::Region = us-east-1, if Environment = production"),
            ("W9750", "Consume", "if AWS::Region = us-east-1, if Environment = staging"),
        ],
        [
            ("Answer", "its role is not in the template: Fn::ImportValue: role"),
            (
                "Consume",
                "ReservedConcurrentExecutions is the mapping Regions.another value.Reserved, which has none",
            ),
            ("Consume", "its role is not in the template: arn:aws:iam::${AWS::AccountId}:role/consume"),
        ],
    ),
    "shop.yaml": (
        [
            ("W9710", "Checkout", "if Stage = prod"),
            ("W9711", "Checkout", "if Stage = dev"),
            ("W9713", "Report", "if Stage = prod"),
            ("W9730", "Report", "if Stage = prod"),
            ("W9733", "Report", "if Stage = prod"),
        ],
        [],
    ),
    "sound.yaml": (
        [],
        [],
    ),
    "streams.yaml": (
        [
            ("W9723", "Aggregate", ""),
            ("W9732", "Aggregate", ""),
        ],
        [],
    ),
    "users.yaml": (
        [
            ("W9710", "CheckUser", ""),
            ("W9710", "Resolve", ""),
            ("W9710", "Skill", ""),
            ("W9711", "Contact", ""),
        ],
        [],
    ),
}


@pytest.mark.parametrize("name", sorted(path.name for path in TEMPLATES.iterdir()))
def test_a_template_is_audited_as_a_whole(name: str) -> None:
    """Every finding with its resource and its condition, and everything that could not be told."""
    result = audit(read((TEMPLATES / name).read_text(), name))
    found = sorted((one.rule, one.resource, one.condition) for one in result.findings)
    unseen = sorted({(skip.resource, skip.why) for skip in result.skipped})
    assert (found, unseen) == EXPECTED[name]


@pytest.mark.parametrize("name", sorted(path.name for path in TEMPLATES.iterdir()))
def test_every_finding_knows_its_line(name: str) -> None:
    """The line is that of the resource, or of what is to be changed in it."""
    text = (TEMPLATES / name).read_text()
    for one in audit(read(text, name)).findings:
        assert 0 < one.line <= len(text.splitlines())


def test_what_is_told_settles_what_is_open() -> None:
    """With its parameters a template has no findings of another stage."""
    text = (TEMPLATES / "shop.yaml").read_text()
    told = audit(read(text, "shop.yaml", {"Stage": "dev"}))
    assert [(one.rule, one.condition) for one in told.findings] == [("W9711", "")]

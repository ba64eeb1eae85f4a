"""What a hung function costs, and how many of it there are at once."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("cfnlint")

from deadline.audit import Price, audit, load, per_million, read

FUNCTION = """
Transform: AWS::Serverless-2016-10-31
Resources:
  F:
    Type: AWS::Serverless::Function
    Metadata: {asyncio-deadline: {%s}}
    Properties:
      Timeout: 60
      MemorySize: 512
      Architectures: [%s]
      Events: {%s}
"""


@pytest.mark.parametrize(
    ("architecture", "hung", "ended"),
    [
        # By hand, for us-east-1: 60 s × 0.5 GB × a million = 30 million GB-seconds; 0.20 for requests.
        ("x86_64", 30 * 16.6667 + 0.20, 2.5 * 16.6667 + 0.20),
        ("arm64", 30 * 13.3334 + 0.20, 2.5 * 13.3334 + 0.20),
    ],
)
def test_a_million_hung_invocations_cost_what_the_formula_says(
    architecture: str, hung: float, ended: float
) -> None:
    """At the full timeout, and ended by a deadline at 5 s."""
    [cost] = audit(read(FUNCTION % ("Deadline: 5", architecture, "")), region="us-east-1").costs
    assert cost.hung == pytest.approx(hung, abs=1e-9)
    assert cost.ended == pytest.approx(ended, abs=1e-9)
    assert (cost.memory, cost.architecture, cost.timeout, cost.deadline) == (512, architecture, 60, 5)


def test_the_formula_is_that_of_the_price_list() -> None:
    """AWS's own example: three million requests of 512 MB that last a second cost 25 dollars and 60 cents."""
    assert 3 * per_million(Price(0.2e-6, 0.0000166667), 512, 1.0) == pytest.approx(25.60, abs=0.001)


def test_a_deadline_from_outside_serves_those_that_state_none() -> None:
    """And none is longer than the timeout."""
    assert [cost.deadline for cost in audit(read(FUNCTION % ("", "arm64", "")), deadline=4).costs] == [4]
    assert [
        cost.deadline for cost in audit(read(FUNCTION % ("Deadline: 5", "arm64", "")), deadline=4).costs
    ] == [5]
    assert [cost.deadline for cost in audit(read(FUNCTION % ("", "arm64", "")), deadline=400).costs] == [60]
    assert [cost.ended for cost in audit(read(FUNCTION % ("", "arm64", ""))).costs] == [None]


def test_an_event_is_tried_three_times() -> None:
    """A request is tried once."""
    schedule = "E: {Type: Schedule, Properties: {}}"
    get = "E: {Type: HttpApi, Properties: {}}"
    assert [cost.tries for cost in audit(read(FUNCTION % ("", "arm64", schedule))).costs] == [3]
    assert [cost.tries for cost in audit(read(FUNCTION % ("", "arm64", get))).costs] == [1]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("Timeout: 60", "Timeout: -5", "no cascade and no cost: Timeout is -5"),
        ("MemorySize: 512", "MemorySize: -1", "no cost: MemorySize is -1"),
    ],
)
def test_nothing_costs_less_than_nothing(old: str, new: str, why: str) -> None:
    """What no function can have is no number to reckon with."""
    text = FUNCTION % ("", "arm64", "")
    assert old in text
    result = audit(read(text.replace(old, new)))
    assert result.costs == []
    assert f"{why}, which no function can have" in [skip.why for skip in result.skipped]


def test_a_cost_needs_no_cascade() -> None:
    """A source of another stack hides what the cascade is, and not what the function costs."""
    mapping = (
        "  M: {Type: AWS::Lambda::EventSourceMapping, "
        "Properties: {FunctionName: !Ref F, EventSourceArn: !ImportValue queue}}"
    )
    result = audit(read(FUNCTION % ("", "arm64", "") + mapping))
    assert [cost.hung for cost in result.costs] == [pytest.approx(30 * 13.3334 + 0.20)]
    assert result.cascades == {}
    assert "no cascade: EventSourceArn is Fn::ImportValue: queue" in [skip.why for skip in result.skipped]


def test_prices_are_data() -> None:
    """Another list serves another region; without one that is said."""
    text = FUNCTION % ("", "arm64", "")
    mine = load(json.dumps({"regions": {"eu-north-1": {"request": 1e-6, "arm64": 1e-5}}}))
    [cost] = audit(read(text), region="eu-north-1", prices=mine).costs
    assert cost.hung == pytest.approx(1 + 300)
    result = audit(read(text), region="eu-north-1")
    assert result.costs == []
    assert [skip.why for skip in result.skipped if "price" in skip.why] == [
        "no cost: no price for arm64 in eu-north-1: give one with --price"
    ]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"regions": []}', '{"regions": {"x": []}}', '{"regions": {"x": {"request": "1"}}}',
     '{"regions": {"x": {"request": true}}}', '{"regions": {"x": {"request": 20}}}', "[" * 100_000],
)  # fmt: skip
def test_prices_of_another_form_are_refused(text: str) -> None:
    """Cents for dollars, too."""
    with pytest.raises(ValueError, match=r"expected \{|no JSON"):
        load(text)


@pytest.mark.parametrize(
    "fact", ["InvocationsPerSecond: 0", "InvocationsPerSecond: -1", "InvocationsPerSecond: often"]
)
def test_a_fact_of_no_use_is_said(fact: str) -> None:
    """It is not taken for none."""
    assert [skip for skip in audit(read(FUNCTION % (fact, "arm64", ""))).skipped if skip.rule == "W9750"]

"""What is open in a template is decided in every way; what deployment alone knows is said."""

from __future__ import annotations

from textwrap import indent
from typing import Any

import pytest

pytest.importorskip("cfnlint")

from deadline.audit import read
from deadline.audit._template.intrinsics import ABSENT
from deadline.audit._template.marker import described
from deadline.audit._template.world import MOST_WORLDS, CannotTell, TooMany, World, worlds

TOP = """
Parameters:
  Stage: {Type: String, Default: dev}
  Size: {Type: Number, AllowedValues: [1, 2]}
  Open: {Type: String}
  Names: {Type: CommaDelimitedList, Default: "a,b"}
  Secret: {Type: "AWS::SSM::Parameter::Value<String>", Default: /a/path}
Mappings:
  Stages: {dev: {Timeout: 3}, prod: {Timeout: 30}}
Conditions:
  IsProd: !Equals [!Ref Stage, prod]
  IsDev: !Not [!Condition IsProd]
  Both: !And [!Condition IsProd, !Equals [!Ref Open, "yes"]]
  Either: !Or [!Condition IsProd, !Condition IsDev]
  Region: !Equals [!Ref "AWS::Region", eu-west-1]
  Odd: !Equals [!ImportValue x, y]
  Round: !Not [!Condition Round]
"""


def values(node: str, **parameters: str) -> list[Any]:
    """What a value is, in every world."""
    text = TOP + "Resources:\n  R:\n    Type: T\n    Properties:\n      Value: " + indent(node, "  ").strip()
    template = read(text, "template", parameters)
    found = []
    for world in worlds(template):
        value = world.deep(template.resources["R"].properties["Value"])
        found.append(described(value) if isinstance(value, str) else value)
    return found


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("7", [7]),
        ("!Ref Stage", ["dev", "prod"]),
        ("!Ref Size", ["1", "2"]),
        ("!Ref Open", ["yes", "another value"]),
        ("!Ref Names", [["a", "b"]]),
        ("!Ref Secret", ["the parameter Secret, which comes from SSM"]),
        ("!Ref AWS::NoValue", [ABSENT]),
        ("!Ref AWS::Region", ["eu-west-1", "another value"]),
        ("!Ref AWS::AccountId", ["${AWS::AccountId}"]),
        ("!Ref R", ["${R}"]),
        ("!GetAtt R.Arn", ["${R.Arn}"]),
        ("!GetAtt [R, Arn]", ["${R.Arn}"]),
        ("!If [IsProd, 1, 2]", [2, 1]),
        ("!If [IsDev, 1, 2]", [1, 2]),
        ("!If [Both, 1, 2]", [2, 1, 2]),
        ("!If [Either, 1, 2]", [1, 1]),
        ("!If [Region, 1, 2]", [1, 2]),
        ("!If [Odd, 1, 2]", [1, 2]),
        ("!If [Missing, 1, 2]", [1, 2]),
        ("!If [IsProd, {a: !Ref AWS::NoValue}, !Ref AWS::NoValue]", [ABSENT, {}]),
        ("!FindInMap [Stages, !Ref Stage, Timeout]", [3, 30]),
        (
            "!FindInMap [Stages, other, Timeout]",
            ["the mapping Stages.other.Timeout, which has none"],
        ),
        ("!FindInMap [Stages, other, Timeout, {DefaultValue: 4}]", [4]),
        (
            "!Sub '${Stage}-${AWS::AccountId}-${!x}'",
            ["dev-${AWS::AccountId}-${x}", "prod-${AWS::AccountId}-${x}"],
        ),
        ("!Sub ['${a}-${R.Arn}', {a: 1}]", ["1-${R.Arn}"]),
        ("!Join ['-', [a, !Ref AWS::NoValue, !Ref Size, true]]", ["a-1-true", "a-2-true"]),
        ("!Join [',', !Ref Names]", ["a,b"]),
        ("!Select [1, !Ref Names]", ["b"]),
        ("!Select ['0', !Split ['|', 'x|y']]", ["x"]),
        ("!Select [7, [a]]", ["Fn::Select of something that is not known"]),
        ("!Split ['|', !Ref R]", ["Fn::Split of something that is not known"]),
        ("!ImportValue other", ["Fn::ImportValue: other"]),
        ("!Base64 x", ["Fn::Base64: x"]),
        ("{'Fn::ToJsonString': {a: [1, !Ref Size]}}", ['{"a": [1, "1"]}', '{"a": [1, "2"]}']),
        ("{'Fn::Length': [a, b]}", [2]),
        ("{Ref: [a]}", ["Ref of something that is no name"]),
        ("!If [IsProd]", ["Fn::If without its three arguments"]),
        ("!Join [a]", ["Fn::Join without its two arguments"]),
        ("!Sub [a, b, c]", ["Fn::Sub of something that is no text"]),
        ("!FindInMap [a]", ["Fn::FindInMap without its three arguments"]),
    ],
)
def test_a_value_in_every_world(node: str, expected: list[Any]) -> None:
    """The default first, then what conditions and mappings tell apart, then what is allowed."""
    assert values(node) == expected


def test_what_is_told_is_decided() -> None:
    """A parameter, a list, a region."""
    assert values("!If [IsProd, 1, 2]", Stage="prod") == [1]
    assert values("!Ref Names", Names="c") == [["c"]]
    assert values("!Ref Secret", Secret="s") == ["s"]
    assert values("!If [Region, 1, 2]", **{"AWS::Region": "us-east-1"}) == [2]


def test_one_parameter_is_the_same_throughout_a_world() -> None:
    """Two values that turn on it never contradict each other."""
    assert values("[!Ref Stage, !If [IsProd, p, d], !FindInMap [Stages, !Ref Stage, Timeout]]") == [
        ["dev", "d", 3],
        ["prod", "p", 30],
    ]


def test_a_circle_is_said() -> None:
    """A condition that turns on itself, and one through another."""
    with pytest.raises(CannotTell, match="in a circle"):
        values("!If [Round, 1, 2]")


def test_too_many_worlds_are_said() -> None:
    """Those that were looked at stand."""
    names = [f"P{number}" for number in range(8)]
    text = "Parameters:\n" + "".join(f"  {name}: {{Type: String, AllowedValues: [a, b]}}\n" for name in names)
    template = read(text + "Resources: {}")
    count = 0
    with pytest.raises(TooMany, match="more than 100 combinations"):
        for world in worlds(template):
            count += 1
            for name in names:
                world.value({"Ref": name})
    assert count == MOST_WORLDS


@pytest.mark.parametrize(
    ("node", "why"),
    [
        ("!Ref AWS::StackName", "Value is ${AWS::StackName}"),
        ("!ImportValue x", "Value is Fn::ImportValue: x"),
        ("soon", "Value is no number: soon"),
        ("true", "Value is no number: True"),
        ("[1]", "Value is no number: [1]"),
        (".inf", "Value is no number of use: inf"),
        (".nan", "Value is no number of use: nan"),
        ("1e300", "Value is no number of use: 1e300"),
    ],
)
def test_what_is_no_number_is_said(node: str, why: str) -> None:
    """With the name of what was asked."""
    template = read(f"Resources: {{R: {{Type: T, Properties: {{Value: {node}}}}}}}")
    with pytest.raises(CannotTell) as caught:
        World(template, {}).number(template.resources["R"].properties, "Value")
    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("parameter", "condition", "chosen"),
    [
        ('{Type: String, Default: ""}', '!Not [!Equals [!Ref Topic, ""]]', ["no", "yes"]),
        ("{Type: String, Default: dev}", "!Equals [!Ref Topic, dev]", ["yes", "no"]),
        ("{Type: String, Default: dev}", "!Equals [!Ref Topic, prod]", ["no", "yes"]),
        (
            '{Type: CommaDelimitedList, Default: ""}',
            '!Not [!Equals [!Join ["", !Ref Topic], ""]]',
            ["no", "yes"],
        ),
        ("{Type: String, Default: dev, AllowedValues: [dev]}", "!Equals [!Ref Topic, dev]", ["yes"]),
    ],
)
def test_the_branch_that_a_default_does_not_take_is_looked_at(
    parameter: str, condition: str, chosen: list[str]
) -> None:
    """A parameter without AllowedValues may have any value: an optional resource exists in some world."""
    template = read(
        f"Parameters:\n  Topic: {parameter}\nConditions:\n  Has: {condition}\n"
        "Resources:\n  R:\n    Type: T\n    Properties:\n      Value: !If [Has, 'yes', 'no']\n"
    )
    values = [world.deep(template.resources["R"].properties["Value"]) for world in worlds(template)]
    assert list(dict.fromkeys(values)) == chosen

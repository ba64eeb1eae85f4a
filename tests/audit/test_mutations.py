"""Templates that are broken in every way: nothing crashes, and what is not understood is said."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cfnlint")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deadline.audit import Unreadable, audit, read
from deadline.audit._render import as_data, render
from deadline.audit._template.marker import OPEN
from deadline.audit._template.template import Template

TEXTS = {path.name: path.read_text() for path in (Path(__file__).parent / "templates").iterdir()}
BODIES = {name: json.dumps(read(text).body) for name, text in TEXTS.items()}
JUNK: list[Any] = [
    None, True, 0, -1, 1e308, "", "x", "900", "${F.Arn}", "\ue000x\ue001", [], {}, [[]], [None], {"": None},
    {"Ref": "Nothing"}, {"Ref": None}, {"Ref": []}, {"Fn::If": ["IsProd", 1, {"Ref": "AWS::NoValue"}]},
    {"Fn::GetAtt": []}, {"Fn::GetAtt": [None, {}]}, {"Fn::Sub": None}, {"Fn::Sub": ["${a}", {"a": {}}]},
    {"Fn::Join": ["", [[], {}]]}, {"Fn::Join": [[], 1]}, {"Fn::FindInMap": [[], {}, None]},
    {"Fn::Select": [9, 9]}, {"Fn::ImportValue": {}}, {"Fn::Transform": {"Name": "AWS::Include"}},
    {"Fn::ForEach::X": []}, {"Condition": "x"}, {"a": []},
    {"Fn::ToJsonString": {"a": {"Ref": "AWS::StackId"}}}, {"Fn::Split": ["", "a"]}, {"Fn::Length": 1},
]  # fmt: skip


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every container with each of its keys."""
    found: list[tuple[Any, Any]] = []
    waiting = [node]
    while waiting:
        part = waiting.pop()
        for key in part if isinstance(part, dict) else range(len(part)):
            found.append((part, key))
            if isinstance(part[key], dict | list):
                waiting.append(part[key])
    return found


def mutated(name: str, seed: int, count: int) -> str:
    """A template with so many things replaced, removed, moved or renamed."""
    chance = random.Random(seed)
    body = json.loads(BODIES[name])
    for _ in range(count):
        found = places(body)
        container, key = chance.choice(found)
        match chance.randrange(4):
            case 0:
                container[key] = json.loads(json.dumps(chance.choice(JUNK)))
            case 1 if len(container) > 1:
                del container[key]
            case 2:
                other, where = chance.choice(found)
                container[key] = json.loads(json.dumps(other[where]))
            case _ if isinstance(container, dict):
                container[str(chance.choice(["Timeout", "Fn::If", "Ref", "Type", "Events", ""]))] = (
                    container.pop(key)
                )
    return json.dumps(body)


def audited(text: str) -> None:
    """Read, audited and rendered, or refused; never a surprise."""
    try:
        template = read(text)
    except Unreadable:
        return
    result = audit(template)
    assert not [skip for skip in result.skipped if "internal error" in skip.why]
    assert OPEN not in json.dumps(as_data(result), ensure_ascii=False)
    assert render(result).renderables


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(BODIES)), st.integers(0, 2**32), st.integers(1, 12))
def test_no_mutation_of_a_template_is_too_much(name: str, seed: int, count: int) -> None:
    """Values replaced by junk, removed, moved to where they do not belong, renamed."""
    audited(mutated(name, seed, count))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(TEXTS)), st.data())
def test_no_piece_of_a_text_is_too_much(name: str, data: st.DataObject) -> None:
    """Cut anywhere, with anything put in."""
    text = TEXTS[name]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 200)))
    audited(text[:start] + data.draw(st.text(max_size=10)) + text[end:])


def test_a_template_of_nothing_but_junk_is_too_little() -> None:
    """Every type that a rule looks at, with every kind of junk for its properties."""
    types = sorted(
        {one["Type"] for body in BODIES.values() for one in json.loads(body)["Resources"].values()}
    )
    for junk in JUNK:
        resources = {f"R{number}": {"Type": kind, "Properties": junk} for number, kind in enumerate(types)}
        template = read(json.dumps({"Resources": resources}))
        assert isinstance(template, Template)
        assert not [skip for skip in audit(template).skipped if "internal error" in skip.why]

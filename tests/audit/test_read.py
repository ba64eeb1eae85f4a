"""Reading a template: whatever it is, it is read or refused, and nothing else is opened or run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("cfnlint")

import deadline
from deadline.audit import Unreadable, audit, read
from deadline.audit._template.template import MOST_BYTES

TEMPLATES = Path(__file__).parent / "templates"
BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{number}: &a{number} [{','.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no Resources"),
        ("just text", "it has no Resources"),
        ("- a list", "it has no Resources"),
        ("Resources: none", "it has no Resources"),
        ("Resources: {", "expected"),
        ("Resources:\n\tR: {}", "cannot start any token|double quotes|Expecting|character"),
        ("Resources: {}\nResources: {}", "Duplicate found"),
        ("Resources: &r [*r]", "recursive"),
        ("Resources: &r {R: *r}", "recursive"),
        ("Resources: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("Resources: {[a]: b}", "Unhashable"),
        ("Resources: {R: \0}", "control characters"),
        ("Resources: {R: " + "9" * 5000 + "}", "limit"),
        ("Resources: " + "[" * 100_000, "nested deeper than 100 levels"),
        ("Resources: " + "{a: " * 100_000, "nested deeper than 100 levels"),
        ('{\t"Resources": ' + '{"a": ' * 100_000, "nested deeper than 100 levels"),
        ("\n".join("  " * depth + "a:" for depth in range(1000)), "nested deeper than 100 levels"),
        (BOMB + "Resources: {R: *a29}", "250000 nodes"),
        ("#" * (MOST_BYTES + 1), "CloudFormation takes 1 MB"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, why: str) -> None:
    """At once, with the name of the template and the reason."""
    begin = time.monotonic()
    with pytest.raises(Unreadable, match=rf"(?s)^mine.*({why})"):
        read(text, "mine")
    assert time.monotonic() - begin < 10


def test_aliases_are_followed() -> None:
    """CloudFormation refuses them, and packagers resolve them."""
    text = """
    Resources:
      F: {Type: AWS::Lambda::Function, Properties: &all {Timeout: 900, MemorySize: 128}}
      G: {Type: AWS::Lambda::Function, Properties: {<<: *all, Timeout: 3}}
    """
    assert [(one.rule, one.resource) for one in audit(read(text)).findings] == [("W9713", "F")]


def test_json_with_tabs_is_read() -> None:
    """YAML has no tabs; JSON has."""
    text = '{\n\t"Resources": {"F": {"Type": "AWS::Lambda::Function", "Properties": {"Timeout": 900}}}\n}'
    assert [one.rule for one in audit(read(text)).findings] == ["W9713"]


def test_what_is_no_resource_is_said() -> None:
    """And what stands beside it is audited."""
    text = "Resources: {A: text, B: {Properties: {}}, F: {Type: AWS::Lambda::Function}, C: {Type: [x]}}"
    result = audit(read(text))
    assert [skip.resource for skip in result.skipped if "no resource" in skip.why] == ["A", "B", "C"]
    assert [one.resource for one in result.findings] == ["F"]


@pytest.mark.parametrize(
    "loop", ["[]", "{a: b}", "[Name, [A], x]", "[Name, !Ref Missing, {}]", "[Name, [1], {}]"]
)
def test_a_loop_that_is_none_is_said(loop: str) -> None:
    """Nothing is invented for it."""
    text = f"Transform: AWS::LanguageExtensions\nResources: {{'Fn::ForEach::L': {loop}}}"
    [skip] = read(text).skipped
    assert skip.resource == "Fn::ForEach::L"


def test_a_loop_over_a_parameter_has_its_default_or_what_is_told() -> None:
    """A list is written with commas."""
    text = """
    Transform: AWS::LanguageExtensions
    Parameters: {Names: {Type: CommaDelimitedList, Default: "A,B"}}
    Resources:
      Fn::ForEach::L:
        - Name
        - !Ref Names
        - Work${Name}: {Type: AWS::Lambda::Function, Properties: {Timeout: 900}}
    """
    assert [one.resource for one in audit(read(text)).findings] == ["WorkA", "WorkB"]
    assert [one.resource for one in audit(read(text, "told", {"Names": "C"})).findings] == ["WorkC"]


def test_a_template_moves_no_cursor() -> None:
    """What it has in its names and values is printed harmlessly, and no marker of ours can be forged."""
    text = r"""
    Transform: "\e[2Jmacro"
    "\e[2J": {}
    Resources:
      "\e[2J": {Type: AWS::Lambda::Function}
      M: {Type: "\e[2J::MODULE"}
      F:
        Type: AWS::Lambda::Function
        Properties: {Timeout: "\e[2J\ue000x\ue001", Role: "\ue000", MemorySize: "\ue001"}
    """
    result = audit(read(text))
    assert len(result.skipped) >= 7
    assert not any(one in skip.resource + skip.why for skip in result.skipped for one in "\x1b\ue000\ue001")


WATCHED = """
import sys
from pathlib import Path
from deadline.audit import audit, read
import deadline.audit._report, deadline.audit.cfn_lint, cfnlint.rules.errors
texts = {path.name: path.read_text() for path in Path(sys.argv[1]).iterdir()}
audit(read(texts["shop.yaml"]))
seen = []
def watch(event, arguments):
    if event in {"open", "os.system", "subprocess.Popen", "os.exec", "socket.connect", "exec", "compile"}:
        seen.append((event, arguments))
sys.addaudithook(watch)
for name, text in texts.items():
    audit(read(text, name))
print(seen)
"""


@pytest.mark.slow
def test_nothing_is_run_and_no_other_file_is_read() -> None:
    """Not the template of a nested stack beside it, either, nor anything an include names."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(TEMPLATES)],
        env={"PYTHONPATH": str(Path(deadline.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def large(count: int) -> str:
    """As many resources, half of them functions that are fed by the other half, under a condition."""
    pairs = "".join(
        f"""
  F{number}:
    Type: AWS::Serverless::Function
    Properties:
      Timeout: !If [IsProd, 60, 10]
      Policies: [SQSPollerPolicy: {{QueueName: !GetAtt Q{number}.QueueName}}]
      Events:
        Jobs: {{Type: SQS, Properties: {{Queue: !GetAtt Q{number}.Arn, BatchSize: 5}}}}
        Get: {{Type: Api, Properties: {{Path: /{number}, Method: get}}}}
  Q{number}: {{Type: AWS::SQS::Queue, Properties: {{VisibilityTimeout: 60}}}}"""
        for number in range(count // 2)
    )
    return f"""
Transform: AWS::Serverless-2016-10-31
Parameters: {{Stage: {{Type: String, Default: dev}}}}
Conditions: {{IsProd: !Equals [!Ref Stage, prod]}}
Globals: {{Function: {{Runtime: python3.13, Environment: {{Variables: {{STAGE: !Ref Stage}}}}}}}}
Resources:{pairs}
"""


@pytest.mark.slow
def test_two_thousand_resources_take_less_than_ten_seconds() -> None:
    """Four times as many as CloudFormation takes, each function in two worlds."""
    text = large(2_000)
    begin = time.process_time()  # others may have the machine meanwhile
    template = read(text)
    result = audit(template)
    assert time.process_time() - begin < 10
    assert len(template.resources) == 2_000
    assert len(result.findings) == 5_000
    assert not result.skipped


def test_a_line_is_that_of_the_function_and_not_of_globals() -> None:
    """Where both have a property, the function's own holds, at any depth."""
    template = read("""
Transform: AWS::Serverless-2016-10-31
Globals:
  Function:
    Timeout: 3
    Environment: {Variables: {A: a}}
Resources:
  F:
    Type: AWS::Serverless::Function
    Properties:
      Timeout: 900
      Environment:
        Variables:
          A: b
  G:
    Type: AWS::Serverless::Function
    Properties: {Handler: a}
""")
    function, other = template.resources["F"], template.resources["G"]
    assert function.properties["Timeout"] == 900
    assert function.line("Properties", "Timeout") == 11
    assert function.line("Properties", "Environment", "Variables", "A") == 14
    assert other.line("Properties", "Timeout") == 5


def test_what_a_transform_would_bring_is_said_by_its_name() -> None:
    """Also where it stands for the whole of a resource."""
    template = read("Resources: {Inc: {'Fn::Transform': {Name: 'AWS::Include'}}}")
    [skip] = template.skipped
    assert (skip.resource, skip.why) == ("Inc", "Fn::Transform is not run: what it adds is not seen")

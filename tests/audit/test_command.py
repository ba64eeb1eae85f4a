"""`asyncio-deadline audit`, as its users run it; and the same rules in cfn-lint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cfnlint")
pytest.importorskip("awslambdaric")
pytest.importorskip("click")

from click.testing import CliRunner, Result

import deadline
from deadline._cli import main
from deadline.audit import RULES, Bar
from deadline.audit._render import cascade

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
CLEAN = "Resources: {F: {Type: AWS::Lambda::Function, Properties: {Timeout: 3}}}"
LINT = "import sys; from cfnlint.runner import main; del sys.argv[0]; main()"
SLOW = "Resources: {F: {Type: AWS::Lambda::Function, Properties: {Timeout: 900}}}"
STAGED = CLEAN + "\nParameters: {Stage: {Type: String, AllowedValues: [dev, prod]}}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with three templates."""
    (tmp_path / "clean.yaml").write_text(CLEAN)
    (tmp_path / "slow.yaml").write_text(SLOW)
    (tmp_path / "staged.yaml").write_text(STAGED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["audit", *arguments], input=stdin)


def data(*arguments: str) -> Any:
    return json.loads(run("--json", *arguments).stdout)


def test_the_exit_code_is_0_1_or_2(folder: Path) -> None:
    """Clean; findings; something could not be read, and what could is audited nevertheless."""
    (folder / "broken.yaml").write_text("Resources: {")
    (folder / "latin.yaml").write_bytes(b"Description: \xe9")
    assert run("clean.yaml").exit_code == 0
    assert run("clean.yaml", "slow.yaml").exit_code == 1
    for name, why in [
        ("broken.yaml", "broken.yaml:2: "),
        ("latin.yaml", "latin.yaml: no UTF-8"),
        ("missing.yaml", "missing.yaml: No such file"),
        (".", ".: Is a directory"),
    ]:
        result = run("slow.yaml", name)
        assert result.exit_code == 2
        assert result.stderr.startswith(why)
        assert "W9713" in result.stdout


def test_a_template_comes_from_standard_input(folder: Path) -> None:
    """`-` is its name."""
    assert "-: 1 finding\n" in run("-", stdin=SLOW).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a template"),
        (["slow.yaml", "--parameter", "Stage"], "write NAME=value, not 'Stage'"),
        (["slow.yaml", "--parameter", "Stage=prod"], "no template has a parameter 'Stage'"),
        (["slow.yaml", "--fact", "F.Colour=red"], "write FUNCTION.NAME=value with a NAME of SecondsPerItem"),
        (["slow.yaml", "--fact", "G.Deadline=5"], "no template has a function 'G'"),
        (["slow.yaml", "--fact", "F.Deadline=soon"], "--fact: F.Deadline is a number above 0, not 'soon'"),
        (["slow.yaml", "--fact", "F.SecondsPerItem=-1"], "--fact: F.SecondsPerItem is a number above 0, not"),
        (["slow.yaml", "--fact", "F.Idempotent=yes"], "--fact: F.Idempotent is true or false, not 'yes'"),
        (["slow.yaml", "--deadline", "0"], "Invalid value for '--deadline'"),
        (["slow.yaml", "--deadline", "nan"], "--deadline: nan is no number of seconds"),
        (["slow.yaml", "--deadline", "inf"], "--deadline: inf is no number of seconds"),
        (["slow.yaml", "--ignore", "W9999"], "--ignore: no rule begins with 'W9999'"),
        (["slow.yaml", "--ignore", ""], "--ignore: no rule begins with ''"),
        (["slow.yaml", "--ignore", "W9713,W9712"], "--ignore: no rule begins with 'W9713,W9712'"),
        (["staged.yaml", "--parameter", "Stage=pord"], "--parameter: Stage is one of dev, prod, not 'pord'"),
        (["slow.yaml", "--price", "slow.yaml"], "--price: no JSON"),
        (["slow.yaml", "--price", "missing"], "No such file"),
    ],
)
def test_wrong_usage_is_2(folder: Path, arguments: list[str], message: str) -> None:
    """The message names the option."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_the_examples_own_template_is_clean() -> None:
    """With every function in its cascade, and nothing that could not be told."""
    [result] = data(str(EXAMPLES / "template.yaml"))["templates"]
    assert (result["findings"], result["skipped"]) == ([], [])
    assert list(result["cascades"]) == ["Hello", "Move", "Batch", "Notices", "Primes"]
    assert run(str(EXAMPLES / "template.yaml")).exit_code == 0


def test_the_example_of_a_cascade_has_all_of_it() -> None:
    """The table, the reasons, what could not be told, the drawing and the costs, without colour."""
    output = run(str(EXAMPLES / "cascade.yaml")).output
    assert "21      W9710    Checkout may run 60 s, and API Gateway, REST API, POST /checkout" in output
    assert "if Stage = prod" in output
    assert "Fix: Set VisibilityTimeout to at least 6 × Timeout" in output
    assert "its role is not in the template" in output
    assert "      30  Invoices, hidden for  ###########################\n" in output
    assert (
        "      45  Invoice               ###########################-------------  15 s too long\n" in output
    )
    assert "$7,500.22 at 900 s" in output
    assert "1,000,000 × (price of a request + seconds × MB / 1024 × price of a GB-second)" in output
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 120


def test_parameters_facts_and_silencing_come_from_outside() -> None:
    """Each as if it stood in the template."""
    path = str(EXAMPLES / "cascade.yaml")

    def rules(*arguments: str) -> set[str]:
        [result] = data(path, *arguments)["templates"]
        return {one["rule"] for one in result["findings"]}

    assert "W9711" in rules()
    assert "W9711" not in rules("--parameter", "Stage=prod")
    assert "W9710" not in rules("--parameter", "Stage=dev")
    assert "W9710" in rules("--parameter", "AWS::AccountId=123456789012")
    assert "W9723" in rules("--fact", "Invoice.SecondsPerItem=5")
    assert "W9750" in rules("--fact", "Checkout.InvocationsPerSecond=50")
    assert "W9733" not in rules("--fact", "Invoice.Idempotent=true")
    assert rules("--ignore", "W", "--ignore", "E972") == set()


def test_json_has_what_machines_need(folder: Path) -> None:
    """Where, which rule, why, what to do, and what could not be read."""
    result = data("slow.yaml", "missing.yaml")
    [template] = result["templates"]
    [found] = template["findings"]
    assert result["unreadable"] == ["missing.yaml: No such file or directory"]
    assert {
        key: found[key] for key in ("rule", "severity", "template", "resource", "path", "line", "when")
    } == {
        "rule": "W9713",
        "severity": "warning",
        "template": "slow.yaml",
        "resource": "F",
        "path": ["Properties", "Timeout"],
        "line": 1,
        "when": {},
    }
    assert {"title", "why", "fix", "source", "checked", "message", "type"} <= found.keys()
    assert template["costs"][0]["hung"] == pytest.approx(1875.20, abs=0.01)


def test_prices_come_from_a_file(folder: Path) -> None:
    """For a region that ours has not."""
    (folder / "prices.json").write_text('{"regions": {"eu-north-1": {"request": 1e-6, "x86_64": 1e-5}}}')
    result = data("clean.yaml", "--region", "eu-north-1", "--price", "prices.json")
    assert result["templates"][0]["costs"][0]["hung"] == pytest.approx(1 + 3.75)


def test_every_rule_is_listed() -> None:
    """With its reason, its fix and its source; no template is needed."""
    result = run("--rules")
    assert result.exit_code == 0
    for name, rule in RULES.items():
        assert name in result.output
        assert rule.title in result.output


def test_the_guide_lists_every_rule() -> None:
    """Each id with its title."""
    guide = (ROOT / "docs" / "audit.md").read_text()
    for name, rule in RULES.items():
        assert f"`{name}` {rule.title}" in guide


@pytest.mark.parametrize(
    ("bars", "expected"),
    [
        ([Bar("F", 3.0, is_function=True)], ["     3  F"]),
        (
            [Bar("An API", 30.0), Bar("F", 60.0, is_function=True)],
            [f"    30  An API  {'#' * 20}", f"    60  F       {'#' * 20}{'-' * 20}  30 s too long"],
        ),
        (
            [Bar("A URL", None), Bar("F", 10.0, is_function=True)],
            [f"     -  A URL  {'#' * 40}", f"    10  F      {'#' * 40}"],
        ),
        ([Bar("None", 0.0), Bar("F", 0.0, is_function=True)], ["     0  None", "     0  F"]),
    ],
)
def test_a_cascade_is_drawn_to_scale(bars: list[Bar], expected: list[str]) -> None:
    """The longest has the whole width; what nobody waits for is thin."""
    assert cascade("F", bars) == expected


def child(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": str(Path(deadline.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "extra"), [("cfnlint", "cfn-lint", "audit"), ("rich", "rich", "cli")]
)
def test_without_its_extra_the_command_names_it(folder: Path, module: str, name: str, extra: str) -> None:
    """And the rest of the command line works."""
    code = f"import sys; sys.modules[{module!r}] = None; sys.argv = sys.argv[1:]; import deadline.__main__"
    done = child("-c", code, "asyncio-deadline", "audit", "clean.yaml")
    assert done.returncode == 2
    assert f'this needs {name}, which is not installed: pip install "asyncio-deadline[{extra}]"' in " ".join(
        done.stderr.split()
    )
    assert child("-c", code, "asyncio-deadline", "callers").returncode == 0


@pytest.mark.slow
def test_cfn_lint_loads_the_rules() -> None:
    """It finds what the command finds, where that finds it, and silences it in its own way."""
    arguments = ["--append-rules", "deadline.audit.cfn_lint", "--format", "json", "--"]
    path = EXAMPLES / "cascade.yaml"
    done = child("-c", LINT, "cfn-lint", *arguments, str(path))
    found = {
        (one["Rule"]["Id"], one["Location"]["Start"]["LineNumber"], one["Message"])
        for one in json.loads(done.stdout)
        if one["Rule"]["Id"] in RULES
    }
    [ours] = data(str(path))["templates"]
    assert {(rule, line) for rule, line, _ in found} == {
        (one["rule"], one["line"]) for one in ours["findings"]
    }
    assert any(message.endswith("gives up after 29 s, if Stage = prod") for _, _, message in found)
    quiet = child("-c", LINT, "cfn-lint", "--ignore-checks", *RULES, *arguments, str(path))
    assert not {one["Rule"]["Id"] for one in json.loads(quiet.stdout)} & RULES.keys()


@pytest.mark.slow
def test_the_other_commands_do_not_load_it() -> None:
    """cfn-lint and rich take half a second."""
    code = "import deadline._cli, sys; print('cfnlint' in sys.modules, 'rich' in sys.modules)"
    assert child("-c", code).stdout == "False False\n"

"""The files of the forge: they parse, and what they name is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
YAML = sorted(
    str(file.relative_to(ROOT))
    for file in [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]
)
TEXTS = [*YAML, ".github/pull_request_template.md", "CONTRIBUTING.md", "README.md", "tests/README.md"]


def loaded(file: str) -> Any:
    return yaml.safe_load((ROOT / file).read_text())


def targets(makefile: str) -> set[str]:
    """What `make` can be asked for, with the variables' values in place of their names."""
    values = dict(re.findall(r"^(\w+) [:?]?= (.+)$", makefile, re.MULTILINE))
    found = set()
    for names in re.findall(r"^([^\s#.=][^=\n]*?):(?:\s|$)", makefile, re.MULTILINE):
        found |= {re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], one) for one in names.split()}
    return found


def asked_for(text: str) -> set[str]:
    """The targets of `make` in commands: in backticks, after a prompt, or as a workflow's step."""
    return set(re.findall(r"(?:`|^\$ |run: |^\s+)make ([\w./-]+)", text, re.MULTILINE))


def recipe(target: str) -> list[str]:
    """The commands of a target, with the path of the environment's programs."""
    rule = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert rule is not None
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in rule[1].splitlines()]


@pytest.mark.parametrize("file", YAML)
def test_it_parses(file: str) -> None:
    assert isinstance(loaded(file), dict)


@pytest.mark.parametrize("file", TEXTS)
def test_what_it_names_is_there(file: str) -> None:
    """Targets of `make`, and paths of this repository."""
    text = (ROOT / file).read_text()
    assert asked_for(text) <= targets(MAKEFILE)
    named = re.findall(r"(?<![\w/.])((?:deadline|tests|docs|examples|benchmarks)/[\w/-]+\.\w+)", text)
    assert [one for one in named if not (ROOT / one).exists()] == []


def test_targets_are_found() -> None:
    """In a rule, in a rule of a variable's file, and in each kind of command."""
    made = "VENV := .venv\n.PHONY: lint\nlint: $(VENV)/.package\n\truff check\n$(VENV)/.package: a\n"
    assert targets(made) == {"lint", ".venv/.package"}
    text = "Run `make lint`, not make up:\n$ make .venv/.package\n      - run: make tset\n"
    assert asked_for(text) == {"lint", ".venv/.package", "tset"}


def test_ci_and_the_template_ask_for_targets() -> None:
    """Otherwise the test above has nothing to look at."""
    assert {"lint", "test"} <= asked_for((ROOT / ".github/workflows/ci.yml").read_text())
    assert "test" in asked_for((ROOT / ".github/pull_request_template.md").read_text())


def test_pre_commit_runs_what_make_lint_runs() -> None:
    hooks = [hook for repo in loaded(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == recipe("lint")


def test_ci_runs_on_every_declared_python() -> None:
    declared = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    jobs = loaded(".github/workflows/ci.yml")["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == declared

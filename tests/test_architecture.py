"""The rooms of the package: which may import which, how large they are, and what documents say of them."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent

FLOORS = (
    ("_events", "_lazy", "_text"),
    ("_report", "_interrupt"),
    ("_core",),
    ("_propagation",),
    ("_work", "_resilience"),
    ("asgi", "aws"),
    ("testing", "audit"),
    ("_cli", "__main__"),
)
"""The rooms of `deadline`, lowest first. One may import what stands below it, and what stands beside it."""

AWS_FLOORS = (
    ("_sources", "_calls"),
    ("_runtime",),
    ("_notices",),
    ("_rescue", "_resume"),
    ("_function",),
)

CIRCLES = {
    # A report renders itself, by code that is loaded when it is first asked to.
    frozenset({"deadline._report.data", "deadline._report.render"}),
    # Types alone: an error names its deadline, and a deadline raises that error. Both are public.
    frozenset({"deadline._core.edge", "deadline._core.errors", "deadline._core.scope"}),
}

UPWARD = {
    ("deadline.aws._calls.hedging", "deadline.aws._runtime.snapshot"): "a registry of callbacks",
    ("deadline.aws._calls.latency", "deadline.aws._runtime.snapshot"): "a registry of callbacks",
}
"""Imports against the direction, each with its reason."""

NAMES = {
    "deadline": """
        Answer Batch Breaker BreakerOpen Deadline DeadlineExceeded Event InsufficientTime LastGood Report
        Section critical current deadline deadline_header each fallback remaining step subscribe timeout
    """,
    "deadline.aws": """
        Caller Notice Resume ResumeError batch_response caller caller_left callers handler init_deadline
        install limits message_group warm_up
    """,
    "deadline.asgi": """
        DeadlineMiddleware
    """,
    "deadline.audit": """
        Audit Bar Cost Finding Price Prices RULES Rule Skip Template Unreadable audit load per_million
        read
    """,
    "deadline.testing": """
        Answer AwsErrorAnswer BlackHole Delay Drip Emulator Exchange FakeContext Fault FaultProxy
        FunctionError HalfClose Invocation InvokeApi InvokeAttempt LostAnswer MotoServer Refuse Request
        Reset Rule SqsBatch SqsDelivery SqsMapping Stall VirtualClock VirtualLoop Wire service_unavailable
        slow_down throttling
    """,
}
"""The public names of each public module."""

LARGEST_FILE = 500
MOST_FILES = 16


def imports(root: Path) -> dict[str, set[str]]:
    """What each module of a package imports of it: at run time, late, and for types."""
    modules = {}
    for file in root.rglob("*.py"):
        dotted = ".".join(file.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        modules[dotted] = file
    return {
        module: {one for one in _imported(module, file, set(modules)) if one != module}
        for module, file in modules.items()
    }


def _imported(module: str, file: Path, modules: set[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            source = _source(node, module, is_package=file.name == "__init__.py")
            named = [f"{source}.{alias.name}" for alias in node.names]
            yield from (one if one in modules else source for one in named if source in modules)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)


def _source(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    """The absolute name of what `from ... import` imports from; dots count from the importing module."""
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join(parts + ([node.module] if node.module else []))


def upward(
    graph: dict[str, set[str]], room: str, floors: tuple[tuple[str, ...], ...]
) -> set[tuple[str, str]]:
    """The imports of `room`'s modules that go to a higher floor."""
    floor = {f"{room}.{name}": number for number, names in enumerate(floors) for name in names}

    def of(module: str) -> int | None:
        parts = module.split(".")
        return floor.get(".".join(parts[: room.count(".") + 2]))

    found = set()
    for module, imported in graph.items():
        mine = of(module)
        theirs = {one: of(one) for one in imported}
        if mine is not None:
            found |= {(module, one) for one, its in theirs.items() if its is not None and its > mine}
    return found


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The groups of modules that import each other, directly or through others."""
    reached = {}
    for module in graph:
        seen: set[str] = set()
        todo = [module]
        while todo:
            for one in graph[todo.pop()] - seen:
                seen.add(one)
                todo.append(one)
        reached[module] = seen
    return {
        frozenset(one for one in reached[module] if module in reached[one])
        for module in graph
        if module in reached[module]
    }


def named_paths(text: str) -> Iterator[str]:
    """The paths in backticks. A bare file name lies in the folder of the path before it on the same line."""
    for line in text.splitlines():
        folder = ""
        for one in re.findall(r"`([\w./-]+)`", line):
            if re.match(r"(?:deadline|tests|docs|examples|benchmarks)/", one):
                folder = one.rpartition("/")[0]
                yield one
            elif re.fullmatch(r"\w[\w-]*\.(?:py|md|sh|toml|yml)", one):
                yield f"{folder}/{one}".lstrip("/")


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return imports(ROOT / "deadline")


def test_every_room_has_its_floor(graph: dict[str, set[str]]) -> None:
    """A new file or folder at the top is given a place here."""
    rooms = {module.split(".")[1] for module in graph if "." in module}
    assert rooms == {name for names in FLOORS for name in names}
    inside = {module.split(".")[2] for module in graph if module.startswith("deadline.aws.")}
    assert inside == {name for names in AWS_FLOORS for name in names}


def test_imports_go_one_way(graph: dict[str, set[str]]) -> None:
    """Those for types count, as a reader follows them, too."""
    found = upward(graph, "deadline", FLOORS) | upward(graph, "deadline.aws", AWS_FLOORS)
    assert found == set(UPWARD)


def test_no_circle_but_the_explained(graph: dict[str, set[str]]) -> None:
    """Each that is left has its reason above."""
    assert circles(graph) == CIRCLES


def test_a_violation_is_seen(tmp_path: Path) -> None:
    """An import upward, and a circle, for types or late, by absolute or by relative names."""
    for name, text in {
        "__init__": "",
        "_core": "if True:\n    from package._work import step\n",
        "_work": "def late():\n    from package import _core\n",
        "_report": "def late():\n    from ._core import current\n",
    }.items():
        (tmp_path / "package").mkdir(exist_ok=True)
        (tmp_path / "package" / f"{name}.py").write_text(text)
    made = imports(tmp_path / "package")
    assert upward(made, "package", (("_report",), ("_core",), ("_work",))) == {
        ("package._core", "package._work"),
        ("package._report", "package._core"),
    }
    assert circles(made) == {frozenset({"package._core", "package._work"})}


def test_rooms_and_files_stay_small() -> None:
    """No folder of the package has more than 16 files, and no file more than 500 lines."""
    folders = [folder for folder in (ROOT / "deadline").rglob("*") if folder.is_dir()]
    assert not [str(folder) for folder in folders if len(list(folder.glob("*.py"))) > MOST_FILES]
    lines = {str(file): len(file.read_text().splitlines()) for file in (ROOT / "deadline").rglob("*.py")}
    assert not {file: length for file, length in lines.items() if length > LARGEST_FILE}


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md", "tests/README.md"])
def test_what_a_page_names_is_there(page: str) -> None:
    """Every path in backticks, and every link to a file."""
    text = (ROOT / page).read_text()
    linked = [link for link in re.findall(r"\]\(([\w./-]+)\)", text) if "://" not in link]
    assert linked or list(named_paths(text))
    missing = [one for one in named_paths(text) if not (ROOT / one).exists()]
    missing += [one for one in linked if not (ROOT / page).parent.joinpath(one).exists()]
    assert missing == []


def test_a_bare_file_name_lies_beside_the_path_before_it() -> None:
    text = "| `deadline/_core/cut.py` and `edge.py` | words |\n| `setup.sh` | `make` |"
    assert list(named_paths(text)) == ["deadline/_core/cut.py", "deadline/_core/edge.py", "setup.sh"]


@pytest.mark.parametrize("module", NAMES)
def test_public_names(module: str) -> None:
    """Adding one is a decision; so is taking one away."""
    assert sorted(importlib.import_module(module).__all__) == NAMES[module].split()

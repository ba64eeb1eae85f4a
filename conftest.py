"""Runs the Python blocks of the README and of the docs, and gives tests on the real clock a second chance."""

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["README.md", "docs/*.md"]).pytest()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a slow test that failed again: another process may have had the machine. It is listed as RERUN."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.flaky(reruns=2))

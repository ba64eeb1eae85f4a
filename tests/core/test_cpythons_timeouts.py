"""CPython's own tests of `asyncio.timeout`, with a deadline in its place, where the interpreter has them."""

from __future__ import annotations

import asyncio
import io
import unittest
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import pytest

from deadline import deadline

if TYPE_CHECKING:
    from types import TracebackType

THEIRS: Any = pytest.importorskip(
    "test.test_asyncio.test_timeouts", reason="this Python is installed without its own tests"
)
TESTS = unittest.defaultTestLoader.getTestCaseNames(THEIRS.TimeoutTests)

OTHERWISE = {
    "test_nested_timeouts": "a source is never an instant of the loop's clock: no `timeout_at`",
    "test_reschedule": "a deadline cannot be moved: no `reschedule`",
    "test_timeout_expired": "no `reschedule`",
    "test_timeout_expiring": "no `reschedule`",
    "test_timeout_finished": "no `reschedule`",
    "test_timeout_at_disabled": "no `timeout_at`",
    "test_timeout_already_entered": "another message",
    "test_timeout_double_enter": "another message",
    "test_timeout_not_entered": "another message",
    "test_timeout_without_task": "another message",
    "test_timeout_exception_cause": "with nothing left the body does not run, so there is no cause",
    "test_timeout_basic": "a deadline is entered once and cannot be moved: no `reschedule`",
    "test_timeout_at_basic": "a source is never an instant of the loop's clock",
    "test_timeout_already_expired": "with nothing left the body does not run",
    "test_timeout_zero": "with nothing left the body does not run",
    "test_timeout_zero_sleep_zero": "with nothing left the body does not run",
    "test_timeout_in_the_past_sleep_zero": "with nothing left the body does not run",
    "test_timeout_in_the_past": "a source is not negative",
    "test_repr_active": "another repr",
    "test_repr_expired": "another repr",
    "test_repr_finished": "another repr",
    "test_repr_disabled": "another repr",
}


class Timeout:
    """`asyncio.timeout` in the words of a deadline."""

    def __init__(self, delay: float | None) -> None:
        self._deadline = deadline(None if delay is None else timedelta(seconds=delay))
        self._limited = delay is not None

    async def __aenter__(self) -> Self:
        await self._deadline.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._deadline.__aexit__(kind, error, trace)

    def when(self) -> float | None:
        return self._deadline.soft if self._limited else None

    def expired(self) -> bool:
        return self._deadline.expired


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TESTS if name not in OTHERWISE])
def test_it_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out differs by a decision, which the list names."""
    monkeypatch.setattr(asyncio, "timeout", Timeout)
    monkeypatch.setattr(asyncio, "timeout_at", None)
    out = io.StringIO()
    result = unittest.TextTestRunner(stream=out).run(THEIRS.TimeoutTests(name))
    assert result.wasSuccessful(), out.getvalue()

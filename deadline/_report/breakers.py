"""What a deadline remembers of breakers, and the report of it; loaded with the first breaker."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from deadline._text import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

State: TypeAlias = Literal["closed", "open", "half open"]


class BreakerReport(NamedTuple):
    """A breaker that changed its state or refused a call.

    Attributes:
        name: As given to `Breaker`.
        state: When somebody first asked for the report.
        refused: How many calls it refused.
        changes: The newest hundred, oldest first, as (state, seconds after the deadline's entry).
    """

    name: str
    state: State
    refused: int
    changes: tuple[tuple[State, float], ...]

    def __str__(self) -> str:
        changes = "".join(f", {state} at {at:.3f}" for state, at in self.changes)
        refused = f", {self.refused} refused" if self.refused else ""
        return f"breaker {quoted(self.name)} is {self.state}{refused}{changes}"


class BreakerAccount:
    """What a deadline remembers of a breaker: only what is out of the ordinary.

    Args:
        name: The breaker's.
        state: Gives its state when it is called.
    """

    def __init__(self, name: str, state: Callable[[], State]) -> None:
        self._name = name
        self._state = state
        self.refused = 0
        self.changes: deque[tuple[State, float]] = deque(maxlen=100)

    def report(self, entered: float) -> BreakerReport:
        """As plain data, for a deadline entered at `entered`."""
        changes = tuple((state, at - entered) for state, at in tuple(self.changes))
        return BreakerReport(self._name, self._state(), self.refused, changes)

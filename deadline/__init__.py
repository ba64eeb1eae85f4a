"""Make asyncio work end before somebody else ends it.

Write `from deadline import deadline`, and `from deadline import aws` for the AWS part: this
package's name and the function's are the same word.
"""

from typing import TYPE_CHECKING

from deadline._errors import BreakerOpen, DeadlineExceeded, InsufficientTime
from deadline._events import Event, subscribe
from deadline._report import Report
from deadline._scope import Deadline, current, deadline, remaining
from deadline._section import Section, critical, step

if TYPE_CHECKING:
    from deadline._breaker import Breaker
    from deadline._each import Batch, each
    from deadline._fallback import Answer, LastGood, fallback

__all__ = [
    "Answer",
    "Batch",
    "Breaker",
    "BreakerOpen",
    "Deadline",
    "DeadlineExceeded",
    "Event",
    "InsufficientTime",
    "LastGood",
    "Report",
    "Section",
    "critical",
    "current",
    "deadline",
    "each",
    "fallback",
    "remaining",
    "step",
    "subscribe",
]

__version__ = "0.1.0"

# Loaded when somebody first asks for them: a cold start pays for what it uses.
_LATER = {
    "Answer": "_fallback",
    "Batch": "_each",
    "Breaker": "_breaker",
    "LastGood": "_fallback",
    "each": "_each",
    "fallback": "_fallback",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'deadline' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  # see above

    value: object = getattr(import_module(f"deadline.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})

"""Make asyncio work end before somebody else ends it.

Write `from deadline import deadline`, and `from deadline import aws` for the AWS part: this
package's name and the function's are the same word.
"""

from typing import TYPE_CHECKING

from deadline._errors import BreakerOpen, DeadlineExceeded, InsufficientTime
from deadline._events import Event, subscribe
from deadline._later import later
from deadline._report import Report
from deadline._scope import Deadline, current, deadline, remaining
from deadline._section import Section, critical, step

if TYPE_CHECKING:
    from deadline._breaker import Breaker
    from deadline._each import Batch, each
    from deadline._fallback import Answer, LastGood, fallback
    from deadline._travel import deadline_header

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
    "deadline_header",
    "each",
    "fallback",
    "remaining",
    "step",
    "subscribe",
]

__version__ = "0.1.0"

if not TYPE_CHECKING:  # to a type checker every name would be there
    __getattr__ = later(
        __name__,
        {
            "Answer": "._fallback",
            "Batch": "._each",
            "Breaker": "._breaker",
            "LastGood": "._fallback",
            "deadline_header": "._travel",
            "each": "._each",
            "fallback": "._fallback",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

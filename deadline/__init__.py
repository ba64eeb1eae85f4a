"""Make asyncio work end before somebody else ends it.

Write `from deadline import deadline`, and `from deadline import aws` for the AWS part: this
package's name and the function's are the same word.
"""

from typing import TYPE_CHECKING

from deadline._core.errors import DeadlineExceeded, InsufficientTime
from deadline._core.scope import Deadline, current, deadline, remaining
from deadline._events import Event, subscribe
from deadline._lazy import later
from deadline._report.data import Report

if TYPE_CHECKING:
    from deadline._propagation import deadline_header
    from deadline._resilience.breaker import Breaker
    from deadline._resilience.failures import BreakerOpen
    from deadline._resilience.fallback import Answer, LastGood, fallback
    from deadline._work.each import Batch, each
    from deadline._work.section import Section, critical, step
    from deadline._work.timeout import timeout

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
    "timeout",
]

__version__ = "0.1.0"

if not TYPE_CHECKING:  # to a type checker every name would be there
    __getattr__ = later(
        __name__,
        {
            "Answer": "._resilience.fallback",
            "Batch": "._work.each",
            "BreakerOpen": "._resilience.failures",
            "Breaker": "._resilience.breaker",
            "LastGood": "._resilience.fallback",
            "deadline_header": "._propagation",
            "Section": "._work.section",
            "critical": "._work.section",
            "each": "._work.each",
            "step": "._work.section",
            "fallback": "._resilience.fallback",
            "timeout": "._work.timeout",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

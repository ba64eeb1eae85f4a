"""Make asyncio work end before somebody else ends it.

Write `from deadline import deadline`, and `from deadline import aws` for the AWS part: this
package's name and the function's are the same word.
"""

from deadline._each import Batch, each
from deadline._errors import DeadlineExceeded, InsufficientTime
from deadline._events import Event, subscribe
from deadline._report import Report
from deadline._scope import Deadline, current, deadline, remaining
from deadline._section import Section, critical, step
from deadline._travel import deadline_header

__all__ = [
    "Batch",
    "Deadline",
    "DeadlineExceeded",
    "Event",
    "InsufficientTime",
    "Report",
    "Section",
    "critical",
    "current",
    "deadline",
    "deadline_header",
    "each",
    "remaining",
    "step",
    "subscribe",
]

__version__ = "0.1.0"

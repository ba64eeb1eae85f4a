"""AWS calls that end in time. Write `from deadline import aws`.

Importing it loads no SDK; `install` does. `Resume` and `init_deadline` are loaded by those who use them.
"""

from typing import TYPE_CHECKING

from deadline._later import later
from deadline.aws._batch_sources import batch_response, message_group
from deadline.aws._callers import Caller, caller, caller_left, callers
from deadline.aws._handler import handler
from deadline.aws._install import install
from deadline.aws._limits import limits
from deadline.aws._notice import Notice
from deadline.aws._warm_up import warm_up

if TYPE_CHECKING:
    from deadline.aws._envelope import ResumeError
    from deadline.aws._init import init_deadline
    from deadline.aws._resume import Resume

__all__ = [
    "Caller",
    "Notice",
    "Resume",
    "ResumeError",
    "batch_response",
    "caller",
    "caller_left",
    "callers",
    "handler",
    "init_deadline",
    "install",
    "limits",
    "message_group",
    "warm_up",
]

if not TYPE_CHECKING:  # to a type checker every name would be there
    __getattr__ = later(
        __name__, {"Resume": "._resume", "ResumeError": "._envelope", "init_deadline": "._init"}
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""AWS calls that end in time. Write `from deadline import aws`.

Importing it loads no SDK; `install` does. `Resume` and `init_deadline` are loaded by those who use them.
"""

from typing import TYPE_CHECKING

from deadline._lazy import later
from deadline.aws._calls.install import install
from deadline.aws._calls.limits import limits
from deadline.aws._calls.warm_up import warm_up
from deadline.aws._function.handler import handler
from deadline.aws._notices.notice import Notice
from deadline.aws._sources.batch_response import batch_response, message_group
from deadline.aws._sources.callers import Caller, caller, caller_left, callers

if TYPE_CHECKING:
    from deadline.aws._resume.envelope import ResumeError
    from deadline.aws._resume.resume import Resume
    from deadline.aws._runtime.init_phase import init_deadline

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
        __name__,
        {
            "Resume": "._resume.resume",
            "ResumeError": "._resume.envelope",
            "init_deadline": "._runtime.init_phase",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

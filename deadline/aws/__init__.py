"""AWS calls that end in time. Write `from deadline import aws`.

Importing it loads no SDK; `install` does. `Resume` is loaded by those who use it.
"""

from typing import TYPE_CHECKING

from deadline.aws._batch_sources import batch_response, message_group
from deadline.aws._callers import Caller, caller, caller_left, callers
from deadline.aws._handler import handler
from deadline.aws._install import install
from deadline.aws._limits import limits
from deadline.aws._notice import Notice
from deadline.aws._warm_up import warm_up

if TYPE_CHECKING:
    from deadline.aws._envelope import ResumeError
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
    "install",
    "limits",
    "message_group",
    "warm_up",
]

if not TYPE_CHECKING:  # to a type checker every name would be there

    def __getattr__(name):  # noqa: ANN001, ANN202
        if name not in {"Resume", "ResumeError"}:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from deadline.aws import _envelope, _resume  # noqa: PLC0415  # who resumes nothing loads nothing

        globals().update(Resume=_resume.Resume, ResumeError=_envelope.ResumeError)
        return globals()[name]

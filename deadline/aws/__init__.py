"""AWS calls that end in time. Write `from deadline import aws`.

Importing it loads no SDK; `install` does.
"""

from deadline.aws._batch_sources import batch_response, message_group
from deadline.aws._callers import Caller, caller, caller_left, callers
from deadline.aws._handler import handler
from deadline.aws._install import install
from deadline.aws._limits import limits
from deadline.aws._notice import Notice
from deadline.aws._warm_up import warm_up

__all__ = [
    "Caller",
    "Notice",
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

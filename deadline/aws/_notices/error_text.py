"""What Lambda is told of an error.

The runtime client reports `str(error)` and the name of its class, and nothing else: notes, causes and the
members of a group are lost, a task group's failure reads "unhandled errors in a TaskGroup". And it catches
`Exception` alone: a CancelledError, a SystemExit or a group that holds one ends the process without a report
(awslambdaric 4.2.2, bootstrap.py, `handle_event_request`). So what leaves a handler is an `Exception` whose
message says all of it, under the class name of the original: Step Functions matches on that name.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING, Final

from deadline._interrupt.interrupted import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST: Final = 16_000
"""Characters of a message; the payload of an asynchronous invocation's failure record has 256 KB for all."""

_DEEPEST: Final = 8
_NO_MESSAGE: Final = "(its message could not be made"
_OUR_WAY: Final = ("asyncio.", f"{__name__.partition('.')[0]}.")


class Escaped(Exception):  # never seen under this name
    """Something left the handler that is no `Exception`; the cause says what.

    Its class is a subclass that has the name of the cause's own.
    """


def as_lambda_error(error: BaseException) -> Exception:
    """The exception to raise for `error`: itself, if its message says everything.

    Otherwise one of a subclass that has the same name, attributes and arguments, whose cause is `error`.
    """
    kind = type(error)
    message = "\n".join(_lines(error))[:LONGEST]
    if isinstance(error, Exception) and message == _text(error) and not message.startswith(_NO_MESSAGE):
        return error
    base = kind if isinstance(error, Exception) else Escaped
    named = type(
        kind.__name__,
        (base,),
        {"__module__": kind.__module__, "__str__": lambda _: message, "__doc__": kind.__doc__},
    )
    try:
        new: Exception = named.__new__(named, *error.args)
    except Exception:  # noqa: BLE001  # a class may have an idea of its own about its arguments
        named = type(kind.__name__, (Escaped,), {"__module__": kind.__module__, "__str__": lambda _: message})
        new = named()
    new.args = error.args
    new.__dict__.update({key: value for key, value in error.__dict__.items() if key != "__notes__"})
    new.__cause__ = error
    return new


def full_traceback(error: BaseException) -> str:
    """The traceback with its causes and group members, as Python prints it, from the handler's code on."""
    frames = error.__traceback__
    while frames is not None and str(frames.tb_frame.f_globals.get("__name__")).startswith(_OUR_WAY):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames or error.__traceback__)).rstrip()


def _lines(error: BaseException, depth: int = 0, seen: frozenset[int] = frozenset()) -> Iterator[str]:
    """The message, then a line for each note, member and cause, members and causes with theirs indented."""
    yield _text(error)
    for note in getattr(error, "__notes__", ()):
        yield str(note)
    if depth == _DEEPEST:
        return
    seen |= {id(error)}
    inner: list[tuple[str, BaseException]] = []
    if isinstance(error, BaseExceptionGroup):
        inner += [("", member) for member in error.exceptions]
    cause = error.__cause__
    while isinstance(cause, asyncio.CancelledError | Interrupted):  # what a cut is raised from says nothing
        cause = cause.__cause__
    if cause is not None:
        inner.append(("caused by ", cause))
    for role, one in inner:
        if id(one) in seen:
            continue
        first, *rest = _lines(one, depth + 1, seen)
        yield f"- {role}{type(one).__name__}: {first}".removesuffix(": ")
        yield from (f"  {line}" for line in rest)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001  # an error's own code may be what is wrong
        return f"{_NO_MESSAGE}: {broken!r})"

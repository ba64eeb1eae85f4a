"""Steps: names for what is going on."""

from __future__ import annotations

from asyncio import CancelledError
from typing import TYPE_CHECKING, final

from deadline._errors import DeadlineExceeded
from deadline._interrupt import Interrupted
from deadline._report import Step
from deadline._scope import current

if TYPE_CHECKING:
    from types import TracebackType

_CUTS = (CancelledError, DeadlineExceeded, Interrupted, GeneratorExit)  # the last one: closed


@final
class NamedStep:
    """A step's block, as `step(name)` gives it."""

    __slots__ = ("_name", "_now", "_step")

    def __init__(self, name: str) -> None:
        self._name = name
        self._step: Step | None = None

    def __enter__(self) -> None:
        if self._step is not None:
            raise RuntimeError(
                f"step {self._name!r}: a step is entered once; call step(...) again for another"
            )
        dl = current()
        if dl is not None:
            self._now = dl.now
            self._step = Step(self._name, dl.now())
            dl.begin_step(self._step)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._step is None:
            return
        self._step.ended = self._now()
        if exc is None:
            self._step.status = "done"
        elif isinstance(
            exc, CancelledError | DeadlineExceeded | GeneratorExit | Interrupted
        ):  # GeneratorExit: closed
            self._step.status = "cut"
        else:
            self._step.status = "failed"


def step(name: str) -> NamedStep:
    """Name what is going on.

    Write `with step("copy"): ...`. The reports of all deadlines open around it say whether the step was
    done, cut, failed or was still running. Without a deadline it does nothing, so a library may use it
    freely.

    Raises:
        TypeError: `name` is not a string.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {name!r} ({type(name).__name__}); write step('copy')")
    return NamedStep(name)

"""The way into a plain function, and the options that it cannot have."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from deadline._interrupt.interrupted import Interrupted
from deadline.aws._function.arguments import check_takes
from deadline.aws._function.entry import Entry
from deadline.aws._function.plain_invocation import PlainInvocation

if TYPE_CHECKING:
    from collections.abc import Callable

    from deadline._core.plain import Outcome

_FIXES: Final = {
    "lifespan": "open what outlives an invocation where the module is imported",
    "eager": "what the module opens when it is imported is open in Lambda's init phase",
    "recycle": "there is no loop to begin anew with; leave it out",
    "resume": "a checkpoint is handed on by a loop",
}

_ASYNC: Final = {
    "function": "function: {!r} stands around an `async def`; where decorators of other libraries are "
    "stacked, @aws.handler is the lowest, right above the `async def`",
    "on_exceeded": "on_exceeded: the handler is a plain function, and no loop runs {!r}; write it as a plain "
    "`def`",
}


class PlainEntry(Entry):
    """The way into a plain function: no loop, and no `invoke`."""

    def _invocation(self, event: Any, context: Any) -> tuple[Any, Callable[[], Outcome]]:
        invocation = PlainInvocation(self.plan, event, context, self.post_early)
        return invocation, invocation.run

    def _disabled(self, event: Any, context: Any) -> Any:
        return self.plan.function(event, context)

    def _answer(self, outcome: Outcome, context: Any) -> Any:
        if isinstance(outcome.error, Interrupted):
            raise outcome.error  # for a deadline around, which will remember it
        return super()._answer(outcome, context)

    @staticmethod
    def check(function: Any, argument: str, takes: int) -> None:
        """Refuse what cannot be called, or gives a coroutine or generator when it is."""
        _check_kind(function, argument)
        check_takes(function, argument, takes)

    @staticmethod
    def refuse(function: Any, **options: Any) -> None:
        """Refuse options that need a loop, by `TypeError`."""
        _check_kind(function, "function")
        name = getattr(function, "__qualname__", function)
        for option, value in options.items():
            if value:
                raise TypeError(
                    f"{option}: {name} is a plain function and has no loop; {_FIXES[option]}, or write it as "
                    "an `async def`"
                )


def _check_kind(function: Any, argument: str) -> None:
    if not callable(function) or inspect.isclass(function):
        raise TypeError(f"{argument}: expected a plain function, got {function!r}")
    called = inspect.unwrap(function)
    if not inspect.isroutine(called):
        called = getattr(called, "func", called.__call__)  # of a partial
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise TypeError(_ASYNC[argument].format(function))
    if inspect.isgeneratorfunction(called):
        raise TypeError(
            f"{argument}: calling {function!r} makes a generator, of which nothing runs; write a function "
            "without `yield`"
        )

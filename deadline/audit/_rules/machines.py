"""Rules on Step Functions' tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deadline.audit._model.machines import definition, tasks
from deadline.audit._model.model import Function
from deadline.audit._rules.rule import Found, rule
from deadline.audit._template.template import FUNCTIONS, MACHINES
from deadline.audit._template.world import CannotTell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadline.audit._template.template import Resource
    from deadline.audit._template.world import World

_DG: Final = "https://docs.aws.amazon.com/step-functions/latest/dg/"


@rule(
    "W9740",
    "A task has no timeout",
    why="A task without TimeoutSeconds waits for an answer that may never come, and its execution with it: "
    "the Amazon States Language sets no timeout by itself.",
    fix="Give every task that waits for a function, an activity, a job or a token a TimeoutSeconds a little "
    "above what it may take, and HeartbeatSeconds where it reports.",
    source=_DG + "sfn-stuck-execution.html",
    on=MACHINES,
)
def waits_for_ever(world: World, resource: Resource) -> Iterator[Found]:
    """Whether each task that may hang has a timeout."""
    whole = definition(world, resource).get("TimeoutSeconds")
    end = f"until the execution ends after {whole} s" if isinstance(whole, int | float) else "for ever"
    for task in tasks(world, resource):
        if task.hangs and task.timeout is None and not task.unknown:
            yield Found(f"{task.name} has no TimeoutSeconds: it may wait {end}", resource)


@rule(
    "W9741",
    "A task gives up before its function",
    why="Its timeout does not stop the function: that runs on, unheard, while the execution tries again "
    "beside it.",
    fix="Set the function's Timeout below the task's TimeoutSeconds.",
    source=_DG + "concepts-error-handling.html",
    on=MACHINES,
    checked=None,
)
def gives_up_first(world: World, resource: Resource) -> Iterator[Found]:
    """The timeout of each task against that of the function that it calls."""
    unknown = ""
    for task in tasks(world, resource):
        unknown = unknown or task.unknown
        if not task.target or task.timeout is None:
            continue
        if ".waitForTaskToken" in task.resource:
            continue  # the function ends long before its task
        for one in world.template.of_type(FUNCTIONS):
            function = Function(world, one)
            if function.is_in(task.target) and world.exists(one) and function.timeout > task.timeout:
                yield Found(
                    f"{task.name} gives up after {task.timeout:g} s, and {function.name} may run "
                    f"{function.timeout:g} s",
                    resource,
                )
    if unknown:
        raise CannotTell(unknown)

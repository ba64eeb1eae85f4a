"""SnapStart: nothing that was opened before the snapshot is used after a restore.

Lambda initialises the function once, when a version is published, takes a snapshot of the whole machine, and
lets every environment go on from there: weeks later, elsewhere, many from the same one. Connections are gone
then, and what was unique is not.

As a rule nothing is open at the snapshot: under SnapStart an eager lifespan waits for the restore. But code
may have called the handler while it was imported, to have more loaded. So the runtime's hooks, where it has
them (https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-python.html), see to this:

- before the snapshot lifespans are left, clients with them, the loop is closed, helper processes are ended;
- after a restore what services took before is forgotten, and what an init phase opens is opened: notices'
  clients, eager lifespans. There are ten seconds for that, and whoever exceeds them fails the restore: what
  is not open in time is left to the first invocation (`_runtime.init_phase.enter`).

Breakers and last good answers keep what they know. They go by the wall clock, which has gone on
(`_resilience.elapsed`): an open breaker is due for a probe, an answer that is too old is not given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deadline._events import logger
from deadline.aws._runtime.event_loop import close_environment
from deadline.aws._runtime.snapshot import CLOSE_BEFORE_SNAPSHOT, FORGET_AFTER_RESTORE

if TYPE_CHECKING:
    from collections.abc import Callable

_openings: Final[list[Callable[[], None]]] = []


def when_restored(opening: Callable[[], None]) -> None:
    """Have `opening` called after each restore, and everything closed before the snapshot."""
    if not _openings:
        _register()
    _openings.append(opening)


def _register() -> None:
    try:
        from snapshot_restore_py import register_after_restore, register_before_snapshot  # noqa: PLC0415
    except ImportError:
        logger.warning(
            "SnapStart: this runtime has no snapshot_restore_py, so that eager lifespans are entered by the "
            "first invocation; do not call the handler while its module is imported"
        )
        return
    register_before_snapshot(close_all)
    register_after_restore(open_all)


def close_all() -> None:
    """Close what is open: no two environments may share it."""
    for close in CLOSE_BEFORE_SNAPSHOT:
        close()
    close_environment()


def open_all() -> None:
    """Forget what is stale, and open what the first invocation would wait for."""
    close_all()  # a hook of somebody else's may have run after ours, and have called the handler
    for forget in FORGET_AFTER_RESTORE:
        forget()
    from deadline.aws._runtime import init_phase as _init  # noqa: PLC0415  # not a part of what every cold start pays

    _init.restored()
    for opening in _openings:
        opening()

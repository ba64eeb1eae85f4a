"""What is called before a snapshot and after a restore; whoever opens something registers it here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[[], Any]")

CLOSE_BEFORE_SNAPSHOT: Final[list[Callable[[], Any]]] = []
FORGET_AFTER_RESTORE: Final[list[Callable[[], Any]]] = []


def before_snapshot(close: F) -> F:
    """Have `close` called before a snapshot, as no two environments may share what it ends."""
    CLOSE_BEFORE_SNAPSHOT.append(close)
    return close


def after_restore(forget: Callable[[], Any]) -> None:
    """Have `forget` called after a restore, as what it drops was true of another time and place."""
    FORGET_AFTER_RESTORE.append(forget)

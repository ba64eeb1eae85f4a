"""The one place that knows anyio's inner structure: the cancel scopes that a task is in.

A deadline needs no cancel scope of anyio's while its time lasts. Two things need to know about them:

- at the soft instant, whether the task waits behind a shield (`CancelScope(shield=True)`): the cut then waits
  until the shield is left;
- when unwinding has had its time, a scope is put around all that the block has entered, as if it had been
  there from the beginning. anyio then cancels every await in it, and the children of its groups.

A scope that is left out of order, for example by a generator that is broken off, stays where it is.

Written for anyio 4.16. It uses `_task_states`, and of a scope `_parent_scope`, `_child_scopes`, `_tasks`,
`_host_task`, `_active`, `_cancel_called`, `_cancel_handle`, `_pending_uncancellations`,
`_deliver_cancellation` and `_effectively_cancelled`.
"""

# this module is about the private parts

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyio._backends import _asyncio as backend

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Container, Iterator

CancelScope = backend.CancelScope
_states = backend._task_states


def innermost(task: asyncio.Task[Any]) -> backend.CancelScope | None:
    """Return the innermost cancel scope that `task` is in."""
    state = _states.get(task)
    return None if state is None else state.cancel_scope


def is_shielded(task: asyncio.Task[Any], outside: Container[object]) -> bool:
    """Tell whether `task` is behind a shield, not counting the scopes of `outside` and those around them."""
    scope = innermost(task)
    while scope is not None and scope not in outside:
        if scope.shield:
            return True
        scope = scope._parent_scope
    return False


def children(task: asyncio.Task[Any], outside: Container[object]) -> Iterator[asyncio.Task[Any]]:
    """Yield the tasks of the groups that `task` is in, up to a scope of `outside`, except behind shields."""
    scopes = []
    scope = innermost(task)
    while scope is not None and scope not in outside:
        scopes.append(scope)
        scope = scope._parent_scope
    seen = set(scopes)
    while scopes:
        scope = scopes.pop()
        yield from (child for child in tuple(scope._tasks) if child is not task)
        inside = [one for one in scope._child_scopes if one not in seen and not one.shield]
        seen.update(inside)
        scopes += inside


def is_cancelled(scope: backend.CancelScope | None) -> bool:
    """Tell whether what runs directly in `scope` is cancelled, by it or by one around it."""
    return scope is not None and scope._effectively_cancelled


class Around(backend.CancelScope):
    """A cancel scope that is put around what a task has already entered.

    Attributes:
        on_reach: While it is set, the scope counts as cancelled but cancels nothing. It is called instead
        when a
            shield inside is left.
    """

    __slots__ = ("on_reach",)

    on_reach: Callable[[], None] | None

    @classmethod
    def of(cls, task: asyncio.Task[Any], outside: Container[object]) -> Around:
        """Put a scope around all scopes that `task` is in, up to the first of `outside`."""
        scope = cls()
        scope.on_reach = None
        scope._host_task = task
        scope._active = True
        inner, parent = None, innermost(task)
        while parent is not None and parent not in outside:
            inner, parent = parent, parent._parent_scope
        scope._parent_scope = parent
        if parent is not None:
            parent._child_scopes.add(scope)
        if inner is not None:
            inner._parent_scope = scope
            scope._child_scopes.add(inner)
            if parent is not None:
                parent._child_scopes.discard(inner)
            return scope
        scope._tasks.add(task)
        if parent is not None:
            parent._tasks.discard(task)
        state = _states.get(task)
        if state is None:
            _states[task] = backend.TaskState(None, scope)
        else:
            state.cancel_scope = scope
        return scope

    def call_when_reachable(self, call: Callable[[], None]) -> None:
        """Call `call` when no shield inside keeps a cancellation from the task any more."""
        self.on_reach = call
        self._cancel_called = True

    def stop(self) -> None:
        """Cancel nothing any more, and call nobody."""
        self.on_reach = None
        self._cancel_called = False
        if self._cancel_handle is not None:
            self._cancel_handle.cancel()
            self._cancel_handle = None

    def remove(self) -> None:
        """Take the scope away, and take back what it has counted on its task; call it in that task."""
        state = _states.get(self._host_task)  # type: ignore[arg-type]
        if self.on_reach is not None:
            self.stop()
        if state is not None and state.cancel_scope is self:
            self.__exit__(None, None, None)
            return
        parent = self._parent_scope  # scopes inside have not been left: they move up
        for inner in self._child_scopes:
            inner._parent_scope = parent
        if parent is not None:
            parent._child_scopes.discard(self)
            parent._child_scopes |= self._child_scopes
        self._child_scopes.clear()
        self._active = False
        for _ in range(self._pending_uncancellations or 0):
            self._host_task.uncancel()  # type: ignore[union-attr]
        self._pending_uncancellations = 0
        self._host_task = None

    def _deliver_cancellation(self, origin: backend.CancelScope) -> bool:
        if origin is self and self.on_reach is not None:
            self.on_reach()
            return False
        return super()._deliver_cancellation(origin)

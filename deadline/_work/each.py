"""Batches that stop in time.

How long will the next item take? The estimator is the 95th percentile of what the last 64 items have cost:
the highest of them while there are fewer than twenty. A mean would begin an item that does not fit in half
of the cases, and what was begun and cut is work thrown away, at a queue even work done twice; the highest of
all would let one slow item stop a batch for good. With nothing known an item is tried.

An item that fails does not stop the others, and its error is raised to nobody. So each error is told as an
event. Most of a batch's errors are one mistake in one line; the first of a kind is told with its traceback.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sized
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeAlias, TypeVar, final

import anyio

from deadline._core import source as _source
from deadline._core.errors import DeadlineExceeded, InsufficientTime, says_time_is_up
from deadline._core.scope import current, remaining
from deadline._core.timer import clock_of
from deadline._events import emit
from deadline._report.data import BatchReport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence
    from datetime import timedelta

Item = TypeVar("Item")
Result = TypeVar("Result")
Kind: TypeAlias = tuple[type[BaseException], tuple[str, int] | None]

REMEMBERED: Final = 64
SHARE: Final = 0.95
LONGEST: Final = 500
"""Characters of an error's text in an event."""

LONGEST_TRACEBACK: Final = 16_000
"""Characters of a traceback in an event, its end."""


# --- what the caller gets ---------------------------------------------------------------------------------


class Done(NamedTuple, Generic[Item, Result]):
    """An item and what came of it."""

    item: Item
    result: Result


class Failed(NamedTuple, Generic[Item]):
    """An item and why it failed."""

    item: Item
    error: Exception


@final
class Batch(Generic[Item, Result]):
    """What became of the items, each list in the order in which they were given.

    Attributes:
        done: Items with their results.
        failed: Items with their errors.
        unprocessed: Items that were not begun, or were cut. What is left in an iterator that was given,
            asynchronous or not, stays there and is not here.
        report: The same as plain data: positions, from 0.
    """

    def __init__(self) -> None:
        self.done: list[Done[Item, Result]] = []
        self.failed: list[Failed[Item]] = []
        self.unprocessed: list[Item] = []
        self.report = BatchReport()

    def __repr__(self) -> str:
        return (
            f"<Batch: {len(self.done)} done, {len(self.failed)} failed, {len(self.unprocessed)} unprocessed>"
        )


async def each(
    fn: Callable[[Item], Awaitable[Result]],
    items: Iterable[Item] | AsyncIterable[Item],
    limit: int = 1,
    needs: float | timedelta | None = None,
    *,
    group: Callable[[Item], Hashable] | None = None,
) -> Batch[Item, Result]:
    """Work items off for as long as the next one is predicted to fit before the deadline's soft instant.

    Write `batch = await each(work, records, limit=10)`. It never raises for want of time: what does not fit
    is `unprocessed`. An item that fails does not stop the others; its error is told by the event
    `each.item_failed`. Without a deadline everything fits.

    What `items` or `group` raise leaves as it is, as does what is no `Exception`; items at work are cut then.

    Args:
        fn: Works one item off, an async function.
        items: What there is to do, an iterable or an asynchronous one.
        limit: How many at once, 1 or more.
        needs: Seconds that an item needs at least, whatever the prediction. `None`: nothing is known.
        group: Tells the group of an item, `None` for no group. Items of one group are worked off in order,
            one at a time, and the first that fails leaves the rest of its group unprocessed: what a FIFO
            queue or a shard asks for.

    Returns:
        What became of them. The report of a block that is cut all the same has it too, as `batches`.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
    """
    _check(fn, items, limit, group)
    work = _Work(fn, items, 0.0 if needs is None else _source.seconds(needs, "needs"), group)
    dl = current()
    if dl is not None:
        dl.begin_batch(work.report)
    try:
        await work.run(limit)
    finally:
        work.settle()
    return work.batch


def _check(fn: object, items: object, limit: object, group: object) -> None:
    if not callable(fn):
        raise TypeError(
            f"fn: expected an async function of one argument, got {fn!r} ({type(fn).__name__}); write "
            "each(work, items)"
        )
    if not isinstance(items, Iterable | AsyncIterable) or isinstance(items, str | bytes | Mapping):
        raise TypeError(
            f"items: expected an iterable or an asynchronous one, and no mapping or text, got {items!r:.80} "
            f"({type(items).__name__}); write event['Records'], for example, or list(...) of it"
        )
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(
            f"limit: expected a whole number, got {limit!r} ({type(limit).__name__}); write limit=10"
        )
    if limit < 1:
        raise ValueError(f"limit: {limit} would work nothing off; 1 is one item at a time")
    if group is not None and not callable(group):
        raise TypeError(
            f"group: expected a function of an item, got {group!r} ({type(group).__name__}); write "
            "group=lambda item: item['customer']"
        )


def predicted(costs: Sequence[float]) -> float:
    """Seconds that the next item will take, by what some have cost; 0.0 with nothing known."""
    if not costs:
        return 0.0
    return sorted(costs)[min(len(costs) - 1, int(SHARE * len(costs)))]


# --- how it goes ------------------------------------------------------------------------------------------


class _Entry(Generic[Item]):
    """An item on its way."""

    __slots__ = ("fate", "group", "item", "position")

    def __init__(self, item: Item, group: Hashable) -> None:
        self.item = item
        self.group = group
        self.position = 0
        self.fate: Done[Item, Any] | Failed[Item] | None = None


class _Work(Generic[Item, Result]):
    """One run: some workers that take from one source. Who takes an item has the next worker started.

    Items whose group is busy are parked, and are taken by the worker that is busy with it.
    """

    def __init__(
        self,
        fn: Callable[[Item], Awaitable[Result]],
        items: Iterable[Item] | AsyncIterable[Item],
        needs: float,
        group: Callable[[Item], Hashable] | None,
    ) -> None:
        self.batch: Batch[Item, Result] = Batch()
        self._fn = fn
        self._needs = needs
        self._group = group
        self._now = clock_of(asyncio.get_running_loop()).now
        self._entries: list[_Entry[Item]] = []
        self._parked: dict[Hashable, deque[_Entry[Item]]] = {}
        self._failed: set[Hashable] = set()
        self._kinds: set[Kind] = set()
        self._costs: deque[float] = deque(maxlen=REMEMBERED)
        self._stopped = False
        self._items = items
        self._given = len(items) if isinstance(items, Sized) else 0
        self._sync: Iterator[Item] | None = iter(items) if isinstance(items, Iterable) else None
        self._async: AsyncIterator[Item] | None = None if isinstance(items, Iterable) else aiter(items)
        self._fetching = anyio.Lock()
        self._spare = 0

    async def run(self, limit: int) -> None:
        """Work off what fits."""
        if limit == 1:
            await self._worker()
            return
        self._spare = limit - 1
        try:
            async with anyio.create_task_group() as self._workers:
                await self._worker()
        except BaseExceptionGroup as group:
            if len(group.exceptions) > 1:
                raise
            (error,) = group.exceptions
        else:
            return
        raise error  # out of the `except`, which would be its context

    def settle(self) -> None:
        """Sort the items by what became of them."""
        if self._sync is not None and self._sync is not self._items:
            self._entries += [_Entry(item, None) for item in self._sync]
        for entry in self._entries:
            if isinstance(entry.fate, Done):
                self.batch.done.append(entry.fate)
            elif isinstance(entry.fate, Failed):
                self.batch.failed.append(entry.fate)
            else:
                self.batch.unprocessed.append(entry.item)
        self.batch.report = self.report()

    def report(self) -> BatchReport:
        """What became of them by now: what is at work is unprocessed, and what is known to come."""
        fates = [type(entry.fate) for entry in self._entries]
        fates += [type(None)] * (self._given - len(fates))
        positions = range(len(fates))
        return BatchReport(
            *(tuple(at for at in positions if fates[at] is fate) for fate in (Done, Failed, type(None)))
        )

    async def _worker(self) -> None:
        while (entry := await self._next()) is not None:
            if self._spare:
                self._spare -= 1
                self._workers.start_soon(self._worker)
            following: _Entry[Item] | None = entry
            while following is not None:
                await self._try(following)
                following = self._follower(following)

    async def _next(self) -> _Entry[Item] | None:
        """The next item whose group is free; `None` if there is none, or no time for one."""
        while self._fits():
            entry = await self._fetch()
            if entry is None:
                return None
            entry.position = len(self._entries)
            self._entries.append(entry)
            if entry.group is None:
                return entry
            if entry.group in self._parked:
                self._parked[entry.group].append(entry)
            elif entry.group not in self._failed:
                self._parked[entry.group] = deque()
                return entry
        return None

    async def _fetch(self) -> _Entry[Item] | None:
        try:
            if self._sync is not None:
                item = next(self._sync)
            else:
                assert self._async is not None
                async with self._fetching:
                    item = await anext(self._async)
        except (StopIteration, StopAsyncIteration):
            return None
        return _Entry(item, None if self._group is None else self._group(item))

    def _follower(self, entry: _Entry[Item]) -> _Entry[Item] | None:
        """The next parked item of a group that is free now."""
        if entry.group is None:
            return None
        if entry.group not in self._failed and self._parked[entry.group] and self._fits():
            return self._parked[entry.group].popleft()
        del self._parked[entry.group]
        return None

    def _fits(self) -> bool:
        if not self._stopped:
            left = remaining()
            self._stopped = left <= 0.0 or left < max(self._needs, predicted(self._costs))
        return not self._stopped

    async def _try(self, entry: _Entry[Item]) -> None:
        started = self._now()
        error = await self._error_of(entry)
        if error is not None:
            self._failed.add(entry.group)
            if _refuses(error):
                self._stopped = True
            else:
                entry.fate = Failed(entry.item, error)
                self._tell(entry.position, error)
        self._costs.append(self._now() - started)

    def _tell(self, position: int, error: Exception) -> None:
        kind = kind_of(error)
        first = kind not in self._kinds
        self._kinds.add(kind)
        emit(
            "each.item_failed",
            logging.WARNING if first else logging.INFO,
            item=position,
            error=_text(error),
            traceback=_traceback(error) if first else None,
        )

    async def _error_of(self, entry: _Entry[Item]) -> Exception | None:
        """Work it off, or tell what went wrong: a poison item does not stop the rest."""
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        try:
            result = self._fn(entry.item)
            if inspect.isawaitable(result):
                entry.fate = Done(entry.item, await result)
                return None
        except asyncio.CancelledError as cancelled:
            if task.cancelling() > cancelling:
                raise
            error = RuntimeError("it awaited something that was cancelled, and nobody cancelled the item")
            error.__cause__ = cancelled
            return error
        except Exception as error:  # noqa: BLE001
            return error
        raise TypeError(
            f"fn: expected an async function, and it gave {result!r:.80} ({type(result).__name__}), which "
            "cannot be awaited; write async def"
        )


def kind_of(error: BaseException) -> Kind:
    """What is the same in all errors of one mistake: the class, and the line that raised."""
    frames = error.__traceback__ or (error.__cause__ and error.__cause__.__traceback__)
    while frames and frames.tb_next:
        frames = frames.tb_next
    where = (frames.tb_frame.f_code.co_filename, frames.tb_lineno) if frames else None
    return type(error), where


def _text(error: Exception) -> str:
    """The class and the message in one line. The user's class may do anything, and must not end the batch."""
    kind = type(error).__name__
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001  # see above
        message = f"(its message could not be made: {type(broken).__name__})"
    return " ".join(f"{kind}: {message}"[:LONGEST].split())


def _traceback(error: Exception) -> str | None:
    try:
        return "".join(traceback.format_exception(error)).rstrip()[-LONGEST_TRACEBACK:]
    except Exception:  # noqa: BLE001  # as above
        return None


def _refuses(error: BaseException) -> bool:
    """Whether a deadline around all items left too little time; one of the item's own is its own matter."""

    def is_of_one_around(exceeded: DeadlineExceeded) -> bool:
        dl = exceeded.deadline
        return isinstance(exceeded, InsufficientTime) and dl is not None and dl.covers(copy_context())

    return says_time_is_up(error, is_of_one_around) is not None

"""Code under a deadline that uses SIGALRM itself: nothing of ours rings afterwards."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from deadline import DeadlineExceeded, aws, deadline
from deadline._interrupt.alarm import alarm
from deadline.testing import FakeContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG: Final = 60.0
SOON: Final = 0.05


def _outer(_number: int, _frame: object) -> None:
    """Hold the signal before the deadline."""


def _users(_number: int, _frame: object) -> None:
    """Hold the signal in the block."""


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _outer)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, before)
    assert not alarm._targets


class Order(NamedTuple):
    """What a block does with the signal, and when it arms a nested deadline.

    Attributes:
        does: Its doings, in order.
        late: Whether its time runs out.
    """

    does: tuple[str, ...]
    late: bool

    @property
    def leaves(self) -> tuple[Any, float]:
        """The handler and the seconds of the timer that are right afterwards."""
        handler, timer = None, 0.0
        for doing in self.does:
            if doing in HANDLERS:
                handler = HANDLERS[doing]
            elif doing in TIMERS:
                timer = TIMERS[doing]
            elif handler is None:
                timer = 0.0  # a nested deadline sets the timer anew, under our handler
        return (_outer, 0.0) if handler is None else (handler, timer)


HANDLERS: Final[dict[str, Any]] = {
    "own": _users,
    "ignore": signal.SIG_IGN,
    "default": signal.SIG_DFL,
    "back": None,
}
TIMERS: Final = {"alarm": LONG, "off": 0.0}


def _orders() -> Iterator[Order]:
    """Every order of up to three of: a handler set, put back, a timer set, stopped, a nested deadline."""
    doings = ("own", "back", "alarm", "off", "nested")
    for length in (1, 2, 3):
        for does in itertools.permutations(doings, length):
            if does[0] != "back":
                yield from (Order(does, late) for late in (False, True))
    for handler in ("ignore", "default"):  # a ring of ours would end the process
        for rest in itertools.permutations(("nested", "alarm", "off"), 2):
            for late in (False, True):
                yield Order(("off", handler, *rest), late)


def _do(doing: str, ours: Any) -> None:
    if doing in HANDLERS:
        handler = ours if doing == "back" else HANDLERS[doing]
        signal.signal(signal.SIGALRM, handler)
    elif doing in TIMERS:
        signal.setitimer(signal.ITIMER_REAL, TIMERS[doing])


async def _works(order: Order) -> None:
    ours = signal.getsignal(signal.SIGALRM)
    for doing in order.does:
        _do(doing, ours)
        if doing == "nested":
            async with deadline(LONG / 2, interrupt=True):
                pass
    await asyncio.sleep(LONG if order.late else 0)


def _async_handler(order: Order) -> None:
    @aws.handler(margin=0.1)
    async def handle(_event: object, _context: object) -> str:
        await _works(order)
        return "answered"

    @handle.on_exceeded
    async def mitigate(*_: object) -> str:
        return "mitigated"

    context = FakeContext(0.1 + SOON if order.late else LONG)
    assert handle({}, context) == ("mitigated" if order.late else "answered")


def _plain_handler(order: Order) -> None:
    @aws.handler(margin=0.1)
    def handle(_event: object, _context: object) -> str:
        ours = signal.getsignal(signal.SIGALRM)
        for doing in order.does:
            _do(doing, ours)
            if doing == "nested":
                asyncio.run(_works(Order(("nested",), late=False)))
        time.sleep(2 * SOON if order.late else 0)
        return "answered"

    @handle.on_exceeded
    def mitigate(*_: object) -> str:
        return "mitigated"

    assert handle({}, FakeContext(0.1 + SOON if order.late else LONG)) in {"answered", "mitigated"}


def _bare_scope(order: Order) -> None:
    async def main() -> None:
        async with deadline(0.1 + SOON if order.late else LONG, margin=0.1, interrupt=True):
            await _works(order)

    if order.late:
        with pytest.raises(DeadlineExceeded):
            asyncio.run(main())
    else:
        asyncio.run(main())


@pytest.mark.parametrize("run", [_async_handler, _plain_handler, _bare_scope])
@pytest.mark.parametrize(
    "order", list(_orders()), ids=lambda order: "-".join((*order.does, "late" * order.late))
)
def test_no_timer_of_ours_runs_afterwards(order: Order, run: Callable[[Order], None]) -> None:
    """What the block has set and not put back stays; all else is as before, and nothing of ours rings."""
    run(order)
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    handler, timer = order.leaves
    assert signal.getsignal(signal.SIGALRM) == handler
    assert (left > 0.0, interval) == (timer > 0.0, 0.0)


def test_what_is_put_back_too_late_is_not_kept() -> None:
    """A block that puts handler and timer of ours back after its end: the next deadline ends both."""

    async def main() -> None:
        async with deadline(LONG, interrupt=True):
            timer = signal.getitimer(signal.ITIMER_REAL)
            ours = signal.signal(signal.SIGALRM, _users)
        signal.signal(signal.SIGALRM, ours)
        signal.setitimer(signal.ITIMER_REAL, *timer)
        async with deadline(LONG, interrupt=True):
            pass

    asyncio.run(main())
    assert signal.getsignal(signal.SIGALRM) is _outer
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)

"""The sweep: a move in three steps, cut at every instant, with every fault at every step.

Copy an object, delete the original, note it in a table, against moto through a proxy that lets things go
wrong. After each run what the services hold is compared with what the function told. Three forms of it:

- `undo`: every step can be undone, and the margin is long enough for that;
- `small margin`: the same with so short a margin that the undo often cannot finish;
- `final`: the delete has no undo, so it is the point of no return;

and `plain`, without a deadline and without a section, which is killed at the instant.

A report is right if what it calls done is there, and what it calls not done or undone is not, unless it says
of the latter that it may still land: on a busy server the first request may be carried out after its undo.
That leaves room for one that calls everything unknown, or may land. So both are right only if the proxy's log
shows a request of the step that went out, and no answer that had been sent to its last byte before the cut.
On a loop, "before" has a grain: an answer is read in one turn, reaches the task that awaits it in the next,
and in between the cut may come first. So an answer counts as received if it was sent more than `TURNS` turns
before the step ended: in turns and not in seconds, because on a busy machine a turn may take long.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import selectors
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import aioboto3
from aiobotocore.config import AioConfig

from deadline import DeadlineExceeded, aws, critical, deadline
from deadline.testing import Fault, FaultProxy, LostAnswer, Reset, Stall, service_unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from deadline import Section
    from deadline._report.data import SectionReport
    from deadline.testing import Exchange, Request, Wire

Form: TypeAlias = Literal["undo", "small margin", "final", "plain"]

BUCKET: Final = "sweep"
TABLE: Final = "moved"
MARGINS: Final[dict[Form, float]] = {"undo": 0.8, "small margin": 0.06, "final": 0.8}
FORMS: Final = (*MARGINS, "plain")
SPAN: Final = 0.25
"""Seconds over which the cuts are spread: more than the three steps take if nothing goes wrong."""

TURNS: Final = 4


class Pace(Fault):
    """A service that takes its time: some before the effect, some between it and the answer's end."""

    needs_http = True

    async def play(self, wire: Wire) -> None:
        await asyncio.sleep(0.02)
        await wire.forward(chunk=200, every=0.015)


FAULTS: Final[dict[str, Fault]] = {
    "never answers": Stall(),
    "answer lost": LostAnswer(),
    "503": service_unavailable(),
    "reset": Reset(0),
}

STEPS: Final[dict[str, Callable[[Request], bool]]] = {
    "copy": lambda request: request.method == "PUT" and _path(request).endswith("/new"),
    "delete": lambda request: request.method == "DELETE" and _path(request).endswith("/old"),
    "note": lambda request: request.operation == "PutItem",
}
"""The steps and their requests; those of the compensations are others."""


def _path(request: Request) -> str:
    return request.path.partition("?")[0]


# --- what is played ---------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A run to be made: its form, the fault and its step (or neither), and the instant.

    The instant is where the cut falls if the run is then between its first step's begin and its last one's
    end, counted from that begin. Later ones fall behind it.
    """

    form: Form
    fault: str | None
    step: str | None
    instant: float


def grid(forms: Iterable[Form], instants: int) -> list[Cell]:
    """Every form with every fault at every step at so many instants."""
    places = [(None, None), *itertools.product(FAULTS, STEPS)]
    return [
        Cell(form, fault, step, SPAN * (number + 0.5) / instants)
        for form in forms
        for number in range(instants)
        for fault, step in places
    ]


@dataclass
class Run:
    """A run that was made.

    Attributes:
        cell: What was asked for.
        told: What the function told: `done`, a section's status, `not begun`; for the plain form `error`
            or `nothing`.
        fates: What it told of each step that was begun.
        errors: Why compensations failed.
        unanswered: The steps of which it told that a request was not answered.
        may_land: Those of them that it told were undone.
        effects: Which steps' effects the services hold.
        wrong: What was told and is not so, in words.
    """

    cell: Cell
    told: str = "nothing"
    fates: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    may_land: list[str] = field(default_factory=list)
    effects: dict[str, bool] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def in_between(self) -> bool:
        """Whether some of it was done, and some not."""
        return len(set(self.effects.values())) == 2

    @property
    def landed(self) -> list[str]:
        """The steps that were undone and whose effect is there all the same, as was told that it may."""
        return [step for step in self.may_land if self.effects[step]]

    @property
    def ending(self) -> str:
        """What was told, and for the plain form what was left: it told nothing of that."""
        if self.wrong:
            return "wrong"
        if self.told not in {"nothing", "error"}:
            return self.told
        word = "killed" if self.told == "nothing" else "failed"
        return f"{word}, in between" if self.in_between else f"{word}, all or nothing"


# --- the function -----------------------------------------------------------------------------------------


class Turns(selectors.DefaultSelector):
    """A selector that remembers when the loop's last turns began."""

    def __init__(self) -> None:
        super().__init__()
        self._began: deque[float] = deque([time.monotonic()], maxlen=TURNS)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        self._began.append(time.monotonic())
        return ready

    @property
    def ago(self) -> float:
        """When the oldest of them began."""
        return self._began[0]


@dataclass
class Move:
    """The function, with a key of its own."""

    s3: Any
    dynamodb: Any
    turns: Turns
    key: str
    ended: dict[str, float] = field(default_factory=dict)

    async def copy(self) -> None:
        await self._awaited("copy", self._copy("old", "new"))

    async def delete(self) -> None:
        await self._awaited("delete", self.s3.delete_object(Bucket=BUCKET, Key=f"{self.key}/old"))

    async def note(self) -> None:
        note = self.dynamodb.put_item(TableName=TABLE, Item={"id": {"S": self.key}})
        await self._awaited("note", note)

    async def _awaited(self, step: str, call: Any) -> None:
        try:
            await call
        finally:
            self.ended[step] = self.turns.ago

    async def _copy(self, source: str, to: str) -> None:
        copied = f"{BUCKET}/{self.key}/{source}"
        await self.s3.copy_object(Bucket=BUCKET, Key=f"{self.key}/{to}", CopySource=copied)

    # Each can be run twice, and without the effect. Removing the copy looks first whether the original is
    # there: if its own compensation failed, the copy is all that is left.

    async def remove_copy(self) -> None:
        await self.s3.head_object(Bucket=BUCKET, Key=f"{self.key}/old")
        await self.s3.delete_object(Bucket=BUCKET, Key=f"{self.key}/new")

    async def copy_back(self) -> None:
        await self._copy("new", "old")

    async def forget(self) -> None:
        await self.dynamodb.delete_item(TableName=TABLE, Key={"id": {"S": self.key}})

    async def plain(self) -> None:
        """The three steps, one after the other."""
        await self.copy()
        await self.delete()
        await self.note()

    async def move(self, section: Section, *, wait: float, final: bool) -> None:
        """The same in a critical section, with something else before them that takes its time."""
        async with section:
            await asyncio.sleep(wait)
            async with section.step("copy", undo=self.remove_copy):
                await self.copy()
            async with section.step("delete", undo=None if final else self.copy_back):
                await self.delete()
            async with section.step("note", undo=self.forget):
                await self.note()


# --- playing it -------------------------------------------------------------------------------------------

_numbers: Final = itertools.count()


def sweep(url: str, cells: Sequence[Cell], *, at_once: int) -> list[Run]:
    """Make the runs against a moto server that was just reset, some at once."""
    turns = Turns()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(turns)) as runner:
        return runner.run(_sweep(url, cells, turns, at_once))


async def _sweep(url: str, cells: Sequence[Cell], turns: Turns, at_once: int) -> list[Run]:
    runs: list[Run] = []
    left = iter(cells)
    async with _clients(url) as services:
        await services.s3.create_bucket(Bucket=BUCKET)
        await services.dynamodb.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )

        async def play() -> None:
            with FaultProxy(url) as proxy:
                async with _clients(proxy.url) as clients:
                    await aws.warm_up(*clients)
                    lane = _Lane(proxy, clients, services, turns)
                    runs.extend([await lane.run(cell) for cell in left])

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(play())
    return runs


class _Clients(NamedTuple):
    s3: Any
    dynamodb: Any


_session: Final = aws.install(aioboto3.Session("testing", "testing", region_name="us-east-1"))


@contextlib.asynccontextmanager
async def _clients(url: str) -> AsyncIterator[_Clients]:
    # Not to verify what is not TLS saves each client an SSL context.
    options = {"endpoint_url": url, "verify": False, "config": AioConfig(max_pool_connections=50)}
    async with _session.client("s3", **options) as s3, _session.client("dynamodb", **options) as dynamodb:
        yield _Clients(s3, dynamodb)


@dataclass
class _Lane:
    """What it takes to make a run: a proxy, clients behind it, and others before it."""

    proxy: FaultProxy
    clients: _Clients
    services: _Clients
    turns: Turns

    async def run(self, cell: Cell) -> Run:
        run = Run(cell)
        move = Move(*self.clients, self.turns, f"run-{next(_numbers)}")
        await self.services.s3.put_object(Bucket=BUCKET, Key=f"{move.key}/old", Body=b"it")
        self.proxy.clear()
        before = len(self.proxy.log)
        if cell.fault is not None and cell.step is not None:
            self.proxy.add(FAULTS[cell.fault], where=STEPS[cell.step])
        for is_step in STEPS.values():
            self.proxy.add(Pace(), where=is_step)
        if cell.form == "plain":
            run.told = await _killed(move, cell.instant)
        else:
            report = await _cut(move, cell)
            run.told = "not begun" if report is None else report.status
            steps = () if report is None else report.steps
            run.unanswered = [step.name for step in steps if step.unanswered]
            run.may_land = [] if report is None else report.may_land
            run.fates = {step.name: step.fate for step in steps}
            run.errors = {step.name: step.error for step in steps if step.error is not None}
        log = await self._ended(before)
        run.effects = await self._effects(move.key)
        if cell.form != "plain":
            run.wrong = _wrong(run, log, move.ended)
        return run

    async def _ended(self, since: int) -> list[Exchange]:
        """The exchanges of this run, when they have ended."""
        while any(exchange.outcome is None for exchange in self.proxy.log[since:]):
            await asyncio.sleep(0.002)
        log = self.proxy.log[since:]
        if any(exchange.effect == "unknown" for exchange in log):
            await asyncio.sleep(0.1)  # nobody listens any more, but the server may still be at it
        return log

    async def _effects(self, key: str) -> dict[str, bool]:
        listed = await self.services.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{key}/")
        objects = {entry["Key"].rpartition("/")[2] for entry in listed.get("Contents", [])}
        noted = await self.services.dynamodb.get_item(TableName=TABLE, Key={"id": {"S": key}})
        return {"copy": "new" in objects, "delete": "old" not in objects, "note": "Item" in noted}


async def _killed(move: Move, instant: float) -> str:
    """Run the plain form and kill it at the instant: it has no time for a word."""
    running = asyncio.create_task(move.plain())
    await asyncio.wait((running,), timeout=instant)
    if not running.done():
        running.cancel()
        await asyncio.wait((running,))
        return "nothing"
    return "done" if running.exception() is None else "error"


async def _cut(move: Move, cell: Cell) -> SectionReport | None:
    """Run it under a deadline; what it told of its section, `None` if that was not entered."""
    margin = MARGINS[cell.form]
    section = critical("move")
    try:
        async with deadline(cell.instant + margin, margin=margin):
            await move.move(section, wait=margin / 2, final=cell.form == "final")
    except DeadlineExceeded as exceeded:
        return next(iter(exceeded.report.sections), None)
    except Exception:  # the service's error, or the connection's
        return section.report
    return section.report


# --- was it right? ----------------------------------------------------------------------------------------

EFFECTS: Final = {"done": {True}, "not done": {False}, "undone": {False}, "not begun": {False}}
"""What each fate says of the effect. All others say that it may be there."""


def _wrong(run: Run, log: Sequence[Exchange], ended: dict[str, float]) -> list[str]:
    """What a report says that is not so."""
    wrong = []
    for step, there in run.effects.items():
        fate = run.fates.get(step, "not begun")
        if step in run.may_land:
            fate = "undone, may land"
        if there not in EFFECTS.get(fate, {True, False}):
            wrong.append(f"{step} is told {fate}, and its effect is {'there' if there else 'not there'}")
        answered = not any(_unanswered(exchange, step, ended) for exchange in log)
        if answered and (fate == "unknown" or step in run.unanswered):
            wrong.append(f"{step} is told {fate}, and every request of it was answered: {log}")
        if fate == "running":
            wrong.append(f"{step} is told to be running, and nothing is")
    standing = any(run.fates.get(step) not in {None, "not done", "undone"} for step in STEPS)
    if run.told == "undone" and standing:
        wrong.append("told undone, and something stands")
    if run.told == "done" and not all(run.effects.values()):
        wrong.append("told done, and something is missing")
    return wrong


def _unanswered(exchange: Exchange, step: str, ended: dict[str, float]) -> bool:
    """Whether a request of the step went out, and its answer did not come before the cut."""
    if not STEPS[step](exchange.request):
        return False
    assert exchange.ended is not None
    return not exchange.answered or exchange.ended >= ended[step]

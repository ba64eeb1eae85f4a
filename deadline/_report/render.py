"""A report as text; loaded when the first one is rendered."""

from __future__ import annotations

import itertools
import math
import os
from typing import TYPE_CHECKING, Final

from deadline._report.data import place_in_source, short_path
from deadline._text import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deadline._report.data import Await, Report


def rendered(report: Report, width: int) -> Iterator[str]:
    name = f"deadline {quoted(report.name)}" if report.name else "deadline"
    margin = f", margin {report.margin:.3f} s" if 0 < report.margin < math.inf else ""
    times = f" exceeded: {report.allowed:.3f} s allowed{margin}, left after {report.elapsed:.3f} s"
    if report.allowed <= 0:
        times = f" exceeded before it began: nothing was left{margin and ' beside the'}{margin[1:]}"
    yield _fit(_fit(name, max(20, width - len(times))) + times, width)
    if report.steps:
        yield from _render_steps(report, width)
    for told in (*report.sections, *report.batches, *report.breakers):
        yield _fit(f"  {told}", width)
    for what in report.left_behind:
        yield _fit(f"  left behind: {what}", width)
    if report.blocked:
        yield "  blocking the loop, interrupted"
        for line in _render_chain(report.blocked):
            yield _fit(f"    {line}", width)
    for title, tasks in (("awaiting", report.tasks), ("left running", report.left_running)):
        for task in tasks:
            call = f": {task.call}" if task.call else ""
            host = " (the block's own)" if task.host else ""
            yield _fit(f"  {title} in {task.name}{host}{call}", width)
            for line in _render_chain(task.awaiting):
                yield _fit(f"    {line}", width)


def _render_chain(chain: tuple[Await, ...]) -> Iterator[str]:
    """A line a link; a run of three or more in libraries shrinks to where it ends.

    What calls a handler is ours and left out.
    """
    chain = tuple(itertools.dropwhile(lambda link: _package(link.file) == "deadline", chain)) or chain
    for foreign, links in itertools.groupby(chain, lambda link: _is_library(link.file)):
        run = list(links)
        if foreign and len(run) > 2:
            packages = dict.fromkeys(_package(link.file) for link in run[:-1])
            yield f"... {len(run) - 1} more in {', '.join(packages)}"
            run = run[-1:]
        for link in run:
            function = link.function.replace(".<locals>", "")
            yield f"{_fit(function, 40):<40} {place_in_source(link)}"


# What lies between a handler's await and the socket. In a Lambda package it stands beside the handler's own
# code, where no folder's name tells it apart.
_MACHINERY: Final = frozenset(
    {"aioboto3", "aiobotocore", "aiohttp", "anyio", "asyncio", "botocore", "deadline", "httpcore", "httpx"}
)
_STDLIB: Final = os.__file__.removesuffix("os.py")


def _is_library(path: str) -> bool:
    installed = f"{os.sep}site-packages{os.sep}" in path or path.startswith(_STDLIB)
    return installed or _package(path) in _MACHINERY


def _package(path: str) -> str:
    return short_path(path).partition(os.sep)[0]


def _render_steps(report: Report, width: int) -> Iterator[str]:
    """A bar a step, on one scale: from entry to the edge."""
    names = min(32, max(len(step.name) for step in report.steps))
    starts = max(8, *(len(f"{step.started:.3f}") for step in report.steps))
    lengths = max(7, *(len(f"{step.seconds:.3f}") for step in report.steps))
    bars = max(1, width - names - starts - lengths - 15)
    total = max(_drawn(report.elapsed), *(_drawn(s.started) + _drawn(s.seconds) for s in report.steps), 1e-9)
    for step in report.steps:
        begin = min(bars - 1, round(bars * (_drawn(step.started) / total)))
        length = max(1, min(bars - begin, round(bars * (_drawn(step.seconds) / total))))
        bar = "." * begin + "#" * length + "." * (bars - begin - length)
        name = _fit(step.name, names)
        times = f"{step.started:{starts}.3f} {bar} {step.seconds:{lengths}.3f} s"
        yield _fit(f"  {name:<{names}} {step.status:<7} {times}", width)


def _drawn(seconds: float) -> float:
    """A length that can be drawn: a report that was made by hand may hold NaN."""
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _fit(text: str, width: int) -> str:
    """A name may hold anything; a line of ours is one line."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= width else text[: width - 1] + "…"

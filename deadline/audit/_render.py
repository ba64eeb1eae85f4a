"""An audit for people, as tables and a drawing, and for machines, as plain data."""

from __future__ import annotations

import io
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

try:
    from rich.console import Console, Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise ImportError(
        'this needs rich, which is not installed: pip install "asyncio-deadline[cli]"', name=error.name
    ) from None

from deadline.audit._cost import FORMULA
from deadline.audit._rules.rule import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from deadline.audit._audit import Audit, Bar, Cost
    from deadline.audit._rules.rule import Finding
    from deadline.audit._template.template import Skip

WIDTH: Final = 40
"""Characters of the longest bar."""

PLAIN: Final = 120
"""Characters of a line where there is no terminal."""

_STYLES: Final = {"error": "red", "warning": "yellow"}


def render(audit: Audit) -> Group:
    """The whole for people: findings, what was skipped, the cascades, the costs."""
    return Group(*_parts(audit))


def _parts(audit: Audit) -> Iterator[RenderableType]:
    count = len(audit.findings)
    yield Text(f"{audit.template}: {count or 'no'} finding{'' if count == 1 else 's'}", style="bold")
    if audit.findings:
        yield findings(audit.findings)
        yield reasons(audit.findings)
    if audit.skipped:
        yield Text("could not tell", style="bold")
        yield skipped(audit.skipped)
    if audit.cascades:
        yield Text("cascade, in seconds", style="bold")
        for name, bars in audit.cascades.items():
            yield Padding(Text("\n".join(cascade(name, bars))), (0, 0, 0, 2))
    if audit.costs:
        yield Text(f"a million hung invocations in {audit.region}, first price tier", style="bold")
        yield costs(audit.costs)
        yield Text(f"  {FORMULA}")


def findings(found: Sequence[Finding]) -> Table:
    """What is wrong, a row each."""
    table = Table(show_edge=False, box=None, header_style="dim", padding=(0, 2, 0, 2))
    for column in ("line", "rule", "what"):
        table.add_column(column, no_wrap=column != "what")
    for one in found:
        style = _STYLES[RULES[one.rule].severity]
        table.add_row(
            str(one.line or ""),
            Text(one.rule, style=style),
            Text("\n".join(filter(None, (one.message, one.condition)))),
        )
    return table


def reasons(found: Sequence[Finding]) -> Table:
    """Why that is wrong and what to do, once for each rule."""
    table = Table(show_edge=False, box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name in sorted({one.rule for one in found}):
        rule = RULES[name]
        table.add_row(
            Text(name, style=_STYLES[rule.severity]),
            Text(f"{rule.title}. {rule.why}\nFix: {rule.fix}\n{rule.reference}", style="dim"),
        )
    return table


def skipped(skips: Sequence[Skip]) -> Table:
    """What could not be told, once for each reason, with the rules that wanted to know."""
    rules: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for one in skips:
        rules[one.resource, one.why][one.rule] = None
    table = Table(show_edge=False, box=None, show_header=False, padding=(0, 2, 0, 2))
    for (resource, why), names in rules.items():
        table.add_row(
            Text(resource or "the template"), Text(why), Text(" ".join(filter(None, names)), style="dim")
        )
    return table


def cascade(name: str, bars: Sequence[Bar]) -> list[str]:
    """The limits of those who wait for a function beside its own, on one scale.

        29   API Gateway, REST API, GET /orders  ###################
        60   Orders                              ###################--------------------  31 s too long

    A caller without a limit of its own waits as long as the function runs.
    """
    own = next(bar.seconds for bar in bars if bar.is_function)
    assert own is not None
    longest = max(bar.seconds or own for bar in bars) or 1.0
    heard = min((bar.seconds for bar in bars if bar.seconds is not None and not bar.is_function), default=own)
    titles = max(len(bar.title) for bar in bars)
    lines = []
    for bar in bars:
        seconds = own if bar.seconds is None else bar.seconds
        drawn = (
            round(min(seconds, heard) / longest * WIDTH)
            if bar.is_function
            else round(seconds / longest * WIDTH)
        )
        late = round(seconds / longest * WIDTH) - drawn
        note = f"  {own - heard:g} s too long" if bar.is_function and own > heard else ""
        number = f"{seconds:g}" if bar.seconds is not None else "-"
        lines.append(f"{number:>6}  {bar.title:<{titles}}  {'#' * drawn}{'-' * late}{note}".rstrip())
    return lines if len(bars) > 1 else [f"{own:>6g}  {name}"]


def costs(rows: Sequence[Cost]) -> Table:
    """What each function costs when it hangs, and how many of it there are then."""
    table = Table(show_edge=False, box=None, header_style="dim", padding=(0, 2, 0, 2))
    table.add_column("function")
    for column in ("MB", "architecture", "hung", "ended", "tries", "at once", "reserved"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        ended = "-" if row.ended is None else f"${row.ended:,.2f} at {row.deadline:g} s"
        rate = (
            None if row.rate is None else row.rate * (row.timeout if row.deadline is None else row.deadline)
        )
        table.add_row(
            row.function,
            f"{row.memory:g}",
            row.architecture,
            f"${row.hung:,.2f} at {row.timeout:g} s",
            ended,
            f"x {row.tries}" if row.tries > 1 else "",
            "-" if rate is None else f"{rate:g}",
            "-" if row.reserved is None else f"{row.reserved:g}",
        )
    return table


def listing() -> Table:
    """Every rule."""
    table = Table(show_edge=False, box=None, header_style="dim", padding=(0, 2, 1, 2))
    table.add_column("rule", no_wrap=True)
    table.add_column("what, why, fix, source", overflow="fold")
    for rule in sorted(RULES.values(), key=lambda rule: rule.id[1:]):
        text = Text.assemble((rule.title, "bold"), f"\n{rule.why}\nFix: {rule.fix}\n{rule.reference}")
        table.add_row(Text(rule.id, style=_STYLES[rule.severity]), text)
    return table


def as_data(audit: Audit) -> dict[str, Any]:
    """The whole as JSON has it."""
    return {
        "template": audit.template,
        "findings": [
            one._asdict()
            | {
                "severity": RULES[one.rule].severity,
                "title": RULES[one.rule].title,
                "why": RULES[one.rule].why,
                "fix": RULES[one.rule].fix,
                "source": RULES[one.rule].source,
                "checked": RULES[one.rule].checked,
            }
            for one in audit.findings
        ],
        "skipped": [one._asdict() for one in audit.skipped],
        "cascades": {name: [bar._asdict() for bar in bars] for name, bars in audit.cascades.items()},
        "costs": [one._asdict() for one in audit.costs],
        "region": audit.region,
        "formula": FORMULA,
    }


def printed(what: RenderableType, *, terminal: bool) -> str:
    """As text: coloured and as wide as the terminal, or plain."""
    width = Console().width if terminal else PLAIN
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=terminal, highlight=False).print(what)
    lines = (line if terminal else line.rstrip() for line in file.getvalue().splitlines())
    return "".join(f"{line}\n" for line in lines)

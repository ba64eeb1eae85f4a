"""The command line: a group of commands whose output is made by pure functions."""

import contextlib
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final

from deadline import __version__
from deadline.aws import Caller, caller, callers
from deadline.testing import Emulator, Invocation

try:
    import click
except ImportError as error:
    sys.stderr.write(
        f'this needs {error.name}, which is not installed: pip install "asyncio-deadline[cli]"\n'
    )
    sys.exit(2)

EXIT_CODES: Final = {"success": 0, "error": 1, "timeout": 3}
_COLOURS: Final = {"success": "green", "error": "red", "timeout": "yellow"}
_PLATFORM: Final = (
    "INIT_START ",
    "INIT_REPORT ",
    "START RequestId: ",
    "END RequestId: ",
    "REPORT RequestId: ",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Make asyncio work end before somebody else ends it."""


@main.command()
@click.argument("handler", metavar="MODULE.FUNCTION")
@click.option("--timeout", default=3.0, show_default=True, metavar="S", help="Seconds for an invocation.")
@click.option(
    "--event", type=click.File("rb"), metavar="FILE", help="JSON, - for standard input; {} without."
)
@click.option("--count", default=1, show_default=True, type=click.IntRange(min=1), help="How often.")
@click.option(
    "--freeze",
    default=0.0,
    show_default=True,
    metavar="S",
    type=click.FloatRange(min=0),
    help="Seconds frozen in between.",
)
@click.option("--env", multiple=True, metavar="K=V", help="A variable for the function; may be repeated.")
def run(
    *, handler: str, timeout: float, event: IO[bytes] | None, count: int, freeze: float, env: Sequence[str]
) -> None:
    """Run a handler of the current folder as Lambda would, around Lambda's own runtime client.

    Exit code: 0 success, 1 the function failed, 2 usage, 3 it was killed at its timeout.
    """
    payload, results = _event(event), list[Invocation]()
    variables = dict(_pair(text, "--env") for text in env)
    try:
        with _usage_errors(), Emulator(handler, timeout=timeout, env=variables) as function:
            for number in range(count):
                results.append(function.invoke(payload, freeze=freeze if number else 0.0))
                _print(results[-1])
    except KeyboardInterrupt:
        sys.exit(130)
    if count > 1:
        click.echo(summary(results))
    sys.exit(exit_code(results))


@main.command("callers")
@click.option("--event", type=click.File("rb"), metavar="FILE", help="Only the source of this event; JSON.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def print_callers(*, event: IO[bytes] | None, as_json: bool) -> None:
    """Print what is known of those who call functions: how long they wait, since when, what an error means.

    Exit code: 0, 1 if the event is from no known source, 2 usage.
    """
    known: Sequence[Caller] = callers
    if event is not None:
        source = caller(_event(event))
        known = [] if source is None else [source]
    if as_json:
        click.echo(json.dumps([as_data(one) for one in known], indent=1, ensure_ascii=False))
    else:
        click.echo("\n\n".join(map(description, known)) or "no known source looks like this")
    sys.exit(0 if known else 1)


@main.command("audit")
@click.argument("templates", nargs=-1, metavar="TEMPLATE...")
@click.option(
    "--parameter", "parameters", multiple=True, metavar="K=V", help="A parameter's value; may be repeated."
)
@click.option("--region", metavar="R", help="Where it is deployed; for mappings, conditions and prices.")
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Seconds after which a deadline ends a hung invocation; for the costs.",
)
@click.option(
    "--fact",
    "facts",
    multiple=True,
    metavar="F.K=V",
    help="What you state of a function: Orders.SecondsPerItem=0.8; may be repeated.",
)
@click.option("--price", type=click.File("r", encoding="utf-8"), metavar="FILE", help="Other prices, JSON.")
@click.option("--ignore", multiple=True, metavar="ID", help="A rule, or a beginning of ids; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--rules", "list_rules", is_flag=True, help="List every rule, with its reason, fix and source.")
def audit_templates(
    *,
    templates: Sequence[str],
    parameters: Sequence[str],
    region: str | None,
    deadline: float | None,
    facts: Sequence[str],
    price: IO[str] | None,
    ignore: Sequence[str],
    as_json: bool,
    list_rules: bool,
) -> None:
    """Find time limits that do not fit together in SAM and CloudFormation templates.

    Nothing in them is executed, and no other file is read.

    Exit code: 0 clean, 1 findings, 2 usage, or a template could not be read.
    """
    try:
        from deadline.audit import _report as report  # noqa: PLC0415  # an extra of its own, and slow to load
    except ImportError as error:
        raise click.UsageError(str(error)) from None
    if list_rules:
        click.echo(report.listing(), nl=False)
        return
    if not templates:
        raise click.UsageError("name a template: asyncio-deadline audit template.yaml")
    with _usage_errors():
        audits, errors = report.audits(
            templates,
            parameters=dict(_pair(text, "--parameter") for text in parameters),
            facts=dict(_pair(text, "--fact") for text in facts),
            region=region,
            deadline=deadline,
            prices=None if price is None else price.read(),
            ignore=ignore,
        )
    click.echo(report.as_json(audits, errors) if as_json else report.as_text(audits), nl=False)
    for line in errors:
        click.echo(line, err=True)
    sys.exit(2 if errors else int(any(audit.findings for audit in audits)))


def as_data(known: Caller) -> dict[str, Any]:
    """Return what is known of a source as JSON has it."""
    return {name: value for name, value in known._asdict().items() if name not in {"matches", "started"}}


def description(known: Caller) -> str:
    """Return what is known of a source, in lines."""
    waits = {
        True: "waits for the answer",
        False: "does not wait for the answer",
        None: "may wait for the answer",
    }
    limit = "" if known.limit is None else f", {known.limit:g} s"
    lines = [
        f"{known.name:<14}{known.title}",
        f"{waits[known.waits]}{limit}" + (f": {known.note}" if known.note else ""),
        f"its clock: {known.start}",
        f"an error: {known.on_error}",
        f"{known.source} ({known.checked or 'not compared'})",
    ]
    return f"\n{'':<14}".join(lines)


def outcome(result: Invocation) -> str:
    """Return the response as JSON, or why there is none."""
    if result.error is not None:
        message = result.error.message.removeprefix(f"RequestId: {result.request_id} Error: ")
        return f"{result.status}: {result.error.type}: {message}"
    if isinstance(result.response, bytes):
        return f"response: {len(result.response)} bytes that are no JSON"
    return f"response: {json.dumps(result.response, ensure_ascii=False)}"


def summary(results: Sequence[Invocation]) -> str:
    """Return how many invocations ended how, and how long they took."""
    counts = {status: sum(result.status == status for result in results) for status in EXIT_CODES}
    ended = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    milliseconds = [result.duration * 1000 for result in results]
    median, slowest = statistics.median(milliseconds), max(milliseconds)
    return f"{len(results)} invocations: {ended}; median {median:.2f} ms, slowest {slowest:.2f} ms"


def exit_code(results: Sequence[Invocation]) -> int:
    """Return the code for the worst end: a timeout before an error, an error before success."""
    return max(EXIT_CODES[result.status] for result in results)


def _print(result: Invocation) -> None:
    for line in result.log.splitlines():
        click.secho(line, dim=line.startswith(_PLATFORM))
    click.secho(outcome(result), fg=_COLOURS[result.status])


def _event(file: IO[bytes] | None) -> Any:
    if file is None:
        return {}
    try:
        return json.load(file)
    except ValueError as error:
        raise click.BadParameter(f"{file.name} holds no JSON: {error}", param_hint="--event") from None


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"write NAME=value, not {text!r}", param_hint=option)
    return name, value


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None

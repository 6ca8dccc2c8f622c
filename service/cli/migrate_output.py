"""What `tidegate migrate` prints: tables for people, JSON for machines, events beside either."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from service.cli.output import print_json, wide_console

if TYPE_CHECKING:
    from service.migrator.events import Sink
    from service.migrator.runner import Runner
    from service.migrator.schema_status import SchemaStatus

ResultT = TypeVar("ResultT")

Wait = Annotated[
    float,
    typer.Option(min=0, help="Seconds to wait for the database, and for another runner."),
]


def event_sink() -> "Sink":
    """Events on standard error: as lines on a terminal, otherwise as JSON."""
    if not sys.stderr.isatty():
        from service.migrator.events import json_sink

        return json_sink()
    from rich.console import Console

    from service.cli.migrate_progress import LiveEvents

    return LiveEvents(Console(stderr=True))


def run_command(  # noqa: PLR0913 - what a command consists of
    command: str,
    work: "Callable[[Runner], ResultT]",
    show: Callable[[ResultT], None],
    to_json: Callable[[ResultT], dict[str, Any]],
    *,
    as_json: bool,
    wait: float = 0.0,
    sinks: "tuple[Sink, ...]" = (),
    is_change: bool = False,
    exit_code: Callable[[ResultT], int] = lambda _: 0,
) -> None:
    """Run a command, print what it did, and exit with its code.

    Args:
        command: Its name.
        work: What it does.
        show: Prints it for people.
        to_json: Says it to machines; an error is `{"exit_code": …, "error": …}`.
        as_json: For whom it is.
        wait: Seconds to wait for the database, and then for another runner.
        sinks: Who is told of the events, beside standard error.
        is_change: Whether it changes the database.
        exit_code: What it exits with.
    """
    from service.cli.errors import explain
    from service.migrator.running import run

    try:
        result = run(
            command,
            work,
            wait=wait,
            sinks=(event_sink(), *sinks),
            is_change=is_change,
        )
    except Exception as error:
        line, code = explain(error)
        if not as_json or line is None:
            raise
        print_json({"exit_code": int(code), "error": line})
        raise typer.Exit(code) from error
    code = exit_code(result)
    if as_json:
        print_json({"exit_code": int(code), **to_json(result)})
    else:
        show(result)
    if code:
        raise typer.Exit(code)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on standard output; a cell that is None is empty."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    wide_console().print(table)


def status_as_json(status: "SchemaStatus") -> dict[str, Any]:
    """Where a database stands."""
    return {**asdict(status), "state": str(status.state), "is_compatible": status.is_compatible}

"""Where a command writes: whole files or none, standard output, and progress for who watches."""

import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Final, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]

# As a shell tells of a process that SIGINT ended.
INTERRUPTED: Final = 130
# Where nobody watches, lines are not cut for a screen.
_FILE_COLUMNS: Final = 200


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Open a file that takes its name, from a former one if need be, only when it is complete.

    Raises:
        OSError: It cannot be written.
    """
    if path.exists() and not path.is_file():
        # A device or a named pipe is written to: a file in its place would destroy it.
        with path.open("w", encoding="utf-8", newline="") as target:
            yield target
        return
    final = path.resolve()
    unfinished = final.with_name(f".{final.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("x", encoding="utf-8", newline="") as target:
            if final.exists():
                shutil.copymode(final, unfinished)
            yield target
        unfinished.replace(final)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def standard_output() -> Iterator[TextIO]:
    """Standard output, as UTF-8 and with line ends as they are, whatever the locale.

    Raises:
        BrokenPipeError: Its reader has gone.
    """
    target = sys.stdout
    if isinstance(target, io.TextIOWrapper):
        target.reconfigure(encoding="utf-8", newline="")
    try:
        yield target
        target.flush()
    except BrokenPipeError:
        # Python flushes once more on its way out, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())
        raise


def print_json(value: object) -> None:
    """Print a value as JSON on standard output; what JSON has no type for, as text."""
    typer.echo(json.dumps(value, default=str, indent=2))


def wide_console() -> "Console":
    """Where tables go: as wide as the terminal, and wide enough for whole lines in a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS, highlight=False)


class Progress:
    """Nothing but lines on standard error, where nobody watches."""

    def say(self, line: str) -> None:
        """Print a line."""
        typer.echo(line, err=True)

    def advance(self, lines: int) -> None:
        """Show how many lines are done."""


@contextmanager
def progress_through(stream: IO[bytes]) -> Iterator[Progress]:
    """Show on standard error, if that is a terminal, how far a file has been read."""
    if not sys.stderr.isatty():
        yield Progress()
        return
    # Imported where it is needed: rich takes longer than most imports.
    from service.cli.progress import live_progress

    with live_progress(stream) as progress:
        yield progress

"""A bar on a terminal that shows how far a file has been read."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from rich import progress
from rich.console import Console

from service.cli.output import Progress


class LiveProgress(Progress):
    """A bar below the lines.

    Args:
        bar: Where it is drawn.
        task: Which one it is.
        stream: What is read, if it tells how far.
    """

    def __init__(
        self, bar: progress.Progress, task: progress.TaskID, stream: IO[bytes] | None
    ) -> None:
        self._bar = bar
        self._task = task
        self._stream = stream

    def say(self, line: str) -> None:
        """Print a line above the bar, as it is."""
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def advance(self, lines: int) -> None:
        """Show how many lines are done, and how much of the file."""
        done = self._stream.tell() if self._stream else None
        self._bar.update(self._task, completed=done, lines=lines)


@contextmanager
def live_progress(stream: IO[bytes]) -> Iterator[Progress]:
    """Draw the bar on standard error until all is read."""
    size = _size(stream)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[lines]:,} lines"),
        progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=size, lines=0)
        yield LiveProgress(bar, task, stream if size is not None else None)


def _size(stream: IO[bytes]) -> int | None:
    """The size of a regular file; None for a pipe, whose end nobody knows."""
    try:
        status = os.fstat(stream.fileno())
    except io.UnsupportedOperation:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None

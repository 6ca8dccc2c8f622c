"""What the terminal shows: headings, what happens when, and a line that lives."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.status import Status
from rich.table import Table
from rich.text import Text

_INDENT: Final = 10


@dataclass
class Timing:
    """When an alert fired and resolved; None where it did not.

    Attributes:
        scene: The title of its scene.
        alert: Its name.
        fired: Seconds after the cause began.
        resolved: Seconds after what mends it began.
    """

    scene: str
    alert: str
    fired: float | None = None
    resolved: float | None = None


class Narrator:
    """Tells what happens.

    Args:
        console: Where.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._status: Status | None = None

    def restart_clock(self) -> None:
        """Count seconds from now on."""
        self._start = time.monotonic()

    def heading(self, text: str, story: str) -> None:
        """Begin a part."""
        self._console.print()
        self._console.rule(f"[bold]{escape(text)}", align="left")
        self._console.print(escape(story), highlight=False)

    def event(self, text: str, style: str = "") -> None:
        """Something happened, just now."""
        line = Table.grid(padding=(0, 2))
        line.add_column(justify="right", width=_INDENT - 2, style="dim")
        line.add_column(overflow="fold")
        line.add_row(f"{time.monotonic() - self._start:.1f} s", Text(text, style))
        self._console.print(line)

    def detail(self, text: str, style: str = "") -> None:
        """Something of what happened last."""
        self._console.print(Padding(Text(text, style), (0, 0, 0, _INDENT)))

    def output(self, text: str, *, cut: bool) -> None:
        """What a command printed; cut or wrapped where it is too wide."""
        for line in text.rstrip().splitlines():
            shown = Text(line.rstrip(), "cyan", no_wrap=cut, overflow="ellipsis" if cut else "fold")
            self._console.print(Padding(shown, (0, 0, 0, _INDENT)))

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show that something goes on, where somebody watches."""
        with self._console.status(escape(text)) as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None

    def now(self, text: str) -> None:
        """Change the line that lives."""
        if self._status is not None:
            elapsed = time.monotonic() - self._start
            self._status.update(f"{elapsed:5.1f} s  {escape(text)}")

    def summary(self, timings: Iterable[Timing], complaints: Sequence[str], seconds: float) -> None:
        """The table at the end."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("scene", "alert"):
            table.add_column(column)
        for column in ("cause → firing", "end → resolved"):
            table.add_column(column, justify="right")
        for timing in timings:
            times = map(_seconds, (timing.fired, timing.resolved))
            table.add_row(timing.scene, timing.alert, *times)
        self._console.print()
        self._console.rule("[bold]What was seen", align="left")
        self._console.print(table)
        for complaint in complaints:
            self._console.print(Text(complaint, "bold red"))
        self._console.print(f"{seconds:.0f} s in all.", highlight=False)


def _seconds(value: float | None) -> Text:
    return Text("never", "bold red") if value is None else Text(f"{value:.1f} s", "green")

"""What `tidegate migrate` shows on a terminal: lines, and what goes on below them."""

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from service.migrator.events import Event, text_sink


class LiveEvents:
    """Says each event in a line, with the present revision and its time below. It is a sink.

    Args:
        console: The terminal.
    """

    def __init__(self, console: Console) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task: TaskID | None = None
        self._say = text_sink(self._print)

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        match event["event"]:
            case "revision_start":
                title = f"{event['revision']} {event['title']}"
                self._task = self._progress.add_task(title, total=None)
                self._progress.start()
            case "progress":
                self._describe(f"{event['revision']}: {event['rows']:,} rows")
                return
            case "index_progress" if event["percent"] is not None:
                self._describe(f"{event['revision']}: {event['phase']}, {event['percent']:g} %")
                return
            case "revision_end" | "summary":
                self._end()
        self._say(event)

    def _describe(self, text: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, description=text)

    def _end(self) -> None:
        self._progress.stop()
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def _print(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

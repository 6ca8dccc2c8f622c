"""What the faults did, as tables for a terminal and for a page."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.faults.faults import Fault
from tests.faults.observer import PROBES
from tests.faults.outcome import Outcome, Times, seconds, statuses
from tests.load.client import Answer

_PAGE: Final = Path(__file__).with_name("page.md")


class Skipped(NamedTuple):
    """A fault that could not be caused here, and why."""

    fault: Fault
    reason: str


class Grid(NamedTuple):
    """A table, whoever shows it."""

    names: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As Markdown."""
        lines = [self.names, ["---"] * len(self.names), *self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def rich(self, title: str) -> Table:
        """For a terminal."""
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.padding = (0, 1, 0, 0)
        for name in self.names:
            # A check's path is broken where it can be read.
            table.add_column(name.replace("`", "").replace("/readyz/", "/readyz\n/"))
        for cells in self.rows:
            table.add_row(*cells)
        return table


def summary(results: Sequence[Outcome | Skipped]) -> Grid:
    """One line for each fault, with all that was measured."""
    names = ("fault", "database away", "`/livez`", "`/readyz` turned", "`/readyz` back",
             "clients meanwhile", "clients after", "longest request", "first success",
             "bounds")  # fmt: skip
    return Grid(names, [_summary(each) for each in results])


def _summary(result: Outcome | Skipped) -> Sequence[str]:
    if isinstance(result, Skipped):
        return (result.fault.name, f"SKIPPED: {result.reason}", *["-"] * 7, "not shown")
    said = statuses(each.status for each in result.liveness)
    return (
        result.fault.name,
        seconds(result.recovered - result.caused),
        f"{said}; slowest {seconds(result.slowest_liveness)}",
        seconds(result.turned),
        "-" if result.turned is None else seconds(result.back),
        _got(result.during),
        _got(result.after),
        seconds(result.longest),
        seconds(result.first_success),
        "; ".join(result.missed()) or "held",
    )


def brief(results: Sequence[Outcome | Skipped]) -> Grid:
    """The columns of `summary` that a terminal has room for."""
    names, rows = summary(results)
    kept = [0, 3, 4, 7, 8, 9]
    return Grid([names[each] for each in kept], [[row[each] for each in kept] for row in rows])


def _got(answers: Iterable[Answer]) -> str:
    """What clients got, all successes alike."""
    return statuses("2xx" if each.is_success else each.status for each in answers) or "-"


def by_second(outcome: Outcome) -> Grid:
    """What was seen in each second, counted from the fault."""
    first, last = (
        math.floor(instant - outcome.caused) for instant in (outcome.begun, outcome.stopped)
    )
    names = ("second", *(f"`{probe}`" for probe in PROBES), "clients", "longest")
    # Whole seconds only.
    return Grid(names, [_second(outcome, number) for number in range(first + 1, last)])


def _second(outcome: Outcome, number: int) -> Sequence[str]:
    start = outcome.caused + number
    said = [
        _changes(
            each.status
            for each in outcome.said
            if each.probe == probe and start <= each.asked < start + 1
        )
        for probe in PROBES
    ]
    ended = [each for each in outcome.answers if start <= each.sent + each.seconds < start + 1]
    longest = max((each.seconds for each in ended), default=None)
    happens = {"fault": outcome.caused, "over": outcome.recovered}
    return (
        " ".join([str(number), *(what for what, at in happens.items() if start <= at < start + 1)]),
        *said,
        _got(ended),
        "-" if longest is None else seconds(longest),
    )


def _changes(given: Iterable[str]) -> str:
    """What was said, one after another, without repetitions."""
    found: list[str] = []
    for status in given:
        if found[-1:] != [status]:
            found.append(status)
    return "→".join(found) or "-"


def show(result: Outcome | Skipped, console: Console) -> None:
    """Print what one fault did, second by second."""
    if isinstance(result, Skipped):
        console.print(f"[yellow]{result.fault.name}: SKIPPED: {result.reason}[/]\n")
        return
    console.print(by_second(result).rich(f"{result.fault.name}: {result.fault.story}"))
    for complaint in result.missed():
        console.print(f"[red]missed: {complaint}[/]")
    console.print()


def page(results: Sequence[Outcome | Skipped], times: Times) -> str:
    """The page of the docs."""
    parts = [_PAGE.read_text().format(times=times, summary=summary(results).markdown())]
    for each in results:
        parts.append(f"\n## {each.fault.name}\n\n{each.fault.story}\n\n")
        if isinstance(each, Skipped):
            parts.append(f"SKIPPED: {each.reason}.\n")
        else:
            parts.append(by_second(each).markdown())
    return "".join(parts)

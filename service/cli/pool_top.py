"""`tidegate pool top`: the pools as they are, again and again."""

import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count as numbers

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from service.cli.output import wide_console
from service.cli.pool_tables import Order, report
from service.web.control_client import WorkerReply
from service.web.control_directory import ControlError

_INTERRUPTED = 130
Look = Callable[[], Sequence[WorkerReply]]


def watch(look: Look, *, interval: float, order: Order, count: int) -> None:
    """Show what workers report until somebody has seen enough.

    Args:
        look: Asks the workers.
        interval: Seconds from one report to the next.
        order: How holders are sorted.
        count: After how many reports to end; 0 for never.
    """
    console = wide_console()
    turns = range(count) if count else numbers()
    try:
        if console.is_terminal and not console.is_dumb_terminal and sys.stdin.isatty():
            _watch_live(console, look, turns, interval, order)
        else:
            _print(console, look, turns, interval, order)
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


def _print(
    console: Console, look: Look, turns: Iterator[int] | range, interval: float, order: Order
) -> None:
    for turn in turns:
        if turn:
            time.sleep(interval)
        console.print(_frame(look, order))


def _watch_live(
    console: Console, look: Look, turns: Iterator[int] | range, interval: float, order: Order
) -> None:
    orders = [*Order]
    with _keys() as key, Live(console=console, screen=True, auto_refresh=False) as live:
        for _ in turns:
            live.update(_frame(look, order), refresh=True)
            deadline = time.monotonic() + interval
            while (left := deadline - time.monotonic()) > 0:
                match key(left):
                    case "q" | "Q" | "\x1b":
                        return
                    case "s":
                        order = orders[(orders.index(order) + 1) % len(orders)]
                        break


def _frame(look: Look, order: Order) -> RenderableType:
    now = datetime.now(UTC).strftime("%H:%M:%S UTC")
    head = Text(f"tidegate pool top  {now}  holders by {order}  (s: sort, q: quit)\n", "bold")
    try:
        body: RenderableType = report(look(), order=order)
    except ControlError as error:
        # A restart passes, and somebody watches for just that.
        body = Text(str(error), "red")
    return Group(head, body)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Read keys one by one, without showing them."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def key(seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return sys.stdin.read(1) if ready else ""

    try:
        yield key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

"""`tidegate pool top`: the pools as they are, again and again."""

import os
import re
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

from service.cli.output import INTERRUPTED, wide_console
from service.cli.pool_tables import Order, report
from service.web.control_client import WorkerReply
from service.web.control_directory import ControlError

# A key with a name, such as an arrow, is Escape with something behind it.
_KEY = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|\x1b.|.", re.DOTALL)
_END_OF_INPUT = "\x04"
_QUIT = ("q", "Q", "\x1b", _END_OF_INPUT)
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
        raise typer.Exit(INTERRUPTED) from None


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
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        for _ in turns:
            live.update(_frame(look, order), refresh=True)
            deadline = time.monotonic() + interval
            while (left := deadline - time.monotonic()) > 0:
                keys = pressed(left)
                if not {*keys}.isdisjoint(_QUIT):
                    return
                if steps := keys.count("s"):
                    order = orders[(orders.index(order) + steps) % len(orders)]
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
def _keys() -> Iterator[Callable[[float], list[str]]]:
    """Read what keys are pressed within some seconds, without showing them."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def pressed(seconds: float) -> list[str]:
        if not select.select([descriptor], [], [], seconds)[0]:
            return []
        # Not by sys.stdin: what that reads ahead, select does not see.
        read = os.read(descriptor, 64).decode(errors="replace")
        return _KEY.findall(read) or [_END_OF_INPUT]

    try:
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

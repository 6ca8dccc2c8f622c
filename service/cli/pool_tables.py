"""What workers report of their pools, as tables for a terminal."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import chain
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.web.control_client import WorkerReply

# From which share of its connections on a pool is shown as nearly used up.
_SATURATED = 0.9
_KIT = "service/database/"


class Order(StrEnum):
    """What holders are sorted by."""

    AGE = "age"
    ROUTE = "route"
    POOL = "pool"
    WORKER = "worker"


def report(
    replies: Sequence[WorkerReply], *, order: Order = Order.AGE, stacks: bool = False
) -> RenderableType:
    """Everything that is known of the pools.

    Args:
        replies: What the workers said.
        order: How the holders are sorted; of equals, the longest first.
        stacks: Whether to show all of the code that took a connection, or where it was only.
    """
    parts = [_pools(replies), _gates(replies), *_holders(replies, order, stacks=stacks)]
    return _group([*parts, *_waiters(replies), *_complaints(replies)])


def state(replies: Sequence[WorkerReply], pool_name: str) -> RenderableType:
    """How one pool is, after something was done to it, and admission with it.

    Args:
        replies: What the workers said.
        pool_name: The pool.
    """
    return _group([_pools(replies, pool_name), _gates(replies), *_complaints(replies)])


def _group(parts: Sequence[RenderableType]) -> Group:
    shown = [part for part in parts if not isinstance(part, Table) or part.rows]
    return Group(*chain.from_iterable((part, Text()) for part in shown[:-1]), *shown[-1:])


def _pools(replies: Iterable[WorkerReply], pool_name: str | None = None) -> Table:
    table = _table("worker", "pid", "pool", "used", "idle", "max", "waiting", "oldest use")
    table.add_column("oldest wait", justify="right")
    table.add_column("state")
    for reply in replies:
        for pool in reply.answer.get("pools", ()):
            if pool_name not in (None, pool["pool_name"]):
                continue
            oldest = pool["holders"][0]["age"] if pool["holders"] else None
            table.add_row(
                str(reply.slot),
                str(reply.pid),
                pool["pool_name"],
                str(pool["used"]),
                str(pool["idle"]),
                "no limit" if pool["max"] is None else str(pool["max"]),
                str(pool["pending"]),
                _seconds(oldest),
                _seconds(pool["oldest_wait"] or None),
                _state(pool),
            )
    return table


def _state(pool: dict[str, Any]) -> Text:
    if pool["is_suspended"]:
        return Text("suspended", "bold red")
    if any(holder["is_leaked"] for holder in pool["holders"]):
        return Text("leaking", "bold red")
    if pool["pending"]:
        return Text("waiting", "bold yellow")
    # A pool of one connection, the probes' own, is used up whenever it is used.
    if pool["max"] is not None and pool["max"] > 1 and pool["used"] >= _SATURATED * pool["max"]:
        return Text("saturated", "bold yellow")
    return Text("ok", "green")


def _gates(replies: Iterable[WorkerReply]) -> Table:
    table = _table("worker", "admission", "admitted", "of", "queued", "of")
    for reply in replies:
        for gate in reply.answer.get("admission", ()):
            cells = (gate["admitted"], gate["limit"], gate["queued"], gate["queue"])
            table.add_row(str(reply.slot), gate["gate"], *map(str, cells))
    return table


def _holders(replies: Iterable[WorkerReply], order: Order, *, stacks: bool) -> list[RenderableType]:
    found = sorted(
        (
            (reply.slot, pool["pool_name"], holder)
            for reply in replies
            for pool in reply.answer.get("pools", ())
            for holder in pool["holders"]
        ),
        key=lambda one: -one[2]["age"],
    )
    match order:
        case Order.ROUTE:
            found.sort(key=lambda one: one[2]["route"])
        case Order.POOL:
            found.sort(key=lambda one: one[1])
        case Order.WORKER:
            found.sort(key=lambda one: one[0])
    if not found:
        return [Text("nobody has a connection")]
    table = _table("worker", "pool", "has had one for", "route", "taken at")
    for slot, pool_name, holder in found:
        age = Text(_seconds(holder["age"]), "bold red" if holder["is_leaked"] else "")
        place = "\n".join(holder["stack"]) if stacks else _place(holder["stack"])
        table.add_row(str(slot), pool_name, age, _route(holder), Text(place))
    return [table]


def _place(stack: Sequence[str]) -> str:
    """The code that asked the kit for a connection."""
    return next((line for line in stack if not line.startswith(_KIT)), *stack[:1]) if stack else ""


def _waiters(replies: Iterable[WorkerReply]) -> list[RenderableType]:
    table = _table("worker", "pool", "waits for", "route")
    for reply in replies:
        for pool in reply.answer.get("pools", ()):
            for waiter in pool["waiters"]:
                age = _seconds(waiter["age"])
                table.add_row(str(reply.slot), pool["pool_name"], age, _route(waiter))
    return [table]


def _complaints(replies: Iterable[WorkerReply]) -> list[RenderableType]:
    lines = []
    for reply in replies:
        who = f"worker {reply.slot} (pid {reply.pid})"
        if reply.problem:
            lines.append(f"{who}: {reply.problem}")
        elif reply.answer.get("loop_delay") is None:
            lines.append(f"{who}: its event loop is blocked; the service's log tells by what")
        lines += [
            f"{who}: {check['check']} {check['status']}: {check['reason']}: {check['advice']}"
            for check in reply.answer.get("checks", ())
            if check["status"] != "pass"
        ]
    return [Text("\n".join(lines), "red")] if lines else []


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    words = ("pool", "route", "admission", "taken at")
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right")
    return table


def _seconds(age: float | None) -> str:
    if age is None:
        return "-"
    return f"{age:.3f} s" if age < 1 else f"{age:.1f} s"


def _route(who: dict[str, Any]) -> str:
    return who["route"] or "(no route)"

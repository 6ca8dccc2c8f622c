"""`tidegate pool`: look into the pools of running workers, and act on them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.output import AsJson

if TYPE_CHECKING:
    from service.web.control_client import WorkerReply

app = typer.Typer(
    help="Look into the connection pools of the running workers, and act on them.",
    no_args_is_help=True,
)

_Port = Annotated[
    int | None,
    typer.Option("--port", min=1, max=65_535, help="The service's port; PORT when left out."),
]
_Worker = Annotated[int | None, typer.Option("--worker", min=0, help="Only the worker of a slot.")]
_Pool = Annotated[str, typer.Argument(metavar="POOL", help="Such as primary; see `pool show`.")]
_Timeout = Annotated[float, typer.Option(min=0.1, max=60, help="Seconds to wait for the workers.")]


@app.command()
def show(
    port: _Port = None,
    worker: _Worker = None,
    timeout: _Timeout = 2.0,
    stacks: Annotated[
        bool, typer.Option("--stacks", help="All of the code that took each connection.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show every pool, who has its connections, and who waits.

    Exits with 1 if a worker does not answer, and with 2 if there is none.
    """
    replies = _ask({"command": "show", "stacks": True}, port, worker, timeout)
    if as_json:
        _print_json(replies)
    else:
        from service.cli.output import wide_console
        from service.cli.pool_tables import report

        wide_console().print(report(replies, stacks=stacks))
    _exit(replies)


@app.command()
def top(
    port: _Port = None,
    worker: _Worker = None,
    interval: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds.")] = 1.0,
    sort: Annotated[
        str, typer.Option(help="Holders by: age, route, pool or worker; the key s changes it.")
    ] = "age",
    count: Annotated[int, typer.Option(min=0, help="End after so many; 0 for never.")] = 0,
) -> None:
    """Watch the pools; q or Ctrl-C ends it. Where there is no terminal, reports are printed."""
    from service.cli.pool_tables import Order
    from service.cli.pool_top import watch

    try:
        order = Order(sort)
    except ValueError:
        raise typer.BadParameter(f"take one of {', '.join(Order)}", param_hint="--sort") from None
    watch(
        lambda: _ask({"command": "show", "stacks": True}, port, worker, min(interval, 2.0)),
        interval=interval,
        order=order,
        count=count,
    )


def _add_action(name: str, about: str) -> None:
    """Add a command that needs to know nothing but the pool."""

    @app.command(name, help=about)
    def act(
        pool: _Pool,
        port: _Port = None,
        worker: _Worker = None,
        timeout: _Timeout = 5.0,
        as_json: AsJson = False,
    ) -> None:
        _act({"command": name, "pool": pool}, port, worker, timeout, as_json=as_json)


_add_action(
    "suspend", "Let every checkout wait, up to DATABASE_POOL_TIMEOUT; connections in use go on."
)
_add_action("resume", "Serve those who wait for a suspended pool, in their order.")
_add_action("evict", "Replace every connection: idle ones now, those in use when they come back.")


@app.command()
def resize(  # noqa: PLR0913, PLR0917 - options, each with a default
    pool: _Pool,
    size: Annotated[int | None, typer.Option(min=1, max=1000, help="Connections kept.")] = None,
    max_overflow: Annotated[
        int | None, typer.Option(min=0, max=1000, help="Connections opened beyond those.")
    ] = None,
    port: _Port = None,
    worker: _Worker = None,
    timeout: _Timeout = 5.0,
    as_json: AsJson = False,
) -> None:
    """Change the limits of a pool, and those of admission with them, until the next restart.

    Refused where all workers of all replicas would open more than DATABASE_CONNECTION_BUDGET, or
    the server's limit.
    """
    if size is None and max_overflow is None:
        raise typer.BadParameter("give --size, --max-overflow or both")
    command = {"command": "resize", "pool": pool, "size": size, "max_overflow": max_overflow}
    _act(command, port, worker, timeout, as_json=as_json)


def _ask(
    request: dict[str, Any], port: int | None, worker: int | None, timeout: float
) -> "list[WorkerReply]":
    from service.cli.ports import service_port
    from service.web.control_client import ask_workers

    return ask_workers(request, port=port or service_port(), slot=worker, timeout=timeout)


def _act(
    request: dict[str, Any],
    port: int | None,
    worker: int | None,
    timeout: float,
    *,
    as_json: bool,
) -> None:
    replies = _ask(request, port, worker, timeout)
    if as_json:
        _print_json(replies)
    else:
        from service.cli.output import wide_console
        from service.cli.pool_tables import state

        wide_console().print(state(replies, request["pool"]))
    _exit(replies)


def _print_json(replies: "Sequence[WorkerReply]") -> None:
    from service.cli.output import print_json

    print_json({"workers": [_as_dict(reply) for reply in replies]})


def _exit(replies: "Sequence[WorkerReply]") -> None:
    if any(reply.problem for reply in replies):
        raise typer.Exit(1)


def _as_dict(reply: "WorkerReply") -> dict[str, Any]:
    problem = {"problem": reply.problem} if reply.problem else {}
    return {"slot": reply.slot, "pid": reply.pid, **problem, **reply.answer}

"""The command line, put together."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from service.cli import catalog, doctor, migrate, pool, probe, serve, settings

app = typer.Typer(
    name="tidegate",
    help="A product catalog whose database layer can be operated.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(catalog.app, name="catalog")
app.add_typer(migrate.app, name="migrate")
app.add_typer(pool.app, name="pool")
app.command("doctor")(doctor.doctor)
app.command("settings")(settings.settings)
app.command("serve")(serve.serve)


class Probe(StrEnum):
    """The probes that can be asked."""

    LIVE = "live"
    READY = "ready"
    STARTUP = "startup"


@app.command("probe")
def ask_probe(name: Probe) -> None:
    """Ask a running service; exits with 1 if it says no."""
    raise typer.Exit(probe.ask(name))


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"tidegate {version('tidegate')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""
    del version


def run() -> None:
    """Run a command; what the caller can mend is one line on standard error, not a stack trace."""
    try:
        app()
    except Exception as error:
        from service.cli.errors import explain

        line, code = explain(error)
        if line is None:
            raise
        typer.echo(f"tidegate: {line}", err=True)
        sys.exit(code)

"""`tidegate migrate`: the schema."""

from typing import Annotated

import typer

app = typer.Typer(help="Bring the database to this release's schema.", no_args_is_help=True)


@app.command()
def up(
    wait: Annotated[
        float,
        typer.Option(min=0, help="Seconds to wait for the database, and for another runner."),
    ] = 60.0,
) -> None:
    """Apply every revision that is pending; of several runners one does, the others wait."""
    from service.database import DatabaseSettings
    from service.migrator import runner
    from service.migrator.revisions import SchemaState

    before = runner.up(DatabaseSettings.load(), wait=wait, report=typer.echo)
    match before.state:
        case SchemaState.AHEAD:
            typer.echo(f"nothing to do: a later release migrated to {before.current}")
        case SchemaState.CURRENT:
            typer.echo(f"nothing to do: at {before.head}")
        case SchemaState.BEHIND:
            typer.echo(f"done: at {before.head}")


@app.command()
def status() -> None:
    """Show where the database stands; exits with 20 when it is behind."""
    from service.database import DatabaseSettings
    from service.migrator import runner
    from service.migrator.errors import ExitCode
    from service.migrator.revisions import Revisions, SchemaState

    found = runner.status(DatabaseSettings.load())
    typer.echo(f"state:   {found.state}")
    typer.echo(f"current: {found.current or 'none'}")
    typer.echo(f"head:    {found.head}")
    for revision in found.pending:
        typer.echo(f"pending: {Revisions().title(revision)}")
    if found.state is SchemaState.BEHIND:
        raise typer.Exit(ExitCode.BEHIND)

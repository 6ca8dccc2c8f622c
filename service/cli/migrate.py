"""`tidegate migrate`: the schema."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli import migrate_checks
from service.cli.migrate_output import Wait, print_table, run_command, status_as_json
from service.cli.output import AsJson

if TYPE_CHECKING:
    from service.migrator.runner import Runner
    from service.migrator.schema_status import SchemaStatus

app = typer.Typer(help="Bring the database to this release's schema.", no_args_is_help=True)

for _command in migrate_checks.COMMANDS:
    app.command()(_command)

_REVISION_COLUMNS = ("outcome", "revision", "title", "phase", "seconds", "attempts")


@app.command()
def up(
    wait: Wait = 60.0,
    accept: Annotated[
        list[str] | None,
        typer.Option(help="A revision whose file was edited and does the same as before."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Apply every revision that is pending; of several runners one does, the others wait."""
    from service.migrator.running import Outcome
    from service.migrator.schema_status import SchemaState

    outcome = Outcome()

    def show(before: "SchemaStatus") -> None:
        if outcome.revisions:
            _print_revisions(outcome.revisions)
        match before.state:
            case SchemaState.AHEAD:
                typer.echo(f"nothing to do: a later release migrated to {before.current}")
            case SchemaState.CURRENT:
                typer.echo(f"nothing to do: at {before.head}")
            case _:
                typer.echo(f"done: at {before.head}")

    def to_json(before: "SchemaStatus") -> dict[str, Any]:
        return {"before": status_as_json(before), "revisions": outcome.revisions}

    run_command(
        "up",
        lambda runner: runner.up(tuple(accept or ())),
        show,
        to_json,
        as_json=as_json,
        wait=wait,
        sinks=(outcome,),
        is_change=True,
    )


@app.command()
def down(
    target: Annotated[
        str, typer.Argument(help='The revision to end at, "base" for none, or "-1" for one step.')
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: data may be lost.")] = False,
    wait: Wait = 60.0,
    as_json: AsJson = False,
) -> None:
    """Take revisions back, the last one first."""
    from service.migrator.running import Outcome

    if not yes:
        typer.confirm(f"Take back what lies behind {target}, with its data?", abort=True, err=True)
    outcome = Outcome()

    def show(taken_back: list[str]) -> None:
        if taken_back:
            _print_revisions(outcome.revisions)
        else:
            typer.echo("nothing to do")

    run_command(
        "down",
        lambda runner: runner.down(target),
        show,
        lambda _: {"revisions": outcome.revisions},
        as_json=as_json,
        wait=wait,
        sinks=(outcome,),
        is_change=True,
    )


@app.command()
def wait(
    seconds: Annotated[float, typer.Option("--timeout", min=0, help="Seconds.")] = 300.0,
    as_json: AsJson = False,
) -> None:
    """Wait until this release can work with the database; exits with 20 when that takes longer."""
    from service.migrator.waiting import wait_until_compatible

    run_command(
        "wait",
        wait_until_compatible,
        lambda found: typer.echo(f"{found.state}: at {found.current}"),
        status_as_json,
        as_json=as_json,
        wait=seconds,
    )


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show where the database stands; exits with 20 when behind, 21 when ahead past a contract."""
    from service.migrator.inspection import Standing, inspect_database

    def show(found: Standing) -> None:
        typer.echo(f"state:   {found.status.state}")
        typer.echo(f"current: {found.status.current or 'none'}")
        typer.echo(f"head:    {found.status.head}")
        columns = ("revision", "title", "phase", "applied", "release", "seconds", "note")
        print_table(columns, [[row[name] for name in columns] for row in found.revisions])

    def to_json(found: Standing) -> dict[str, Any]:
        return {**status_as_json(found.status), "revisions": found.revisions}

    run_command(
        "status",
        inspect_database,
        show,
        to_json,
        as_json=as_json,
        exit_code=lambda found: found.exit_code,
    )


@app.command()
def plan(  # noqa: PLR0913, PLR0917 - options, each with a default
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL.")] = False,
    dialect: Annotated[
        str | None,
        typer.Option(help="postgresql, mariadb or sqlite, without asking a database."),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="With --dialect: the revision applied last.")
    ] = None,
    since: migrate_checks.Since = None,
    output: Annotated[Path | None, typer.Option(help="Write the SQL to a file as well.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what `up` would do, and change nothing."""
    from service.cli.output import replacing
    from service.migrator.errors import UsageError
    from service.migrator.inspection import PlannedRevision, make_plan
    from service.migrator.released import last_released

    def work(runner: "Runner") -> list[PlannedRevision]:
        if since is not None and dialect is None:
            raise UsageError("--since needs --dialect: a database knows where it stands")
        if since is not None and start is not None:
            raise UsageError("--since and --from both say where to begin: give one of them")
        first = start if since is None else last_released(runner.revisions, since)
        planned = make_plan(runner, dialect_name=dialect, start=first)
        if output is not None:
            with replacing(output) as file:
                file.write("\n".join(one.sql for one in planned))
        return planned

    def show(planned: list[PlannedRevision]) -> None:
        if not planned:
            typer.echo("nothing to do")
        elif sql:
            typer.echo("\n".join(one.sql for one in planned), nl=False)
        else:
            columns = ("revision", "title", "phase", "lock_timeout", "statement_timeout")
            print_table(columns, [[one.fields[name] for name in columns] for one in planned])

    run_command(
        "plan",
        work,
        show,
        lambda planned: {"revisions": [{**one.fields, "sql": one.sql} for one in planned]},
        as_json=as_json,
    )


@app.command()
def locks(as_json: AsJson = False) -> None:
    """Show who holds the runner's lock, and who waits for whom."""
    from service.migrator.inspection import Locks, find_locks

    columns = ("number", "application_name", "state", "query_start", "transaction_start")

    def show(found: Locks) -> None:
        if not found.is_known:
            typer.echo("the runner's lock: not known to SQLite, nor is who waits for whom")
            return
        holder = found.holder.description if found.holder else "nobody"
        typer.echo(f"the runner's lock: {holder}")
        rows = []
        for session, holders in found.waiting:
            rows.append(["waits", *(getattr(session, name) for name in columns)])
            rows += [["  for", *(getattr(one, name) for name in columns)] for one in holders]
        print_table(("", *columns), rows) if rows else typer.echo("nobody waits for a lock")

    run_command("locks", find_locks, show, lambda found: found.as_json(), as_json=as_json)


@app.command()
def new(
    message: Annotated[str, typer.Argument(help="What it does: 'Add products.weight'.")],
    phase: Annotated[str, typer.Option(help="expand or contract.")] = "expand",
    empty: Annotated[
        bool, typer.Option("--empty", help="Do not compare the models with the database.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a revision, from what the models have and the database lacks; then read it."""
    from service.migrator.phases import Phase
    from service.migrator.scaffold import new_revision

    if phase not in {*Phase}:
        raise typer.BadParameter("expand or contract", param_hint="--phase")

    def work(runner: "Runner") -> Path:
        return new_revision(runner, message, phase=Phase(phase), autogenerate=not empty)

    run_command(
        "new",
        work,
        lambda path: typer.echo(f"wrote {path}"),
        lambda path: {"path": str(path)},
        as_json=as_json,
    )


def _print_revisions(revisions: list[dict[str, Any]]) -> None:
    if sys.stdout.isatty() and sys.stderr.isatty():
        # Each has left its line there already.
        return
    print_table(_REVISION_COLUMNS, [[one[name] for name in _REVISION_COLUMNS] for one in revisions])

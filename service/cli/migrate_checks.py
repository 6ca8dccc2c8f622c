"""The commands of `tidegate migrate` that prove revisions, before they are shipped."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service.cli.migrate_output import Wait, print_table, run_command
from service.cli.output import AsJson
from service.migrator.errors import ExitCode
from service.migrator.lint import OLDEST_POSTGRESQL
from service.migrator.lint.formats import Format

if TYPE_CHECKING:
    from service.migrator.catalog import Difference
    from service.migrator.lint.findings import Finding
    from service.migrator.roundtrip import Trip
    from service.migrator.runner import Runner
    from service.migrator.scratch import Scratch

Since = Annotated[
    str | None,
    typer.Option(help="A Git reference, such as origin/main: what it has is released."),
]
ScratchUrl = Annotated[
    str | None,
    typer.Option(
        help="Make the scratch databases on the server of this URL, not on the database's own."
        " Or set MIGRATE_SCRATCH_URL.",
        show_default=False,
    ),
]


def verify(since: Since = None, as_json: AsJson = False) -> None:
    """Check the revisions' files: one head, names, dates, phases, a way back; nothing is run."""
    from service.migrator.released import released
    from service.migrator.verify import exit_code
    from service.migrator.verify import verify as find

    def work(runner: "Runner") -> "list[Finding]":
        revisions = runner.revisions
        before = None if since is None else released(revisions.versions, since)
        return find(revisions, released=before)

    run_command(
        "verify",
        work,
        lambda found: _print_findings(found, Format.TEXT),
        _findings_as_json,
        as_json=as_json,
        exit_code=exit_code,
    )


def lint(
    since: Since = None,
    format_: Annotated[
        Format, typer.Option("--format", help="Who the findings are for.")
    ] = Format.TEXT,
    pg_version: Annotated[
        str, typer.Option(help="The oldest PostgreSQL that the revisions are for.")
    ] = OLDEST_POSTGRESQL,
    output: Annotated[Path | None, typer.Option(help="Write them to a file as well.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what would lock tables or break the former release, from the SQL for PostgreSQL."""
    from service.cli.output import replacing
    from service.migrator.lint.formats import WRITERS, relative
    from service.migrator.lint.linter import lint as find
    from service.migrator.released import unreleased

    def work(runner: "Runner") -> "list[Finding]":
        revisions = runner.revisions
        known = revisions.known.values()
        scripts = [*known] if since is None else unreleased(revisions, since)
        found = relative(find(revisions, scripts, pg_version=pg_version), Path.cwd())
        if output is not None:
            with replacing(output) as file:
                file.write(WRITERS[format_](found) + "\n")
        return found

    run_command(
        "lint",
        work,
        lambda found: _print_findings(found, format_),
        _findings_as_json,
        as_json=as_json or format_ is Format.JSON,
        exit_code=lambda found: ExitCode.LINT if found else ExitCode.DONE,
    )


def check(
    database: Annotated[
        bool,
        typer.Option(
            "--database", help="Compare the database instead of the models, at its own revision."
        ),
    ] = False,
    scratch_url: ScratchUrl = None,
    as_json: AsJson = False,
) -> None:
    """Compare the schema of the revisions with that of the models, by the server's catalog."""
    from service.migrator.check import compare_with_database, compare_with_models

    def work(runner: "Runner") -> "tuple[Difference, ...]":
        scratch = _scratch(runner, scratch_url)
        if not database:
            return compare_with_models(runner.revisions, scratch)
        with runner.connected() as engine:
            return compare_with_database(engine, runner.revisions, scratch)

    _run_comparison("check", work, "no difference", as_json=as_json)


def roundtrip(scratch_url: ScratchUrl = None, as_json: AsJson = False) -> None:
    """Take each revision up, down and up again, on a scratch database with rows in it."""
    from service.migrator.roundtrip import roundtrip as travel

    def work(runner: "Runner") -> "list[Trip]":
        def report(trip: "Trip") -> None:
            runner.events.emit(
                "round_trip", revision=trip.revision, title=trip.title, outcome=trip.outcome
            )
            runner.cancellation.check()

        return travel(runner.revisions, _scratch(runner, scratch_url), report)

    def show(trips: "list[Trip]") -> None:
        columns = ("revision", "title", "outcome", "")
        rows = []
        for trip in trips:
            lines = [*trip.problems, *trip.notes, *([trip.irreversible] * bool(trip.irreversible))]
            first, *rest = lines or [""]
            rows.append([trip.revision, trip.title, trip.outcome, first])
            rows += [["", "", "", line] for line in rest]
        print_table(columns, rows)

    run_command(
        "roundtrip",
        work,
        show,
        lambda trips: {"revisions": [trip.as_json() for trip in trips]},
        as_json=as_json,
        exit_code=lambda trips: (
            ExitCode.ROUND_TRIP if any(trip.problems for trip in trips) else ExitCode.DONE
        ),
    )


def baseline(scratch_url: ScratchUrl = None, wait: Wait = 60.0, as_json: AsJson = False) -> None:
    """Note that a database which create_all() made is at the last revision, if it is the same."""
    from service.migrator.baseline import baseline as take_over

    def work(runner: "Runner") -> "tuple[Difference, ...]":
        return take_over(runner, _scratch(runner, scratch_url))

    _run_comparison("baseline", work, "done: noted the last revision", as_json=as_json, wait=wait)


COMMANDS: Final = (verify, lint, check, roundtrip, baseline)


def _run_comparison(
    command: str,
    work: "Callable[[Runner], tuple[Difference, ...]]",
    when_equal: str,
    *,
    as_json: bool,
    wait: float = 0.0,
) -> None:
    def show(found: "tuple[Difference, ...]") -> None:
        if found:
            print_table(("kind", "name", "difference"), [(d.kind, d.name, d.what) for d in found])
        else:
            typer.echo(when_equal)

    run_command(
        command,
        work,
        show,
        lambda found: {"differences": [str(one) for one in found]},
        as_json=as_json,
        wait=wait,
        exit_code=lambda found: ExitCode.DRIFT if found else ExitCode.DONE,
    )


def _scratch(runner: "Runner", url: str | None) -> "Scratch":
    from service.migrator.scratch import Scratch

    configured = runner.limits.scratch_url
    if url is None and configured is not None:
        url = configured.get_secret_value()
    return Scratch(runner.settings, url, runner.cancellation)


def _print_findings(found: "Sequence[Finding]", format_: Format) -> None:
    from service.migrator.lint.formats import WRITERS

    if written := WRITERS[format_](found):
        typer.echo(written)
    elif format_ is Format.TEXT:
        typer.echo("nothing is wrong")


def _findings_as_json(found: "Sequence[Finding]") -> dict[str, Any]:
    return {"findings": [finding.as_json() for finding in found]}

"""The SQL of revisions, without a database."""

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.script import Script

from service.migrator.errors import MigrationError, first_line
from service.migrator.phases import Phase, phase_of
from service.migrator.revisions import Revisions
from service.migrator.source_lines import Statement, StatementBuffer


@dataclass(frozen=True, slots=True)
class RenderedRevision:
    """What a revision would send.

    Args:
        revision: Its identifier.
        title: The first line of its description.
        path: Its file.
        phase: What it does to the release before it.
        sql: Its statements, with those that begin and end transactions and note the revision.
        statements: The same one by one, with the lines of the file that ask for them.
    """

    revision: str
    title: str
    path: Path
    phase: Phase
    sql: str
    statements: tuple[Statement, ...]


def render(
    revisions: Revisions, dialect_name: str, start: str | None = None, end: str = "head"
) -> list[RenderedRevision]:
    """Write the SQL of the revisions behind one, up to another one, in order.

    What a revision decides by asking the database is not known here: it is written for a database
    where nothing went wrong before.

    Args:
        revisions: Among which.
        dialect_name: "postgresql", "mariadb" or "sqlite".
        start: The revision that is applied last; None for an empty database.
        end: The last one to write.

    Raises:
        MigrationError: There is no such revision, or one that cannot be written so.
    """
    return [_render(revisions, script, dialect_name) for script in revisions.between(start, end)]


def _render(revisions: Revisions, script: Script, dialect_name: str) -> RenderedRevision:
    buffer = StatementBuffer(script.path)
    revisions.config.output_buffer = buffer
    revisions.config.attributes["dialect_name"] = dialect_name
    try:
        command.upgrade(
            revisions.config, f"{script.down_revision or 'base'}:{script.revision}", sql=True
        )
    except Exception as error:
        # A revision that asks the database has none here, and fails as it happens to.
        raise MigrationError(
            f"{Path(script.path).name}: cannot be written as SQL for {dialect_name}:"
            f" {first_line(error)}"
        ) from error
    return RenderedRevision(
        revision=script.revision,
        title=script.doc,
        path=Path(script.path),
        phase=phase_of(script),
        sql=buffer.getvalue().strip() + "\n",
        statements=tuple(buffer.statements),
    )

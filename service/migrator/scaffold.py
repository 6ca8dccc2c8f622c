"""Writing a new revision."""

from pathlib import Path

from alembic import command
from alembic.script import Script
from alembic.util.exc import CommandError

from service.migrator.errors import BehindError, MigrationError
from service.migrator.phases import Phase
from service.migrator.runner import Runner
from service.migrator.schema_status import SchemaState


def new_revision(runner: Runner, message: str, *, phase: Phase, autogenerate: bool) -> Path:
    """Write the file of a revision behind the last one.

    Args:
        runner: Has the revisions, and the database that models are compared with.
        message: What it does, as an imperative sentence.
        phase: What it does to the release before it.
        autogenerate: Whether to fill it with what the models have and the database lacks.

    Returns:
        The file.

    Raises:
        BehindError: The database is not at the last revision, so that a comparison would write
            once more what is pending.
        UnreachableError: The database does not answer.
        HeadsError: There is no single last revision.
    """
    revisions = runner.revisions
    _ = revisions.head
    revisions.config.attributes["phase"] = str(phase)
    if not autogenerate:
        return _write(runner, message, autogenerate=False)
    with runner.connected() as engine, engine.connect() as connection:
        status = revisions.status(connection)
        if status.state is not SchemaState.CURRENT:
            raise BehindError(
                f"the database is {status.state}: compare with one that is current, which"
                " `tidegate migrate up` makes"
            )
        connection.rollback()
        revisions.config.attributes["connection"] = connection
        return _write(runner, message, autogenerate=True)


def _write(runner: Runner, message: str, *, autogenerate: bool) -> Path:
    try:
        script = command.revision(
            runner.revisions.config, message.rstrip("."), autogenerate=autogenerate
        )
    except CommandError as error:
        raise MigrationError(str(error)) from error
    if not isinstance(script, Script):
        raise MigrationError("Alembic wrote no revision")
    return Path(script.path)

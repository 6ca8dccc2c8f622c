"""Taking over a database that `create_all()` made: from then on the revisions change it."""

from alembic import command
from sqlalchemy import Connection

from service.migrator.catalog import Difference
from service.migrator.check import compare_with_database
from service.migrator.errors import UsageError
from service.migrator.history import adopt
from service.migrator.revisions import Revisions
from service.migrator.runner import Runner
from service.migrator.scratch import Scratch


def baseline(runner: Runner, scratch: Scratch) -> tuple[Difference, ...]:
    """Note in a database that it is at the last revision, if it is what that one makes.

    Args:
        runner: The runner of the database.
        scratch: Where to make what it should be.

    Returns:
        How the database differs; then nothing was noted.

    Raises:
        UsageError: The database is at a revision already.
        HeadsError: There is no single last revision.
        LockBusyError: Another runner takes longer than the runner waits.
        UnreachableError: The database does not answer.
    """
    revisions = runner.revisions
    head = revisions.head
    with runner.connected() as engine, runner.locked(engine) as connection:
        current = revisions.status(connection).current
        connection.commit()
        if current is not None:
            raise UsageError(
                f"the database is at revision {current} already: run `tidegate migrate up`"
            )
        found = compare_with_database(engine, revisions, scratch, revision=head)
        if not found:
            _note(connection, revisions, head)
        return found


def _note(connection: Connection, revisions: Revisions, head: str) -> None:
    revisions.config.attributes["connection"] = connection
    command.stamp(revisions.config, head)
    adopt(connection, revisions.known.values())
    connection.commit()

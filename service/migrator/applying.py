"""Applying one revision, or taking it back, in a transaction and with timeouts of its own."""

import time
from collections.abc import Callable
from typing import Any

from alembic import command
from alembic.runtime.migration import MigrationContext
from alembic.script import Script
from sqlalchemy import Connection

from service.migrator.errors import MigrationError
from service.migrator.events import Events
from service.migrator.history import forget, record
from service.migrator.phases import describe
from service.migrator.retrying import Retrier
from service.migrator.revisions import Revisions
from service.migrator.settings import MigratorSettings


class Applier:
    """Changes the schema by revisions, one at a time.

    Args:
        connection: The one that holds the runner's lock; it has no transaction.
        retrier: Does things on that connection.
        revisions: Among which.
        limits: The timeouts of a revision that has none of its own.
        events: Told what happens.
    """

    def __init__(
        self,
        connection: Connection,
        retrier: Retrier,
        *,
        revisions: Revisions,
        limits: MigratorSettings,
        events: Events,
    ) -> None:
        self._connection = connection
        self._retrier = retrier
        self._revisions = revisions
        self._limits = limits
        self._events = events

    def upgrade(self, script: Script) -> None:
        """Apply a revision whose predecessors are applied.

        Raises:
            MigrationError: As `Retrier.run`.
        """
        start = time.perf_counter()

        def note(ctx: MigrationContext, **_: Any) -> None:
            record(_connection_of(ctx), script, time.perf_counter() - start)

        def work() -> None:
            command.upgrade(self._revisions.config, script.revision)

        self._apply(script, work, note, "applied")

    def downgrade(self, script: Script) -> None:
        """Take back the revision that was applied last, which is not irreversible.

        Raises:
            MigrationError: As `Retrier.run`.
        """

        def note(ctx: MigrationContext, **_: Any) -> None:
            forget(_connection_of(ctx), script.revision)

        def work() -> None:
            command.downgrade(self._revisions.config, "-1")

        self._apply(script, work, note, "took back")

    def _apply(self, script: Script, work: Callable[[], None], note: Any, outcome: str) -> None:
        plan = describe(script, self._limits)
        self._events.emit("revision_start", **plan)
        self._revisions.config.attributes.update(
            connection=self._connection,
            on_version_apply=note,
            events=self._events,
            revision=script.revision,
        )
        start = time.perf_counter()
        attempts = self._retrier.run(
            script.revision, work, lock=plan["lock_timeout"], statement=plan["statement_timeout"]
        )
        self._events.emit(
            "revision_end",
            revision=script.revision,
            title=script.doc,
            phase=plan["phase"],
            outcome=outcome,
            seconds=round(time.perf_counter() - start, 3),
            attempts=attempts,
        )


def _connection_of(context: MigrationContext) -> Connection:
    connection = context.connection
    if connection is None:
        raise MigrationError("a revision is applied without a connection")
    return connection

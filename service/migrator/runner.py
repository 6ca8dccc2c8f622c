"""Bringing a database to this release's schema, or back, while every other runner waits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from alembic.script import Script
from sqlalchemy import Connection, Engine

from service.database import DatabaseSettings
from service.database.engine import autocommit_engine
from service.migrator.applying import Applier
from service.migrator.cancellation import Cancellation
from service.migrator.connections import migration_engine, wait_for_database
from service.migrator.errors import (
    MigrationError,
    UsageError,
)
from service.migrator.events import Events
from service.migrator.history import (
    HISTORY_TABLE,
    AppliedRevision,
    accept,
    adopt,
    read_history,
    verify_checksums,
)
from service.migrator.lock import runner_lock
from service.migrator.phases import describe, irreversible_reason, phase_of
from service.migrator.retrying import Retrier
from service.migrator.revisions import Revisions
from service.migrator.schema_status import SchemaState, SchemaStatus, refuse_incompatible
from service.migrator.settings import MigratorSettings


@dataclass(frozen=True, slots=True)
class Runner:
    """Changes the schema of one database.

    Args:
        settings: The database.
        limits: The timeouts; `make_runner` reads them from the environment.
        revisions: What can be applied.
        events: Told what happens.
        cancellation: Ends it.
        wait: Seconds to wait for the database, and then for another runner.
    """

    settings: DatabaseSettings
    limits: MigratorSettings
    revisions: Revisions
    events: Events
    cancellation: Cancellation
    wait: float

    def up(self, accepted: Sequence[str] = ()) -> SchemaStatus:
        """Apply what is pending.

        Args:
            accepted: Applied revisions whose files were edited and do the same as before.

        Returns:
            Where the database stood before.

        Raises:
            UnreachableError: The database does not answer.
            LockBusyError: Another runner takes longer than `wait`.
            LockRetriesError: Others held a table for longer than the budget.
            AheadError: A later release took something away.
            HeadsError: This release has no single head.
            ChecksumError: The file of an applied revision was edited.
            UsageError: The database is a replica, or behind a transaction pool.
            StoppedError: Somebody stopped it.
            MigrationError: A revision failed; those before it stay applied.
        """
        self._check_graph()
        with self.connected() as engine:
            before, history = self._look(engine, accepted)
            if before.state is SchemaState.AHEAD:
                return before
            is_done = before.state is SchemaState.CURRENT and self._is_complete(before, history)
            if is_done and not accepted:
                return before
            with self.locked(engine) as connection:
                # The runner that had the lock may have done it all.
                now, history = self._look(engine, accepted)
                retrier = self._retrier(engine, connection)
                if accepted or not self._is_complete(now, history):
                    self._adopt(connection, retrier, accepted)
                pending = [self.revisions.known[name] for name in now.pending]
                self._plan("up", pending)
                applier = self._applier(connection, retrier)
                for script in pending:
                    self.cancellation.check()
                    applier.upgrade(script)
            return before

    def down(self, target: str) -> list[str]:
        """Take back the revisions behind one.

        Args:
            target: The revision to end at, how it begins, "base" for none, or "-1" for one step.

        Returns:
            What was taken back, the last one first.

        Raises:
            MigrationError: As `up`, or one of them cannot be taken back: then none is.
        """
        self._check_graph()
        with self.connected() as engine, self.locked(engine) as connection:
            found, history = self._look(engine, ())
            if found.state is SchemaState.AHEAD:
                raise MigrationError(
                    f"only a later release can take back {found.current}, the database's revision"
                )
            scripts = self.revisions.above(target, found.current)
            for script in scripts:
                if reason := irreversible_reason(script):
                    raise MigrationError(f"{script.revision} cannot be taken back: {reason}")
            retrier = self._retrier(engine, connection)
            if not self._is_complete(found, history):
                self._adopt(connection, retrier, ())
            self._plan("down", scripts)
            applier = self._applier(connection, retrier)
            for script in scripts:
                self.cancellation.check()
                applier.downgrade(script)
            return [script.revision for script in scripts]

    def _check_graph(self) -> None:
        _ = self.revisions.head
        for script in self.revisions.known.values():
            phase_of(script)

    @contextmanager
    def connected(self, *, needs_session: bool = True) -> Iterator[Engine]:
        """The database, once it takes connections.

        Args:
            needs_session: Whether to refuse a pooler that gives each transaction another one.
        """
        with migration_engine(self.settings, self.limits) as engine:
            wait_for_database(
                engine,
                wait=self.wait,
                events=self.events,
                cancellation=self.cancellation,
                needs_session=needs_session,
            )
            yield engine

    @contextmanager
    def locked(self, engine: Engine) -> Iterator[Connection]:
        """The connection that holds the runner's lock; as `runner_lock`."""
        with runner_lock(
            engine, wait=self.wait, events=self.events, cancellation=self.cancellation
        ) as connection:
            yield connection

    def _look(
        self, engine: Engine, accepted: Sequence[str]
    ) -> tuple[SchemaStatus, dict[str, AppliedRevision] | None]:
        """Where the database stands; refuses one that this release cannot change."""
        # Without a transaction: one of SQLite's would wait for every writer.
        with autocommit_engine(engine).connect() as connection:
            found = self.revisions.status(connection)
            history = read_history(connection)
        refuse_incompatible(found)
        if unknown := [name for name in accepted if name not in self.revisions.known]:
            raise UsageError(f"there is no revision {', '.join(unknown)} to accept")
        if found.state is not SchemaState.AHEAD:
            verify_checksums(history or {}, self._applied(found, accepted))
        return found, history

    def _applied(self, found: SchemaStatus, leaving: Sequence[str] = ()) -> list[Script]:
        left = {*found.pending, *leaving}
        return [script for name, script in self.revisions.known.items() if name not in left]

    def _is_complete(self, found: SchemaStatus, history: dict[str, AppliedRevision] | None) -> bool:
        return history is not None and all(
            script.revision in history for script in self._applied(found)
        )

    def _adopt(self, connection: Connection, retrier: Retrier, accepted: Sequence[str]) -> None:
        """Bring the history up to date with what the database has."""

        def work() -> None:
            new = adopt(connection, self._applied(self.revisions.status(connection)))
            for name in accepted:
                accept(connection, self.revisions.known[name])
            connection.commit()
            if new:
                self.events.emit("history_adopted", revisions=new)

        limits = self.limits
        retrier.run(
            HISTORY_TABLE, work, lock=limits.lock_timeout, statement=limits.statement_timeout
        )

    def _retrier(self, engine: Engine, connection: Connection) -> Retrier:
        return Retrier(
            engine,
            connection,
            limits=self.limits,
            events=self.events,
            cancellation=self.cancellation,
        )

    def _applier(self, connection: Connection, retrier: Retrier) -> Applier:
        return Applier(
            connection, retrier, revisions=self.revisions, limits=self.limits, events=self.events
        )

    def _plan(self, direction: str, scripts: Sequence[Script]) -> None:
        self.events.emit(
            "plan",
            direction=direction,
            revisions=[describe(script, self.limits) for script in scripts],
        )


def make_runner(  # noqa: PLR0913 - what a runner consists of, each with a default
    settings: DatabaseSettings | None = None,
    *,
    wait: float = 60.0,
    events: Events | None = None,
    limits: MigratorSettings | None = None,
    revisions: Revisions | None = None,
    cancellation: Cancellation | None = None,
) -> Runner:
    """A runner for a database; what is left out is read from the environment, or does nothing.

    Args:
        settings: The database.
        wait: Seconds to wait for the database, and then for another runner.
        events: Told what happens.
        limits: The timeouts.
        revisions: What can be applied.
        cancellation: Ends it.

    Raises:
        SettingsError: A setting is wrong.
    """
    return Runner(
        settings=settings or DatabaseSettings.load(),
        limits=limits or MigratorSettings.load(),
        revisions=revisions or Revisions(),
        events=events or Events(),
        cancellation=cancellation or Cancellation(),
        wait=wait,
    )


def up(settings: DatabaseSettings, *, wait: float, events: Events | None = None) -> SchemaStatus:
    """Apply what is pending; see `Runner.up`."""
    return make_runner(settings, wait=wait, events=events).up()

"""Bringing a database to this release's schema."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from alembic import command
from alembic.util.exc import CommandError
from sqlalchemy import URL, Engine
from sqlalchemy.exc import SQLAlchemyError

from service.database import DatabaseSettings, create_db_engine
from service.database.failures import AuthenticationFailed, DatabaseMissing, classify
from service.database.mariadb import connect_arguments
from service.migrator.errors import MigrationError, UnreachableError
from service.migrator.lock import runner_lock
from service.migrator.revisions import Revisions, SchemaState, SchemaStatus

_POLL_SECONDS: Final = 0.5
# DDL that waits for a lock makes every later reader of the table wait behind it.
_LOCK_SECONDS: Final = 5
_APPLICATION_NAME: Final = "tidegate-migrate"
# The runner's lock is a session that says nothing for as long as the revisions take.
_LONGEST_SILENCE: Final = 31_536_000
_PORTS: Final = {"postgresql": 5432, "mariadb": 3306}

# Building an index on a large table may take hours.
_LONGEST_STATEMENT: Final = 86_400.0

Report = Callable[[str], None]


@contextmanager
def migration_engine(settings: DatabaseSettings) -> Iterator[Engine]:
    """An engine for schema changes: by `MIGRATE_DATABASE_URL`, with all the time they take.

    Timeouts are connection options, because a `SET` would open a transaction before Alembic does.
    """
    url = settings.migration_url
    settings = settings.model_copy(update={"query_deadline": _LONGEST_STATEMENT})
    options = {"connect_args": _connect_args(url, settings)}
    engine = create_db_engine(url, settings=settings, pool_name="migrations", **options)
    try:
        yield engine
    finally:
        engine.dispose()


def wait_for_database(engine: Engine, *, wait: float, report: Report) -> None:
    """Return as soon as the database takes a connection.

    Args:
        engine: The database.
        wait: Seconds to keep trying.
        report: Told once that there is something to wait for.

    Raises:
        UnreachableError: It did not in time; at once when it refuses the user or has no
            database of that name, which waiting does not mend.
    """
    deadline = time.monotonic() + wait
    told = False
    while True:
        try:
            with engine.connect():
                return
        except SQLAlchemyError as error:
            failure = classify(error)
            reason = failure.reason if failure else "error"
            final = isinstance(failure, AuthenticationFailed | DatabaseMissing)
            if final or time.monotonic() >= deadline:
                raise UnreachableError(
                    f"cannot connect to {_place(engine)}: {reason}; "
                    f"check {'the URL' if final else 'that it runs and can be reached'}"
                ) from error
            if not told:
                report(f"waiting for {_place(engine)}: {reason}")
                told = True
        time.sleep(_POLL_SECONDS)


def status(settings: DatabaseSettings) -> SchemaStatus:
    """Compare the database with this release.

    Raises:
        UnreachableError: The database does not answer.
        HeadsError: This release has no single head.
    """
    with migration_engine(settings) as engine:
        wait_for_database(engine, wait=0, report=lambda _: None)
        with engine.connect() as connection:
            return Revisions().status(connection)


def up(settings: DatabaseSettings, *, wait: float, report: Report = lambda _: None) -> SchemaStatus:
    """Apply what is pending, while every other runner waits.

    Args:
        settings: The database.
        wait: Seconds to wait for the database, and then for another runner.
        report: Told in one line what happens.

    Returns:
        Where the database stood before.

    Raises:
        UnreachableError: The database does not answer.
        LockBusyError: Another runner takes longer than `wait`.
        HeadsError: This release has no single head.
        MigrationError: A revision failed; it is rolled back, those before it stay applied. On
            MariaDB, where each DDL statement commits, what it did before stays too.
    """
    revisions = Revisions()
    _ = revisions.head
    with migration_engine(settings) as engine:
        wait_for_database(engine, wait=wait, report=report)
        before = _status(engine, revisions)
        if before.state is not SchemaState.BEHIND:
            return before
        with runner_lock(engine, wait=wait):
            # The runner that had the lock may have done it all.
            if _status(engine, revisions).state is SchemaState.BEHIND:
                _upgrade(engine, revisions, report)
        return before


def _status(engine: Engine, revisions: Revisions) -> SchemaStatus:
    with engine.connect() as connection:
        return revisions.status(connection)


def _upgrade(engine: Engine, revisions: Revisions, report: Report) -> None:
    def on_version_apply(*, step: Any, **_: Any) -> None:
        report(f"applied {revisions.title(step.up_revision_id)}")

    with engine.connect() as connection:
        revisions.config.attributes.update(connection=connection, on_version_apply=on_version_apply)
        try:
            command.upgrade(revisions.config, "head")
        except (SQLAlchemyError, CommandError) as error:
            first_line = str(error).partition("\n")[0]
            raise MigrationError(
                f"a revision failed: {first_line}{_left_behind(engine)}"
            ) from error


def _left_behind(engine: Engine) -> str:
    """What to know after a failure where a revision is not rolled back."""
    if engine.dialect.name != "mariadb":
        return ""
    return "; MariaDB keeps what the revision did before: undo that by hand, then run it again"


def _connect_args(url: URL, settings: DatabaseSettings) -> dict[str, Any]:
    match url.get_backend_name():
        case "postgresql":
            return {
                "connect_timeout": max(2, round(settings.connect_timeout)),
                "application_name": _APPLICATION_NAME,
                "client_encoding": "utf8",
                "options": f"-c lock_timeout={_LOCK_SECONDS}s"
                " -c client_connection_check_interval=1s",
            }
        case "mariadb":
            names = ("lock_wait_timeout", "innodb_lock_wait_timeout")
            return connect_arguments(
                url.get_driver_name(),
                connect_timeout=settings.connect_timeout,
                statement_timeout=None,
                name=_APPLICATION_NAME,
                variables={
                    **dict.fromkeys(names, str(_LOCK_SECONDS)),
                    "wait_timeout": str(_LONGEST_SILENCE),
                },
            )
        case _:
            return {}


def _place(engine: Engine) -> str:
    url = engine.url
    if url.get_backend_name() == "sqlite":
        return f"the database {url.database or ':memory:'}"
    port = url.port or _PORTS[url.get_backend_name()]
    return f"the database {url.database} at {url.host}:{port}"

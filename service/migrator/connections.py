"""Connections for changing a schema: their timeouts, and waiting for the database."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, Result, TextClause
from sqlalchemy.exc import SQLAlchemyError

from service.database import DatabaseSettings, create_db_engine
from service.database.budget import migration_connections
from service.database.driver_arguments import libpq_seconds
from service.database.failures import AuthenticationFailed, DatabaseMissing, classify
from service.database.mariadb import connect_arguments
from service.database.urls import DEFAULT_PORTS
from service.migrator.cancellation import Cancellation
from service.migrator.errors import UnreachableError
from service.migrator.events import Events
from service.migrator.proxies import refuse_options_filter, refuse_unsuitable
from service.migrator.settings import MigratorSettings

APPLICATION_NAME: Final = "tidegate-migrate"
_POLL_SECONDS: Final = 0.5
# A session that holds the runner's lock may say nothing for as long as it waits to try again.
_LONGEST_SILENCE: Final = 31_536_000
# The server's limits are the ones that count; behind a hung server there is this one.
_LONGEST_STATEMENT: Final = 86_400.0
_POOL: Final = {
    "query_deadline": _LONGEST_STATEMENT,
    # Its connections are held for as long as the work takes: none of them is leaked.
    "leak_threshold": 0.0,
    # Whatever the service's own pool is made for.
    "max_overflow": 0,
    "pool_min_idle": 0,
}
# How soon PostgreSQL notices that a runner was killed, and frees its locks.
_CONNECTION_CHECK_MILLISECONDS: Final = 500


@contextmanager
def migration_engine(
    settings: DatabaseSettings, limits: MigratorSettings | None = None
) -> Iterator[Engine]:
    """An engine for schema changes: by `MIGRATE_DATABASE_URL`, with timeouts of its own.

    Timeouts are connection options, because a `SET` would open a transaction before Alembic does.

    Args:
        settings: The database.
        limits: The timeouts; read from the environment when left out.
    """
    url = settings.migration_url
    settings = settings.model_copy(update={**_POOL, "pool_size": migration_connections(url)})
    arguments = _connect_args(url, settings, limits or MigratorSettings.load())
    engine = create_db_engine(
        url, settings=settings, pool_name="migrations", connect_args=arguments
    )
    try:
        yield engine
    finally:
        engine.dispose()


def wait_for_database(
    engine: Engine,
    *,
    wait: float,
    events: Events,
    cancellation: Cancellation,
    needs_session: bool = True,
) -> None:
    """Return as soon as the database takes a connection.

    Args:
        engine: The database.
        wait: Seconds to keep trying.
        events: Told once that there is something to wait for.
        cancellation: Ends it.
        needs_session: Whether what follows keeps something in its session, or only reads.

    Raises:
        UnreachableError: It did not in time; at once when it refuses the user or has no
            database of that name, which waiting does not mend.
        UsageError: It is a replica, or behind a pooler that gives each transaction another session.
        StoppedError: Somebody stopped it.
    """
    deadline = time.monotonic() + wait
    told = False
    while True:
        try:
            with engine.connect() as connection:
                if needs_session:
                    refuse_unsuitable(engine, connection)
                return
        except SQLAlchemyError as error:
            refuse_options_filter(error)
            failure = classify(error)
            reason = failure.reason if failure else "error"
            final = isinstance(failure, AuthenticationFailed | DatabaseMissing)
            if final or time.monotonic() >= deadline:
                raise UnreachableError(
                    f"cannot connect to {place(engine)}: {reason}; "
                    f"check {'the URL' if final else 'that it runs and can be reached'}"
                ) from error
            if not told:
                events.emit("database_wait", database=place(engine), reason=reason)
                told = True
        cancellation.wait(_POLL_SECONDS)


def ask(connection: Connection, query: TextClause, **values: Any) -> Result[Any]:
    """Run a statement in a transaction of its own, and leave the connection without any.

    Alembic would take one that is open for somebody else's: it would not commit, and nothing would
    be persisted.
    """
    result = connection.execute(query, values)
    # What is not fetched before the commit is lost.
    fetched = result.freeze()() if result.returns_rows else result
    connection.commit()
    return fetched


def set_timeouts(connection: Connection, *, lock: float, statement: float) -> None:
    """Limit what a session does from now on, other than its connection options say.

    Args:
        connection: It has no transaction, before and after.
        lock: Seconds that a statement waits for a lock.
        statement: Seconds that a statement takes; SQLite has no such limit.
    """
    if connection.dialect.name == "sqlite":
        # As a statement of SQLAlchemy's it would begin a transaction, and that waits.
        driver: Any = connection.connection.dbapi_connection
        driver.execute(f"PRAGMA busy_timeout={round(lock * 1000)}").close()
    elif statements := timeout_statements(connection.dialect.name, lock=lock, statement=statement):
        for each in statements:
            connection.exec_driver_sql(each)
        connection.commit()


def timeout_statements(dialect_name: str, *, lock: float, statement: float) -> list[str]:
    """The statements that `set_timeouts` sends."""
    match dialect_name:
        case "postgresql":
            return [
                f"SET lock_timeout = {round(lock * 1000)}",
                f"SET statement_timeout = {round(statement * 1000)}",
            ]
        case "mariadb":
            # Whole seconds; and 0 would be no wait at all for one of them.
            seconds = max(1, round(lock))
            limits = f"lock_wait_timeout = {seconds}, innodb_lock_wait_timeout = {seconds}"
            return [f"SET {limits}, max_statement_time = {statement:.3f}"]
        case _:
            return []


def place(engine: Engine) -> str:
    """The database, in an error's words."""
    url = engine.url
    if url.get_backend_name() == "sqlite":
        return f"the database {url.database or ':memory:'}"
    port = url.port or DEFAULT_PORTS[url.get_backend_name()]
    return f"the database {url.database} at {url.host}:{port}"


def _connect_args(url: URL, settings: DatabaseSettings, limits: MigratorSettings) -> dict[str, Any]:
    match url.get_backend_name():
        case "postgresql":
            values = {
                "lock_timeout": round(limits.lock_timeout * 1000),
                "statement_timeout": round(limits.statement_timeout * 1000),
                "client_connection_check_interval": _CONNECTION_CHECK_MILLISECONDS,
                "idle_in_transaction_session_timeout": 0,
            }
            options = " ".join(f"-c {name}={value}" for name, value in values.items())
            return {
                "connect_timeout": libpq_seconds(settings.connect_timeout),
                "application_name": APPLICATION_NAME,
                "options": f"{url.query.get('options', '')} {options}".strip(),
            }
        case "mariadb":
            seconds = str(max(1, round(limits.lock_timeout)))
            return connect_arguments(
                connect_timeout=settings.connect_timeout,
                statement_timeout=None,
                name=APPLICATION_NAME,
                variables={
                    "lock_wait_timeout": seconds,
                    "innodb_lock_wait_timeout": seconds,
                    "max_statement_time": f"{limits.statement_timeout:.3f}",
                    "wait_timeout": str(_LONGEST_SILENCE),
                },
            )
        case _:
            return {"timeout": limits.lock_timeout}

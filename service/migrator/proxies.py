"""Telling what is not a session with a primary: a transaction-pooling proxy, or a replica."""

from typing import Any, Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from service.database.deadline import time_limit
from service.migrator.errors import UsageError

_ADVICE: Final = "point MIGRATE_DATABASE_URL at the server itself, or at a pool in session mode"
_POOLED: Final = (
    "a proxy gives each transaction another session (as PgBouncer's transaction mode does), so that"
    f" the runner's lock and its timeouts would be another's: {_ADVICE}"
)
# How long a proxy may take to find a second session.
_SECOND_SESSION_SECONDS: Final = 3.0


def refuse_options_filter(error: SQLAlchemyError) -> None:
    """Refuse a proxy that takes no connection options, as PgBouncer does unless told to.

    Args:
        error: Why a connection failed.

    Raises:
        UsageError: For that.
    """
    if "unsupported startup parameter" in str(error):
        raise UsageError(
            f"a proxy such as PgBouncer refuses the session's timeouts: {_ADVICE}"
        ) from error


def refuse_unsuitable(engine: Engine, connection: Connection) -> None:
    """Refuse a replica, and a proxy that gives each transaction another session.

    A direct connection is told by one query: what the server calls its process is what it told the
    driver at the start, for which proxies have a number of their own. Behind a proxy, two sessions
    are compared that are used at once.

    Args:
        engine: Where a second connection comes from.
        connection: The first one; it has no transaction, before and after.

    Raises:
        UsageError: It is one of these.
    """
    if engine.dialect.name != "postgresql":
        return
    is_replica = connection.execute(text("SELECT pg_is_in_recovery()")).scalar_one()
    process = _process(connection)
    connection.commit()
    if is_replica:
        raise UsageError("the database is a replica: name its primary in MIGRATE_DATABASE_URL")
    driver: Any = connection.connection.dbapi_connection
    if driver.info.backend_pid != process and _is_shared(engine, connection, process):
        raise UsageError(_POOLED)


def _is_shared(engine: Engine, connection: Connection, process: int) -> bool:
    """Whether a session's process serves another one, or changes, between two transactions."""
    try:
        with time_limit(_SECOND_SESSION_SECONDS), engine.connect() as other:
            if _process(other) == process:
                return True
            # The other one's transaction is open, and has its process for itself.
            return _process(connection) != process
    except SQLAlchemyError as error:
        # In session mode the first one may have all there is.
        raise UsageError(
            "a proxy has no second session for the runner, which takes up to three at once:"
            f" raise its pool's size, or {_ADVICE}"
        ) from error
    finally:
        connection.rollback()


def _process(connection: Connection) -> int:
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())

"""SQLite as a service needs it: readers beside a writer, and transactions that wait their turn."""

from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from service.database.deadline import current_limit

# How long a writer waits for another; SQLite's own default is to fail at once.
BUSY_SECONDS: Final = 5.0
# Where a connection's own such time stands in `ConnectionPoolEntry.info`.
_OWN_BUSY_SECONDS: Final = "tidegate.busy_seconds"


def prepare_sqlite(engine: Engine) -> None:
    """Have an engine's connections opened, and its transactions begun, as the kit needs it."""
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)


def _set_pragmas(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA busy_timeout")
        (milliseconds,) = cursor.fetchone() or (0,)
        record.info[_OWN_BUSY_SECONDS] = milliseconds / 1000
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
    finally:
        cursor.close()


def _begin(connection: Connection) -> None:
    """Begin for real: the driver would not before the first write, and never for a savepoint.

    IMMEDIATE takes the write lock at the start, where the busy timeout applies. A transaction
    that reads first and writes later would fail at once when another has written in between.
    """
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.detect_autocommit_setting(driver):
        return
    limit = current_limit()
    own = connection.connection.info.get(_OWN_BUSY_SECONDS, BUSY_SECONDS)
    if limit is None or limit.remaining >= own:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    # An interrupt does not end this wait.
    _set_busy_timeout(driver, limit.remaining)
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        _set_busy_timeout(driver, own)


def _set_busy_timeout(driver: Any, seconds: float) -> None:
    driver.execute(f"PRAGMA busy_timeout={round(seconds * 1000)}").close()

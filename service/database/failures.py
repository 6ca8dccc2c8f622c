"""What a database error means: one table of codes for each database.

`failure_kinds` has what they mean, `mariadb_failures` the table of MariaDB.
"""

import re
from collections.abc import Iterator
from typing import Final

from sqlalchemy import MetaData
from sqlalchemy import exc as sa_exc
from sqlalchemy.orm import exc as orm_exc

from service.database import mariadb_failures
from service.database.constraint_names import columns_of
from service.database.failure_kinds import (
    AuthenticationFailed,
    Cancelled,
    CheckViolation,
    ConnectionLost,
    DatabaseFailure,
    DatabaseMissing,
    DeadlineExceeded,
    DeadlockDetected,
    ForeignKeyViolation,
    InvalidValue,
    LockNotAvailable,
    NotNullViolation,
    PoolTimeout,
    SchemaMismatch,
    SerializationFailure,
    StaleRow,
    StatementTimeout,
    TooManyConnections,
    UniqueViolation,
)

__all__ = [
    "AuthenticationFailed",
    "Cancelled",
    "CheckViolation",
    "ConnectionLost",
    "DatabaseFailure",
    "DatabaseMissing",
    "DeadlineExceeded",
    "DeadlockDetected",
    "ForeignKeyViolation",
    "InvalidValue",
    "LockNotAvailable",
    "NotNullViolation",
    "OutOfTime",
    "PoolTimeout",
    "SchemaMismatch",
    "SerializationFailure",
    "StaleRow",
    "StatementTimeout",
    "TooManyConnections",
    "UniqueViolation",
    "classify",
    "failure_reason",
]


class OutOfTime:
    """Marks an error by which a limit ended something, whatever class it has to be of beside."""

    failure: type[DatabaseFailure] = DeadlineExceeded
    # Whether the connection went with it.
    is_cut = False


# PostgreSQL: "Appendix A. PostgreSQL Error Codes". The longest prefix wins.
_SQLSTATES: Final[dict[str, type[DatabaseFailure]]] = {
    "23505": UniqueViolation,
    "23503": ForeignKeyViolation,
    "23502": NotNullViolation,
    "23514": CheckViolation,
    "22": InvalidValue,
    "40001": SerializationFailure,
    "40P01": DeadlockDetected,
    "55P03": LockNotAvailable,
    "57014": StatementTimeout,
    "53300": TooManyConnections,
    "28": AuthenticationFailed,
    "3D000": DatabaseMissing,
    "42P01": SchemaMismatch,
    "42703": SchemaMismatch,
    "08": ConnectionLost,
    "57P": ConnectionLost,
}
# SQLite: "Result and Error Codes", by the name that Python gives the extended code.
_SQLITE_CODES: Final[dict[str, type[DatabaseFailure]]] = {
    "SQLITE_CONSTRAINT_UNIQUE": UniqueViolation,
    "SQLITE_CONSTRAINT_PRIMARYKEY": UniqueViolation,
    "SQLITE_CONSTRAINT_FOREIGNKEY": ForeignKeyViolation,
    "SQLITE_CONSTRAINT_NOTNULL": NotNullViolation,
    "SQLITE_CONSTRAINT_CHECK": CheckViolation,
    "SQLITE_MISMATCH": InvalidValue,
    "SQLITE_BUSY": LockNotAvailable,
    "SQLITE_LOCKED": LockNotAvailable,
    "SQLITE_CANTOPEN": ConnectionLost,
    "SQLITE_NOTADB": ConnectionLost,
}
# libpq gives no SQLSTATE for a server that refused to begin a session, only its message.
_LIBPQ_START: Final[tuple[tuple[re.Pattern[str], type[DatabaseFailure]], ...]] = (
    (re.compile(r"too many clients|remaining connection slots|too many connections"),
     TooManyConnections),
    (re.compile(r"authentication failed|no password supplied|no pg_hba\.conf entry"
                r"|pg_hba\.conf rejects|role \".*\" (does not exist|is not permitted)"),
     AuthenticationFailed),
    (re.compile(r"database \".*\" does not exist"), DatabaseMissing),
)  # fmt: skip
# SQLITE_ERROR is any mistake in a statement; only the text tells which.
_SQLITE_MISSING: Final = re.compile(r"no such (table|column)|has no column named")


def classify(error: BaseException, metadata: MetaData | None = None) -> DatabaseFailure | None:
    """Say what a database error means.

    Args:
        error: An error of SQLAlchemy or of a driver.
        metadata: Where the columns of a violated constraint are looked up by its name.

    Returns:
        The failure, or None for an error that is not of the database.
    """
    if limited := next((one for one in _causes(error) if isinstance(one, OutOfTime)), None):
        return limited.failure()
    if isinstance(error, sa_exc.TimeoutError):
        return PoolTimeout()
    if isinstance(error, orm_exc.StaleDataError):
        return StaleRow()
    if isinstance(error, sa_exc.DBAPIError) and error.connection_invalidated:
        return ConnectionLost()
    statement = getattr(error, "statement", None)
    for original in _causes(error):
        if failure := _classify_original(original, statement, metadata):
            return failure
    return _by_class(error)


def failure_reason(error: BaseException) -> str:
    """A word for an error from a small, fixed vocabulary, fit for a label or a response."""
    failure = classify(error)
    return failure.reason if failure else DatabaseFailure.reason


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, the driver's error that SQLAlchemy wrapped, and what that one wrapped."""
    seen: BaseException | None = error
    for _ in range(5):
        if seen is None:
            return
        yield seen
        seen = getattr(seen, "orig", None) or seen.__cause__


def _classify_original(
    error: BaseException, statement: str | None, metadata: MetaData | None
) -> DatabaseFailure | None:
    if type(error).__module__ == mariadb_failures.ERRORS_MODULE:
        return mariadb_failures.classify(error, statement, metadata)
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if isinstance(state, str):
        for prefix in (state, state[:3], state[:2]):
            if kind := _SQLSTATES.get(prefix):
                return kind(*_violated(error, metadata))
        # Whoever answers was not lost, though psycopg2 calls many such errors operational.
        return DatabaseFailure()
    name = getattr(error, "sqlite_errorname", None)
    if isinstance(name, str):
        if kind := _SQLITE_CODES.get(name) or _SQLITE_CODES.get("_".join(name.split("_")[:2])):
            return kind(*_violated_in_sqlite(str(error), metadata))
        if name == "SQLITE_ERROR":
            return SchemaMismatch() if _SQLITE_MISSING.search(str(error)) else DatabaseFailure()
    return _by_start_message(error)


def _by_start_message(error: BaseException) -> DatabaseFailure | None:
    if not type(error).__module__.startswith("psycopg2"):
        return None
    text = str(error)
    found = next((kind for pattern, kind in _LIBPQ_START if pattern.search(text)), None)
    if found is None and type(error).__name__ == "OperationalError":
        found = ConnectionLost
    return found() if found else None


def _by_class(error: BaseException) -> DatabaseFailure | None:
    # A column type of ours refuses a value before the database sees it.
    is_refused = isinstance(error, sa_exc.StatementError) and isinstance(error.orig, ValueError)
    if is_refused or isinstance(error, sa_exc.DataError):
        return InvalidValue()
    if isinstance(error, sa_exc.OperationalError | OSError | TimeoutError):
        return ConnectionLost()
    return DatabaseFailure() if isinstance(error, sa_exc.DBAPIError) else None


def _violated(
    error: BaseException, metadata: MetaData | None
) -> tuple[str | None, tuple[str, ...]]:
    # SQLAlchemy's own error around that of asyncpg has the SQLSTATE, and no more.
    for cause in _causes(error):
        diag = getattr(cause, "diag", cause)
        constraint = getattr(diag, "constraint_name", None)
        column = getattr(diag, "column_name", None)
        if constraint or column:
            return constraint, (column,) if column else columns_of(constraint, metadata)
    return None, ()


def _violated_in_sqlite(
    message: str, metadata: MetaData | None
) -> tuple[str | None, tuple[str, ...]]:
    """SQLite tells the columns of a key ("t.a, t.b"), or the name of an index or a CHECK."""
    rule, _, what = message.partition(" constraint failed: ")
    if rule == "CHECK":
        return what, columns_of(what, metadata)
    if index := re.fullmatch("index '(.*)'", what):
        return index[1], columns_of(index[1], metadata)
    return None, tuple(part.rpartition(".")[2] for part in what.split(", ") if part)

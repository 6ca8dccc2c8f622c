"""What a database error means: one table from SQLSTATE and SQLite codes to failures.

The driver's message may hold data, a host or a user; nothing of it is kept in a failure.
"""

import re
from collections.abc import Iterator
from typing import Final

from sqlalchemy import Index, MetaData
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import exc as orm_exc
from sqlalchemy.schema import ColumnCollectionConstraint, conv


class DatabaseFailure(Exception):
    """What went wrong, in the terms of the caller.

    Args:
        constraint: The name of the violated constraint, where the database tells it.
        columns: The columns of that constraint, where they can be told.
    """

    reason: str = "error"

    def __init__(self, constraint: str | None = None, columns: tuple[str, ...] = ()) -> None:
        super().__init__(self.reason)
        self.constraint = constraint
        self.columns = columns


class UniqueViolation(DatabaseFailure):
    """Another row has the same key."""

    reason = "unique_violation"


class ForeignKeyViolation(DatabaseFailure):
    """A row that is referred to is missing, or one that is to go is referred to."""

    reason = "foreign_key_violation"


class NotNullViolation(DatabaseFailure):
    """A column that needs a value has none."""

    reason = "not_null_violation"


class CheckViolation(DatabaseFailure):
    """A value breaks a rule of the table."""

    reason = "check_violation"


class InvalidValue(DatabaseFailure):
    """A value does not fit its column."""

    reason = "invalid_value"


class StaleRow(DatabaseFailure):
    """The row was changed or deleted since it was read."""

    reason = "stale_row"


class SerializationFailure(DatabaseFailure):
    """Transactions could not be put in an order; trying again may succeed."""

    reason = "serialization_failure"


class DeadlockDetected(DatabaseFailure):
    """Transactions waited for each other; trying again may succeed."""

    reason = "deadlock_detected"


class LockNotAvailable(DatabaseFailure):
    """A lock was not to be had in time."""

    reason = "lock_not_available"


class StatementTimeout(DatabaseFailure):
    """A statement took longer than it may."""

    reason = "statement_timeout"


class PoolTimeout(DatabaseFailure):
    """No connection of the pool came free in time."""

    reason = "pool_timeout"


class TooManyConnections(DatabaseFailure):
    """The server takes no more connections."""

    reason = "too_many_connections"


class AuthenticationFailed(DatabaseFailure):
    """The server refuses the user or the password."""

    reason = "authentication_failed"


class DatabaseMissing(DatabaseFailure):
    """The server has no database of that name."""

    reason = "database_missing"


class ConnectionLost(DatabaseFailure):
    """The server cannot be reached, or went away."""

    reason = "connection_lost"


class DeadlineExceeded(DatabaseFailure):
    """What was asked did not end by its deadline."""

    reason = "deadline_exceeded"


class Cancelled(DatabaseFailure):
    """Whoever asked does not want the answer any more."""

    reason = "cancelled"


class SchemaMismatch(DatabaseFailure):
    """A table or a column that a query names does not exist."""

    reason = "schema_mismatch"


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
_POSTGRESQL: Final = postgresql.dialect()  # type: ignore[no-untyped-call]


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
    for original in _causes(error):
        if failure := _classify_original(original, metadata):
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


def _classify_original(error: BaseException, metadata: MetaData | None) -> DatabaseFailure | None:
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
            return constraint, (column,) if column else _columns_of(constraint, metadata)
    return None, ()


def _violated_in_sqlite(
    message: str, metadata: MetaData | None
) -> tuple[str | None, tuple[str, ...]]:
    """SQLite tells the columns of a key ("t.a, t.b"), or the name of an index or a CHECK."""
    rule, _, what = message.partition(" constraint failed: ")
    if rule == "CHECK":
        return what, _columns_of(what, metadata)
    if index := re.fullmatch("index '(.*)'", what):
        return index[1], _columns_of(index[1], metadata)
    return None, tuple(part.rpartition(".")[2] for part in what.split(", ") if part)


def _columns_of(constraint: str | None, metadata: MetaData | None) -> tuple[str, ...]:
    if constraint is None or metadata is None:
        return ()
    for table in metadata.tables.values():
        for candidate in (*table.constraints, *table.indexes):
            kinds = ColumnCollectionConstraint | Index
            if isinstance(candidate, kinds) and _name_of(candidate) == constraint:
                return tuple(candidate.columns.keys())
    return ()


def _name_of(rule: ColumnCollectionConstraint | Index) -> str | None:
    """What the database calls it: a name of the convention is cut to what PostgreSQL takes."""
    if not isinstance(rule.name, conv):
        return rule.name if isinstance(rule.name, str) else None
    return _POSTGRESQL.identifier_preparer.format_constraint(rule, _alembic_quote=False)

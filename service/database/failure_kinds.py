"""What can go wrong with a database, in the terms of the caller.

The driver's message may hold data, a host or a user; nothing of it is kept in a failure.
"""


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

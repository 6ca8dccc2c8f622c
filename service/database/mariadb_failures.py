"""What an error of MariaDB means, by its number and the names in its message."""

import re
from typing import Final

from sqlalchemy import Dialect, MetaData
from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect

from service.database.constraint_names import columns_of
from service.database.failure_kinds import (
    AuthenticationFailed,
    CheckViolation,
    ConnectionLost,
    DatabaseFailure,
    DatabaseMissing,
    DeadlockDetected,
    ForeignKeyViolation,
    InvalidValue,
    LockNotAvailable,
    NotNullViolation,
    SchemaMismatch,
    SerializationFailure,
    StatementTimeout,
    TooManyConnections,
    UniqueViolation,
)

# aiomysql raises the errors of pymysql.
ERRORS_MODULE: Final = "pymysql.err"

# MariaDB: "MariaDB Error Codes"; below 1000 and from 2000 to 2999 they are the client's own.
_NUMBERS: Final[dict[type[DatabaseFailure], tuple[int, ...]]] = {
    UniqueViolation: (1022, 1062, 1169, 1586),
    ForeignKeyViolation: (1216, 1217, 1451, 1452),
    NotNullViolation: (1048, 1364),
    CheckViolation: (3819, 4025),
    InvalidValue: (1264, 1265, 1292, 1300, 1365, 1366, 1367, 1406, 1411, 1441, 1690, 4038),
    SerializationFailure: (1020,),
    DeadlockDetected: (1213, 1614),
    LockNotAvailable: (1205, 3572),
    # 1317 is KILL QUERY, as 57014 on PostgreSQL is pg_cancel_backend().
    StatementTimeout: (1317, 1969, 3024),
    TooManyConnections: (1040, 1203, 1226),
    AuthenticationFailed: (1044, 1045, 1129, 1130, 1251, 1524, 1698, 1820, 1862, 4151),
    DatabaseMissing: (1049,),
    SchemaMismatch: (1054, 1109, 1146),
    ConnectionLost: (
        *(0, 1043, 1053, 1077, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 4031),
        *(2002, 2003, 2005, 2006, 2012, 2013, 2014, 2055),
    ),
}
_KINDS: Final = {number: kind for kind, numbers in _NUMBERS.items() for number in numbers}

# The value comes first and may hold anything, so what follows it is looked for from the end.
_KEY: Final = re.compile(r".* for key '(?:[^'.]*\.)?([^']*)'$", re.DOTALL)
_CONSTRAINT: Final = re.compile(r"CONSTRAINT `([^`]*)`|Check constraint '([^']*)'")
_COLUMN: Final = re.compile(r"(?:Column|Field) '([^']*)'")
_TABLE: Final = re.compile(
    r"\s*(?:INSERT(?:\s+IGNORE)?\s+INTO|REPLACE\s+INTO|UPDATE)\s+`?(\w+)", re.IGNORECASE
)
_PRIMARY: Final = "PRIMARY"
_MARIADB: Final[Dialect] = MariaDBDialect()


def classify(
    error: BaseException, statement: str | None, metadata: MetaData | None
) -> DatabaseFailure | None:
    """Say what an error of the driver means.

    Args:
        error: The error.
        statement: What was to be done, which tells the table of a primary key.
        metadata: Where the columns of a violated constraint are looked up by its name.

    Returns:
        The failure, or None for an error that the driver gave no number.
    """
    number, message = (*error.args, None, None)[:2]
    if not isinstance(number, int):
        return None
    kind = _KINDS.get(number, DatabaseFailure)
    return kind(*_violated(kind, str(message), statement, metadata))


def _violated(
    kind: type[DatabaseFailure], message: str, statement: str | None, metadata: MetaData | None
) -> tuple[str | None, tuple[str, ...]]:
    if kind is NotNullViolation:
        column = _COLUMN.search(message)
        return None, (column[1],) if column else ()
    if kind is UniqueViolation:
        key = _KEY.fullmatch(message)
        name = key[1] if key else None
        if name == _PRIMARY:
            return _primary_key(statement, metadata)
        return name, columns_of(name, metadata, _MARIADB)
    if kind in (ForeignKeyViolation, CheckViolation):
        found = _CONSTRAINT.search(message)
        name = (found[1] or found[2]) if found else None
        return name, columns_of(name, metadata, _MARIADB)
    return None, ()


def _primary_key(
    statement: str | None, metadata: MetaData | None
) -> tuple[str | None, tuple[str, ...]]:
    """The convention's name of a primary key: the server calls each of them PRIMARY."""
    written = _TABLE.match(statement or "")
    table = metadata.tables.get(written[1]) if written and metadata is not None else None
    if table is None:
        return None, ()
    name = table.primary_key.name
    return str(name) if name else None, tuple(table.primary_key.columns.keys())

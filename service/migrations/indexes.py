"""Indexes that are built and dropped while the table is read and written."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from alembic import op
from sqlalchemy import ColumnElement, Connection, inspect, text

from service.migrator.errors import MigrationError

# A build waits for every transaction that is older than it, and takes as long as the table is
# large; neither keeps anybody from reading or writing.
_LONGEST_SECONDS: Final = 86_400

_VALIDITY: Final = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


def create_index_concurrently(
    name: str,
    table: str,
    columns: Sequence[str | ColumnElement[Any]],
    *,
    unique: bool = False,
    **options: Any,
) -> None:
    """Build an index outside of any transaction, and see to it that it is valid.

    What the revision did before is committed. A build that failed, or whose runner was killed,
    leaves an invalid index on PostgreSQL, which writes keep up and no query uses: it is dropped and
    built anew. MariaDB builds beside reads and writes by itself; SQLite locks its file either way.

    Args:
        name: The index.
        table: Its table.
        columns: What it is over.
        unique: Whether it is unique.
        options: Alembic's own, such as `postgresql_where`.

    Raises:
        MigrationError: There is another index of that name, or the new one is invalid.
    """
    context = op.get_context()
    with _outside_transaction():
        if context.as_sql or context.dialect.name == "sqlite":
            _create(name, table, columns, unique=unique, **options)
            return
        connection = op.get_bind()
        if _is_there(connection, name, table, columns, unique=unique):
            return
        _create(name, table, columns, unique=unique, **options)
        if context.dialect.name == "postgresql" and not _is_valid(connection, name):
            raise MigrationError(f"{name} is invalid after it was built; run it again")


def drop_index_concurrently(name: str, table: str) -> None:
    """Drop an index, if it is there, without waiting with the table locked.

    What the revision did before is committed.

    Args:
        name: The index.
        table: Its table.
    """
    with _outside_transaction():
        op.drop_index(name, table, if_exists=True, **_concurrently(op.get_context().dialect.name))


@contextmanager
def _outside_transaction() -> Iterator[None]:
    context = op.get_context()
    if context.dialect.name == "sqlite":
        yield
        return
    with context.autocommit_block():
        if context.as_sql or context.dialect.name != "postgresql":
            yield
            return
        connection = op.get_bind()
        names = ("lock_timeout", "statement_timeout")
        former = {name: connection.scalar(text(f"SHOW {name}")) for name in names}
        # The lock that it waits for has no reader or writer wait behind it, while a build that is
        # given up leaves an invalid index.
        connection.execute(text("SET lock_timeout = 0"))
        connection.execute(text(f"SET statement_timeout = '{_LONGEST_SECONDS}s'"))
        try:
            yield
        finally:
            if not connection.invalidated:
                for setting, value in former.items():
                    connection.execute(text(f"SET {setting} = '{value}'"))


def _create(
    name: str, table: str, columns: Sequence[str | ColumnElement[Any]], **options: Any
) -> None:
    dialect = op.get_context().dialect.name
    op.create_index(name, table, [*columns], **options, **_concurrently(dialect))


def _concurrently(dialect_name: str) -> dict[str, Any]:
    return {"postgresql_concurrently": True} if dialect_name == "postgresql" else {}


def _is_valid(connection: Connection, name: str) -> bool:
    return bool(connection.scalar(_VALIDITY, {"name": name}))


def _is_there(
    connection: Connection,
    name: str,
    table: str,
    columns: Sequence[str | ColumnElement[Any]],
    *,
    unique: bool,
) -> bool:
    """Whether a run that ended too soon has built it already; drops what such a run left."""
    if connection.dialect.name == "postgresql":
        is_valid = connection.scalar(_VALIDITY, {"name": name})
        if is_valid is None:
            return False
        if not is_valid:
            op.drop_index(name, table, postgresql_concurrently=True)
            events = op.get_context().config.attributes.get("events")  # type: ignore[union-attr] # in a revision there is one
            if events is not None:
                events.emit("invalid_index_dropped", index=name)
            return False
    found = [one for one in inspect(connection).get_indexes(table) if one["name"] == name]
    if not found:
        if connection.dialect.name == "postgresql":
            raise MigrationError(f"there is an index {name}, of another table")
        return False
    given = [column if isinstance(column, str) else None for column in columns]
    if found[0]["column_names"] != given or bool(found[0]["unique"]) is not unique:
        raise MigrationError(f"there is an index {name} already, over something else")
    return True

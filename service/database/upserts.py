"""Pure builders of upserts: insert rows, or update those whose key is taken and that differ."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Insert,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    and_,
    case,
    inspect,
    literal_column,
    or_,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from service.database.statements import ModelT, RowValues, table_of

UpsertingInsert = postgresql.Insert | sqlite.Insert

_UNIQUE: Final = (PrimaryKeyConstraint, UniqueConstraint)
_UPSERTS: Final[Mapping[str, Callable[[Any], UpsertingInsert]]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


def upsert_rows(
    model: type[ModelT], columns: Sequence[str], key: Sequence[str], dialect: str
) -> Insert:
    """Insert rows, given as parameters, or update those whose key is taken and that differ.

    A row that is equal already is left alone, so that a second run changes no timestamp.

    Args:
        model: The model.
        columns: The names of the columns that each row gives.
        key: The columns of a unique constraint.
        dialect: SQLAlchemy's name of the database.

    Raises:
        NotImplementedError: The database is not one of those that are supported.
    """
    table = table_of(model)
    if dialect == "mariadb":
        return _upsert_into_mariadb(model, columns, key)
    if dialect not in _UPSERTS:
        raise NotImplementedError(f"upsert on {dialect}")
    statement = update_taken(_UPSERTS[dialect](table), model, columns, key)
    if dialect == "postgresql":
        # SQLAlchemy 2.1 sends many rows at once only if the INSERT returns something, where it
        # has an ON CONFLICT (issue 13130): psycopg2 would send each row by itself.
        return statement.returning(*(table.c[name] for name in key))
    return statement


def update_taken(
    statement: UpsertingInsert, model: type[ModelT], columns: Sequence[str], key: Sequence[str]
) -> Insert:
    """Have an INSERT update the rows whose key is taken and that differ.

    Args:
        statement: The INSERT.
        model: The model.
        columns: The names of the columns that are given.
        key: The columns of a unique constraint.
    """
    mapper = inspect(model)
    table = table_of(model)
    new = statement.excluded
    changed = [name for name in columns if name not in key]
    if not changed:
        return statement.on_conflict_do_nothing(index_elements=list(key))
    touched = _touched(table)
    values = {name: new[name] for name in (*changed, *touched)}
    if mapper.version_id_col is not None:
        version = mapper.version_id_col.name
        values[version] = table.c[version] + 1
    differs = or_(*(table.c[name].is_distinct_from(new[name]) for name in changed))
    return statement.on_conflict_do_update(index_elements=list(key), set_=values, where=differs)


def _upsert_into_mariadb(
    model: type[ModelT], columns: Sequence[str], key: Sequence[str]
) -> mysql.Insert:
    """The same for MariaDB, which assigns from left to right and writes no row that stays equal.

    Columns are compared before the first of them is assigned. The numbers are literals: pymysql
    sends many rows in one statement only if nothing behind VALUES is a parameter.
    """
    mapper = inspect(model)
    table = table_of(model)
    statement = mysql.insert(table)
    new = statement.inserted
    changed = [name for name in columns if name not in key]
    values: dict[str, ColumnElement[Any]] = {key[0]: _same_key(table, new, columns, key)}
    if changed:
        differs = or_(*(table.c[name].is_distinct_from(new[name]) for name in changed))
        if mapper.version_id_col is not None:
            version = table.c[mapper.version_id_col.name]
            raised = version + literal_column("1")
            values[version.name] = case((differs, raised), else_=version)
        for name in _touched(table):
            values[name] = case((differs, new[name]), else_=table.c[name])
    values.update({name: new[name] for name in changed if name not in values})
    return statement.on_duplicate_key_update([*values.items()])


def _same_key(
    table: Table, new: Any, columns: Sequence[str], key: Sequence[str]
) -> ColumnElement[Any]:
    """What the key becomes: what it is, or an error where another key than the named one is taken.

    MariaDB updates the row of whichever key is taken, and cannot be told one.
    """
    first = table.c[key[0]]
    unique = [rule.columns for rule in table.constraints if isinstance(rule, _UNIQUE)]
    unique += [index.columns for index in table.indexes if index.unique]
    others = [{*rule.keys()} for rule in unique if {*rule.keys()} != {*key}]
    if not any(other <= {*columns} for other in others):
        return first
    same = and_(*(table.c[name].is_not_distinct_from(new[name]) for name in key))
    return case((same, first), else_=literal_column("(SELECT 1 UNION SELECT 2)"))


def _touched(table: Table) -> list[str]:
    """The columns that each update sets."""
    return [column.name for column in table.columns if column.onupdate is not None]


def in_key_order(rows: Iterable[RowValues], key: Sequence[str]) -> list[RowValues]:
    """Rows ordered by key: two writers that lock in one order cannot deadlock."""
    return sorted(rows, key=lambda row: tuple(row[name] for name in key))

"""Rows made up for whatever tables a database has, so that revisions meet some."""

import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    ForeignKeyConstraint,
    MetaData,
    Table,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import SAWarning, SQLAlchemyError
from sqlalchemy.schema import sort_tables_and_constraints

from service.database.failures import classify
from service.migrator.errors import first_line
from service.migrator.history import BOOKKEEPING_TABLES
from service.migrator.rows.values import candidates, columns_by_rule, literals_by_column

# Rows for each table at each call; every other one has only what it must have.
ROWS: Final = 3
# How many rows are tried out before a table's CHECKs are given up.
_ATTEMPTS: Final = 200

Row = Mapping[str, Any]
Samples = Mapping[str, Sequence[Row]]

_PARTITIONS: Final = text("SELECT oid::regclass::text FROM pg_class WHERE relispartition")


def reflected(connection: Connection) -> list[Table]:
    """The tables of a database, those that are referred to first."""
    metadata = MetaData()
    is_postgresql = connection.dialect.name == "postgresql"
    schemas: list[str | None] = [None]
    if is_postgresql:
        names = inspect(connection).get_schema_names()
        schemas += [name for name in names if name not in ("public", "information_schema")]
    partitions = set(connection.execute(_PARTITIONS).scalars()) if is_postgresql else set()
    with warnings.catch_warnings():
        # A type or an index that SQLAlchemy does not know is no matter here.
        warnings.simplefilter("ignore", SAWarning)
        for schema in schemas:
            metadata.reflect(connection, schema, only=_is_a_models)
    pairs = sort_tables_and_constraints(metadata.tables.values())  # type: ignore[no-untyped-call]
    ordered = [table for table, _ in pairs]
    return [table for table in ordered if table is not None and table.fullname not in partitions]


def fill(connection: Connection, samples: Samples) -> list[str]:
    """Add rows to every table.

    Types, NULLs, keys, foreign keys and enums are honoured. What a CHECK asks for is found by
    trying, with the literals that stand in it.

    Args:
        connection: What is done is committed by whoever calls.
        samples: Rows to add in place of made-up ones, by table.

    Returns:
        A line for each table that is still empty, with the reason.
    """
    empty = []
    for table in reflected(connection):
        reason = _fill_table(connection, table, samples.get(table.fullname))
        if reason is not None and not _count(connection, table):
            empty.append(
                f"table {table.fullname}: no row could be made up ({reason}); give the revision"
                f' some: sample_rows = {{"{table.fullname}": [{{…}}]}}'
            )
    return empty


def _is_a_models(name: str, metadata: MetaData) -> bool:
    del metadata
    return name not in BOOKKEEPING_TABLES


def _fill_table(connection: Connection, table: Table, samples: Sequence[Row] | None) -> str | None:
    """Returns why the last row was refused, if one was."""
    before = _count(connection, table)
    if samples is not None:
        if before:
            return None
        rows = [{name: row[name] for name in row if name in table.c} for row in samples]
        refusals = [_insert(connection, table, row) for row in rows]
        return next((refusal[1] for refusal in refusals if refusal), None)
    reasons = [
        _add_row(connection, table, number) for number in range(before + 1, before + ROWS + 1)
    ]
    return next(filter(None, reasons), None)


def _add_row(connection: Connection, table: Table, number: int) -> str | None:
    """Try until the database takes one; returns why it refused the last one, if it did."""
    references = _references(connection, table, number)
    if references is None:
        return "it refers to a table without rows"
    choices = _choices(table, number, references, connection.dialect.name)
    columns_of = columns_by_rule(table)
    chance = random.Random(number)  # noqa: S311 - no secret; the same rows in each run
    row = {name: values[0] for name, values in choices.items()} | references
    reason = None
    for _ in range(_ATTEMPTS):
        refusal = _insert(connection, table, row)
        if refusal is None:
            return None
        rule, reason = refusal
        # Only what the rule is about is tried anew, so that one rule is met after the other.
        names = [name for name in columns_of.get(rule, ()) if name in choices] or [*choices]
        row |= {name: chance.choice(choices[name]) for name in names}
    return reason


def _choices(table: Table, number: int, references: Row, dialect_name: str) -> dict[str, list[Any]]:
    """Values for each column that needs one, or shall have one."""
    is_short = number % 2 == 0
    literals = literals_by_column(table)
    choices: dict[str, list[Any]] = {}
    for column in table.columns:
        may_be_left_out = column.nullable or column.server_default is not None
        if column.name in references or (is_short and may_be_left_out):
            continue
        if _is_numbered(column, dialect_name):
            continue
        if found := candidates(column.type, number, literals.get(column.name, ())):
            choices[column.name] = found
    return choices


def _references(connection: Connection, table: Table, number: int) -> dict[str, Any] | None:
    """Keys of rows that foreign keys can refer to; None if there is no such row."""
    values: dict[str, Any] = {}
    for key in sorted(table.foreign_key_constraints, key=lambda key: str(key.name)):
        if found := _parent(connection, key, number):
            values |= found
        elif not all(column.nullable for column in key.columns):
            return None
        else:
            values |= dict.fromkeys(key.column_keys)
    return values


def _parent(connection: Connection, key: ForeignKeyConstraint, number: int) -> dict[str, Any]:
    columns = [element.column for element in key.elements]
    rows = connection.execute(select(*columns).order_by(*columns)).all()
    if not rows:
        return {}
    return dict(zip(key.column_keys, rows[(number - 1) % len(rows)], strict=True))


def _is_numbered(column: Column[Any], dialect_name: str) -> bool:
    """Whether the database gives the value by itself, as it would to the service."""
    if column.computed is not None or column.identity is not None:
        return True
    if dialect_name == "postgresql":
        return "nextval" in str(getattr(column.server_default, "arg", ""))
    return column.table.autoincrement_column is column


def _insert(connection: Connection, table: Table, row: Row) -> tuple[str | None, str] | None:
    """Returns the rule by which the database refuses the row, and what it says, if it does."""
    try:
        with connection.begin_nested():
            connection.execute(insert(table).values(dict(row)))
    except SQLAlchemyError as error:
        failure = classify(error)
        return failure.constraint if failure else None, first_line(error)
    return None


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()

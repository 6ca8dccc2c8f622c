"""Filling a column of rows that are there already, in batches that hold no lock for long."""

from collections.abc import Mapping
from time import monotonic, sleep
from typing import Any, Final

from alembic import op
from sqlalchemy import ColumnElement, TableClause, func, select, true, update

_BATCH: Final = 1000
# Of the time that a batch takes, so that the rest of the database has its turn.
_PAUSE: Final = 0.5
_TELL_SECONDS: Final = 2.0


def backfill(
    table: TableClause,
    *,
    key: str,
    values: Mapping[str, ColumnElement[Any]],
    where: ColumnElement[bool],
    batch: int = _BATCH,
) -> None:
    """Update the rows that need it, each batch in a transaction of its own.

    What the revision did before is committed. After a failure it goes on where it was, because
    `where` leaves out what is done.

    Args:
        table: Whose rows.
        key: A column with an index and without NULL, by whose order the table is walked. Rows with
            the same value are in the same batch.
        values: What each row gets.
        where: The rows that need it; no longer, once they have got it.
        batch: How many rows to look at in one transaction.
    """
    context = op.get_context()
    change = update(table).where(where).values(dict(values))
    with context.autocommit_block():
        if context.as_sql:
            context.impl.static_output(f"-- In batches of {batch} by {key}, each committed:")
            op.execute(change)
            return
        _walk(table.c[key], change, batch)


def _walk(column: ColumnElement[Any], change: Any, batch: int) -> None:
    connection = op.get_bind()
    last, rows, told = None, 0, monotonic()
    while True:
        start = monotonic()
        behind = true() if last is None else column > last
        ahead = select(column.label("key")).where(behind).order_by(column).limit(batch).subquery()
        upto = connection.scalar(select(func.max(ahead.c.key)))
        if upto is None:
            _tell(rows)
            return
        rows += connection.execute(change.where(behind, column <= upto)).rowcount
        last = upto
        now = monotonic()
        if now - told > _TELL_SECONDS:
            _tell(rows)
            told = now
        sleep((now - start) * _PAUSE)


def _tell(rows: int) -> None:
    context = op.get_context()
    attributes = context.config.attributes if context.config else {}
    if (events := attributes.get("events")) is not None:
        events.emit("progress", revision=attributes.get("revision"), rows=rows)

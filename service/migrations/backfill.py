"""Filling a column of rows that are there already, in batches that hold no lock for long."""

import time
from collections.abc import Mapping
from typing import Any, Final

from alembic import op
from sqlalchemy import ColumnElement, TableClause, func, select, update

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
    last, rows, told = None, 0, time.monotonic()
    while True:
        start = time.monotonic()
        ahead = select(column.label("key")).order_by(column).limit(batch)
        if last is not None:
            ahead = ahead.where(column > last)
            change_here = change.where(column > last)
        else:
            change_here = change
        window = ahead.subquery()
        upto = connection.scalar(select(func.max(window.c.key)))
        if upto is None:
            _tell(rows)
            return
        rows += connection.execute(change_here.where(column <= upto)).rowcount
        last = upto
        now = time.monotonic()
        if now - told > _TELL_SECONDS:
            _tell(rows)
            told = now
        time.sleep((now - start) * _PAUSE)


def _tell(rows: int) -> None:
    context = op.get_context()
    attributes = context.config.attributes if context.config else {}
    if (events := attributes.get("events")) is not None:
        events.emit("progress", revision=attributes.get("revision"), rows=rows)

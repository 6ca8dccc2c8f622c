"""The query of one page, made once for each kind of page: to make it takes as long as to run it."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Select, bindparam, inspect, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from service.database.pagination import Page, Sort, decode_cursor, encode_cursor
from service.database.process_engines import process
from service.database.statements import key_column, made_once
from service.database.views import names_of, select_views

RowT = TypeVar("RowT")

_LIMIT: Final = "page_limit"
_START: Final = "page_start_{}"


class PageQuery:
    """The rows of a page, and one more that tells whether there is a next page.

    Cursors are sealed with the key of the process's settings, whatever engine the query runs on:
    those of one deployment are the same on its replica.

    Args:
        model: Of what.
        where: What every row meets.
        sort: The order.
        limit: How many rows make a page.
        cursor: Where the page before ended; None for the first page.
        view: What to ask for of each row; entities when left out.

    Attributes:
        statement: What to run.
        parameters: With what.

    Raises:
        InvalidCursorError: The cursor is not one of this list, order and key.
        SettingsError: The process has no settings yet, and they are wrong.
        TypeError: The column may be null, the view lacks it or the key, or the model has a
            composite key.
    """

    def __init__(  # noqa: PLR0913 - each is a part of a page
        self,
        model: Any,
        where: Iterable[ColumnElement[bool]],
        sort: Sort,
        limit: int,
        cursor: str | None,
        *,
        view: type[Any] | None = None,
    ) -> None:
        self._sort = sort
        self._limit = limit
        self._columns = _sort_columns(model, sort.column)
        self._table = str(inspect(model).local_table)
        self._key = process.settings.cursor_sealing_key
        self.parameters: dict[str, Any] = {_LIMIT: limit + 1}
        if cursor is not None:
            types = [column.type for column in self._columns]
            start = decode_cursor(cursor, self._key, self._table, sort, types)
            self.parameters |= {_START.format(place): value for place, value in enumerate(start)}
        statement = _select_page(
            model,
            sort.column,
            descending=sort.descending,
            is_first=cursor is None,
            view=view,
        )
        # Without a condition it stays the same object, whose place in the cache is known.
        self.statement = statement.where(*where) if where else statement

    def page(self, rows: Sequence[RowT]) -> Page[RowT]:
        """The page of the rows that the statement gave."""
        if len(rows) <= self._limit:
            return Page(rows, None)
        items = rows[: self._limit]
        values = [getattr(items[-1], column.key) for column in self._columns]
        return Page(items, encode_cursor(self._key, self._table, self._sort, values))


@made_once
def _select_page(
    model: Any,
    column: InstrumentedAttribute[Any],
    *,
    descending: bool,
    is_first: bool,
    view: type[Any] | None,
) -> Select[*tuple[Any, ...]]:
    columns = _sort_columns(model, column)
    query: Select[*tuple[Any, ...]] = select(model)
    if view is not None:
        if lacking := {each.key for each in columns} - {*names_of(view)}:
            names = " and ".join(sorted(lacking))
            raise TypeError(f"{view.__name__} lacks {names}: without, a row's place is not known")
        query = select_views(model, view)
    if not is_first:
        start = [
            bindparam(_START.format(place), type_=each.type) for place, each in enumerate(columns)
        ]
        keys, position = tuple_(*columns), tuple_(*start)
        query = query.where(keys < position if descending else keys > position)
    order = [each.desc() if descending else each.asc() for each in columns]
    return query.order_by(*order).limit(bindparam(_LIMIT))


@made_once
def _sort_columns(
    model: Any, column: InstrumentedAttribute[Any]
) -> list[InstrumentedAttribute[Any]]:
    key = key_column(model)
    if column.property.columns[0].nullable:
        # No row compares as before or after NULL: the pages would leave rows out.
        raise TypeError(f"{column} may be null; pages need a column that may not")
    return [column] if column.key == key.key else [column, key]

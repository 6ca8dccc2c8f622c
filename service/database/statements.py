"""Pure builders of the statements that both kinds of repository run."""

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ColumnElement,
    Insert,
    PrimaryKeyConstraint,
    Select,
    Table,
    UnaryExpression,
    UniqueConstraint,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    inspect,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.dml import ReturningInsert

from service.database.base import Base
from service.database.pagination import Page, Sort, decode_cursor, encode_cursor

ModelT = TypeVar("ModelT", bound=Base)
UpsertingInsert = postgresql.Insert | sqlite.Insert
RowValues = Mapping[str, Any]
# A row as plain values: a named tuple with the names of the model's attributes.
View = Any
RowT = TypeVar("RowT")
_UNIQUE: Final = (PrimaryKeyConstraint, UniqueConstraint)

_UPSERTS: Final[Mapping[str, Callable[[Any], UpsertingInsert]]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


def key_column(model: type[ModelT]) -> InstrumentedAttribute[Any]:
    """The single primary-key column of a model.

    Raises:
        TypeError: The model has a composite key.
    """
    mapper = inspect(model)
    if len(mapper.primary_key) != 1:
        raise TypeError(f"{model.__name__} has a composite key; pages need a single column")
    attribute = mapper.get_property_by_column(mapper.primary_key[0])
    return getattr(model, attribute.key)  # type: ignore[no-any-return]


def select_rows(
    model: type[ModelT],
    where: Iterable[ColumnElement[bool]],
    order_by: Iterable[UnaryExpression[Any] | InstrumentedAttribute[Any]] = (),
    limit: int | None = None,
) -> Select[ModelT]:
    """Rows that meet every condition."""
    return select(model).where(*where).order_by(*order_by).limit(limit)


def select_count(model: type[ModelT], where: Iterable[ColumnElement[bool]]) -> Select[int]:
    """How many rows meet every condition."""
    return select(func.count()).select_from(model).where(*where)


def select_exists(model: type[ModelT], where: Iterable[ColumnElement[bool]]) -> Select[bool]:
    """Whether any row meets every condition."""
    return select(exists(select(1).select_from(model).where(*where)))


def select_locked(model: type[ModelT], key: Any) -> Select[ModelT]:
    """One row, locked until the transaction ends, as it is now in the database."""
    query = select(model).where(key_column(model) == key).with_for_update()
    return query.execution_options(populate_existing=True)


def _columns(model: type[Any]) -> list[ColumnElement[Any]]:
    """The columns of a model's table, each under the name of its attribute."""
    attributes = inspect(model).column_attrs
    return [attribute.columns[0].label(attribute.key) for attribute in attributes]


def _view_of(model: type[Any]) -> type[Any]:
    names = [attribute.key for attribute in inspect(model).column_attrs]
    # Not the rows of SQLAlchemy, which take five times as long to tell a value by its name.
    return namedtuple(f"{model.__name__}View", names)  # noqa: PYI024 - the names are the model's


def _select_views(model: type[Any]) -> Select[*tuple[Any, ...]]:
    """The columns of all rows."""
    return select(*_columns(model))


def _select_view(model: type[Any]) -> Select[*tuple[Any, ...]]:
    """The columns of one row, whose primary key is the parameter `key`."""
    # The table's column: by the attribute it would be a query of the ORM, which costs more.
    (column,) = key_column(model).property.columns
    return select_views(model).where(column == bindparam("key"))


def _insert_view(model: type[Any]) -> ReturningInsert[*tuple[Any, ...]]:
    """One row, given as parameters by the names of its columns, that returns all of them."""
    return insert(_table(model)).returning(*_columns(model))


# Made once for each model, since to make them takes as long as to run them.
view_of: Final[Callable[[Any], Any]] = cache(_view_of)
select_views: Final[Callable[[Any], Select[*tuple[Any, ...]]]] = cache(_select_views)
select_view: Final[Callable[[Any], Select[*tuple[Any, ...]]]] = cache(_select_view)
insert_view: Final[Callable[[Any], ReturningInsert[*tuple[Any, ...]]]] = cache(_insert_view)


def page_start(
    model: type[ModelT], sort: Sort, cursor: str | None, key: bytes
) -> Sequence[Any] | None:
    """The values of the sort columns after which a page begins; None for the first page.

    Raises:
        InvalidCursorError: The cursor is not one of this list, order and key.
        TypeError: The column may be null, or the model has a composite key.
    """
    types = [column.type for column in _sort_columns(model, sort)]
    return None if cursor is None else decode_cursor(cursor, key, _table_name(model), sort, types)


def views_of(model: type[Any], rows: Iterable[Iterable[Any]]) -> list[View]:
    """Make views of the rows of `select_view`, `insert_view` or a page of views."""
    return [*map(view_of(model)._make, rows)]


def select_page(  # noqa: PLR0913 - each is a part of a page
    model: type[ModelT],
    where: Iterable[ColumnElement[bool]],
    sort: Sort,
    limit: int,
    start: Sequence[Any] | None,
    *,
    as_views: bool = False,
) -> Select[*tuple[Any, ...]]:
    """The rows of a page, and one more that tells whether there is a next page.

    Args:
        model: Of what.
        where: What every row meets.
        sort: The order.
        limit: How many rows make a page.
        start: Where the page before ended, as `page_start` tells.
        as_views: Whether to ask for columns instead of entities.

    Raises:
        TypeError: The column may be null, or the model has a composite key.
    """
    columns = _sort_columns(model, sort)
    whole: Select[*tuple[Any, ...]] = select_views(model) if as_views else select(model)
    query = whole.where(*where)
    if start is not None:
        position = tuple_(*start, types=[column.type for column in columns])
        keys = tuple_(*columns)
        query = query.where(keys < position if sort.descending else keys > position)
    order = [column.desc() if sort.descending else column.asc() for column in columns]
    return query.order_by(*order).limit(limit + 1)


def page_of(
    model: type[Base], rows: Sequence[RowT], sort: Sort, limit: int, key: bytes
) -> Page[RowT]:
    """Turn the rows of `select_page` into a page."""
    if len(rows) <= limit:
        return Page(rows, None)
    items = rows[:limit]
    values = [getattr(items[-1], column.key) for column in _sort_columns(model, sort)]
    return Page(items, encode_cursor(key, _table_name(model), sort, values))


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
    table = _table(model)
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
    table = _table(model)
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
    table = _table(model)
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


def _table(model: type[ModelT]) -> Table:
    table = inspect(model).local_table
    if not isinstance(table, Table):
        raise TypeError(f"{model.__name__} is not mapped to a table")
    return table


def _touched(table: Table) -> list[str]:
    """The columns that each update sets."""
    return [column.name for column in table.columns if column.onupdate is not None]


def in_key_order(rows: Iterable[RowValues], key: Sequence[str]) -> list[RowValues]:
    """Rows ordered by key: two writers that lock in one order cannot deadlock."""
    return sorted(rows, key=lambda row: tuple(row[name] for name in key))


def _table_name(model: type[ModelT]) -> str:
    return str(inspect(model).local_table)


def _sort_columns(model: type[ModelT], sort: Sort) -> list[InstrumentedAttribute[Any]]:
    key = key_column(model)
    if sort.column.property.columns[0].nullable:
        # No row compares as before or after NULL: the pages would leave rows out.
        raise TypeError(f"{sort.column} may be null; pages need a column that may not")
    return [sort.column] if sort.column.key == key.key else [sort.column, key]

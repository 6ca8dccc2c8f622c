"""Pure builders of the statements that both kinds of repository run."""

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    UnaryExpression,
    bindparam,
    exists,
    func,
    insert,
    inspect,
    select,
)
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.dml import ReturningInsert

from service.database.base import Base

ModelT = TypeVar("ModelT", bound=Base)
RowValues = Mapping[str, Any]
# A row as plain values: a named tuple with the names of the model's attributes.
View = Any


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
    return insert(table_of(model)).returning(*_columns(model))


# Made once for each model, since to make them takes as long as to run them.
view_of: Final[Callable[[Any], Any]] = cache(_view_of)
select_views: Final[Callable[[Any], Select[*tuple[Any, ...]]]] = cache(_select_views)
select_view: Final[Callable[[Any], Select[*tuple[Any, ...]]]] = cache(_select_view)
insert_view: Final[Callable[[Any], ReturningInsert[*tuple[Any, ...]]]] = cache(_insert_view)


def views_of(model: type[Any], rows: Iterable[Iterable[Any]]) -> list[View]:
    """Make views of the rows of `select_view`, `insert_view` or a page of views."""
    return [*map(view_of(model)._make, rows)]


def table_of(model: type[ModelT]) -> Table:
    """The table of a model.

    Raises:
        TypeError: It is mapped to something else.
    """
    table = inspect(model).local_table
    if not isinstance(table, Table):
        raise TypeError(f"{model.__name__} is not mapped to a table")
    return table

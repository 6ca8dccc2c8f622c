"""Views: rows as plain values, for what is only shown.

A view is a dataclass with the names of a model's attributes, and rows become its instances. Where
it is also what a route answers with, FastAPI takes one as it is; of anything else it would look at
each value again, which for 50 rows takes a quarter as long as their query does.
"""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from itertools import starmap
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, bindparam, insert, inspect, select
from sqlalchemy.sql.dml import ReturningInsert

from service.database.statements import key_column, made_once, table_of

ViewT = TypeVar("ViewT")


@made_once
def names_of(view: type[Any]) -> tuple[str, ...]:
    """The attributes that a view shows.

    Raises:
        TypeError: It is no dataclass.
    """
    if not is_dataclass(view):
        raise TypeError(f"{view.__name__} is no dataclass; a view has to be one")
    return tuple(field.name for field in fields(view))


@made_once
def select_views(model: type[Any], view: type[Any]) -> Select[*tuple[Any, ...]]:
    """What a view shows of all rows."""
    return select(*_columns(model, view))


@made_once
def select_view(model: type[Any], view: type[Any]) -> Select[*tuple[Any, ...]]:
    """What a view shows of one row, whose primary key is the parameter `key`."""
    # The table's column: by the attribute it would be a query of the ORM, which costs more.
    (column,) = key_column(model).property.columns
    return select_views(model, view).where(column == bindparam("key"))


@made_once
def insert_view(model: type[Any], view: type[Any]) -> ReturningInsert[*tuple[Any, ...]]:
    """One row, given as parameters by the names of its columns, that returns its view."""
    return insert(table_of(model)).returning(*_columns(model, view))


def views_of(view: type[ViewT], rows: Iterable[Iterable[Any]]) -> list[ViewT]:
    """Make views of the rows that one of these statements gave."""
    return [*starmap(view, rows)]


def view_of(view: type[ViewT], entity: Any) -> ViewT:
    """Make a view of an entity, as it is now."""
    return view(*[getattr(entity, name) for name in names_of(view)])


def _columns(model: type[Any], view: type[Any]) -> list[ColumnElement[Any]]:
    """The columns that a view shows, in its order, each under the name of its attribute."""
    attributes = inspect(model).column_attrs
    for name in names_of(view):
        if name not in attributes:
            raise TypeError(f"{view.__name__}.{name} is no column of {model.__name__}")
    return [attributes[name].columns[0].label(name) for name in names_of(view)]

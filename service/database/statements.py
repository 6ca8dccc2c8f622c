"""Pure builders of the statements that both kinds of repository run."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    UnaryExpression,
    exists,
    func,
    inspect,
    select,
)
from sqlalchemy.orm import InstrumentedAttribute

from service.database.base import Base

ModelT = TypeVar("ModelT", bound=Base)
RowValues = Mapping[str, Any]
ArgumentsT = ParamSpec("ArgumentsT")
MadeT = TypeVar("MadeT")


def made_once(make: Callable[ArgumentsT, MadeT]) -> Callable[ArgumentsT, MadeT]:
    """Keep what a function makes of each of its arguments, such as a model.

    To make a statement takes as long as to run it. `cache` itself would hide the function's types,
    and mypy takes no class for hashable.
    """
    return cache(make)  # type: ignore[return-value]


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


def table_of(model: type[ModelT]) -> Table:
    """The table of a model.

    Raises:
        TypeError: It is mapped to something else.
    """
    table = inspect(model).local_table
    if not isinstance(table, Table):
        raise TypeError(f"{model.__name__} is not mapped to a table")
    return table

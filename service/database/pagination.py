"""Keyset pages: where the next page begins is told by the last row, not by a count."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from sqlalchemy import BigInteger, SmallInteger
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeEngine

from service.database.sealing import seal, unseal
from service.database.types import ExactDecimal

RowT = TypeVar("RowT")

# Version 1 was JSON without a tag.
_VERSION: Final = b"\x02"
# What JSON has no form for, and any text of the right form is a value of.
_FROM_TEXT: Final[dict[type, Callable[[str], Any]]] = {UUID: UUID, date: date.fromisoformat}


class InvalidCursorError(ValueError):
    """A cursor that we did not make, or made for another list or order, or with another key."""

    def __init__(self) -> None:
        super().__init__("not a cursor of this list; leave it out to begin at the first page")


@dataclass(frozen=True, slots=True)
class Sort:
    """How a list is ordered; the primary key is the tie-breaker and need not be named.

    Args:
        name: What the order is called, so that a cursor of another order is refused.
        column: The column to order by; it may not be nullable, as NULL has no place in an order.
        descending: Whether the largest comes first.
    """

    name: str
    column: InstrumentedAttribute[Any]
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Page(Generic[RowT]):
    """Some rows of a list.

    Args:
        items: The rows, in order.
        next_cursor: Where the next page begins, or None when this is the last one.
    """

    items: Sequence[RowT]
    next_cursor: str | None


def encode_cursor(key: bytes, table: str, sort: Sort, values: Sequence[Any]) -> str:
    """Write down where a page ended.

    Args:
        key: What cursors are sealed with.
        table: The table that is listed.
        sort: The order of the list.
        values: The sort columns of the last row.
    """
    plain = [value if isinstance(value, int | str | float) else _plain(value) for value in values]
    text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False)
    return seal(_VERSION + text.encode(), key, _context(table, sort))


def decode_cursor(
    cursor: str, key: bytes, table: str, sort: Sort, types: Sequence[TypeEngine[Any]]
) -> list[Any]:
    """Read back where a page ended.

    The values are checked although they were sealed: a release may have changed the column since.

    Args:
        cursor: What `encode_cursor` wrote.
        key: What it was sealed with.
        table: The table that is listed.
        sort: The order of the list that is asked for.
        types: The types of the sort columns.

    Raises:
        InvalidCursorError: It is no cursor, one of another list, order, key or version, or one
            with a value that its column could not hold, which the driver or the database would
            refuse.
    """
    try:
        content = unseal(cursor, key, _context(table, sort))
        if not content.startswith(_VERSION):
            raise InvalidCursorError
        values = json.loads(content.removeprefix(_VERSION))
        return [_typed(value, column) for value, column in zip(values, types, strict=True)]
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        raise InvalidCursorError from None


def _context(table: str, sort: Sort) -> bytes:
    return json.dumps([table, sort.name]).encode()


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)


def _typed(value: Any, column: TypeEngine[Any]) -> Any:
    kind = column.python_type
    written: type[Any] = str if kind in (datetime, Decimal, *_FROM_TEXT) else kind
    if type(value) is not written:
        raise InvalidCursorError
    if kind is datetime:
        return _instant(value)
    if kind is Decimal:
        return _decimal(value, column)
    if kind in _FROM_TEXT:
        return _FROM_TEXT[kind](value)
    if kind is float and not math.isfinite(value):
        raise InvalidCursorError
    if kind is int and not -_largest(column) <= value < _largest(column):
        raise InvalidCursorError
    if kind is str and b"\x00" in value.encode():
        raise InvalidCursorError
    return value


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise InvalidCursorError
    return instant.astimezone(UTC)


def _decimal(text: str, column: TypeEngine[Any]) -> Decimal:
    number = Decimal(text)
    if not number.is_finite():
        raise InvalidCursorError
    if isinstance(column, ExactDecimal):
        column.in_units(number)
    return number


def _largest(column: TypeEngine[Any]) -> int:
    """The first integer that is too large for a column."""
    bits = 64 if isinstance(column, BigInteger) else 16 if isinstance(column, SmallInteger) else 32
    return 1 << (bits - 1)

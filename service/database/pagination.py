"""Keyset pages: where the next page begins is told by the last row, not by a count."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Generic, TypeVar

from sqlalchemy.orm import InstrumentedAttribute

RowT = TypeVar("RowT")

_VERSION: Final = 1


class InvalidCursorError(ValueError):
    """A cursor that was not made for this list."""

    def __init__(self) -> None:
        super().__init__("not a cursor of this list; leave it out to begin at the first page")


@dataclass(frozen=True, slots=True)
class Sort:
    """How a list is ordered; the primary key is the tie-breaker and need not be named.

    Args:
        name: What the order is called, so that a cursor of another order is refused.
        column: The column to order by.
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


def encode_cursor(sort: Sort, values: Sequence[Any]) -> str:
    """Write down where a page ended.

    Args:
        sort: The order of the list.
        values: The sort columns of the last row.
    """
    plain = [value if isinstance(value, int | str) else _plain(value) for value in values]
    text = json.dumps([_VERSION, sort.name, *plain], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, sort: Sort, types: Sequence[type]) -> list[Any]:
    """Read back where a page ended.

    Args:
        cursor: What `encode_cursor` wrote.
        sort: The order of the list that is asked for.
        types: The Python types of the sort columns.

    Raises:
        InvalidCursorError: It is no cursor, or one of another order or version.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        version, name, *values = content
        if (version, name, len(values)) != (_VERSION, sort.name, len(types)):
            raise InvalidCursorError
        return [_typed(value, kind) for value, kind in zip(values, types, strict=True)]
    except (binascii.Error, ValueError, TypeError, InvalidOperation, RecursionError):
        raise InvalidCursorError from None


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _typed(value: Any, kind: type[Any]) -> Any:
    if kind is datetime:
        instant = datetime.fromisoformat(value)
        if instant.tzinfo is None:
            raise InvalidCursorError
        return instant
    if kind is Decimal:
        number = Decimal(value)
        if not number.is_finite():
            raise InvalidCursorError
        return number
    if type(value) is not kind or (kind is int and abs(value) >= 1 << 63):
        raise InvalidCursorError
    if kind is str and "\x00" in value:
        raise InvalidCursorError
    return value

"""Values that a column may take, by its type."""

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import CheckConstraint, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy import types as t
from sqlalchemy.dialects import mysql, postgresql

_LITERAL: Final = re.compile(r"'((?:[^']|'')*)'|(?<![\w.])(-?\d+(?:\.\d+)?)(?![\w.])")
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def literals_by_column(table: Table) -> Mapping[str, Sequence[str]]:
    """What stands in the CHECKs of each column: one of these is likely to be allowed."""
    found: dict[str, list[str]] = {}
    for check in _checks(table):
        for name in _columns_in(table, str(check.sqltext)):
            found.setdefault(name, []).extend(_literals(str(check.sqltext)))
    return found


def columns_by_rule(table: Table) -> Mapping[str | None, Sequence[str]]:
    """The columns that each constraint is about, by its name."""
    found: dict[str | None, Sequence[str]] = {
        str(rule.name): rule.columns.keys()
        for rule in table.constraints
        if isinstance(rule, PrimaryKeyConstraint | UniqueConstraint)
    }
    for check in _checks(table):
        words = str(check.sqltext)
        # SQLite tells of one that has no name by what it says.
        found[str(check.name or words)] = _columns_in(table, words)
    for column in table.columns:
        if isinstance(column.type, postgresql.DOMAIN):
            found[str(column.type.constraint_name)] = [column.name]
    return found


def _checks(table: Table) -> list[CheckConstraint]:
    return [rule for rule in table.constraints if isinstance(rule, CheckConstraint)]


def _columns_in(table: Table, words: str) -> list[str]:
    names = [column.name for column in table.columns]
    return [name for name in names if re.search(rf"\b{re.escape(name)}\b", words)]


def _literals(words: str) -> list[str]:
    return [one.replace("''", "'") or two for one, two in _LITERAL.findall(words)]


def candidates(kind: t.TypeEngine[Any], number: int, literals: Sequence[str]) -> list[Any]:
    """Values of a type, the most usual one first, which differs from number to number.

    Args:
        kind: The column's type.
        number: Which row they are for, from 1.
        literals: Values to consider beside them, as the database writes them.

    Returns:
        Nothing for a type that is not known.
    """
    if isinstance(kind, postgresql.DOMAIN):
        return candidates(kind.data_type, number, [*literals, *_literals(str(kind.check))])
    for known, make in _MAKERS:
        if isinstance(kind, known):
            return make(kind, number, literals)
    return []


def _texts(kind: Any, number: int, literals: Sequence[str]) -> list[Any]:
    longest = kind.length or 1000
    usual = [
        f"row {number}",
        f"{number}",
        f"row{number}@example.org",
        f"https://example.org/{number}",
        str(uuid.UUID(int=number)),
        "a",
        "A",
        "",
    ]
    fitting = [value for value in (*usual, *literals) if len(value) <= longest]
    return fitting if longest > len(usual[0]) else [_short(number, longest), *fitting]


def _short(number: int, length: int) -> str:
    """A number in as few characters as there are."""
    value = ""
    while number and len(value) < length:
        number, digit = divmod(number, len(_DIGITS))
        value = _DIGITS[digit] + value
    return value


def _numbers(kind: Any, number: int, literals: Sequence[str]) -> list[Any]:
    precision, scale = getattr(kind, "precision", None), getattr(kind, "scale", None) or 0
    largest = 10 ** (precision - scale) - 1 if precision else 32_000
    given = [Decimal(word) for word in literals if re.fullmatch(r"-?\d+(\.\d+)?", word)]
    around = [value + step for value in given for step in (0, 1, -1)]
    usual = [Decimal(number), Decimal(1), Decimal(0), Decimal(-number), Decimal(100 + number)]
    return [value for value in (*usual, *around) if abs(value) <= largest]


def _whole_numbers(kind: Any, number: int, literals: Sequence[str]) -> list[Any]:
    # An integer's display width is no precision.
    del kind
    return [int(value) for value in _numbers(None, number, literals)]


def _floats(kind: Any, number: int, literals: Sequence[str]) -> list[Any]:
    del kind
    return [float(value) for value in _numbers(None, number, literals)]


def _instants(kind: Any, number: int, literals: Sequence[str]) -> list[Any]:
    del literals
    values = [_START + timedelta(hours=number), _START - timedelta(days=number)]
    return values if kind.timezone else [value.replace(tzinfo=None) for value in values]


def _enumerated(kind: Any, number: int, literals: Sequence[str]) -> list[Any]:
    del literals
    values = list(kind.enums)
    return values[(number - 1) % len(values) :] + values


def _lists(kind: Any, number: int, literals: Sequence[str]) -> list[Any]:
    return [[value] for value in candidates(kind.item_type, number, literals)]


def _ranges(make: Callable[[int], Any]) -> Callable[[Any, int, Sequence[str]], list[Any]]:
    def ranges(kind: Any, number: int, literals: Sequence[str]) -> list[Any]:
        del kind, literals
        return [postgresql.Range(make(number), make(number + 1))]

    return ranges


def _fixed(make: Callable[[int], Any]) -> Callable[[Any, int, Sequence[str]], list[Any]]:
    def values(kind: Any, number: int, literals: Sequence[str]) -> list[Any]:
        del kind, literals
        return [make(number)]

    return values


# The first that fits counts, so that the special stands before the general.
_MAKERS: Final[Sequence[tuple[Any, Callable[[Any, int, Sequence[str]], list[Any]]]]] = (
    (mysql.SET, lambda kind, *_: [kind.values[0]]),
    (t.Enum, _enumerated),
    (t.Boolean, lambda *_: [True, False]),
    (mysql.BIT, _fixed(lambda _: 1)),
    (mysql.YEAR, _fixed(lambda number: 2000 + number % 100)),
    (t.Float, _floats),
    (t.Numeric, _numbers),
    (t.Integer, _whole_numbers),
    (postgresql.OID, _fixed(lambda number: number)),
    (postgresql.MONEY, _fixed(lambda number: f"{number}.00")),
    (postgresql.BIT, lambda kind, *_: ["0" * (kind.length or 1)]),
    (postgresql.INET, _fixed(lambda number: f"10.0.0.{number % 256}")),
    (postgresql.CIDR, _fixed(lambda number: f"10.{number % 256}.0.0/16")),
    (postgresql.MACADDR, _fixed(lambda number: f"02:00:00:00:00:{number % 256:02x}")),
    (postgresql.TSVECTOR, _fixed(lambda number: f"row{number}")),
    (postgresql.HSTORE, _fixed(lambda number: {"row": str(number)})),
    ((postgresql.INT4RANGE, postgresql.INT8RANGE), _ranges(lambda number: number)),
    (postgresql.NUMRANGE, _ranges(Decimal)),
    (postgresql.DATERANGE, _ranges(lambda number: _START.date() + timedelta(days=number))),
    (postgresql.TSTZRANGE, _ranges(lambda number: _START + timedelta(hours=number))),
    (
        postgresql.TSRANGE,
        _ranges(lambda number: _START.replace(tzinfo=None) + timedelta(hours=number)),
    ),
    (t.String, _texts),
    (t.DateTime, _instants),
    (t.Date, _fixed(lambda number: date(2026, 1, 1) + timedelta(days=number))),
    (t.Time, _fixed(lambda number: time(number % 24))),
    ((t.Interval, postgresql.INTERVAL), _fixed(lambda number: timedelta(minutes=number))),
    (t.LargeBinary, _fixed(lambda number: f"row {number}".encode())),
    (t.Uuid, _fixed(lambda number: uuid.UUID(int=number))),
    (t.JSON, _fixed(lambda number: {"row": number})),
    (t.ARRAY, _lists),
    (t.NullType, _fixed(lambda number: f"row {number}")),
)

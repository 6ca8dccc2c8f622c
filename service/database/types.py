"""Column types that mean the same on every database."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from typing import Any, Final

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, Numeric
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator, TypeEngine

# Makes a value of what a driver gives.
Processor = Callable[[Any], Any]
# SQLite numbers rows by itself only for a column declared INTEGER.
BigIntegerKey = BigInteger().with_variant(Integer(), "sqlite")
# The default context would round to 28 digits before anybody looked at the last one.
_UNROUNDED: Final = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal that comes back as it went in.

    NUMERIC where the database has it. SQLite would store a binary float, so there it is the
    whole number of smallest units, which sorts and compares the same.

    Args:
        precision: Digits in all, at most 18 (what fits a 64-bit integer).
        scale: Digits after the point.
    """

    impl = Numeric
    cache_ok = True

    @property
    def python_type(self) -> type[Decimal]:
        """What a value is in Python."""
        return Decimal

    def __init__(self, precision: int, scale: int) -> None:
        super().__init__(precision, scale)
        self.precision = precision
        self.scale = scale

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column's type."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(BigInteger())
        return dialect.type_descriptor(Numeric(self.precision, self.scale))

    def in_units(self, value: Decimal) -> int:
        """A value in units of the last decimal.

        Raises:
            ValueError: It is not finite, which psycopg2 would write as NaN; or it has more digits
                or decimals than the column, where none is rounded away silently.
        """
        number = Decimal(value)
        if not number.is_finite():
            raise ValueError("not a finite number")
        units = number.scaleb(self.scale, _UNROUNDED)
        if units != units.to_integral_value():
            raise ValueError(f"more than {self.scale} decimals")
        if units and units.adjusted() >= self.precision:
            raise ValueError(f"more than {self.precision} digits")
        return int(units)

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Decimal | int | None:
        """Check the value and turn it into what the column stores.

        Raises:
            ValueError: It does not fit; see `in_units`.
        """
        if value is None:
            return None
        units = self.in_units(value)
        return units if dialect.name == "sqlite" else value

    def result_processor(self, dialect: Dialect, coltype: object) -> Processor | None:
        """What makes a decimal of each value: nothing, where the driver gives decimals.

        TypeDecorator's own way is two calls for each value, a tenth of what a page of rows takes.
        """
        if dialect.name == "sqlite":
            return super().result_processor(dialect, coltype)
        return self.load_dialect_impl(dialect).result_processor(dialect, coltype)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Turn what the column stores into a decimal."""
        if value is None or dialect.name != "sqlite":
            return value  # type: ignore[no-any-return]
        return Decimal(value).scaleb(-self.scale)


class UTCDateTime(TypeDecorator[datetime]):
    """An instant: aware when written, aware and in UTC when read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        """What a value is in Python."""
        return datetime

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column's type; MariaDB keeps whole seconds unless it is told otherwise."""
        if dialect.name == "mariadb":
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return super().load_dialect_impl(dialect)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn an aware time into UTC.

        Raises:
            ValueError: The time is naive, so that nobody can say which instant it is.
        """
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone; use datetime.now(UTC)")
        instant = value.astimezone(UTC)
        return instant if dialect.name == "postgresql" else instant.replace(tzinfo=None)

    def result_processor(self, dialect: Dialect, coltype: object) -> Processor | None:
        """What puts each value into UTC; PostgreSQL's come with a zone, mostly with that one."""
        if dialect.name == "postgresql":
            return _into_utc
        return super().result_processor(dialect, coltype)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the zone back that the database did not keep."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _into_utc(value: datetime | None) -> datetime | None:
    return value if value is None or value.tzinfo is UTC else value.astimezone(UTC)

"""The column types keep their promises on every kind of database."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Engine, Integer, MetaData, Table, func, insert, select, text
from sqlalchemy.exc import StatementError

from service.database import create_db_engine
from service.database.types import ExactDecimal, UTCDateTime
from tests.database.conftest import kit_url_of
from tests.support.databases import KINDS

tables: Final = MetaData()
samples: Final = Table(
    "type_samples",
    tables,
    Column("id", Integer, primary_key=True),
    Column("price", ExactDecimal(12, 2)),
    Column("rate", ExactDecimal(18, 9)),
    Column("at", UTCDateTime()),
)

EXAMPLES: Final = settings(max_examples=60, deadline=None)
LARGEST_PRICE: Final = Decimal("9999999999.99")
prices: Final = st.decimals(-LARGEST_PRICE, LARGEST_PRICE, places=2)
offsets: Final = st.integers(-23 * 60, 23 * 60).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)
instants: Final = st.datetimes(datetime(2, 1, 1), datetime(9999, 12, 30), timezones=offsets)  # noqa: DTZ001 - hypothesis adds the zone


@pytest.fixture(scope="module", params=KINDS)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    url = kit_url_of(request, tmp_path_factory.mktemp("types"))
    engine = create_db_engine(url, pool_name="types")
    tables.create_all(engine)
    yield engine
    tables.drop_all(engine)
    engine.dispose()


def written_and_read(engine: Engine, name: str, values: Sequence[Any]) -> list[Any]:
    """What the values of one column are after a round trip, in the order of their writing."""
    rows = [{"id": number, name: value} for number, value in enumerate(values)]
    with engine.connect() as connection:
        connection.execute(insert(samples), rows)
        query = select(samples.c[name]).order_by(samples.c.id)
        return [*connection.scalars(query)]


def written_and_sorted(engine: Engine, name: str, values: Sequence[Any]) -> list[Any]:
    """What the values of one column are in the order of the database."""
    with engine.connect() as connection:
        connection.execute(insert(samples), [{name: value} for value in values])
        return [*connection.scalars(select(samples.c[name]).order_by(samples.c[name]))]


@EXAMPLES
@given(values=st.lists(prices, min_size=1, max_size=10))
def test_decimal_comes_back_as_it_went_in(engine: Engine, values: list[Decimal]) -> None:
    read = written_and_read(engine, "price", values)
    assert read == values
    assert all(type(value) is Decimal for value in read)


@pytest.mark.parametrize(
    "value",
    ["0.1", "0.3", "1.005000001", "123456789.123456789", "999999999.999999999", "-0.000000001"],
)
def test_decimal_that_no_binary_float_holds_stays_exact(engine: Engine, value: str) -> None:
    assert written_and_read(engine, "rate", [Decimal(value)]) == [Decimal(value)]


@pytest.mark.parametrize("value", ["0", "-0", "-0.00", "1E+2", "100", "1.10", "1.1000", "0E-20"])
def test_decimal_is_its_value_however_it_is_written(engine: Engine, value: str) -> None:
    assert written_and_read(engine, "price", [Decimal(value)]) == [Decimal(value)]


@EXAMPLES
@given(values=st.lists(prices, min_size=2, max_size=10))
def test_database_sorts_decimals_as_python_does(engine: Engine, values: list[Decimal]) -> None:
    assert written_and_sorted(engine, "price", values) == sorted(values)


@EXAMPLES
@given(values=st.lists(prices, min_size=1, max_size=6), bound=prices)
def test_database_compares_decimals_as_python_does(
    engine: Engine, values: list[Decimal], bound: Decimal
) -> None:
    with engine.connect() as connection:
        connection.execute(insert(samples), [{"price": value} for value in values])
        found = connection.scalars(select(samples.c.price).where(samples.c.price >= bound))
        assert sorted(found) == sorted(value for value in values if value >= bound)


def test_database_sums_decimals_exactly(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(insert(samples), [{"price": Decimal("0.10")}] * 3)
        total = connection.scalar(select(func.sum(samples.c.price)))
        assert total == Decimal("0.30")


@pytest.mark.parametrize(
    "value",
    [
        "0.001",
        "1.999",
        "-0.005",
        # Nearer to a cent than the 28 digits that Python counts with by default.
        "0.01" + "0" * 40 + "1",
        "9999999999.99" + "0" * 20 + "1",
    ],
)
def test_decimal_with_more_decimals_is_refused_and_not_rounded(engine: Engine, value: str) -> None:
    with pytest.raises(StatementError, match="more than 2 decimals") as refused:
        written_and_read(engine, "price", [Decimal(value)])
    assert isinstance(refused.value.orig, ValueError)


@EXAMPLES
@given(value=st.decimals(-1000, 1000, places=5), digits=st.integers(1, 28))
def test_decimal_is_kept_or_refused_whatever_context_python_counts_in(
    engine: Engine, value: Decimal, digits: int
) -> None:
    with localcontext() as context:
        context.prec = digits
        try:
            read = written_and_read(engine, "price", [value])
        except StatementError:
            assert value.as_tuple().digits[-3:] != (0, 0, 0)
        else:
            assert read == [value]


@pytest.mark.parametrize("value", ["10000000000", "-10000000000.00", "1E+30", "1E+999999999"])
def test_decimal_with_more_digits_is_refused(engine: Engine, value: str) -> None:
    with pytest.raises(StatementError, match="more than 12 digits"):
        written_and_read(engine, "price", [Decimal(value)])


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_what_is_no_finite_number_is_refused(engine: Engine, value: str) -> None:
    with pytest.raises(StatementError, match="not a finite number"):
        written_and_read(engine, "price", [Decimal(value)])


@pytest.mark.parametrize("name", ["price", "rate", "at"])
def test_null_stays_null(engine: Engine, name: str) -> None:
    assert written_and_read(engine, name, [None]) == [None]


@EXAMPLES
@given(values=st.lists(instants, min_size=1, max_size=10))
def test_instant_comes_back_aware_and_in_utc(engine: Engine, values: list[datetime]) -> None:
    read = written_and_read(engine, "at", values)
    assert read == values
    assert all(value.tzinfo is UTC for value in read)


@EXAMPLES
@given(values=st.lists(instants, min_size=2, max_size=10))
def test_database_sorts_instants_as_python_does(engine: Engine, values: list[datetime]) -> None:
    assert written_and_sorted(engine, "at", values) == sorted(values)


@EXAMPLES
@given(values=st.lists(instants, min_size=1, max_size=6), bound=instants)
def test_database_compares_instants_as_python_does(
    engine: Engine, values: list[datetime], bound: datetime
) -> None:
    with engine.connect() as connection:
        connection.execute(insert(samples), [{"at": value} for value in values])
        found = connection.scalars(select(samples.c.at).where(samples.c.at < bound))
        assert sorted(found) == sorted(value for value in values if value < bound)


def test_both_passes_of_the_repeated_hour_stay_two_instants(engine: Engine) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 2, 30, tzinfo=berlin)
    second = first.replace(fold=1)
    read = written_and_read(engine, "at", [first, second])
    assert [value.hour for value in read] == [0, 1]


def test_naive_time_is_refused(engine: Engine) -> None:
    with pytest.raises(StatementError, match="a time without a zone") as refused:
        written_and_read(engine, "at", [datetime(2026, 1, 1)])  # noqa: DTZ001 - what is refused
    assert isinstance(refused.value.orig, ValueError)


def test_naive_time_is_refused_in_a_comparison_too(engine: Engine) -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - what is refused
    with engine.connect() as connection, pytest.raises(StatementError, match="without a zone"):
        connection.scalars(select(samples.c.id).where(samples.c.at > naive))


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kathmandu"])
def test_instant_is_in_utc_whatever_zone_the_session_has(kit_url: str, zone: str) -> None:
    engine = create_db_engine(f"{kit_url}?options=-c%20TimeZone%3D{zone}", pool_name="types")
    instant = datetime(2026, 7, 1, 12, 30, 15, 123456, UTC)
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW TimeZone")) == zone
        tables.create_all(connection)
        connection.execute(insert(samples), [{"at": instant}])
        read = connection.scalars(select(samples.c.at)).one()
    engine.dispose()
    assert (read, read.tzinfo) == (instant, UTC)


def test_python_types_are_those_of_the_values() -> None:
    assert ExactDecimal(12, 2).python_type is Decimal
    assert UTCDateTime().python_type is datetime

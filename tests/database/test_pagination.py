"""Cursors for keys and orders of every kind of column."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Date, Engine, Float, MetaData, Uuid
from sqlalchemy.orm import Mapped, Session, mapped_column

from service.database import (
    Base,
    BaseRepository,
    InvalidCursorError,
    Sort,
    create_db_engine,
)
from service.database.pagination import encode_cursor
from tests.database.conftest import kit_url_of
from tests.support.databases import KINDS


class OwnBase(Base):
    """Apart from the service's tables."""

    __abstract__ = True
    metadata = MetaData()


class Reading(OwnBase):
    """A row with a key that nobody numbers."""

    __tablename__ = "readings"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True, default=uuid4)
    day: Mapped[date] = mapped_column(Date)
    at: Mapped[datetime]
    level: Mapped[float] = mapped_column(Float(53))


class Readings(BaseRepository[Reading]):
    model = Reading


@pytest.fixture(params=KINDS)
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    engine: Engine = create_db_engine(kit_url_of(request, tmp_path), pool_name="test")
    OwnBase.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    OwnBase.metadata.drop_all(engine)
    engine.dispose()


@pytest.mark.parametrize("descending", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("name", ["id", "day", "at", "level"])
def test_pages_of_any_column_together_are_the_list(
    session: Session, name: str, descending: bool
) -> None:
    start = datetime(2024, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC)
    readings = Readings(session)
    # Each value stands three times, so that the key has to break ties.
    readings.add_many(
        Reading(day=at.date(), at=at, level=number // 3 / 7 - 1)
        for number in range(12)
        for at in [start + timedelta(days=number // 3)]
    )
    sort = Sort(name, getattr(Reading, name), descending)
    seen: list[Reading] = []
    cursor = None
    while not seen or cursor is not None:
        page = readings.page(sort=sort, limit=2, cursor=cursor)
        seen += page.items
        cursor = page.next_cursor
    # MariaDB orders UUIDs in a way of its own.
    order = [sort.column, Reading.id]
    whole = readings.list(order_by=[each.desc() for each in order] if descending else order)
    assert [row.id for row in seen] == [row.id for row in whole]
    values = [getattr(row, name) for row in seen]
    assert name == "id" or values == sorted(values, reverse=descending)
    assert len(seen) == 12


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "no-uuid"),
        ("day", "2024-02-30"),
        ("day", 20240228),
        ("level", float("nan")),
        ("level", float("inf")),
        ("level", "1.5"),
    ],
)
def test_cursor_with_a_value_that_is_none_of_the_column_is_refused(
    session: Session, name: str, value: object
) -> None:
    sort = Sort(name, getattr(Reading, name))
    values = [value] if name == "id" else [value, str(uuid4())]
    with pytest.raises(InvalidCursorError):
        Readings(session).page(sort=sort, limit=1, cursor=encode_cursor(sort, values))

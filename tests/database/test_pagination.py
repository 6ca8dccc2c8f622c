"""Cursors for keys and orders of every kind of column, and of nobody's making but ours."""

import base64
import json
import string
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Date, Engine, Float, MetaData, Text, Uuid
from sqlalchemy.orm import Mapped, Session, mapped_column

from service.database import (
    Base,
    BaseRepository,
    InvalidCursorError,
    Sort,
    create_db_engine,
    process,
)
from service.database.pagination import decode_cursor, encode_cursor
from tests.database.conftest import kit_url_of
from tests.support.databases import KINDS

# How long an example takes says more of the machine than of the code.
UNTIMED: Final = settings(deadline=None)


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
    cursor = encode_cursor(process.settings.cursor_sealing_key, "readings", sort, values)
    with pytest.raises(InvalidCursorError):
        Readings(session).page(sort=sort, limit=1, cursor=cursor)


# Tampering

KEY: Final = bytes(range(32))
TYPES: Final = (Text(), BigInteger())
BY_DAY: Final = Sort("day", Reading.day)
ALPHABET: Final = string.ascii_letters + string.digits + "-_"

values = st.tuples(
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    st.integers(-(1 << 63), (1 << 63) - 1),
)


def written(*of: Any, key: bytes = KEY, table: str = "readings", sort: Sort = BY_DAY) -> str:
    """A cursor of a text and a number."""
    return encode_cursor(key, table, sort, of)


def read(cursor: str) -> list[Any]:
    """What the list of readings makes of a cursor."""
    return decode_cursor(cursor, KEY, "readings", BY_DAY, TYPES)


def assert_refused(cursor: str) -> None:
    """Check that the list of readings refuses a cursor."""
    with pytest.raises(InvalidCursorError):
        read(cursor)


@UNTIMED
@given(values)
def test_cursor_is_read_back_and_fits_into_a_url(given_values: tuple[str, int]) -> None:
    cursor = written(*given_values)
    assert read(cursor) == [*given_values]
    assert {*cursor} <= {*ALPHABET}


def test_cursor_is_at_most_22_characters_longer_than_its_values() -> None:
    plain = base64.urlsafe_b64encode(b'["4.85",282]')
    assert len(written("4.85", 282)) <= len(plain) + 22 + 2


# Of three lengths, so that the last character holds 6, 4 and 2 bits.
@pytest.mark.parametrize("text", ["a", "ab", "abc"])
def test_cursor_with_any_character_changed_is_refused(text: str) -> None:
    cursor = written(text, 282)
    for at, character in enumerate(cursor):
        before, after = cursor[:at], cursor[at + 1 :]
        assert_refused(before + after)
        for other in f"{ALPHABET}+/=\u00e9":
            assert_refused(f"{before}{other}{character}{after}")
            if other != character:
                assert_refused(before + other + after)
    for end in ("=", "==", "A", "\n", " "):
        assert_refused(cursor + end)


@pytest.mark.parametrize("text", ["a", "ab", "abc"])
def test_cursor_with_any_bit_flipped_is_refused(text: str) -> None:
    cursor = written(text, 282)
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        assert_refused(base64.urlsafe_b64encode(flipped).decode().rstrip("="))


@UNTIMED
@given(given_values=values, data=st.data())
def test_cursor_changed_at_will_is_refused(given_values: tuple[str, int], data: Any) -> None:
    cursor = written(*given_values)
    start = data.draw(st.integers(0, len(cursor)))
    end = data.draw(st.integers(start, len(cursor)))
    changed = cursor[:start] + data.draw(st.text(ALPHABET) | st.text()) + cursor[end:]
    if changed != cursor:
        assert_refused(changed)


@UNTIMED
@given(st.text() | st.text(ALPHABET) | st.binary().map(lambda raw: base64.b64encode(raw).decode()))
def test_any_text_is_refused(text: str) -> None:
    assert_refused(text)


@pytest.mark.parametrize(
    "other",
    [
        {"key": KEY[::-1]},
        {"table": "products"},
        {"table": ""},
        {"sort": Sort("-day", Reading.day, descending=True)},
        {"sort": Sort("at", Reading.at)},
        {"table": 'readings","day', "sort": Sort("", Reading.day)},
    ],
    ids=["key", "list", "no-list", "direction", "column", "list-that-is-spelled-into-the-order"],
)
def test_cursor_of_another_key_list_or_order_is_refused(other: dict[str, Any]) -> None:
    made_for = {"key": KEY, "table": "readings", "sort": BY_DAY, **other}
    cursor = written("a", 282, **made_for)
    assert decode_cursor(cursor, types=TYPES, **made_for) == ["a", 282]
    assert_refused(cursor)


def test_cursor_of_version_1_is_refused() -> None:
    content = json.dumps([1, "day", "a", 282], separators=(",", ":"))
    assert_refused(base64.urlsafe_b64encode(content.encode()).decode().rstrip("="))

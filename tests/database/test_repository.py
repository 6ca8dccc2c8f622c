"""One contract for the repository, blocking and asyncio, on every kind of database."""

import base64
import json
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, make_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, MetaData, String, Text, delete, event, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column, sessionmaker
from sqlalchemy.orm.exc import StaleDataError

from service.database import (
    NAMING_CONVENTION,
    Base,
    BaseRepository,
    BaseRepositoryAsync,
    DatabaseSettings,
    InvalidCursorError,
    Page,
    Sort,
    create_async_db_engine,
    create_db_engine,
    process,
)
from service.database.failures import LockNotAvailable, classify
from service.database.mixins import IdentityMixin, TimestampMixin, VersionMixin
from service.database.pagination import encode_cursor
from service.database.sealing import seal
from service.database.types import ExactDecimal
from service.database.views import view_of
from tests.database.conftest import kit_url_of
from tests.support.databases import KINDS
from tests.support.queries import counted_queries

pytestmark = pytest.mark.anyio


Body = Callable[[], Coroutine[Any, Any, None]]


class OwnBase(Base):
    """The base of the models that only these tests have."""

    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Part(IdentityMixin, TimestampMixin, VersionMixin, OwnBase):
    """A row with a column of every type that pages can be ordered by."""

    __tablename__ = "parts"

    code: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(40))
    stock: Mapped[int]
    price: Mapped[Decimal] = mapped_column(ExactDecimal(12, 2))
    seen_at: Mapped[datetime]
    note: Mapped[str | None] = mapped_column(Text)


class Tag(OwnBase):
    """A row that is nothing but its key."""

    __tablename__ = "part_tags"

    word: Mapped[str] = mapped_column(String(40), primary_key=True)


class Place(OwnBase):
    """A row with a key of two columns."""

    __tablename__ = "part_places"

    shelf: Mapped[int] = mapped_column(primary_key=True)
    box: Mapped[int] = mapped_column(primary_key=True)


# All that a part has, in an order of its own.
PartView = make_dataclass(
    "PartView",
    sorted((attribute.key, Any) for attribute in inspect(Part).column_attrs),
    slots=True,
)


@dataclass(slots=True)
class Stock:
    """How many parts there are of a code."""

    stock: int
    code: str


class Parts(BaseRepository[Part]):
    model = Part


class AsyncParts(BaseRepositoryAsync[Part]):
    model = Part


class Awaited:
    """Something blocking, its methods awaitable, so that one test body fits both kinds."""

    def __init__(self, blocking: Any) -> None:
        self._blocking = blocking

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._blocking, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call


@dataclass
class Work:
    """A session and repositories in it, all awaitable."""

    session: Any
    parts: Any

    def repository(self, of: type[Base]) -> Any:
        """A repository of another model."""
        if isinstance(self.session, Awaited):
            blocking = type("Rows", (BaseRepository,), {"model": of})
            return Awaited(blocking(self.session._blocking))  # noqa: SLF001 - of this module
        return type("AsyncRows", (BaseRepositoryAsync,), {"model": of})(self.session)


class Store:
    """A database behind one kind of engine.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine | AsyncEngine) -> None:
        self._engine = engine
        self.engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
        self.is_sqlite = self.engine.dialect.name == "sqlite"

    @asynccontextmanager
    async def work(self) -> AsyncIterator[Work]:
        """A session with the kit's settings; what is not committed is rolled back."""
        kept: Any = {"autoflush": False, "expire_on_commit": False}
        if isinstance(self._engine, AsyncEngine):
            async with async_sessionmaker(self._engine, **kept)() as session:
                yield Work(session, AsyncParts(session))
        else:
            with sessionmaker(self._engine, **kept)() as blocking:
                yield Work(Awaited(blocking), Awaited(Parts(blocking)))

    async def keep(self, *rows: Part) -> list[int]:
        """Insert rows for good; returns their keys."""
        async with self.work() as work:
            await work.parts.add_many(rows)
            await work.session.commit()
        return [row.id for row in rows]

    async def rows(self) -> dict[str, Part]:
        """All rows as another session sees them, by code."""
        async with self.work() as work:
            return {row.code: row for row in await work.parts.list()}

    async def at_once(self, *bodies: Body) -> None:
        """Run several at the same time: as tasks, or in threads where they block."""
        async with anyio.create_task_group() as group:
            for body in bodies:
                if isinstance(self._engine, AsyncEngine):
                    group.start_soon(body)
                else:
                    group.start_soon(anyio.to_thread.run_sync, anyio.run, body)

    async def dispose(self) -> None:
        """Close every connection."""
        if isinstance(self._engine, AsyncEngine):
            await self._engine.dispose()
        else:
            self._engine.dispose()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=KINDS)
def owner(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """A database with the tables of these tests."""
    url = kit_url_of(request, tmp_path_factory.mktemp("repository"))
    engine = create_db_engine(url, pool_name="repository")
    OwnBase.metadata.create_all(engine)
    yield engine
    OwnBase.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture(params=["blocking", "asyncio"])
async def store(request: pytest.FixtureRequest, owner: Engine) -> AsyncIterator[Store]:
    url = owner.url.render_as_string(hide_password=False)
    given_settings = DatabaseSettings(url=url)
    make = create_async_db_engine if request.param == "asyncio" else create_db_engine
    store = Store(make(settings=given_settings, pool_name="repository"))
    yield store
    await store.dispose()
    with owner.begin() as connection:
        for table in OwnBase.metadata.sorted_tables:
            connection.execute(delete(table))


MOMENT: Final = datetime(2026, 2, 3, 4, 5, 6, 789, UTC)


def part(code: str, **values: Any) -> Part:
    """A part; what is not said is the same for all."""
    return Part(**given_part(code, **values))


def given_part(code: str, **values: Any) -> dict[str, Any]:
    """The columns of a part, as `upsert` takes them."""
    usual = {"name": "bolt", "stock": 1, "price": Decimal("1.50"), "seen_at": MOMENT, "note": None}
    return {"code": code, **usual, **values}


# Reading


async def test_get_gives_the_row_of_a_key_or_none(store: Store) -> None:
    [key, _] = await store.keep(part("a"), part("b"))
    async with store.work() as work:
        assert (await work.parts.get(key)).code == "a"
        assert await work.parts.get(key + 1000) is None


def assert_shown(views: Sequence[Any], rows: Sequence[Part]) -> None:
    """Hold rows that are only shown against the entities."""
    names = [attribute.key for attribute in inspect(Part).column_attrs]
    assert [asdict(view) for view in views] == [
        {name: getattr(row, name) for name in names} for row in rows
    ]


async def test_view_shows_what_get_gives(store: Store) -> None:
    [key, _] = await store.keep(part("a", price=Decimal("1.50")), part("b"))
    async with store.work() as work:
        assert_shown([await work.parts.view(PartView, key)], [await work.parts.get(key)])
        assert await work.parts.view(PartView, key + 1000) is None


async def test_page_of_views_filters_too(store: Store) -> None:
    await store.keep(part("a", stock=5), part("b"), part("c", stock=5))
    async with store.work() as work:
        page = await work.parts.view_page(PartView, Part.stock == 5, sort=sort_by("name"), limit=3)
    assert [row.code for row in page.items] == ["a", "c"]


async def test_inserted_row_is_shown_whole_and_committed_by_whoever_began(store: Store) -> None:
    values = {"code": "a", "name": "bolt", "stock": 1, "price": Decimal("0.10"), "seen_at": MOMENT}
    async with store.work() as work:
        with counted_queries(store.engine) as sent:
            shown = await work.parts.insert(PartView, values)
        assert len(sent) == 1
        assert (shown.code, shown.price, shown.version) == ("a", Decimal("0.10"), 1)
        await work.session.rollback()
    async with store.work() as work:
        assert await work.parts.get(shown.id) is None
        shown = await work.parts.insert(PartView, values)
        await work.session.commit()
    async with store.work() as work:
        assert_shown([shown], [await work.parts.get(shown.id)])
        with pytest.raises(IntegrityError):
            await work.parts.insert(PartView, values)


async def test_find_gives_the_first_by_key_that_meets_every_condition(store: Store) -> None:
    await store.keep(part("a", stock=5), part("c", name="nut"), part("b", name="nut", stock=5))
    async with store.work() as work:
        assert (await work.parts.find(Part.name == "nut")).code == "c"
        assert (await work.parts.find(Part.name == "nut", Part.stock == 5)).code == "b"
        assert await work.parts.find(Part.name == "screw") is None


async def test_list_filters_orders_and_limits(store: Store) -> None:
    await store.keep(part("b", stock=1), part("a", stock=2), part("c", stock=3), part("d", stock=9))
    async with store.work() as work:
        found = await work.parts.list(Part.stock < 9, order_by=[Part.code.desc()], limit=2)
        assert [row.code for row in found] == ["c", "b"]
        assert len(await work.parts.list()) == 4
        assert [*await work.parts.list(Part.stock > 9)] == []


async def test_count_and_exists_tell_of_the_rows_that_meet_every_condition(store: Store) -> None:
    await store.keep(part("a", stock=5), part("b", stock=5), part("c"))
    async with store.work() as work:
        assert await work.parts.count() == 3
        assert await work.parts.count(Part.stock == 5, Part.code > "a") == 1
        assert await work.parts.exists() is True
        assert await work.parts.exists(Part.stock == 5) is True
        assert await work.parts.exists(Part.stock == 5, Part.code == "c") is False


@pytest.mark.parametrize(
    "read",
    [
        lambda parts: parts.get(1),
        lambda parts: parts.find(Part.name == "bolt"),
        lambda parts: parts.list(Part.name == "bolt", order_by=[Part.name], limit=10),
        lambda parts: parts.page(sort=Sort("name", Part.name), limit=2),
        lambda parts: parts.view(PartView, 1),
        lambda parts: parts.view_page(PartView, sort=Sort("name", Part.name), limit=2),
        lambda parts: parts.count(),
        lambda parts: parts.exists(Part.name == "bolt"),
        lambda parts: parts.lock(1),
    ],
    ids=["get", "find", "list", "page", "view", "view_page", "count", "exists", "lock"],
)
async def test_a_read_is_one_statement(store: Store, read: Callable[[Any], Awaitable[Any]]) -> None:
    await store.keep(*(part(f"{number}") for number in range(5)))
    async with store.work() as work:
        with counted_queries(store.engine) as sent:
            await read(work.parts)
        assert len(sent) == 1
        assert sent[0].startswith("SELECT")


async def test_a_later_page_is_one_statement_too(store: Store) -> None:
    await store.keep(*(part(f"{number}") for number in range(5)))
    sort = Sort("name", Part.name)
    async with store.work() as work:
        first = await work.parts.page(sort=sort, limit=2)
        with counted_queries(store.engine) as sent:
            await work.parts.page(sort=sort, limit=2, cursor=first.next_cursor)
        assert len(sent) == 1


async def test_a_row_that_the_session_has_is_got_without_a_statement(store: Store) -> None:
    [key] = await store.keep(part("a"))
    async with store.work() as work:
        row = await work.parts.get(key)
        with counted_queries(store.engine) as sent:
            assert await work.parts.get(key) is row
        assert sent == []


# Pages

SORTED: Final = ("id", "stock", "name", "price", "seen_at")


def sort_by(column: str, *, descending: bool = False) -> Sort:
    """An order of parts."""
    name = f"-{column}" if descending else column
    return Sort(name, getattr(Part, column), descending)


def tied(number: int) -> Part:
    """A part that shares each of its values with others."""
    third = number % 3
    return part(
        f"{number:03}",
        stock=third - 1,
        name="aB\u00e9"[third],
        price=Decimal(third - 1) / 4,
        seen_at=MOMENT + timedelta(microseconds=third),
    )


async def pages(
    store: Store, sort: Sort, limit: int, between: Callable[[Page[Part]], Awaitable[None]]
) -> list[Part]:
    """All rows, page by page, each in a session of its own."""
    rows: list[Part] = []
    cursor = None
    for _ in range(100):
        async with store.work() as work:
            page = await work.parts.page(sort=sort, limit=limit, cursor=cursor)
            views = await work.parts.view_page(PartView, sort=sort, limit=limit, cursor=cursor)
        assert_shown(views.items, page.items)
        assert views.next_cursor == page.next_cursor
        assert len(page.items) <= limit
        rows += page.items
        cursor = page.next_cursor
        if cursor is None:
            return rows
        assert len(page.items) == limit
        await between(page)
    raise AssertionError("the pages have no end")


async def leave_alone(page: Page[Part]) -> None:
    """Change nothing between two pages."""


@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("column", SORTED)
async def test_pages_together_are_the_list(store: Store, column: str, descending: bool) -> None:
    await store.keep(*map(tied, range(12)))
    sort = sort_by(column, descending=descending)
    order = [sort.column, Part.id]
    async with store.work() as work:
        whole = await work.parts.list(
            order_by=[each.desc() for each in order] if descending else order
        )
    for limit in (1, 5, 11, 12):
        read = await pages(store, sort, limit, leave_alone)
        assert [row.id for row in read] == [row.id for row in whole]


@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("column", SORTED)
async def test_pages_neither_skip_nor_repeat_while_rows_come_and_go(
    store: Store, column: str, descending: bool
) -> None:
    await store.keep(*map(tied, range(18)))
    sort = sort_by(column, descending=descending)
    seen: set[int] = set()
    gone: set[int] = set()
    turn = 0

    async def come_and_go(page: Page[Part]) -> None:
        nonlocal turn
        turn += 1
        seen.update(row.id for row in page.items)
        if turn > 4:
            return
        async with store.work() as work:
            # The row that the cursor names, and one that no page had yet.
            last = await work.parts.get(page.items[-1].id)
            unseen = await work.parts.find(Part.id.not_in(seen))
            for row in filter(None, (last, unseen)):
                gone.add(row.id)
                await work.parts.delete(row)
            # Rows that tie with those on both sides of the cursor.
            await work.parts.add_many([tied(100 + 3 * turn + each) for each in range(3)])
            await work.session.commit()

    async with store.work() as work:
        before = {row.id for row in await work.parts.list()}
    read = await pages(store, sort, 3, come_and_go)
    keys = [row.id for row in read]
    assert len(keys) == len({*keys})
    assert before - gone <= {*keys}
    assert turn >= 4


async def test_pages_filter_too(store: Store) -> None:
    await store.keep(*map(tied, range(12)))
    sort = sort_by("price")
    async with store.work() as work:
        first = await work.parts.page(Part.stock >= 0, sort=sort, limit=7)
        rest = await work.parts.page(Part.stock >= 0, sort=sort, limit=7, cursor=first.next_cursor)
    assert [row.stock for row in (*first.items, *rest.items)] == [0] * 4 + [1] * 4
    assert rest.next_cursor is None


async def test_page_of_nothing_is_the_last_one(store: Store) -> None:
    async with store.work() as work:
        page = await work.parts.page(sort=sort_by("name"), limit=3)
    assert ([*page.items], page.next_cursor) == ([], None)


async def test_cursor_holds_whatever_text_the_column_holds(store: Store) -> None:
    names = [
        "",
        "'",
        '"',
        "\\",
        "%_",
        "\n",
        "\u00e9",
        "e\u0301",
        "\U0001f511",
        "\x7f",
        "null",
        "x" * 40,
    ]
    await store.keep(*(part(f"{number}", name=name) for number, name in enumerate(names)))
    for descending in (False, True):
        sort = sort_by("name", descending=descending)
        read = await pages(store, sort, 1, leave_alone)
        assert sorted(row.name for row in read) == sorted(names)


async def test_page_by_a_column_that_may_be_null_is_refused(store: Store) -> None:
    await store.keep(part("a"), part("b", note="x"))
    async with store.work() as work:
        with pytest.raises(TypeError, match="note may be null"):
            await work.parts.page(sort=sort_by("note"), limit=1)


async def test_page_of_a_model_with_a_key_of_two_columns_is_refused(store: Store) -> None:
    async with store.work() as work:
        places = work.repository(Place)
        with pytest.raises(TypeError, match="Place has a composite key"):
            await places.page(sort=Sort("shelf", Place.shelf), limit=1)


async def test_view_shows_what_it_names_and_nothing_else(store: Store) -> None:
    [key] = await store.keep(part("a", stock=5))
    async with store.work() as work:
        with counted_queries(store.engine) as sent:
            assert await work.parts.view(Stock, key) == Stock(stock=5, code="a")
        assert "price" not in sent[0]
        entity = await work.parts.get(key)
        assert view_of(Stock, entity) == Stock(stock=5, code="a")


@pytest.mark.parametrize(
    ("view", "complaint"),
    [
        (dict, "dict is no dataclass"),
        (make_dataclass("Wrong", ["code", "colour"]), "Wrong.colour is no column of Part"),
    ],
)
async def test_view_of_something_else_is_refused(
    store: Store, view: type[Any], complaint: str
) -> None:
    async with store.work() as work:
        with pytest.raises(TypeError, match=complaint):
            await work.parts.view(view, 1)


async def test_page_of_views_without_the_place_of_each_is_refused(store: Store) -> None:
    async with store.work() as work:
        with pytest.raises(TypeError, match="Stock lacks id and name"):
            await work.parts.view_page(Stock, sort=sort_by("name"), limit=1)


# Cursors


def encoded(content: bytes) -> str:
    """Some bytes, written as a cursor is."""
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def sealed(sort: Sort, content: bytes) -> str:
    """A cursor that only the holder of the key could make, of content that nobody was given."""
    context = json.dumps(["parts", sort.name]).encode()
    return seal(content, process.settings.cursor_sealing_key, context)


def forged(sort: Sort, *values: Any) -> str:
    """A sealed cursor of values that no row has."""
    return sealed(sort, b"\x02" + json.dumps(values).encode())


async def assert_refused(store: Store, sort: Sort, cursor: str) -> None:
    """Check that a cursor is refused, and that nothing was asked of the database."""
    async with store.work() as work:
        with counted_queries(store.engine) as sent, pytest.raises(InvalidCursorError) as refused:
            await work.parts.page(sort=sort, limit=2, cursor=cursor)
    assert sent == [], cursor[:200]
    assert str(refused.value) == str(InvalidCursorError())
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("column", SORTED)
async def test_cursor_that_was_cut_is_refused(store: Store, column: str) -> None:
    await store.keep(*map(tied, range(3)))
    sort = sort_by(column)
    async with store.work() as work:
        whole = (await work.parts.page(sort=sort, limit=2)).next_cursor
    for length in range(len(whole)):
        await assert_refused(store, sort, whole[:length])


async def test_cursor_of_another_order_is_refused(store: Store) -> None:
    await store.keep(*map(tied, range(3)))
    async with store.work() as work:
        for sort in (sort_by("name"), sort_by("name", descending=True), sort_by("id")):
            cursor = (await work.parts.page(sort=sort, limit=2)).next_cursor
            for other in (sort_by("code"), sort_by("stock"), sort_by("id", descending=True)):
                await assert_refused(store, other, cursor)


NO_CURSORS: Final = (
    "",
    "=",
    "====",
    "not a cursor",
    "\u00e9\u00e9\u00e9\u00e9",
    "\x00",
    "\ud800",
    "A" * 100_000,
    encoded(b"\xff\xfe"),
    encoded(b'[1,"name","a",1]'),
    encoded(b'\x02["a",1]'),
    encoded(b"\x00" * 16 + b'\x02["a",1]'),
)
NO_CONTENTS: Final = (
    b"",
    b"\x02",
    b"\xff\xfe",
    b"\x02\xff\xfe",
    b"\x021",
    b"\x02null",
    b"\x02{}",
    b"\x02[]",
    b'\x02{"a": 1, "b": 2}',
    b'["a", 1]',
    b'\x01["a", 1]',
    b'\x03["a", 1]',
    b'\x02["a"]',
    b'\x02["a", 1, 1]',
    b'\x02["a", 1',
    b"\x02" + b"[" * 100_000,
    b"\x02" + b"[" * 50_000 + b"]" * 50_000,
    b'\x02["a", ' + b"9" * 10_000 + b"]",
    b'\x02["a", 1e400]',
    b'\x02["a", NaN]',
)


async def test_what_is_no_cursor_is_refused(store: Store) -> None:
    for cursor in NO_CURSORS:
        await assert_refused(store, sort_by("name"), cursor)


async def test_what_is_no_content_of_a_cursor_is_refused(store: Store) -> None:
    sort = sort_by("name")
    for content in NO_CONTENTS:
        await assert_refused(store, sort, sealed(sort, content))


WRONG: Final[Mapping[str, tuple[Any, ...]]] = {
    "id": (None, True, 1.0, "1", [1], {}, 1 << 63, -(1 << 63) - 1, 10**4000),
    "stock": (None, True, 1.0, "1", [1], {}, 1 << 31, -(1 << 31) - 1, 1 << 62),
    "name": (None, True, 1, 1.0, ["a"], {}, "a\x00b", "\ud800", "a\udfffb"),
    "price": (
        *(None, True, 1, 1.5, [0, [1], 0], {}, "", "x", "NaN", "sNaN", "-Infinity"),
        *("0.001", "10000000000", "1E+400", "1E+999999999", "1E-999999999", "1e99999999999999999"),
    ),
    "seen_at": (
        *(None, True, 1, 1.0, ["a"], {}, "", "x", "2026-02-03", "2026-02-03T04:05:06"),
        *("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "2026-02-30T00:00:00Z"),
    ),
}


@pytest.mark.parametrize("column", SORTED)
async def test_cursor_with_a_value_that_the_column_cannot_hold_is_refused(
    store: Store, column: str
) -> None:
    sort = sort_by(column)
    for value in WRONG[column]:
        await assert_refused(
            store, sort, forged(sort, *([value, 1] if column != "id" else [value]))
        )


async def test_cursor_with_a_wrong_key_is_refused(store: Store) -> None:
    sort = sort_by("name")
    for value in WRONG["id"]:
        await assert_refused(store, sort, forged(sort, "a", value))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("id", (-(1 << 63) + 1, (1 << 63) - 1)),
        ("stock", (-(1 << 31), (1 << 31) - 1)),
        ("name", ("", "\U0010ffff" * 1000)),
        ("price", (Decimal("-9999999999.99"), Decimal("9999999999.99"))),
        ("seen_at", (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))),
    ],
)
async def test_cursor_at_the_ends_of_what_a_column_holds_is_taken(
    store: Store, column: str, values: tuple[Any, Any]
) -> None:
    await store.keep(*map(tied, range(3)))
    sort = sort_by(column)
    found = []
    for value in values:
        ends = [value] if column == "id" else [value, 0]
        cursor = encode_cursor(process.settings.cursor_sealing_key, "parts", sort, ends)
        async with store.work() as work:
            page = await work.parts.page(sort=sort, limit=9, cursor=cursor)
        found.append(len(page.items))
    assert found == [3, 0]


FUZZED: Final = settings(
    max_examples=60,
    deadline=None,
    # The store is the same for every example, and none of them writes.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.decimals().map(str)
    | st.datetimes().map(datetime.isoformat)
    | st.datetimes().map(lambda moment: f"{moment.isoformat()}-23:59")
)
documents = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=5)


async def assert_page_or_refusal(store: Store, cursor: str) -> None:
    """Check that a cursor begins a page of an order, or is refused as a cursor."""
    for column in SORTED:
        async with store.work() as work:
            try:
                page = await work.parts.page(sort=sort_by(column), limit=2, cursor=cursor)
            except InvalidCursorError:
                continue
            assert [*page.items] == []


@FUZZED
@given(cursor=st.text() | st.binary().map(encoded) | documents.map(json.dumps).map(str))
async def test_any_text_is_a_cursor_or_refused_as_one(store: Store, cursor: str) -> None:
    await assert_page_or_refusal(store, cursor)


@FUZZED
@given(column=st.sampled_from(SORTED), value=documents, key=st.integers() | documents)
@example(column="name", value="\ud800", key=1)
async def test_any_content_is_a_cursor_or_refused_as_one(
    store: Store, column: str, value: Any, key: Any
) -> None:
    sort = sort_by(column)
    await assert_page_or_refusal(store, forged(sort, value, key))
    await assert_page_or_refusal(store, forged(sort_by("id"), key))


# Writing


async def test_add_gives_the_row_its_key_and_its_times(store: Store) -> None:
    start = datetime.now(UTC)
    async with store.work() as work:
        row = part("a")
        assert await work.parts.add(row) is row
        assert row.id > 0
        await work.session.commit()
    kept = (await store.rows())["a"]
    assert (kept.id, kept.version, kept.price, kept.seen_at) == (row.id, 1, row.price, MOMENT)
    assert start <= kept.created_at <= datetime.now(UTC)


async def test_add_fails_where_it_was_called_and_not_at_the_commit(store: Store) -> None:
    await store.keep(part("a"))
    async with store.work() as work:
        with pytest.raises(IntegrityError):
            await work.parts.add(part("a"))


async def test_add_many_numbers_every_row_in_few_statements(store: Store) -> None:
    rows = [part(f"{number}", stock=number) for number in range(200)]
    async with store.work() as work:
        with counted_queries(store.engine) as sent:
            added = await work.parts.add_many(iter(rows))
        await work.session.commit()
    if not store.is_sqlite:
        # SQLite does not say in which order it returns keys, so SQLAlchemy inserts one by one.
        assert len(sent) == 1
    assert [*added] == rows
    kept = await store.rows()
    assert {code: (row.id, row.stock) for code, row in kept.items()} == {
        row.code: (row.id, row.stock) for row in rows
    }


async def test_add_many_takes_nothing(store: Store) -> None:
    async with store.work() as work:
        with counted_queries(store.engine) as sent:
            assert [*await work.parts.add_many([])] == []
    assert sent == []


async def test_update_writes_the_named_columns_and_no_others(store: Store) -> None:
    [key] = await store.keep(part("a", note="old"))
    async with store.work() as work:
        row = await work.parts.get(key)
        before = row.updated_at
        with counted_queries(store.engine) as sent:
            assert await work.parts.update(row, {"stock": 7, "note": None}) is row
        await work.session.commit()
    assert len(sent) == 1
    assert "price" not in sent[0]
    kept = (await store.rows())["a"]
    assert (kept.stock, kept.note, kept.name, kept.version) == (7, None, "bolt", 2)
    assert kept.updated_at > before


async def test_update_to_what_is_there_writes_nothing(store: Store) -> None:
    [key] = await store.keep(part("a"))
    async with store.work() as work:
        row = await work.parts.get(key)
        with counted_queries(store.engine) as sent:
            await work.parts.update(row, {"stock": row.stock, "price": row.price})
            await work.parts.update(row, {})
    assert sent == []


async def test_delete_removes_the_row(store: Store) -> None:
    [key, _] = await store.keep(part("a"), part("b"))
    async with store.work() as work:
        await work.parts.delete(await work.parts.get(key))
        assert await work.parts.count() == 1
        await work.session.commit()
    assert [*await store.rows()] == ["b"]


# Optimistic locking


@asynccontextmanager
async def overtaken(store: Store, how: str) -> AsyncIterator[tuple[Work, Part]]:
    """A row that was read, and then updated or deleted by another transaction."""
    [key] = await store.keep(part("a"))
    async with store.work() as slow:
        row = await slow.parts.get(key)
        await slow.session.commit()
        async with store.work() as fast:
            other = await fast.parts.get(key)
            if how == "deleted":
                await fast.parts.delete(other)
            elif how == "updated":
                await fast.parts.update(other, {"stock": 77})
            else:
                await fast.parts.upsert([given_part("a", stock=77)], key=["code"])
            await fast.session.commit()
        yield slow, row


@pytest.mark.parametrize("how", ["updated", "upserted", "deleted"])
async def test_update_of_a_row_that_was_changed_meanwhile_is_an_error(
    store: Store, how: str
) -> None:
    async with overtaken(store, how) as (work, row):
        with pytest.raises(StaleDataError):
            await work.parts.update(row, {"stock": 5})
    assert [row.stock for row in (await store.rows()).values()] == (
        [] if how == "deleted" else [77]
    )


@pytest.mark.parametrize("how", ["updated", "upserted", "deleted"])
async def test_delete_of_a_row_that_was_changed_meanwhile_is_an_error(
    store: Store, how: str
) -> None:
    async with overtaken(store, how) as (work, row):
        with pytest.raises(StaleDataError):
            await work.parts.delete(row)
    assert len(await store.rows()) == (0 if how == "deleted" else 1)


async def test_of_two_updates_at_once_none_is_lost(store: Store) -> None:
    [key] = await store.keep(part("a", stock=0))

    async def raise_stock() -> None:
        done = 0
        while done < 5:
            async with store.work() as work:
                row = await work.parts.get(key)
                await work.session.commit()
                try:
                    await work.parts.update(row, {"stock": row.stock + 1})
                    await work.session.commit()
                    done += 1
                except StaleDataError:
                    await work.session.rollback()

    await store.at_once(raise_stock, raise_stock, raise_stock)
    kept = (await store.rows())["a"]
    assert (kept.stock, kept.version) == (15, 16)


# Upsert


async def upsert(store: Store, *rows: Mapping[str, Any]) -> None:
    """Upsert parts by code, for good."""
    async with store.work() as work:
        await work.parts.upsert(rows, key=["code"])
        await work.session.commit()


async def test_upsert_inserts_updates_and_leaves_equal_rows_alone(store: Store) -> None:
    await upsert(store, given_part("same"), given_part("other", note="x"))
    before = await store.rows()
    start = datetime.now(UTC)
    await upsert(store, given_part("same"), given_part("new"), given_part("other", stock=8))
    after = await store.rows()

    same, other, new = after["same"], after["other"], after["new"]
    assert (same.version, same.updated_at) == (1, before["same"].updated_at)
    assert (other.stock, other.note, other.version) == (8, None, 2)
    assert (other.id, other.created_at) == (before["other"].id, before["other"].created_at)
    assert before["other"].updated_at < start <= other.updated_at
    assert (new.version, new.stock) == (1, 1)
    assert new.created_at >= start


async def test_upsert_leaves_columns_alone_that_are_not_given(store: Store) -> None:
    await upsert(store, given_part("a", note="kept"))
    partial = {name: value for name, value in given_part("a", stock=3).items() if name != "note"}
    await upsert(store, partial)
    kept = (await store.rows())["a"]
    assert (kept.stock, kept.note) == (3, "kept")


async def test_upsert_of_many_rows_is_one_statement(store: Store) -> None:
    rows = [given_part(f"{number:03}", stock=number) for number in range(500)]
    for _ in range(2):
        async with store.work() as work:
            with counted_queries(store.engine) as sent:
                await work.parts.upsert(iter(rows), key=["code"])
            await work.session.commit()
        assert len(sent) == 1
    assert [row.stock for _, row in sorted((await store.rows()).items())] == [*range(500)]


async def test_upsert_of_nothing_sends_nothing(store: Store) -> None:
    async with store.work() as work:
        with counted_queries(store.engine) as sent:
            await work.parts.upsert(iter([]), key=["code"])
    assert sent == []


async def test_upsert_of_rows_that_are_only_a_key_inserts_what_is_missing(store: Store) -> None:
    async with store.work() as work:
        tags = work.repository(Tag)
        await tags.upsert([{"word": "b"}, {"word": "a"}], key=["word"])
        await tags.upsert([{"word": "c"}, {"word": "a"}], key=["word"])
        found = await tags.list(order_by=[Tag.word])
    assert [tag.word for tag in found] == ["a", "b", "c"]


async def test_upsert_of_a_key_of_two_columns(store: Store) -> None:
    rows = [{"shelf": shelf, "box": box} for shelf in (2, 1) for box in (2, 1)]
    async with store.work() as work:
        places = work.repository(Place)
        await places.upsert(rows, key=["shelf", "box"])
        await places.upsert(rows, key=["shelf", "box"])
        assert await places.count() == 4


async def test_upsert_that_meets_another_key_than_the_named_one_changes_nothing(
    store: Store,
) -> None:
    [key] = await store.keep(part("a"))
    with pytest.raises(DBAPIError):
        await upsert(store, given_part("b", id=key, stock=7))
    assert {code: row.stock for code, row in (await store.rows()).items()} == {"a": 1}
    await upsert(store, given_part("a", id=key, stock=8))
    assert {code: row.stock for code, row in (await store.rows()).items()} == {"a": 8}


async def test_text_is_one_key_or_another_by_its_characters_alone(store: Store) -> None:
    codes = ["a", "A", "\u00e1", "a ", " a", "\U0001f511", "ss", "\u00df"]
    await store.keep(*map(part, codes))
    await upsert(store, *(given_part(code, stock=5) for code in codes))
    assert {code: row.stock for code, row in (await store.rows()).items()} == dict.fromkeys(
        codes, 5
    )
    async with store.work() as work:
        for code in codes:
            assert await work.parts.count(Part.code == code) == 1


async def test_upsert_sends_its_rows_in_key_order(store: Store) -> None:
    sent: list[Any] = []

    def note(*args: Any) -> None:
        if args[2].startswith("INSERT"):
            sent.append(args[3])

    event.listen(store.engine, "before_cursor_execute", note)
    await upsert(store, *(given_part(code) for code in ("c", "a", "d", "b")))
    [parameters] = sent
    rows = parameters if isinstance(parameters, list) else [parameters]
    values = [value for row in rows for value in (row.values() if isinstance(row, dict) else row)]
    assert [value for value in values if value in ("a", "b", "c", "d")] == ["a", "b", "c", "d"]


async def test_upsert_with_a_key_twice_is_refused_or_the_last_wins(store: Store) -> None:
    rows = [given_part("a", stock=1), given_part("b"), given_part("a", stock=2)]
    if store.engine.dialect.name == "postgresql":
        with pytest.raises(DBAPIError, match="a second time"):
            await upsert(store, *rows)
        assert await store.rows() == {}
    else:
        await upsert(store, *rows)
        assert (await store.rows())["a"].stock == 2


async def test_upserts_of_the_same_rows_in_opposite_order_do_not_deadlock(store: Store) -> None:
    codes = [f"{number:02}" for number in range(40)]
    rounds = 5 if store.is_sqlite else 40

    def writer(order: list[str], first: int) -> Body:
        async def write() -> None:
            for turn in range(rounds):
                # Each turn differs from every other, so that every row is locked and written.
                await upsert(store, *(given_part(code, stock=first + turn) for code in order))

        return write

    await store.at_once(writer(codes, 0), writer(codes[::-1], 1000))
    kept = await store.rows()
    assert [*kept] == codes or sorted(kept) == codes
    assert len({row.stock for row in kept.values()}) == 1
    assert {row.version for row in kept.values()} == {2 * rounds}


# Locks


async def test_lock_gives_the_row_as_it_is_now_or_none(store: Store) -> None:
    async with overtaken(store, "updated") as (work, row):
        locked = await work.parts.lock(row.id)
        assert locked is row
        assert (row.stock, row.version) == (77, 2)
        await work.parts.update(row, {"stock": 78})
        assert await work.parts.lock(row.id + 1000) is None


_SHORT_LOCK_TIMEOUT: Final = {
    "postgresql": "SET LOCAL lock_timeout = '50ms'",
    "mariadb": "SET innodb_lock_wait_timeout = 0",
}


async def test_lock_keeps_other_transactions_waiting_until_this_one_ends(store: Store) -> None:
    [key, other] = await store.keep(part("a"), part("b"))
    if store.is_sqlite:
        pytest.skip("SQLite locks the whole file as soon as a transaction begins")
    async with store.work() as first, store.work() as second:
        await first.parts.lock(key)
        await second.session.execute(text(_SHORT_LOCK_TIMEOUT[store.engine.dialect.name]))
        assert await second.parts.lock(other) is not None
        with pytest.raises(DBAPIError) as refused:
            await second.parts.lock(key)
        assert isinstance(classify(refused.value), LockNotAvailable)
        await second.session.rollback()
        await first.session.commit()
        assert await second.parts.lock(key) is not None


async def test_work_under_a_lock_happens_one_after_the_other(store: Store) -> None:
    [key] = await store.keep(part("a", stock=0))

    async def raise_stock() -> None:
        for _ in range(10):
            async with store.work() as work:
                row = await work.parts.lock(key)
                await work.parts.update(row, {"stock": row.stock + 1})
                await work.session.commit()

    await store.at_once(raise_stock, raise_stock)
    assert (await store.rows())["a"].stock == 20


# Transactions


async def test_repository_never_commits(store: Store) -> None:
    [key, other] = await store.keep(part("a"), part("b"))
    commits: list[object] = []
    event.listen(store.engine, "commit", commits.append)
    async with store.work() as work:
        await work.parts.add(part("c"))
        await work.parts.add_many([part("d"), part("e")])
        await work.parts.update(await work.parts.lock(key), {"stock": 9})
        await work.parts.upsert([given_part("b", stock=9), given_part("f")], key=["code"])
        await work.parts.page(sort=sort_by("name"), limit=1)
        await work.parts.delete(await work.parts.get(other))
        assert await work.parts.count() == 5
        await work.session.rollback()
    assert commits == []
    assert {row.code: row.stock for row in (await store.rows()).values()} == {"a": 1, "b": 1}


async def test_work_of_a_session_that_is_closed_is_gone(store: Store) -> None:
    async with store.work() as work:
        await work.parts.add(part("a"))
        assert await work.parts.exists(Part.code == "a")
    async with store.work() as work:
        assert [*await work.session.scalars(select(Part.code))] == []

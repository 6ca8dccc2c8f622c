"""What a MariaDB server is asked, and how its sessions are, whatever its defaults are."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from operator import gt, lt
from typing import Any, Final

import anyio
import pytest
from sqlalchemy import ColumnElement, Connection, select, text, tuple_
from sqlalchemy.orm import Session

from service.database import (
    AsyncSessionLocal,
    DatabaseSettings,
    SessionLocal,
    Sort,
    check_database_health,
    get_async_db,
    get_db,
    get_db_context,
    process,
    read_session,
    write_session,
)
from service.database.pagination import encode_cursor
from service.product_catalog.models import Product
from service.product_catalog.repository import ProductRepository
from service.product_catalog.schemas import ProductOutput
from tests.database.deadline_clients import TaskClient, ThreadClient, select_one
from tests.product_catalog.support import rope
from tests.support.databases import MariaDBDatabases, migrate
from tests.support.mariadb import MariaDBServer

pytestmark = pytest.mark.mariadb

ROWS: Final = 20_000
LIMIT: Final = 50
BY_DRIVER: Final = pytest.mark.parametrize(
    "client_class", [ThreadClient, TaskClient], ids=["pymysql", "aiomysql"]
)


@pytest.fixture
def server(mariadb: MariaDBDatabases) -> MariaDBServer:
    return mariadb.server


@pytest.fixture
def _configured(mariadb_url: str) -> Iterator[None]:
    """The process's engines, on an empty MariaDB database."""
    process.configure(DatabaseSettings(url=mariadb_url))
    yield
    process.configure(None)


@pytest.fixture
def product(_configured: None) -> int:
    """A product; its key."""
    with write_session() as session:
        row = rope()
        session.add(row)
        session.flush()
        return row.id


def first_words(statements: list[str]) -> list[str]:
    return [statement.split()[0] for statement in statements]


def test_read_session_by_key_sends_one_statement_and_nothing_else(
    server: MariaDBServer, product: int
) -> None:
    with server.logged() as sent, read_session() as session:
        shown = ProductRepository(session).view(ProductOutput, product)
        assert shown is not None
        assert shown.name == "Rope"
    assert first_words(sent) == ["SELECT"]
    with server.logged() as sent, read_session() as session:
        row = session.get(Product, product)
        assert row is not None
    assert first_words(sent) == ["SELECT"]


def test_get_db_context_sends_a_transaction(server: MariaDBServer, product: int) -> None:
    with server.logged() as sent, get_db_context() as session:
        assert session.get(Product, product) is not None
    assert first_words(sent) == ["BEGIN", "SELECT", "ROLLBACK"]


@pytest.mark.usefixtures("product")
def test_write_session_sends_a_transaction(server: MariaDBServer) -> None:
    with server.logged() as sent, write_session() as session:
        session.add_all([rope("A"), rope("B"), rope("C")])
    assert first_words(sent) == ["BEGIN", "INSERT", "COMMIT"]
    assert "RETURNING" in sent[1]
    with server.logged() as sent, pytest.raises(ZeroDivisionError), write_session() as session:
        session.add(rope("D"))
        session.flush()
        raise ZeroDivisionError
    assert first_words(sent) == ["BEGIN", "INSERT", "ROLLBACK"]
    with read_session() as session:
        assert codes(session) == ["A", "B", "C", "ROPE"]


@pytest.mark.usefixtures("product")
def test_session_in_which_nothing_was_asked_sends_nothing(server: MariaDBServer) -> None:
    with server.logged() as sent, SessionLocal() as session:
        session.rollback()
    with server.logged() as sent_to_read, read_session():
        pass
    assert sent == sent_to_read == []


@pytest.mark.parametrize(
    ("client_class", "words"),
    [
        # The driver names the character set by itself.
        pytest.param(ThreadClient, ["Connect", "SET", "SET"], id="pymysql"),
        # The driver commits what it is given to send.
        pytest.param(TaskClient, ["Connect", "SET", "COMMIT"], id="aiomysql"),
    ],
)
def test_opening_a_connection_sends_the_settings_of_its_session_in_one_statement(
    server: MariaDBServer, client_class: type[ThreadClient], words: list[str], pool_name: str
) -> None:
    def open_another(connection: Connection) -> list[str]:
        connection.execute(text("SELECT 1"))
        with server.logged() as sent:
            connection.engine.pool.connect().close()
        return sent

    # The first one is asked by SQLAlchemy what kind of server it is.
    with closing(client_class(server.url("mysql"), pool_name)) as client:
        sent = client.ask(open_another)
    assert first_words(sent) == words
    assert ["sql_mode" in statement for statement in sent].count(True) == 1


@BY_DRIVER
def test_session_is_as_the_kit_needs_it_whatever_the_defaults_of_the_server_are(
    server: MariaDBServer, client_class: type[ThreadClient], pool_name: str
) -> None:
    names = (
        "time_zone", "tx_isolation", "max_statement_time", "collation_connection",
        "character_set_client", "character_set_results", "autocommit",
    )  # fmt: skip
    ours = ("+00:00", "READ-COMMITTED", 7, "utf8mb4_nopad_bin", "utf8mb4", "utf8mb4", 1)
    scope = "SELECT " + ", ".join(f"@@{{0}}.{name}" for name in names)
    [(*theirs,)] = server.ask(scope.format("GLOBAL"))
    assert [name for name, a, b in zip(names, ours, theirs, strict=True) if a == b] == [
        "autocommit"
    ]

    def ask(connection: Connection) -> tuple[Any, ...]:
        mode = connection.scalar(text("SELECT @@sql_mode"))
        assert {
            "STRICT_ALL_TABLES", "STRICT_TRANS_TABLES", "NO_ZERO_DATE",
            "ERROR_FOR_DIVISION_BY_ZERO", "NO_AUTO_VALUE_ON_ZERO",
        } < {*mode.split(",")}  # fmt: skip
        told = connection.scalar(text("SELECT now(6)")).replace(tzinfo=UTC)
        assert abs((told - datetime.now(UTC)).total_seconds()) < 5
        return tuple(connection.execute(text(scope.format("SESSION"))).one())

    with closing(client_class(server.url("mysql"), pool_name, statement_timeout=7)) as client:
        assert client.ask(ask) == ours


@BY_DRIVER
@pytest.mark.parametrize("name", ["mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql"])
def test_url_and_its_asyncio_twin_connect(
    server: MariaDBServer, client_class: type[ThreadClient], name: str, pool_name: str
) -> None:
    with closing(client_class(server.url("mysql", driver=name), pool_name)) as client:
        assert client.ask(select_one) == 1
        dialect = client.engine.dialect
    driver = "pymysql" if client_class is ThreadClient else "aiomysql"
    assert (dialect.name, dialect.driver) == ("mariadb", driver)


@pytest.mark.parametrize("name", ["mysql+aiomysql", "mariadb+aiomysql"])
def test_url_of_an_asyncio_driver_connects(
    server: MariaDBServer, name: str, pool_name: str
) -> None:
    given = server.url("mysql", driver=name)
    with closing(TaskClient(server.url("nonesuch"), pool_name, url_async=given)) as client:
        assert client.ask(select_one) == 1


@pytest.mark.usefixtures("_configured")
def test_process_s_sessions_and_its_health_check_work() -> None:
    with SessionLocal() as session:
        session.add(rope())
        session.commit()
    with contextmanager(get_db)() as given:
        assert codes(given) == ["ROPE"]
    assert check_database_health()["status"] == "healthy"

    async def scenario() -> None:
        async with AsyncSessionLocal() as session:
            session.add(rope("OTHER"))
            await session.commit()
        async for given in get_async_db():
            assert await given.run_sync(codes) == ["OTHER", "ROPE"]
        await process.async_engine.dispose()

    anyio.run(scenario)


def codes(session: Session) -> list[str]:
    return [*session.scalars(select(Product.code).order_by(Product.code))]


@pytest.fixture(scope="module")
def _many_products(mariadb: MariaDBDatabases) -> str:
    url = mariadb.create("tidegate_many")
    migrate(url)
    mariadb.server.execute(
        "INSERT INTO tidegate_many.products (code, name, price, created_at)"  # noqa: S608 - ours
        " SELECT concat('C', seq), concat('Rope ', seq), seq % 50, '2024-02-29'"
        f" FROM tidegate_many.seq_1_to_{ROWS}"
    )
    mariadb.server.execute("ANALYZE TABLE tidegate_many.products")
    return url


@pytest.fixture
def many_products(_many_products: str) -> Iterator[None]:
    """Products of which 400 have the same price, and which were all made at once."""
    process.configure(DatabaseSettings(url=_many_products))
    yield
    process.configure(None)


@pytest.mark.usefixtures("many_products")
@pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
@pytest.mark.parametrize("column", [Product.price, Product.created_at, Product.name, Product.id])
def test_page_reads_its_own_rows_wherever_it_begins(column: Any, *, descending: bool) -> None:
    sort = Sort(column.key, column, descending)
    order = [each.desc() if descending else each.asc() for each in (column, Product.id)]
    with read_session() as session:
        key = process.settings.cursor_sealing_key
        last, *expected = session.execute(
            select(column, Product.id).order_by(*order).offset(ROWS * 3 // 4).limit(LIMIT + 1)
        ).all()
        values = [*last] if column is not Product.id else [last.id]
        cursor = encode_cursor(key, "products", sort, values)
        session.execute(text("FLUSH STATUS"))
        page = ProductRepository(session).view_page(
            ProductOutput, sort=sort, limit=LIMIT, cursor=cursor
        )
        assert rows_read(session) <= LIMIT + 3
    assert [row.id for row in page.items] == [row.id for row in expected]


def rows_read(session: Session) -> int:
    """How often the session has had a row read, or looked for, since FLUSH STATUS."""
    counters = session.execute(text("SHOW SESSION STATUS LIKE 'Handler_read%'"))
    return sum(int(value) for _, value in counters)


@pytest.mark.usefixtures("many_products")
@pytest.mark.parametrize(("compare", "sign"), [(gt, ">"), (lt, "<")])
def test_rows_are_compared_as_the_server_compares_them(
    compare: Callable[[Any, Any], ColumnElement[bool]], sign: str
) -> None:
    columns = tuple_(Product.price, Product.name, Product.id)
    with read_session() as session:
        ours = session.scalars(
            select(Product.id).where(compare(columns, tuple_(25, "Rope 5025", 5025)))
        ).all()
        theirs = session.scalars(
            text(f"SELECT id FROM products WHERE (price, name, id) {sign} (25, 'Rope 5025', 5025)")  # noqa: S608
        ).all()
    assert len(theirs) > ROWS / 3
    assert {*ours} == {*theirs}

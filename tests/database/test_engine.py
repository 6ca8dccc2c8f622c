"""Engines: lazy, one per process, bounded, and safe over a fork."""

import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import StaticPool

from service.database import (
    DatabaseSettings,
    create_async_db_engine,
    create_db_engine,
    process,
)
from service.database.deadline import time_limit
from service.database.driver_arguments import driver_arguments
from service.database.pool import AsyncMeteredQueuePool, MeteredQueuePool
from service.database.urls import async_url, parse_url
from tests.support.forking import in_child
from tests.support.polling import eventually


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_db_engine(f"sqlite:///{tmp_path / 'engine.db'}", pool_name="test")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE counters (id INTEGER PRIMARY KEY, value INTEGER)"))
        connection.execute(text("INSERT INTO counters VALUES (1, 0)"))
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_settings(postgres_url: str) -> Iterator[DatabaseSettings]:
    settings = DatabaseSettings(url=postgres_url)
    process.configure(settings)
    yield settings
    process.configure(None)


def scalar(engine: Engine, query: str) -> object:
    with engine.connect() as connection:
        return connection.execute(text(query)).scalar()


def test_engine_is_one_for_the_process_and_connects_when_asked(
    postgres_settings: DatabaseSettings,
) -> None:
    assert postgres_settings.pool_size == 5
    engine = process.engine
    assert engine is process.engine
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert engine.pool.checkedin() == 0  # type: ignore[attr-defined]
    assert scalar(engine, "SELECT 42") == 42


def test_configure_replaces_the_engine_and_closes_the_former(
    postgres_settings: DatabaseSettings, sqlite_url: str
) -> None:
    former = process.engine
    pid = scalar(former, "SELECT pg_backend_pid()")
    process.configure(DatabaseSettings(url=sqlite_url))
    assert process.engine is not former
    assert process.engine.name == "sqlite"
    watcher = create_db_engine(settings=postgres_settings, pool_name="watcher")

    def is_closed() -> bool:
        with watcher.connect() as connection:
            query = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
            return connection.execute(query, {"pid": pid}).scalar() == 0

    # A session ends a moment after its connection was closed.
    eventually(is_closed)
    watcher.dispose()


def test_pool_is_sized_by_the_settings(postgres_url: str) -> None:
    settings = DatabaseSettings(
        url=postgres_url, pool_size=2, max_overflow=1, pool_timeout=0.05, pool_max_lifetime=60
    )
    engine = create_db_engine(settings=settings, pool_name="test")
    pool = engine.pool
    assert isinstance(pool, MeteredQueuePool)
    assert (pool.size(), pool.timeout(), settings.pool_capacity) == (2, 0.05, 3)
    held = [engine.connect() for _ in range(3)]
    with pytest.raises(PoolTimeoutError, match="total 3 of 3, used 3, idle 0, waiting 1"):
        engine.connect()
    for connection in held:
        connection.close()
    engine.dispose()


def test_asyncio_pool_is_ours_too(postgres_url: str) -> None:
    engine = create_async_db_engine(settings=DatabaseSettings(url=postgres_url), pool_name="test")
    assert isinstance(engine.sync_engine.pool, AsyncMeteredQueuePool)


def test_statement_timeout_and_name_reach_postgresql_by_both_drivers(postgres_url: str) -> None:
    settings = DatabaseSettings(url=postgres_url, statement_timeout=0.2)
    query = "SELECT current_setting('statement_timeout'), current_setting('application_name')"
    engine = create_db_engine(settings=settings, pool_name="test")
    with engine.connect() as connection:
        assert connection.execute(text(query)).one() == ("200ms", "tidegate")
        with pytest.raises(DBAPIError, match="statement timeout"):
            connection.execute(text("SELECT pg_sleep(30)"))
    engine.dispose()

    async def ask() -> tuple[object, ...]:
        twin = create_async_db_engine(settings=settings, pool_name="test")
        async with twin.connect() as connection:
            row = (await connection.execute(text(query))).one()
            with pytest.raises(DBAPIError, match="statement timeout"):
                await connection.execute(text("SELECT pg_sleep(30)"))
        await twin.dispose()
        return tuple(row)

    assert anyio.run(ask) == ("200ms", "tidegate")


def test_options_of_the_url_are_kept(postgres_url: str) -> None:
    url = f"{postgres_url}?application_name=mine&options=-c%20work_mem%3D7MB"
    engine = create_db_engine(url, pool_name="test")
    query = "SELECT current_setting('application_name') || ' ' || current_setting('work_mem')"
    assert scalar(engine, query) == "mine 7MB"
    engine.dispose()


def test_connect_arguments_are_added_to_those_of_the_settings(postgres_url: str) -> None:
    engine = create_db_engine(
        postgres_url,
        settings=DatabaseSettings(url=postgres_url, statement_timeout=7),
        pool_name="test",
        connect_args={"application_name": "mine"},
    )
    query = "SELECT current_setting('application_name') || current_setting('statement_timeout')"
    assert scalar(engine, query) == "mine7s"
    engine.dispose()


def test_shortest_statement_timeout_is_not_none(postgres_url: str) -> None:
    settings = DatabaseSettings(url=postgres_url, statement_timeout=0.0001)
    engine = create_db_engine(settings=settings, pool_name="test")
    # It may be over before the driver has asked what it asks of a new connection.
    with pytest.raises(DBAPIError, match="statement timeout"):
        scalar(engine, "SELECT pg_sleep(30)")
    engine.dispose()


def test_parameters_of_a_failed_statement_are_hidden(postgres_url: str) -> None:
    engine = create_db_engine(postgres_url, pool_name="test")
    with engine.connect() as connection, pytest.raises(DBAPIError) as failed:
        connection.execute(text("SELECT 1 / 0, :secret"), {"secret": "hunter2"})
    assert "hunter2" not in str(failed.value)
    engine.dispose()


def test_static_pool_is_for_memory_only(tmp_path: Path) -> None:
    memory = create_db_engine("sqlite:///:memory:", pool_name="test")
    file = create_db_engine(f"sqlite:///{tmp_path / 'x.db'}", pool_name="test")
    assert isinstance(memory.pool, StaticPool)
    assert isinstance(file.pool, MeteredQueuePool)
    twin = async_url(parse_url("sqlite:///:memory:", "DATABASE_URL"))
    assert isinstance(create_async_db_engine(twin, pool_name="test").sync_engine.pool, StaticPool)
    memory.dispose()


def test_sqlite_file_has_wal_a_busy_timeout_and_foreign_keys(sqlite_engine: Engine) -> None:
    assert scalar(sqlite_engine, "PRAGMA journal_mode") == "wal"
    assert scalar(sqlite_engine, "PRAGMA busy_timeout") == 5000
    assert scalar(sqlite_engine, "PRAGMA foreign_keys") == 1


def test_sqlite_transactions_that_read_first_neither_fail_nor_lose_updates(
    sqlite_engine: Engine,
) -> None:
    errors: list[str] = []

    def count_up() -> None:
        try:
            for _ in range(25):
                with sqlite_engine.begin() as connection:
                    value = connection.execute(text("SELECT value FROM counters")).scalar_one()
                    connection.execute(text("UPDATE counters SET value = :v"), {"v": value + 1})
        except DBAPIError:
            errors.append(traceback.format_exc())

    threads = [threading.Thread(target=count_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert scalar(sqlite_engine, "SELECT value FROM counters") == 200


def test_sqlite_savepoint_rolls_back_what_is_within(sqlite_engine: Engine) -> None:
    with sqlite_engine.begin() as connection:
        connection.execute(text("UPDATE counters SET value = 1"))
        inner = connection.begin_nested()
        connection.execute(text("UPDATE counters SET value = 2"))
        inner.rollback()
    assert scalar(sqlite_engine, "SELECT value FROM counters") == 1


def test_sqlite_engine_may_be_in_autocommit(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'auto.db'}"
    engine = create_db_engine(url, pool_name="test", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE kept (id INTEGER)"))
        connection.execute(text("INSERT INTO kept VALUES (1)"))
    assert scalar(engine, "SELECT count(*) FROM kept") == 1
    engine.dispose()


def test_new_sqlite_file_can_be_opened_by_many_at_once(tmp_path: Path) -> None:
    """The change to WAL happens once, and needs the file for itself."""
    errors: list[str] = []
    begin = threading.Barrier(6)

    def write(engine: Engine) -> None:
        begin.wait()
        try:
            with engine.begin() as connection:
                connection.execute(text("CREATE TABLE IF NOT EXISTS entries (id INTEGER)"))
                connection.execute(text("INSERT INTO entries VALUES (1)"))
        except DBAPIError:
            errors.append(traceback.format_exc())

    for number in range(10):
        engine = create_db_engine(f"sqlite:///{tmp_path / f'{number}.db'}", pool_name="test")
        threads = [threading.Thread(target=write, args=(engine,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert scalar(engine, "SELECT count(*) FROM entries") == 6
        engine.dispose()


def test_sqlite_rolls_back_ddl(sqlite_engine: Engine) -> None:
    with sqlite_engine.connect() as connection:
        connection.execute(text("CREATE TABLE passing (id INTEGER)"))
        connection.rollback()
    query = "SELECT count(*) FROM sqlite_master WHERE name = 'passing'"
    assert scalar(sqlite_engine, query) == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_opens_its_own_connection_and_harms_none_of_the_parents(
    postgres_settings: DatabaseSettings,
) -> None:
    assert postgres_settings.pool_size == 5
    engine = process.engine
    ask = "SELECT pg_backend_pid()"
    parents = scalar(engine, ask)
    assert in_child(lambda: scalar(process.engine, ask)) not in (parents, "None")
    # A module may hold the engine that it imported before the fork.
    assert in_child(lambda: scalar(engine, ask)) not in (parents, "None")
    assert scalar(engine, ask) == parents


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_has_asyncio_connections_of_its_own(
    postgres_settings: DatabaseSettings,
) -> None:
    assert postgres_settings.pool_size == 5

    async def ask() -> object:
        async with process.async_engine.connect() as connection:
            return (await connection.execute(text("SELECT pg_backend_pid()"))).scalar()

    def ask_in_a_new_loop() -> object:
        answers: list[object] = []
        # The parent's loop counts as running in the thread that forked.
        thread = threading.Thread(target=lambda: answers.append(anyio.run(ask)))
        thread.start()
        thread.join()
        return answers[0]

    async def scenario() -> None:
        parents = await ask()
        assert in_child(ask_in_a_new_loop) not in (parents, "None")
        assert await ask() == parents
        await process.async_engine.dispose()

    anyio.run(scenario)


def test_timeout_of_an_sqlite_url_stays_so_also_after_a_shorter_limit(tmp_path: Path) -> None:
    engine = create_db_engine(f"sqlite:///{tmp_path / 'own.db'}?timeout=90", pool_name="test")
    assert scalar(engine, "PRAGMA busy_timeout") == 90_000
    with time_limit(60):
        assert scalar(engine, "PRAGMA busy_timeout") == 90_000
    engine.dispose()


def test_timeout_of_an_asyncpg_url_is_the_drivers_to_connect(kit_url: str) -> None:
    url = kit_url.replace("postgresql://", "postgresql+asyncpg://")
    settings = DatabaseSettings(url=kit_url, url_async=f"{url}?timeout=33.5", connect_timeout=3)
    assert driver_arguments(settings.asyncio_url, settings)["timeout"] == 33.5

    async def ask() -> object:
        engine = create_async_db_engine(settings=settings, pool_name="test")
        async with engine.connect() as connection:
            answer = await connection.scalar(text("SELECT 42"))
        await engine.dispose()
        return answer

    assert anyio.run(ask) == 42

"""Which URLs are taken, and that each of them really connects."""

from pathlib import Path

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from service.database import UnsupportedUrlError, create_async_db_engine, create_db_engine
from service.database.urls import async_url, is_memory, parse_url

SECRET = "hunter2-in-a-url"


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("postgresql://u:p@h/d", "postgresql+psycopg2"),
        ("postgres://u:p@h/d", "postgresql+psycopg2"),
        ("postgresql+psycopg2://u:p@h/d", "postgresql+psycopg2"),
        ("sqlite:///file.db", "sqlite+pysqlite"),
        ("sqlite:///:memory:", "sqlite+pysqlite"),
        ("sqlite://", "sqlite+pysqlite"),
    ],
)
def test_driver_is_made_explicit(given: str, driver: str) -> None:
    assert parse_url(given, "DATABASE_URL").drivername == driver


@pytest.mark.parametrize(
    "given",
    [
        f"oracle://u:{SECRET}@db.internal/d",
        f"postgresql+psycopg://u:{SECRET}@db.internal/d",
        f"postgresql+asyncpg://u:{SECRET}@db.internal/d",
        f"://u:{SECRET}@db.internal",
        f"{SECRET}@db.internal",
        f"postgresql://db.internal/d?password={SECRET}",
        "",
    ],
)
def test_other_urls_are_refused_without_repeating_them(given: str) -> None:
    with pytest.raises(UnsupportedUrlError, match="DATABASE_URL: ") as refused:
        parse_url(given, "DATABASE_URL")
    assert SECRET not in str(refused.value)
    assert "db.internal" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "twin"),
    [
        ("postgresql://u:p@h:1/d", "postgresql+asyncpg://u:p@h:1/d"),
        ("postgresql://u:p@h/d?sslmode=require", "postgresql+asyncpg://u:p@h/d?ssl=require"),
        ("sqlite:///file.db", "sqlite+aiosqlite:///file.db"),
        ("sqlite:///:memory:", "sqlite+aiosqlite:///:memory:"),
    ],
)
def test_asyncio_twin_is_derived(given: str, twin: str) -> None:
    assert async_url(parse_url(given, "DATABASE_URL")) == make_url(twin)


def test_parameter_without_a_counterpart_is_refused() -> None:
    with pytest.raises(UnsupportedUrlError, match=r"keepalives.*DATABASE_URL_ASYNC"):
        async_url(parse_url("postgresql://h/d?keepalives=1", "DATABASE_URL"))


@pytest.mark.parametrize(
    ("given", "memory"),
    [
        ("sqlite:///:memory:", True),
        ("sqlite://", True),
        ("sqlite:///file:x?mode=memory&uri=true", True),
        ("sqlite:///file::memory:?cache=shared&uri=true", True),
        ("sqlite:///file.db", False),
        ("postgresql://h/d", False),
    ],
)
def test_memory_is_told_from_a_file(given: str, memory: bool) -> None:
    assert is_memory(parse_url(given, "DATABASE_URL")) is memory


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_postgresql_connects(postgres_url: str, scheme: str) -> None:
    url = make_url(postgres_url).set(drivername=scheme)
    assert _answer(url.render_as_string(hide_password=False)) == 42


def test_sqlite_connects(tmp_path: Path) -> None:
    assert _answer(f"sqlite:///{tmp_path / 'new.db'}") == 42
    assert _answer("sqlite:///:memory:") == 42


def test_asyncio_twins_connect(postgres_url: str, tmp_path: Path) -> None:
    for url in (postgres_url, f"sqlite:///{tmp_path / 'new.db'}", "sqlite:///:memory:"):
        twin = async_url(parse_url(url, "DATABASE_URL"))
        assert anyio.run(_answer_async, twin.render_as_string(hide_password=False)) == 42


def _answer(url: str) -> object:
    engine = create_db_engine(url, pool_name="test")
    try:
        with engine.connect() as connection:
            return connection.execute(text("SELECT 42")).scalar_one()
    finally:
        engine.dispose()


async def _answer_async(url: str) -> object:
    engine = create_async_db_engine(url, pool_name="test")
    try:
        async with engine.connect() as connection:
            return (await connection.execute(text("SELECT 42"))).scalar_one()
    finally:
        await engine.dispose()


@pytest.mark.parametrize("query", ["timeout=soon", "timeout=-1", "timeout=1&timeout=2"])
def test_timeout_that_is_no_number_is_refused(query: str) -> None:
    for url, is_async in (("sqlite:///x.db", False), ("postgresql+asyncpg://db/x", True)):
        with pytest.raises(UnsupportedUrlError, match="write its timeout as a number"):
            parse_url(f"{url}?{query}", "DATABASE_URL", asyncio=is_async)

"""Real databases for every test: PostgreSQL from a wheel, or `TEST_DATABASE_URL`, and SQLite."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from service.app import create_app
from service.database import DatabaseSettings, create_db_engine, metadata, pool_clock, process
from service.database.layered_settings import variable_names
from service.migrator.settings import MigratorSettings
from service.settings import Settings
from tests.support.database_server import running
from tests.support.databases import (
    KINDS,
    TEMPLATE,
    MariaDBDatabases,
    PostgresDatabases,
    SqliteDatabases,
    migrate,
    worker_name,
)
from tests.support.mariadb import MariaDBServer, require_mariadb
from tests.support.postgres import PostgresServer, given_server_url

_SERVER_URL = "TIDEGATE_TEST_SERVER"
_server = pytest.StashKey[PostgresServer]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the server once for all test processes; workers learn its URL by inheritance."""
    _forget_settings()
    is_worker = hasattr(config, "workerinput")
    if is_worker or config.option.collectonly or config.option.markexpr == "docker":
        return
    url = given_server_url()
    if url is None:
        server = PostgresServer()
        config.stash[_server] = server
        server.start()
        url = server.url()
    os.environ[_SERVER_URL] = url
    PostgresDatabases(url).create_template()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the server."""
    server = config.stash.get(_server, None)
    if server is not None:
        server.remove()


def _forget_settings() -> None:
    """No setting of the developer's shell reaches a test, or a server that one starts."""
    groups = (Settings, DatabaseSettings, MigratorSettings)
    known = {name for group in groups for name in variable_names(group)}
    for name in [*os.environ]:
        plain = name.upper().removesuffix("_FILE")
        # The kit refuses names of its prefix that it does not know.
        if plain in known or plain.startswith("DATABASE_"):
            del os.environ[name]


@pytest.fixture
def manual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second passes for pools and gates but by what a test lets tick, which it may count."""
    monkeypatch.setattr(pool_clock, "watch", lambda _watched: None)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does anything of their `.env`."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def postgres() -> PostgresDatabases:
    """The databases of the run's PostgreSQL."""
    return PostgresDatabases(os.environ[_SERVER_URL])


@pytest.fixture(scope="session")
def _postgres_url(postgres: PostgresDatabases) -> Iterator[str]:
    name = f"tidegate_{worker_name()}"
    yield postgres.create(name, template=TEMPLATE)
    postgres.drop(name)


@pytest.fixture(scope="session")
def _sqlite(tmp_path_factory: pytest.TempPathFactory) -> SqliteDatabases:
    return SqliteDatabases(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture
def postgres_url(_postgres_url: str) -> Iterator[str]:
    """A migrated, empty PostgreSQL database."""
    yield _postgres_url
    engine = create_db_engine(_postgres_url, pool_name="cleaning")
    with engine.begin() as connection:
        names = ", ".join(metadata.tables)
        connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY"))
    engine.dispose()


@pytest.fixture
def sqlite_url(_sqlite: SqliteDatabases, tmp_path: Path) -> str:
    """A migrated, empty SQLite file."""
    return _sqlite.create(tmp_path / "test.db")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDBDatabases]:
    """The databases of a MariaDB server, which this test process starts for itself."""
    require_mariadb()
    with running(MariaDBServer()) as server:
        yield MariaDBDatabases(server)


@pytest.fixture(scope="session")
def _mariadb_url(mariadb: MariaDBDatabases) -> str:
    url = mariadb.create("tidegate_migrated")
    migrate(url)
    return url


@pytest.fixture
def mariadb_url(mariadb: MariaDBDatabases, _mariadb_url: str) -> Iterator[str]:
    """A migrated, empty MariaDB database."""
    yield _mariadb_url
    for table in metadata.tables:
        # One that another refers to could not be emptied otherwise.
        statement = f"SET STATEMENT foreign_key_checks=0 FOR TRUNCATE tidegate_migrated.{table}"
        mariadb.server.execute(statement)


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated, empty database; a test that asks for it runs once on each kind."""
    names = {"postgresql": "postgres_url", "sqlite": "sqlite_url", "mariadb": "mariadb_url"}
    url: str = request.getfixturevalue(names[request.param])
    return url


@pytest.fixture
def configured(database_url: str) -> Iterator[DatabaseSettings]:
    """The process's engines, on that database."""
    settings = DatabaseSettings(url=database_url)
    process.configure(settings)
    yield settings
    process.configure(None)


@pytest.fixture
def client(database_url: str) -> Iterator[TestClient]:
    """The whole application on that database, its background tasks running."""
    settings = Settings(environment="test", database=DatabaseSettings(url=database_url))
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client
    process.configure(None)

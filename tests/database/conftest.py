"""Databases and servers that the tests of the kit may break."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine

from service.database import DatabaseSettings, create_db_engine
from tests.database.pools import CLOSE_REASONS, ServerView, WatchedPool
from tests.support.database_server import running
from tests.support.databases import MariaDBDatabases, PostgresDatabases, worker_name
from tests.support.postgres import PostgresServer

MakePool = Callable[..., WatchedPool]
MakeEngine = Callable[..., Engine]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def kit_url(postgres: PostgresDatabases) -> Iterator[str]:
    """An empty PostgreSQL database for whatever a test wants to make in it."""
    name = f"tidegate_kit_{worker_name()}"
    yield postgres.create(name)
    postgres.drop(name)


@pytest.fixture(scope="session")
def mariadb_kit_url(mariadb: MariaDBDatabases) -> str:
    """The same on MariaDB."""
    return mariadb.create("tidegate_kit")


def kit_url_of(request: pytest.FixtureRequest, directory: Path) -> str:
    """A database for what a test wants to make in it, of the kind that a parameter names.

    Args:
        request: The request of the fixture that has the parameter.
        directory: Where an SQLite file may lie.
    """
    if request.param == "sqlite":
        return f"sqlite:///{directory / 'kit.db'}"
    names = {"postgresql": "kit_url", "mariadb": "mariadb_kit_url"}
    url: str = request.getfixturevalue(names[request.param])
    return url


@pytest.fixture(scope="session")
def stock_url(kit_url: str) -> str:
    """The same database for SQLAlchemy's own `create_engine`."""
    return kit_url.replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture(scope="session")
def server_view(kit_url: str) -> Iterator[ServerView]:
    """Looks at the sessions of the run's server."""
    view = ServerView(kit_url)
    yield view
    view.close()


@pytest.fixture(scope="module")
def faulty_server() -> Iterator[PostgresServer]:
    """A running server that a test may stop, kill or pause; the next test gets it running."""
    with running(PostgresServer()) as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def only_known_reasons() -> Iterator[None]:
    """No pool of any test has closed a connection for a reason that the docs leave out."""
    yield
    closed = {
        sample.labels["reason"]
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "db_client_connection_closed_total"
    }
    assert closed <= CLOSE_REASONS


@pytest.fixture
def pool_name() -> str:
    """A name that no other pool of this process had, so that every metric begins at nothing."""
    return f"pool-{worker_name()}-{next(_numbers)}"


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    """Makes engines of the kit, with settings by name; disposes them at the end."""
    engines: list[Engine] = []

    def make(url: str, *, pool_name: str = "test", **settings: Any) -> Engine:
        engine = create_db_engine(
            url, settings=DatabaseSettings(url=url, **settings), pool_name=pool_name
        )
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def make_pool(make_engine: MakeEngine, kit_url: str, server_view: ServerView) -> MakePool:
    """Makes an engine on PostgreSQL whose metrics can be held against the server's own view."""

    def make(**settings: Any) -> WatchedPool:
        name = f"pool-{worker_name()}-{next(_numbers)}"
        engine = make_engine(f"{kit_url}?application_name={name}", pool_name=name, **settings)
        return WatchedPool(name, engine, server_view)

    return make

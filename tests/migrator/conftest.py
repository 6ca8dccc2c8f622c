"""Empty databases, and histories of revisions to bring to them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service.database import create_db_engine
from tests.migrator.histories import History
from tests.support.databases import KINDS, MariaDBDatabases, PostgresDatabases, worker_name


@pytest.fixture(params=KINDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    name = f"tidegate_empty_{worker_name()}"
    kind = "mariadb" if request.param == "mariadb" else "postgres"
    databases: PostgresDatabases | MariaDBDatabases = request.getfixturevalue(kind)
    yield databases.create(name)
    databases.drop(name)


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    engine = create_db_engine(empty_url, pool_name="test")
    yield engine
    engine.dispose()


@pytest.fixture
def empty_postgres_url(postgres: PostgresDatabases) -> Iterator[str]:
    name = f"tidegate_empty_{worker_name()}"
    yield postgres.create(name)
    postgres.drop(name)


@pytest.fixture
def history(tmp_path: Path) -> History:
    directory = tmp_path / "versions"
    directory.mkdir()
    return History(directory)

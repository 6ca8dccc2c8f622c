"""Empty databases, revisions that tests write, and databases to prove them in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service.database import DatabaseSettings, create_db_engine
from service.migrator.scratch import Scratch
from tests.migrator.histories import History
from tests.support.databases import KINDS, MariaDBDatabases, PostgresDatabases, worker_name
from tests.support.revision_project import RevisionProject


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
    return History(tmp_path / "versions")


@pytest.fixture
def project(tmp_path: Path) -> RevisionProject:
    """A directory for revisions, empty."""
    directory = tmp_path / "project"
    directory.mkdir()
    return RevisionProject(directory)


@pytest.fixture
def scratch(database_url: str) -> Scratch:
    """Makes databases of each kind."""
    return Scratch(DatabaseSettings(url=database_url))


@pytest.fixture
def postgres_scratch(postgres_url: str) -> Scratch:
    """Makes databases on PostgreSQL."""
    return Scratch(DatabaseSettings(url=postgres_url))

"""What sessions cost, and how a commit fails, where only PostgreSQL can show it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.database import (
    DatabaseSettings,
    get_db_context,
    process,
    read_session,
    write_session,
)
from tests.support.database_server import running
from tests.support.databases import PostgresDatabases, worker_name
from tests.support.postgres import PostgresServer

Opener = Callable[[], AbstractContextManager[Session]]


@pytest.fixture(autouse=True)
def _configured_for_nothing_afterwards() -> Iterator[None]:
    yield
    process.configure(None)


@pytest.fixture
def own_url(postgres: PostgresDatabases) -> Iterator[str]:
    name = f"tidegate_commit_{worker_name()}"
    yield postgres.create(name)
    # A connection that is open would keep it.
    process.configure(None)
    postgres.drop(name)


def test_failed_commit_is_raised_and_gives_the_connection_back(
    own_url: str,
) -> None:
    process.configure(DatabaseSettings(url=own_url))
    with write_session() as session:
        session.execute(text("CREATE TABLE parents (id INT PRIMARY KEY)"))
        deferred = "REFERENCES parents DEFERRABLE INITIALLY DEFERRED"
        session.execute(text(f"CREATE TABLE children (parent_id INT {deferred})"))
    with pytest.raises(IntegrityError), write_session() as session:
        session.execute(text("INSERT INTO children VALUES (1)"))
    with read_session() as session:
        assert session.execute(text("SELECT count(*) FROM children")).scalar() == 0
    assert process.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def logging_server() -> Iterator[PostgresServer]:
    with running(PostgresServer(log_statement="all", log_min_messages="log")) as server:
        yield server


@pytest.mark.parametrize(
    ("opener", "round_trips"),
    [(read_session, ["SELECT 42"]), (get_db_context, ["BEGIN", "SELECT 42", "ROLLBACK"])],
)
def test_read_session_costs_one_round_trip(
    logging_server: PostgresServer, opener: Opener, round_trips: list[str]
) -> None:
    settings = DatabaseSettings(url=logging_server.url(), pool_validation_bypass=60)
    process.configure(settings)
    with opener() as session:
        session.execute(text("SELECT 41"))
    log = logging_server.directory / "log"
    start = log.stat().st_size
    with opener() as session:
        assert session.execute(text("SELECT 42")).scalar() == 42
    lines = log.read_text()[start:].splitlines()
    seen = [line.partition("statement: ")[2].rstrip(";") for line in lines if "statement: " in line]
    assert seen == round_trips

"""A database that `create_all()` made is taken over, if it is what the revisions make."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from service.database import DatabaseSettings, init_db
from service.migrator.baseline import baseline
from service.migrator.connections import migration_engine
from service.migrator.errors import UsageError
from service.migrator.history import read_history
from service.migrator.revisions import Revisions
from service.migrator.runner import make_runner, up
from service.migrator.schema_status import SchemaState, SchemaStatus
from service.migrator.scratch import Scratch


@pytest.fixture
def settings(scratch: Scratch) -> Iterator[DatabaseSettings]:
    """A database as `init_db()` leaves it, with a row."""
    with scratch.url() as url:
        settings = DatabaseSettings(url=url)
        with migration_engine(settings) as engine:
            init_db(engine)
            with engine.begin() as connection:
                connection.execute(
                    text("INSERT INTO products (code, name, price) VALUES ('A', 'B', 1)")
                )
        yield settings


def take_over(settings: DatabaseSettings, scratch: Scratch) -> list[str]:
    return [str(one) for one in baseline(make_runner(settings, wait=5), scratch)]


def status(settings: DatabaseSettings) -> SchemaStatus:
    with migration_engine(settings) as engine, engine.connect() as connection:
        return Revisions().status(connection)


def test_database_of_the_models_is_taken_over(settings: DatabaseSettings, scratch: Scratch) -> None:
    assert status(settings).state is SchemaState.BEHIND
    assert take_over(settings, scratch) == []
    assert status(settings).state is SchemaState.CURRENT
    assert up(settings, wait=5).state is SchemaState.CURRENT
    with migration_engine(settings) as engine, engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM products")).scalar() == 1
        assert set(read_history(connection) or {}) == set(Revisions().known)
    with pytest.raises(UsageError, match="already") as refused:
        take_over(settings, scratch)
    assert refused.value.exit_code == 2


def test_database_that_differs_is_refused(settings: DatabaseSettings, scratch: Scratch) -> None:
    with migration_engine(settings) as engine, engine.begin() as connection:
        connection.execute(text("ALTER TABLE products ADD COLUMN colour VARCHAR(9)"))
    (difference,) = take_over(settings, scratch)
    assert "colour" in difference
    assert "only in the database" in difference
    assert status(settings).current is None

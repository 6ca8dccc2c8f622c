"""`init_db`, `drop_db`, `reset_db`: for first steps, and never for production."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, text

from service.database import (
    DatabaseSettings,
    ProductionSchemaError,
    create_db_engine,
    drop_db,
    init_db,
    process,
    reset_db,
)
from service.product_catalog.models import Product
from tests.support.databases import MARIADB, worker_name


@pytest.fixture(params=["postgresql", "sqlite file", "sqlite memory", MARIADB])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    name = f"tidegate_schema_{worker_name()}"
    urls: dict[str, Callable[[], str]] = {
        "postgresql": lambda: request.getfixturevalue("postgres").create(name),
        "mariadb": lambda: request.getfixturevalue("mariadb").create(name),
        "sqlite file": lambda: f"sqlite:///{tmp_path / 'schema.db'}",
        "sqlite memory": lambda: "sqlite:///:memory:",
    }
    engine = create_db_engine(urls[request.param](), pool_name="test")
    yield engine
    engine.dispose()
    if not request.param.startswith("sqlite"):
        kind = "mariadb" if request.param == "mariadb" else "postgres"
        request.getfixturevalue(kind).drop(name)


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM products")).scalar_one())


def insert(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(Product.__table__.insert().values(code="A", name="B", price="1"))  # type: ignore[attr-defined]


def test_init_creates_what_is_missing_and_keeps_what_is_there(engine: Engine) -> None:
    init_db(engine)
    insert(engine)
    init_db(engine)
    assert count(engine) == 1


def test_drop_removes_the_tables(engine: Engine) -> None:
    init_db(engine)
    drop_db(engine)
    assert not inspect(engine).has_table("products")
    drop_db(engine)


def test_reset_leaves_empty_tables(engine: Engine) -> None:
    init_db(engine)
    insert(engine)
    reset_db(engine)
    assert count(engine) == 0


@pytest.mark.parametrize("function", [init_db, drop_db, reset_db])
def test_production_is_refused_with_the_command_to_use(
    function: Callable[[], None], sqlite_url: str
) -> None:
    process.configure(DatabaseSettings(url=sqlite_url, environment="production"))
    try:
        with pytest.raises(ProductionSchemaError, match="tidegate migrate up"):
            function()
        assert inspect(process.engine).has_table("products")
    finally:
        process.configure(None)

"""The checks of this service, on the real thing."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, text

from service.database import DatabaseSettings, create_db_engine, process
from service.database.pool_metrics import WAIT_TIME
from service.database.pool_waits import RecentWaits
from service.migrator.errors import HeadsError
from service.migrator.revisions import Revisions
from service.migrator.schema_status import SchemaState, SchemaStatus
from service.settings import Settings
from service.web.health_checks import (
    DatabaseCheck,
    DiskCheck,
    PoolCheck,
    check_replica,
    health_engine,
    health_monitor,
)
from service.web.health_state import PASSED, STARTING, Outcome, Status
from tests.support.databases import worker_name
from tests.support.polling import eventually
from tests.support.postgres import temporary_role
from tests.support.queries import counted_queries

REVISIONS: Final = Revisions()


@pytest.fixture
def engine(configured: DatabaseSettings) -> Iterator[Engine]:
    engine = health_engine(configured)
    yield engine
    engine.dispose()


def looks(check: DatabaseCheck) -> dict[str, Outcome]:
    return dict(asyncio.run(_look(check)))


async def _look(check: DatabaseCheck) -> dict[str, Outcome]:
    return dict(await check())


def test_a_look_at_database_and_schema_is_one_query(engine: Engine) -> None:
    check = DatabaseCheck(engine, 2, REVISIONS.status)
    both = {"database": PASSED, "schema": PASSED}
    assert looks(check) == both
    with counted_queries(engine) as queries:
        assert [looks(check) for _ in range(3)] == [both] * 3
    assert len(queries) == 3
    assert engine.pool.status().endswith("Current Checked out connections: 0")


def test_the_schema_is_judged_anew_when_the_revision_changes_or_did_not_do(
    engine: Engine,
) -> None:
    states = [SchemaState.CURRENT, SchemaState.BEHIND, SchemaState.BEHIND, SchemaState.AHEAD]
    asked = iter(states)
    check = DatabaseCheck(engine, 2, lambda _: SchemaStatus(next(asked), "current", "head", ()))
    head = REVISIONS.head
    assert looks(check)["schema"] is PASSED
    assert looks(check)["schema"] is PASSED
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'other'"))
    try:
        for _ in range(2):
            assert looks(check)["schema"].reason == "behind"
        assert looks(check)["schema"] is PASSED
        assert looks(check) == {"database": PASSED, "schema": PASSED}
    finally:
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :it"), {"it": head})


def test_a_release_that_is_wrong_is_no_fault_of_the_database(engine: Engine) -> None:
    def refuse(_: object) -> SchemaStatus:
        raise HeadsError("2 heads (a, b)")

    outcomes = looks(DatabaseCheck(engine, 2, refuse))
    assert outcomes["database"] is PASSED
    assert (outcomes["schema"].reason, outcomes["schema"].detail) == ("error", "2 heads (a, b)")


def test_an_empty_database_is_behind(tmp_path: Path) -> None:
    settings = DatabaseSettings(url=f"sqlite:///{tmp_path / 'empty.db'}")
    engine = health_engine(settings)
    outcomes = looks(DatabaseCheck(engine, 2, REVISIONS.status))
    engine.dispose()
    assert outcomes["database"] is PASSED
    assert outcomes["schema"].reason == "behind"
    assert "tidegate migrate up" in outcomes["schema"].advice
    assert "no revision" in outcomes["schema"].detail


def test_a_table_that_may_not_be_read_is_the_schemas_trouble(postgres_url: str) -> None:
    with temporary_role(postgres_url, f"unread_{worker_name()}") as url:
        engine = create_db_engine(url, pool_name="unread")
        try:
            outcomes = looks(DatabaseCheck(engine, 2, REVISIONS.status))
        finally:
            engine.dispose()
    assert outcomes["database"] is PASSED
    assert outcomes["schema"].reason == "unreadable"
    assert "GRANT" in outcomes["schema"].advice.upper()


def test_what_was_known_of_the_schema_holds_while_nobody_can_look() -> None:
    engine = create_db_engine("postgresql://walrus@127.0.0.1:1/x", pool_name="away")
    outcomes = looks(DatabaseCheck(engine, 2, REVISIONS.status))
    engine.dispose()
    assert outcomes["schema"] is STARTING
    assert outcomes["database"].reason == "connection_lost"
    assert "127.0.0.1" in outcomes["database"].detail
    assert "127.0.0.1" not in outcomes["database"].advice


def test_a_pool_that_is_used_up_is_a_warning(postgres_url: str) -> None:
    engine = create_db_engine(postgres_url, pool_name="busy", pool_size=2, max_overflow=0)
    check = PoolCheck(engine)
    assert asyncio.run(check()) is PASSED
    with engine.connect(), engine.connect():
        outcome = asyncio.run(check())
    assert (outcome.status, outcome.reason) == (Status.WARN, "saturated")
    assert outcome.detail.startswith("2 of 2 used, 0 waiting")
    assert asyncio.run(check()) is PASSED
    engine.dispose()


def test_a_pool_that_was_slow_lately_is_a_warning(postgres_url: str) -> None:
    engine = create_db_engine(postgres_url, pool_name="slow")
    check = PoolCheck(engine)
    waits = WAIT_TIME.labels("slow")
    for _ in range(98):
        waits.observe(0.00001)
    waits.observe(1)
    assert asyncio.run(check()) is PASSED, "of 99, one is no percentile"
    for _ in range(98):
        waits.observe(0.00001)
    waits.observe(1)
    waits.observe(1)
    outcome = asyncio.run(check())
    assert (outcome.status, outcome.reason) == (Status.WARN, "slow")
    assert asyncio.run(check()) is PASSED
    engine.dispose()


def test_percentiles_are_of_what_came_since_the_last_question() -> None:
    waits = RecentWaits("told")
    assert waits.percentile(0.5) == 0
    for seconds in (0.0004, 0.0004, 0.0004, 60):
        WAIT_TIME.labels("told").observe(seconds)
    assert waits.percentile(0.75) == 0.0005
    for seconds in (0.0004, 60):
        WAIT_TIME.labels("told").observe(seconds)
    assert waits.percentile(0.99) == float("inf")
    assert waits.percentile(0.99) == 0


def test_a_disk_that_is_nearly_full_is_a_warning(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    database = tmp_path / "catalog.db"
    assert asyncio.run(DiskCheck(database, limit=1)()) is PASSED
    outcome = asyncio.run(DiskCheck(database, limit=2 * free)())
    assert (outcome.status, outcome.reason) == (Status.WARN, "disk_full")


def test_a_replica_that_is_not_read_is_a_warning(postgres_url: str) -> None:
    away = "postgresql://walrus@127.0.0.1:1/x"
    database = DatabaseSettings(url=postgres_url, replica_url=away)
    process.configure(database)
    try:
        monitor = health_monitor(Settings(database=database), process.engine, REVISIONS.status)
        assert "replica" in monitor.states
        eventually(lambda: asyncio.run(check_replica()).reason == "down")
        assert asyncio.run(check_replica()).status is Status.WARN
    finally:
        process.configure(None)
    assert asyncio.run(check_replica()) is PASSED


def test_each_database_has_the_checks_that_it_needs(configured: DatabaseSettings) -> None:
    settings = Settings(environment="test", database=configured)
    monitor = health_monitor(settings, process.engine, REVISIONS.status)
    expected = {"database", "schema", "pool"}
    if configured.sync_url.get_backend_name() == "sqlite":
        expected.add("disk")
    assert monitor.states.keys() == expected
    assert monitor.look_timeout == settings.health_timeout / 2
    for name in expected:
        assert REGISTRY.get_sample_value("service_health_check_status", {"check": name}) == 0

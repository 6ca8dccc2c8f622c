"""A deployment that may open more connections than there are is told so at its start."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

from service.database import DatabaseSettings, create_db_engine
from service.database.budget import (
    ConnectionDemand,
    ServerLimit,
    connection_demand,
    server_complaint,
    server_limit,
)
from service.migrator.connections import migration_engine
from service.settings import Settings, SettingsError, load_settings
from tests.support.databases import worker_name
from tests.support.postgres import execute


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_demand_counts_replicas_workers_health_checks_and_migrations() -> None:
    settings = DatabaseSettings(pool_size=5, max_overflow=3)
    assert connection_demand(settings, workers=2, replicas=3).total == 3 * 2 * (8 + 1) + 2


def test_runner_on_mariadb_opens_one_more_to_be_stopped_by() -> None:
    settings = DatabaseSettings(url="mysql://db/catalog", pool_size=5, max_overflow=3)
    assert connection_demand(settings, workers=2).total == 2 * (8 + 1) + 3
    with migration_engine(settings) as engine:
        pool: Any = engine.pool
        assert pool.capacity == 3


def test_replica_costs_each_worker_one_connection_to_the_primary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = DatabaseSettings(
        url="postgresql://primary/db",
        replica_url="postgresql://replica/db",
        pool_size=5,
        max_overflow=3,
    )
    demand = connection_demand(settings, workers=2, replicas=3)
    assert demand.total == 3 * 2 * (8 + 1 + 1) + 2
    assert "(8 of the pool + 1 for health + 0 for streams + 1 for the replica's lag)" in str(demand)
    with pytest.raises(SettingsError, match="DATABASE_CONNECTION_BUDGET: 13 are too few"):
        load(
            monkeypatch,
            DATABASE_URL="postgresql://primary/db",
            DATABASE_REPLICA_URL="postgresql://replica/db",
            DATABASE_CONNECTION_BUDGET="13",
        )


def test_demand_that_fits_the_budget_exactly_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, DATABASE_CONNECTION_BUDGET="80", WEB_CONCURRENCY="2", REPLICAS="3")
    assert settings.connection_demand.total == 80


def test_demand_beyond_the_budget_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as refused:
        load(monkeypatch, DATABASE_CONNECTION_BUDGET="79", WEB_CONCURRENCY="2", REPLICAS="3")
    assert str(refused.value) == (
        "DATABASE_CONNECTION_BUDGET: 79 are too few for 3 replicas x 2 workers"
        " x (10 of the pool + 1 for health + 2 for streams) + 2 for migrations = 80 connections;"
        " raise it, or lower DATABASE_POOL_SIZE, DATABASE_MAX_OVERFLOW, WEB_CONCURRENCY or REPLICAS"
    )


def test_without_a_budget_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, REPLICAS="10000").connection_demand.total == 130_002


@pytest.fixture
def limited_role(kit_url: str) -> Iterator[str]:
    """A role that may connect four times; its URL."""
    role = f"limited_{worker_name()}"
    execute(kit_url, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 4 PASSWORD 'not-a-secret'")
    url = make_url(kit_url).set(username=role, password="not-a-secret")
    yield url.render_as_string(hide_password=False)
    execute(kit_url, f"DROP ROLE {role}")


def test_postgresql_tells_what_its_own_limit_leaves(kit_url: str) -> None:
    engine = create_db_engine(kit_url, pool_name="budget")
    with engine.connect() as connection:
        limit = server_limit(connection)
        settings = connection.execute(
            text(
                "SELECT current_setting('max_connections')::int,"
                " current_setting('superuser_reserved_connections')::int,"
                " coalesce(current_setting('reserved_connections', true)::int, 0)"
            )
        ).one()
    engine.dispose()
    assert limit.connections == settings[0] - settings[1] - settings[2]
    assert "max_connections" in limit.subject


def test_postgresql_tells_a_tighter_limit_of_the_role(limited_role: str) -> None:
    engine = create_db_engine(limited_role, pool_name="budget")
    with engine.connect() as connection:
        assert server_limit(connection) == ServerLimit(
            connections=4, subject="the limit of the service's role"
        )
    engine.dispose()


def test_sqlite_has_no_limit() -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        assert server_limit(connection).connections == math.inf
    engine.dispose()


def test_complaint_names_both_numbers_and_what_to_lower() -> None:
    demand = ConnectionDemand(replicas=1, workers=2, capacity=10)
    limit = ServerLimit(connections=20, subject="the limit of the database")
    assert server_complaint(demand, limit) == (
        "the limit of the database allows 20 connections, too few for 1 replicas x 2 workers"
        " x (10 of the pool + 1 for health + 0 for streams) + 2 for migrations = 24 connections;"
        " raise the limit, or lower DATABASE_POOL_SIZE, DATABASE_MAX_OVERFLOW, WEB_CONCURRENCY"
        " or REPLICAS"
    )
    assert server_complaint(demand, ServerLimit(connections=24, subject="")) is None

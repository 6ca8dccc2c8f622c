"""What the application does with the kit: routes, warm-up, and the limits of the server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from starlette.testclient import TestClient

from service.app import create_app
from service.database import DatabaseSettings, create_db_engine, pool_snapshot, process
from service.settings import Settings
from service.web.metrics import CONNECTION_LIMIT
from tests.database.pools import PoolMetrics
from tests.support.application import application
from tests.support.polling import eventually

UNRESERVED: Final = """
SELECT current_setting('max_connections')::int
     - current_setting('superuser_reserved_connections')::int
     - coalesce(current_setting('reserved_connections', true)::int, 0)
"""


def test_connection_is_attributed_to_the_route_that_took_it(client: TestClient) -> None:
    primary = PoolMetrics("primary")
    before = primary.value("route_use_seconds_total", http_route="/products/{product_id}")
    assert client.get("/products/123456").status_code == 404
    assert primary.value("route_use_seconds_total", http_route="/products/{product_id}") > before
    assert primary.value("route_use_seconds_total", http_route="/products/123456") == 0


def test_pool_is_warm_when_the_service_is_ready(postgres_url: str) -> None:
    with application(DatabaseSettings(url=postgres_url, pool_min_idle=3)) as client:
        eventually(lambda: client.get("/startupz").status_code == 200)
        assert pool_snapshot(process.engine).idle == 3


def test_service_starts_without_its_database() -> None:
    with application(
        DatabaseSettings(url="postgresql://127.0.0.1:1/none", pool_min_idle=3)
    ) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503
        assert client.get("/startupz").status_code == 503


def test_server_with_too_few_connections_is_warned_of(
    postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written = ""
    engine = create_db_engine(postgres_url, pool_name="onlooker")
    with engine.connect() as connection:
        limit = connection.scalar(text(UNRESERVED))
    engine.dispose()

    def is_warned() -> bool:
        nonlocal written
        written += capsys.readouterr().out
        return f"max_connections, without what is reserved, allows {limit} connections" in written

    with application(postgres_url, replicas=1000):
        eventually(is_warned)


def test_server_with_enough_connections_is_not_warned_of(
    postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    CONNECTION_LIMIT.clear()
    with application(postgres_url):
        # By then the server was asked.
        eventually(
            lambda: REGISTRY.get_sample_value("service_connection_limit", {"source": "server"})
        )
    assert "too few for" not in capsys.readouterr().out


def test_old_keys_are_deleted_again_after_a_failure_that_nobody_expected(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts: list[object] = []

    def forget(session: object) -> bool:
        attempts.append(session)
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("service.app.forget_old_keys", forget)
    monkeypatch.setattr("service.app._KEYS_SECONDS", 0.01)
    with application(sqlite_url):
        eventually(lambda: len(attempts) > 1)
    assert '"exc_value": "unforeseen"' in capsys.readouterr().out


def test_background_task_that_fails_is_heard_of(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("service.app.server_limit", fail)
    written = ""

    def is_told() -> bool:
        nonlocal written
        written += capsys.readouterr().out
        return "a background task failed" in written and '"exc_value": "unforeseen"' in written

    with application(sqlite_url) as client:
        eventually(is_told)
        assert client.get("/livez").status_code == 200


def test_connections_are_closed_also_when_something_fails_at_the_end(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def running(_: object) -> AsyncIterator[None]:
        yield
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("service.app.HealthMonitor.running", running)
    # Not by `application`, which would close them itself.
    app = create_app(Settings(environment="test", database=DatabaseSettings(url=sqlite_url)))
    try:
        with pytest.raises(RuntimeError, match="unforeseen"), TestClient(app) as client:
            client.get("/products")
            pool: Any = process.engine.pool
            assert pool.checkedin() == 1
        assert pool.checkedin() == 0
    finally:
        process.configure(None)

"""Probes tell the truth about a real server that stops, hangs and comes back."""

import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx2
import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from service.database import create_db_engine
from service.web.probes import HealthMonitor
from tests.support.databases import PostgresDatabases, migrate
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer
from tests.support.server import Service, running_service


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def service(own_server: PostgresServer, tmp_path: Path) -> Iterator[Service]:
    url = PostgresDatabases(own_server.url()).create("catalog")
    migrate(url)
    settings = {
        "DATABASE_URL": url,
        "ENVIRONMENT": "test",
        "HEALTH_INTERVAL": "0.2",
        "HEALTH_TIMEOUT": "0.5",
    }
    with running_service(tmp_path, settings) as running:
        yield running


def status(service: Service, path: str) -> int:
    return service.http.get(path).status_code


def test_probes_follow_a_database_that_stops_and_starts(
    service: Service, own_server: PostgresServer
) -> None:
    assert status(service, "/readyz") == 200
    own_server.stop()
    eventually(lambda: status(service, "/readyz") == 503)
    assert status(service, "/livez") == 200
    refused = service.http.get("/products")
    assert refused.status_code == 503
    assert refused.headers["content-type"] == "application/problem+json"
    own_server.start()
    eventually(lambda: status(service, "/readyz") == 200)
    assert status(service, "/products") == 200


def test_probes_answer_while_the_database_hangs(
    service: Service, own_server: PostgresServer
) -> None:
    own_server.pause()
    eventually(lambda: status(service, "/readyz") == 503)
    for path in ("/livez", "/readyz", "/metrics", "/version"):
        start = time.monotonic()
        assert status(service, path) in (200, 503)
        assert time.monotonic() - start < 1
    own_server.resume()
    eventually(lambda: status(service, "/readyz") == 200)


def test_probe_bodies_hold_nothing_of_the_database(
    service: Service, own_server: PostgresServer
) -> None:
    own_server.stop()
    eventually(lambda: status(service, "/readyz") == 503)
    for path in ("/livez", "/readyz", "/version", "/products", "/metrics"):
        body = service.http.get(path).text
        for secret in ("127.0.0.1", str(own_server.port), "postgres:", "not-checked", "refused"):
            assert secret not in body, path


def test_probes_cost_no_query_and_no_pool_connection(service: Service) -> None:
    for _ in range(200):
        status(service, "/readyz")
    metrics = service.http.get("/metrics").text
    assert 'db_client_connection_wait_time_seconds_count{pool_name="primary"} 0.0' in metrics


def test_readiness_needs_the_schema(postgres: PostgresDatabases, tmp_path: Path) -> None:
    url = postgres.create("tidegate_unmigrated")
    settings = {"DATABASE_URL": url, "ENVIRONMENT": "test", "HEALTH_INTERVAL": "0.2"}
    try:
        with running_service(tmp_path, settings, ready=False) as running:
            eventually(lambda: _checks(running) == {"database": "pass", "schema": "fail"})
            assert status(running, "/readyz") == 503
            migrate(url)
            eventually(lambda: status(running, "/readyz") == 200)
            _pretend_a_later_release_migrated(url)
            eventually(lambda: _checked_again(running))
            assert status(running, "/readyz") == 200
    finally:
        postgres.drop("tidegate_unmigrated")


def test_answers_are_health_json_and_never_cached(client: TestClient) -> None:
    for path in ("/livez", "/readyz"):
        answer = client.get(path)
        assert answer.headers["content-type"] == "application/health+json"
        assert answer.headers["cache-control"] == "no-store"
    assert client.get("/version").json() == {"name": "tidegate", "version": "0.1.0"}


def test_monitor_fails_until_the_first_result_and_when_overdue() -> None:
    async def scenario() -> None:
        hang = anyio.Event()
        rounds = 0

        async def check() -> str | None:
            nonlocal rounds
            rounds += 1
            if rounds > 1:
                await hang.wait()
            return None

        monitor = HealthMonitor({"database": check}, interval=0.01, timeout=0.05)
        assert monitor.failures() == {"database": "starting"}
        async with monitor.running():
            with anyio.fail_after(5):
                while monitor.failures():
                    await anyio.sleep(0.001)
                while monitor.failures() != {"database": "overdue"}:
                    await anyio.sleep(0.001)
                hang.set()
                while monitor.failures():
                    await anyio.sleep(0.001)

    anyio.run(scenario)


def test_monitor_survives_a_check_that_breaks() -> None:
    async def scenario() -> None:
        outcomes = iter([ValueError("broken"), None])

        async def check() -> str | None:
            outcome = next(outcomes, None)
            if outcome is not None:
                raise outcome
            return None

        monitor = HealthMonitor({"database": check}, interval=0.01, timeout=1)
        async with monitor.running():
            with anyio.fail_after(5):
                while monitor.failures() != {"database": "error"}:
                    await anyio.sleep(0.001)
                while monitor.failures():
                    await anyio.sleep(0.001)

    anyio.run(scenario)


def _checks(service: Service) -> dict[str, str]:
    try:
        checks = service.http.get("/readyz").json()["checks"]
    except httpx2.TransportError:
        return {}
    return {name: results[0]["status"] for name, results in checks.items()}


def _pretend_a_later_release_migrated(url: str) -> None:
    engine = create_db_engine(url, pool_name="test")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'later'"))
    engine.dispose()


def _checked_again(service: Service, _seen: list[str] = []) -> bool:  # noqa: B006 - remembers
    """Whether a round of checks ended since the first call."""
    line = next(
        line
        for line in service.http.get("/metrics").text.splitlines()
        if line.startswith('service_health_check_duration_seconds{check="schema"}')
    )
    _seen.append(line)
    return _seen[0] != line

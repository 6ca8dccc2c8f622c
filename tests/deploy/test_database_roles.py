"""What the manifests say of the database, on a real one: its two roles, and PgBouncer before it."""

import asyncio
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import ProgrammingError

from service.database import DatabaseSettings, create_async_db_engine, create_db_engine
from service.database.network_loss import SESSION_PARAMETERS
from service.migrator.errors import ExitCode
from tests.deploy.manifests import pgbouncer_files, rendered
from tests.support.database_server import running
from tests.support.databases import migrate
from tests.support.pgbouncer import pgbouncer_version, require_pgbouncer, running_pgbouncer
from tests.support.polling import eventually
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.server import PYTHON, environment, running_service

# Those that asyncpg prepares, which streams exports: `test_pods.py` has a newer PgBouncer.
KEEPS_STATEMENTS_APART = pgbouncer_version() >= (1, 21)
SQL_OF_PRODUCTS = "INSERT INTO products (code, name, price) VALUES ('ROPE', 'Rope', 1)"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One with the roles and the database of `cloudnative-pg/`, migrated by the owner."""
    (cluster,) = rendered("cloudnative-pg")
    initdb = cluster["spec"]["bootstrap"]["initdb"]
    with running(PostgresServer()) as server:
        # What the operator does beside the statements that it is given.
        server.execute(f"CREATE ROLE {initdb['owner']} LOGIN")
        server.execute(f"CREATE DATABASE {initdb['database']} OWNER {initdb['owner']}")
        for statement in initdb["postInitApplicationSQL"]:
            server.execute(statement, initdb["database"])
        for role in cluster["spec"]["managed"]["roles"]:
            server.execute(f"ALTER ROLE {role['name']} LOGIN")
        migrate(url_of(server, initdb["owner"]))
        yield server


def url_of(server: PostgresServer, role: str, port: int | None = None) -> str:
    url = make_url(server.url("tidegate")).set(username=role)
    return url.set(port=port or url.port).render_as_string(hide_password=False)


def tidegate(url: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [PYTHON, "-m", "service", *words],
        env=environment({"DATABASE_URL": url}),
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def pooled(server: PostgresServer) -> Iterator["tuple[str, subprocess.Popen[bytes]]"]:
    """The URL of the database through PgBouncer as the component configures it, and that."""
    require_pgbouncer()
    port = free_port()
    files = pgbouncer_files(rendered("base+pgbouncer"))
    ini, databases = files["pgbouncer.ini"], files["databases.ini"]
    ini = re.sub(r"(?m)^listen_port = .*", f"listen_port = {port}", ini)
    ini = re.sub(r"/(etc|var/run)/pgbouncer/", "{directory}/", ini)
    if not KEEPS_STATEMENTS_APART:
        ini = re.sub(r"(?m)^max_prepared_statements = .*", "", ini)
    databases = databases.replace("tidegate-db-rw port=5432", f"127.0.0.1 port={server.port}")
    users = '"tidegate" "not-checked"\n"tidegate_owner" "not-checked"\n'
    texts = {"pgbouncer.ini": ini, "databases.ini": databases, "userlist.txt": users}
    with running_pgbouncer(texts, port) as process:
        yield url_of(server, "tidegate", port), process


def test_service_reads_and_writes_rows_and_nothing_else(server: PostgresServer) -> None:
    engine = create_db_engine(url_of(server, "tidegate"))
    with engine.begin() as connection:
        connection.execute(text(SQL_OF_PRODUCTS))
        connection.execute(text("UPDATE products SET price = 2"))
        assert connection.execute(text("SELECT count(*) FROM products")).scalar_one() == 1
        connection.execute(text("DELETE FROM products"))
    for statement in (
        "CREATE TABLE mine (id int)",
        "ALTER TABLE products ADD mine int",
        "DROP TABLE products",
        "TRUNCATE products",
    ):
        with engine.begin() as connection, pytest.raises(ProgrammingError, match=r"denied|owner"):
            connection.execute(text(statement))
    engine.dispose()


def test_service_sees_the_schema_that_it_waits_for(server: PostgresServer) -> None:
    done = tidegate(url_of(server, "tidegate"), "migrate", "wait", "--timeout", "5")
    assert done.returncode == ExitCode.DONE, done.stderr


def test_service_runs_through_pgbouncer(server: PostgresServer, tmp_path: Path) -> None:
    with (
        pooled(server) as (url, _),
        running_service(tmp_path, {"ENVIRONMENT": "test", "DATABASE_URL": url}) as service,
    ):
        product = {"code": "ROPE-1", "name": "Rope", "price": "12.50"}
        key = {"Idempotency-Key": "0123456789abcdef"}
        first, second = (service.http.post("/products", json=product, headers=key) for _ in "12")
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json() == second.json()
        path = f"/products/{first.json()['id']}"
        tag = {"If-Match": service.http.get(path).headers["ETag"]}
        assert service.http.patch(path, json={"name": "Cord"}, headers=tag).status_code == 200
        assert [p["name"] for p in service.http.get("/products").json()["items"]] == ["Cord"]
        if KEEPS_STATEMENTS_APART:
            assert all("Cord" in service.http.get("/products/export").text for _ in range(20))
        assert service.http.delete(path).status_code == 204
        assert tidegate(url, "migrate", "wait", "--timeout", "0").returncode == ExitCode.DONE


def test_sessions_of_pgbouncer_are_told_what_the_service_tells_its_own(
    server: PostgresServer,
) -> None:
    names = ("statement_timeout", "client_connection_check_interval", *SESSION_PARAMETERS)

    def told(url: str) -> dict[str, str]:
        engine = create_db_engine(url)
        with engine.connect() as connection:
            shown = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in names}
        engine.dispose()
        return shown

    async def connect(url: str) -> None:
        # asyncpg names them one by one.
        engine = create_async_db_engine(make_url(url).set(drivername="postgresql+asyncpg"))
        async with engine.connect():
            pass
        await engine.dispose()

    with pooled(server) as (url, _):
        assert told(url) == told(url_of(server, "tidegate"))
        asyncio.run(connect(url))


def test_more_clients_than_connections_are_all_served(server: PostgresServer) -> None:
    clients, most = 40, 15
    with pooled(server) as (url, _):
        engine = create_db_engine(url, settings=DatabaseSettings(pool_size=clients))

        def ask(_: int) -> int:
            with engine.connect() as connection:
                connection.execute(text("SELECT pg_sleep(0.2)"))
                return int(
                    connection.execute(
                        text("SELECT count(*) FROM pg_stat_activity WHERE usename = 'tidegate'")
                    ).scalar_one()
                )

        with ThreadPoolExecutor(clients) as threads:
            sessions = [*threads.map(ask, range(clients))]
        engine.dispose()
    assert len(sessions) == clients
    assert 1 < max(sessions) <= most


def test_migrations_are_refused_there(server: PostgresServer) -> None:
    with pooled(server) as (url, _):
        owner = make_url(url).set(username="tidegate_owner")
        done = tidegate(owner.render_as_string(hide_password=False), "migrate", "up")
    assert done.returncode == ExitCode.USAGE
    assert "MIGRATE_DATABASE_URL" in done.stderr


def test_asyncpg_prepares_statements_there(server: PostgresServer) -> None:
    require_pgbouncer()
    if not KEEPS_STATEMENTS_APART:
        pytest.skip("PgBouncer before 1.21 keeps no prepared statements apart")

    async def ask(url: str) -> None:
        engine = create_async_db_engine(make_url(url).set(drivername="postgresql+asyncpg"))
        for number in range(20):
            async with engine.begin() as connection:
                answer = await connection.execute(text("SELECT :number + 1"), {"number": number})
                assert answer.scalar_one() == number + 1
        await engine.dispose()

    async def ask_at_once(url: str) -> None:
        await asyncio.gather(*(ask(url) for _ in range(20)))

    with pooled(server) as (url, _):
        asyncio.run(ask_at_once(url))


def test_open_transactions_end_before_pgbouncer_does(server: PostgresServer) -> None:
    """What the preStop hook of the component asks for."""
    with pooled(server) as (url, process):
        engine = create_db_engine(url)
        with engine.begin() as connection:
            connection.execute(text(SQL_OF_PRODUCTS))
            process.send_signal(signal.SIGINT)
            connection.execute(text("UPDATE products SET name = 'Cord'"))
            assert process.poll() is None
        eventually(lambda: process.poll() is not None)
        assert process.returncode == 0
        engine.dispose()
    direct = create_db_engine(url_of(server, "tidegate"))
    with direct.begin() as connection:
        assert connection.execute(text("SELECT name FROM products")).scalar_one() == "Cord"
        connection.execute(text("DELETE FROM products"))
    direct.dispose()

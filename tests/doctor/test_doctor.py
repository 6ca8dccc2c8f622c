"""What the doctor says of real databases, healthy and broken ones."""

import contextlib
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import psycopg2
import pytest
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url

from service.database import create_db_engine
from service.doctor.findings import Verdict
from service.doctor.servers import examine_server
from service.migrator.revisions import Revisions
from tests.doctor.conftest import Diagnose
from tests.support.database_server import running
from tests.support.databases import MariaDBDatabases, PostgresDatabases, migrate, worker_name
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer, execute, temporary_role

ROLE = f"doctor_{worker_name()}"
# The time of a look and its grace are a third of it; a driver's own would be more.
MOST_SECONDS: Final = 20


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of our own, migrated, with few connections."""
    few = PostgresServer(max_connections="20", superuser_reserved_connections="3")
    with running(few) as server:
        migrate(server.url())
        yield server


@pytest.fixture
def role(postgres_url: str) -> Iterator[str]:
    """The URL of a role that may do nothing yet in a migrated database."""
    with temporary_role(postgres_url, ROLE) as url:
        yield url


def test_healthy_database_passes(database_url: str, diagnose: Diagnose) -> None:
    diagnosis = diagnose(DATABASE_URL=database_url)
    assert diagnosis.failures() == {}
    assert diagnosis.warnings() == {}
    groups = {"configuration", "versions", "database", "schema", "privileges", "connections"}
    assert groups <= {one.group for one in diagnosis.findings}
    reached = [one.told for one in diagnosis.of("database") if one.told.startswith("reachable")]
    # The asyncio twin, too.
    assert len(reached) == 2
    assert f"this release at {Revisions().head}" in diagnosis.of("schema")[0].told
    if not database_url.startswith("sqlite"):
        assert re.search(r"0\.\d+ s apart", diagnosis.of("clock")[0].told)


def test_round_trips_that_wait_for_this_process_warn_of_nothing(sqlite_url: str) -> None:
    engine = create_db_engine(sqlite_url, pool_name="test")
    slow = [0.1, 0.1, 0.0, 0.1, 0.1]
    with engine.connect() as connection:

        @event.listens_for(connection, "before_cursor_execute")
        def stall(*_: object) -> None:
            time.sleep(slow.pop() if slow else 0.0)

        found = [
            *examine_server(connection, "DATABASE_URL", connect_seconds=0.0, needs_tls=False),
        ]
    engine.dispose()
    assert not slow
    assert {one.verdict for one in found} == {Verdict.PASS}


@pytest.mark.parametrize(
    ("change", "told", "advice"),
    [
        (lambda url: url.set(port=free_port()), "nothing listens on its port", "start the server"),
        # A label of more than 63 letters is refused without a question to a name server.
        (
            lambda url: url.set(host=f"{'n' * 64}.invalid"),
            "its host name is not known",
            "correct the host",
        ),
        (
            lambda url: url.set(database="nowhere"),
            "database missing",
            "create the database that DATABASE_URL",
        ),
        (
            lambda url: url.set(username="nobody_has_this_name"),
            "authentication failed",
            "correct the user or the password",
        ),
    ],
)
def test_what_keeps_from_a_database_is_told_apart(
    postgres_url: str, diagnose: Diagnose, change: Callable[[URL], URL], told: str, advice: str
) -> None:
    url = change(make_url(postgres_url).set(password="tiger"))
    diagnosis = diagnose(DATABASE_URL=url.render_as_string(hide_password=False))
    assert told in diagnosis.failures()
    assert diagnosis.failures()[told].startswith(advice)
    # By both drivers.
    assert {one.subject for one in diagnosis.of("database")} == {
        "DATABASE_URL",
        "DATABASE_URL_ASYNC",
    }
    assert str(url.password) not in str(diagnosis.findings)


def test_server_that_hangs_is_told_in_time(server: PostgresServer, diagnose: Diagnose) -> None:
    start = time.monotonic()
    with server.paused():
        diagnosis = diagnose(timeout=1.0, DATABASE_URL=server.url())
    told = "the server takes the connection, and says nothing within 1 s"
    assert [one.told for one in diagnosis.of("database")] == [told, told]
    assert time.monotonic() - start < MOST_SECONDS
    assert diagnosis.of("disk")


def test_host_that_loses_all_packets_is_told_from_a_server_that_hangs(diagnose: Diagnose) -> None:
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        # Linux answers no attempt to connect beyond these two.
        listener.listen(0)
        for _ in range(2):
            client = held.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        start = time.monotonic()
        diagnosis = diagnose(timeout=1.0, DATABASE_URL=f"postgresql://me@127.0.0.1:{port}/shop")
    assert [one.told for one in diagnosis.of("database")] == ["its host does not answer"] * 2
    assert time.monotonic() - start < MOST_SECONDS


def test_too_few_connections_are_told(server: PostgresServer, diagnose: Diagnose) -> None:
    variables = {"DATABASE_URL": server.url(), "DATABASE_POOL_SIZE": "10"}
    with contextlib.ExitStack() as held:
        for _ in range(15):
            held.enter_context(contextlib.closing(psycopg2.connect(server.url())))
        diagnosis = diagnose(**variables)
    (complaint,) = diagnosis.failures()
    assert complaint.startswith("the server's max_connections, without what is reserved, allows 17")
    assert any(re.match(r"1\d of 17 connections are open", told) for told in diagnosis.warnings())
    server.execute("CREATE ROLE full_up LOGIN CONNECTION LIMIT 0")
    url = make_url(server.url()).set(username="full_up").render_as_string(hide_password=False)
    assert "too many connections" in diagnose(DATABASE_URL=url).failures()


def test_schema_that_is_behind_or_ahead_is_told(
    postgres: PostgresDatabases, diagnose: Diagnose
) -> None:
    name = f"doctor_schema_{worker_name()}"
    url = postgres.create(name)
    try:
        behind = diagnose(DATABASE_URL=url)
        told = f"behind: the database is at none, this release at {Revisions().head}"
        assert behind.failures() == {told: "run `tidegate migrate up`"}
        migrate(url)
        execute(url, "UPDATE alembic_version SET version_num = 'fffffffffff1'")
        ahead = diagnose(DATABASE_URL=url)
        assert ahead.failures() == {}
        assert "ahead, by what is in nobody's way" in ahead.of("schema")[0].told
    finally:
        postgres.drop(name)


def test_serving_role_needs_its_grants_and_should_have_no_more(
    role: str, postgres_url: str, diagnose: Diagnose
) -> None:
    variables = {
        "ENVIRONMENT": "production",
        "OPS_TOKEN": "a token for the tests",
        "DATABASE_CONNECTION_BUDGET": "50",
        "DATABASE_URL": role,
        "MIGRATE_DATABASE_URL": postgres_url,
    }
    tables = "products, idempotency_keys"
    execute(postgres_url, f"GRANT SELECT ON alembic_version, migration_history TO {ROLE}")
    execute(postgres_url, f"GRANT SELECT, INSERT, UPDATE ON {tables} TO {ROLE}")
    lacking = diagnose(**variables)
    assert lacking.failures() == {
        "the role lacks DELETE on idempotency_keys, DELETE on products": (
            "grant it DELETE on idempotency_keys, DELETE on products"
        )
    }
    execute(postgres_url, f"GRANT DELETE ON {tables} TO {ROLE}")
    apart = diagnose(**variables)
    assert (apart.failures(), apart.warnings()) == ({}, {})
    # The owner's role would serve, too: in production that is worth a warning.
    warned = diagnose(**{**variables, "DATABASE_URL": postgres_url})
    assert "the role may change the schema, too" in warned.warnings()
    assert warned.failures() == {}
    swapped = diagnose(**{**variables, "MIGRATE_DATABASE_URL": role})
    (complaint,) = swapped.failures()
    assert complaint.startswith("the role does not own the tables")


@pytest.mark.mariadb
def test_roles_of_mariadb(mariadb: MariaDBDatabases, mariadb_url: str, diagnose: Diagnose) -> None:
    database, server = make_url(mariadb_url), mariadb.server
    server.execute("DROP USER IF EXISTS clerk@'%'")
    server.execute("CREATE USER clerk@'%' IDENTIFIED BY 'tiger'")
    clerk = database.set(username="clerk", password="tiger").render_as_string(hide_password=False)
    try:
        server.execute(f"GRANT SELECT, INSERT, UPDATE ON `{database.database}`.* TO clerk@'%'")
        lacking = diagnose(DATABASE_URL=clerk, MIGRATE_DATABASE_URL=clerk)
        assert list(lacking.failures()) == [
            "the role lacks DELETE on idempotency_keys, DELETE on products",
            "the role lacks ALTER, CREATE, DROP, INDEX, REFERENCES",
        ]
        server.execute(f"GRANT DELETE ON `{database.database}`.* TO clerk@'%'")
        granted = diagnose(DATABASE_URL=clerk, MIGRATE_DATABASE_URL=mariadb_url)
        assert granted.failures() == {}
        server.execute("SET GLOBAL init_connect = 'SET timestamp = 1700000000'")
        server.execute("SET GLOBAL read_only = 1")
        apart = diagnose(DATABASE_URL=clerk, MIGRATE_DATABASE_URL=mariadb_url)
        assert "it only reads: a replica, or a primary that is set so" in apart.failures()
        assert any(told.endswith("s apart from the server's") for told in apart.warnings())
        wrong = database.set(username="clerk", password="lion").render_as_string(
            hide_password=False
        )
        refused = diagnose(DATABASE_URL=wrong)
        assert "authentication failed" in refused.failures()
        assert "lion" not in str(refused.findings)
    finally:
        server.execute("SET GLOBAL read_only = 0")
        server.execute("SET GLOBAL init_connect = ''")
        server.execute("DROP USER clerk@'%'")


def test_replica_that_is_none_is_told(postgres_url: str, diagnose: Diagnose) -> None:
    diagnosis = diagnose(DATABASE_URL=postgres_url, DATABASE_REPLICA_URL=postgres_url)
    assert diagnosis.warnings() == {
        "it is a primary, and no replica": "name a replica, or unset it"
    }


def test_sqlite_file_is_not_made_by_looking_for_it(tmp_path: Path, diagnose: Diagnose) -> None:
    file = tmp_path / "none.db"
    diagnosis = diagnose(DATABASE_URL=f"sqlite:///{file}")
    assert diagnosis.failures() == {"the file is not there": "run `tidegate migrate up`"}
    assert not file.exists()
    memory = diagnose(DATABASE_URL="sqlite:///:memory:")
    assert memory.failures() == {}


def test_sqlite_file_is_found_by_its_own_kind_of_url(sqlite_url: str, diagnose: Diagnose) -> None:
    file = make_url(sqlite_url).database
    diagnosis = diagnose(DATABASE_URL=f"sqlite:///file:{file}?uri=true")
    assert diagnosis.failures() == {}
    assert diagnosis.warnings() == {}
    (disk,) = diagnosis.of("disk", "DATABASE_URL")
    assert disk.told.startswith(f"{Path(str(file)).parent}: ")


def test_details_hide_secrets_and_not_addresses(diagnose: Diagnose) -> None:
    query = "connect_timeout=1&application_name=127"
    url = f"postgresql://me:lion@127.0.0.1:{free_port()}/shop?{query}"
    (finding,) = diagnose(DATABASE_URL=url).of("database", "DATABASE_URL")
    assert "127.0.0.1" in finding.detail
    assert "lion" not in finding.detail


def test_memory_of_a_container_is_enough_for_metrics(
    diagnose: Diagnose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=60 * 1024 * 1024)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    url = f"sqlite:///{tmp_path / 'none.db'}"
    diagnosis = diagnose(metrics_directory=str(tmp_path), DATABASE_URL=url)
    verdicts = {one.subject: one.verdict for one in diagnosis.of("disk")}
    assert verdicts == {
        "memory (metrics, sockets)": Verdict.PASS,
        "PROMETHEUS_MULTIPROC_DIR": Verdict.PASS,
        "temporary files": Verdict.WARN,
        "DATABASE_URL": Verdict.WARN,
    }


def test_settings_that_do_not_load_hide_nothing_else(diagnose: Diagnose) -> None:
    diagnosis = diagnose(DATABASE_POOL_SIZE="tiger")
    (advice,) = diagnosis.failures().values()
    assert advice.startswith("DATABASE_POOL_SIZE: ")
    assert "tiger" not in advice
    assert {one.group for one in diagnosis.findings} >= {"versions", "disk", "workers"}


def test_settings_that_are_not_wise_are_told(diagnose: Diagnose) -> None:
    diagnosis = diagnose(
        ENVIRONMENT="staging",
        DATABASE_URL="sqlite:///:memory:",
        HEALTH_INTERVALL="3",
        OPS_TOKEN="",
    )
    warnings = diagnosis.warnings()
    assert warnings["there is no such setting"] == "unset it; did you mean HEALTH_INTERVAL?"
    assert "unset: nobody can see why a probe says no" in warnings
    assert "an embedded database, which one machine has for itself" in warnings


def test_url_without_an_asyncio_counterpart_is_told(postgres_url: str, diagnose: Diagnose) -> None:
    diagnosis = diagnose(DATABASE_URL=f"{postgres_url}?keepalives=1")
    assert (
        "asyncpg has no counterpart of keepalives" in diagnosis.warnings()["streamed answers fail"]
    )


def test_directory_of_metrics_has_to_be_there(tmp_path: Path, diagnose: Diagnose) -> None:
    missing = tmp_path / "missing"
    diagnosis = diagnose(metrics_directory=str(missing), DATABASE_URL="sqlite:///:memory:")
    assert diagnosis.failures() == {
        f"{missing}: No such file or directory": "make the directory, or name another"
    }

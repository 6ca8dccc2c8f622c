"""A MariaDB that hangs, stops or dies: every call ends in time, and the pool recovers."""

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.database import check_database_health
from service.database.deadline import time_limit
from service.database.failures import classify
from tests.database.deadline_clients import (
    LIMIT,
    Ended,
    MakeClient,
    TaskClient,
    ThreadClient,
    assert_gauges_agree,
    cancel_later,
    hang_within,
    metrics_of,
    quickest,
    select_one,
    succeeds,
    threads,
)
from tests.support.database_server import running
from tests.support.mariadb import MariaDBServer, require_mariadb
from tests.support.polling import eventually
from tests.support.tls import make_certificate

pytestmark = pytest.mark.mariadb


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDBServer]:
    """A server that a test may stop, kill or pause; the next test gets it running."""
    require_mariadb()
    with running(MariaDBServer()) as server:
        yield server


@pytest.fixture(params=[ThreadClient, TaskClient], ids=["pymysql", "aiomysql"])
def make_client(
    request: pytest.FixtureRequest, server: MariaDBServer, pool_name: str
) -> Iterator[MakeClient]:
    """Makes clients of the server, by a thread and by a task; closes them at the end."""
    made: list[ThreadClient] = []

    def make(**settings: Any) -> ThreadClient:
        url = settings.pop("url", server.url("mysql"))
        made.append(request.param(url, pool_name, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def client(make_client: MakeClient, server: MariaDBServer) -> ThreadClient:
    """A client whose first connection is open."""
    eventually(lambda: not server.sessions())
    made = make_client(pool_size=2, max_overflow=0, connect_timeout=3)
    assert made.ask(select_one) == 1
    return made


def assert_recovers(client: ThreadClient, server: MariaDBServer) -> None:
    """Check that a server which is back is used again soon, and that nothing was left behind."""
    eventually(lambda: succeeds(client))
    pool: Any = client.engine.pool
    eventually(lambda: server.sessions() == ["Sleep"] * pool.checkedin())
    eventually(lambda: threads() == set())
    assert_gauges_agree(client)
    for _ in range(5):
        assert client.ask(select_one, 10) == 1


def commit(connection: Connection) -> None:
    connection.commit()


def rollback(connection: Connection) -> None:
    connection.rollback()


def insert_many(connection: Connection) -> None:
    connection.execute(text("SELECT :value"), [{"value": value} for value in range(100)])


@pytest.mark.parametrize(
    ("work", "after"),
    [(select_one, LIMIT), (insert_many, LIMIT), (commit, LIMIT), (rollback, 0.5)],
    ids=["query", "statements", "commit", "rollback"],
)
def test_call_on_a_server_that_hangs_ends_at_its_deadline(
    client: ThreadClient,
    server: MariaDBServer,
    work: Callable[[Connection], Any],
    after: float,
) -> None:
    assert hang_within(client, server, work).was("deadline_exceeded", after=after)
    metrics = metrics_of(client)
    assert (metrics.closed("deadline_exceeded"), metrics.used, metrics.idle) == (1, 0, 0)
    assert_recovers(client, server)


def test_session_whose_commit_hangs_ends_at_its_deadline(
    client: ThreadClient, server: MariaDBServer
) -> None:
    def work(connection: Connection) -> None:
        with Session(connection) as session:
            session.execute(text("SELECT 1"))
            session.commit()

    def attempt() -> Ended:
        ended = hang_within(client, server, work)
        assert_recovers(client, server)
        return ended

    assert quickest(attempt).was("deadline_exceeded", after=LIMIT, slack=0.3)


def test_fetch_from_a_cursor_of_the_server_ends_at_its_deadline(
    client: ThreadClient, server: MariaDBServer, caplog: pytest.LogCaptureFixture
) -> None:
    def fetch(connection: Connection) -> None:
        streaming = connection.execution_options(stream_results=True, max_row_buffer=10)
        rows = streaming.execute(text("SELECT seq, repeat('x', 1000) FROM seq_1_to_100000"))
        assert rows.fetchmany(10)[0][0] == 1
        server.pause()
        rows.fetchall()

    try:
        assert client.fail(fetch, LIMIT).was("deadline_exceeded", after=LIMIT)
    finally:
        server.resume()
    # Neither the cursor nor the collector tries to read what is left.
    gc.collect()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    assert_recovers(client, server)


def test_validation_on_a_server_that_hangs_ends_at_its_deadline(
    make_client: MakeClient, server: MariaDBServer
) -> None:
    client = make_client(pool_validation_bypass=0)
    client.ask(select_one)
    with server.paused():
        assert client.fail(select_one, LIMIT).was("deadline_exceeded", after=LIMIT)
    assert metrics_of(client).closed("validation") == 1
    assert_recovers(client, server)


def test_opening_a_connection_to_a_server_that_hangs_ends_at_its_deadline(
    make_client: MakeClient, server: MariaDBServer
) -> None:
    client = make_client()
    with server.paused():
        for _ in range(3):
            assert client.fail(select_one, LIMIT).was("deadline_exceeded", after=LIMIT)
    metrics = metrics_of(client)
    assert metrics.value("create_failures_total", reason="deadline_exceeded") == 3
    assert_recovers(client, server)


def test_call_outside_of_a_limit_ends_at_the_deadline_of_the_settings(
    make_client: MakeClient, server: MariaDBServer
) -> None:
    client = make_client(query_deadline=LIMIT, statement_timeout=0.2, pool_size=3)
    client.ask(select_one)

    def hang(connection: Connection) -> None:
        connection.execute(text("SELECT 1"))
        server.pause()
        connection.execute(text("SELECT 1"))

    try:
        assert client.fail(hang).was("deadline_exceeded", after=LIMIT)
        assert client.fail(select_one).was("deadline_exceeded", after=LIMIT)
    finally:
        server.resume()
    assert_recovers(client, server)


@pytest.mark.parametrize("work", [select_one, commit], ids=["query", "commit"])
def test_cancelled_limit_ends_what_is_asked_of_a_server_that_hangs(
    client: ThreadClient, server: MariaDBServer, work: Callable[[Connection], Any]
) -> None:
    def ask(connection: Connection) -> None:
        connection.execute(text("SELECT 1"))
        server.pause()
        cancel_later()
        work(connection)

    try:
        assert client.fail(ask, 10).was("cancelled", after=LIMIT)
    finally:
        server.resume()
    assert metrics_of(client).closed("cancelled") == 1
    assert_recovers(client, server)


def test_cancelled_limit_ends_the_opening_of_a_connection(
    make_client: MakeClient, server: MariaDBServer
) -> None:
    client = make_client(connect_timeout=3)
    with server.paused(), time_limit(10) as limit:
        threading.Timer(LIMIT, limit.cancel).start()
        assert client.fail(select_one).was("cancelled", after=LIMIT)
    assert_recovers(client, server)


def test_query_that_is_cut_ends_on_the_server_by_the_statement_timeout(
    make_client: MakeClient, server: MariaDBServer
) -> None:
    client = make_client(statement_timeout=1.5, query_deadline=5)
    ended = client.fail(lambda connection: connection.execute(text("SELECT sleep(20)")), LIMIT)
    assert ended.was("deadline_exceeded", after=LIMIT)
    assert_recovers(client, server)


def test_limit_that_ended_between_two_statements_keeps_the_connection(client: ThreadClient) -> None:
    def ask(connection: Connection) -> Any:
        number = connection.scalar(text("SELECT connection_id()"))
        with time_limit(0), pytest.raises(SQLAlchemyError) as raised:
            connection.execute(text("SELECT 1"))
        assert Ended(classify(raised.value), 0).was("deadline_exceeded", after=0)
        return number

    number = client.ask(ask)
    assert client.ask(lambda one: one.scalar(text("SELECT connection_id()"))) == number


@pytest.mark.parametrize("end", [MariaDBServer.stop, MariaDBServer.kill], ids=["stop", "kill"])
def test_pool_recovers_from_a_server_that_was_started_again(
    client: ThreadClient, server: MariaDBServer, end: Callable[[MariaDBServer], None]
) -> None:
    try:
        end(server)
        assert client.fail(select_one, 5).was("connection_lost", after=0)
    finally:
        server.start()
    assert_recovers(client, server)


@pytest.mark.parametrize("make_client", [ThreadClient], ids=["pymysql"], indirect=True)
def test_health_follows_a_server_that_hangs_and_stops(
    make_client: MakeClient, server: MariaDBServer
) -> None:
    client = make_client()

    def health() -> Any:
        return check_database_health(client.engine, timeout=LIMIT)

    eventually(lambda: health()["status"] == "healthy")
    with server.paused():
        assert health()["reason"] == "deadline_exceeded"
    eventually(lambda: health()["status"] == "healthy")
    server.stop()
    try:
        eventually(lambda: health()["reason"] == "connection_lost")
    finally:
        server.start()
    eventually(lambda: health()["status"] == "healthy")
    assert_recovers(client, server)


@pytest.mark.parametrize("make_client", [ThreadClient], ids=["pymysql"], indirect=True)
def test_call_through_tls_ends_at_its_deadline(make_client: MakeClient) -> None:
    # The server looks for them in its data.
    server = MariaDBServer(ssl_cert="server.crt", ssl_key="server.key")
    for path in make_certificate(server.data):
        path.chmod(0o644)
    with running(server):
        query = f"?ssl_ca={server.data / 'server.crt'}&ssl_check_hostname=false"
        client = make_client(url=server.url("mysql") + query)
        version = text("SHOW SESSION STATUS LIKE 'Ssl_version'")
        assert client.ask(lambda one: one.execute(version).one())[1].startswith("TLS")
        assert hang_within(client, server, select_one).was("deadline_exceeded", after=LIMIT)
        assert_recovers(client, server)


@pytest.mark.parametrize("make_client", [ThreadClient], ids=["pymysql"], indirect=True)
def test_driver_has_no_deadline_of_its_own_once_a_connection_is_open(
    make_client: MakeClient,
) -> None:
    def timeouts(connection: Connection) -> tuple[float | None, ...]:
        driver: Any = connection.connection.driver_connection
        return driver._read_timeout, driver._write_timeout  # noqa: SLF001 - no public reader

    assert make_client(connect_timeout=2).ask(timeouts) == (None, None)

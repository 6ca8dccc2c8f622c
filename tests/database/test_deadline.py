"""Every call to a database ends in time: on a server that hangs, and on one that is slow."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from service.database import DatabaseSettings, SettingsError
from service.database.deadline import current_limit, time_limit
from service.database.deadline_drivers import DRIVERS
from service.database.failures import Cancelled, DeadlineExceeded, classify, failure_reason
from tests.database.deadline_clients import (
    LIMIT,
    SLACK,
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
    sessions,
    succeeds,
    threads,
)
from tests.database.pools import PoolMetrics
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer
from tests.support.tls import tls_front


@pytest.fixture(params=[ThreadClient, TaskClient], ids=["psycopg2", "asyncpg"])
def kind(request: pytest.FixtureRequest) -> type[ThreadClient]:
    """By a thread, and by a task."""
    client_class: type[ThreadClient] = request.param
    return client_class


@pytest.fixture
def make_client(kind: type[ThreadClient], pool_name: str) -> Iterator[MakeClient]:
    """Makes clients of a URL; closes them at the end."""
    made: list[ThreadClient] = []

    def make(url: str, **settings: Any) -> ThreadClient:
        made.append(kind(url, pool_name, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def client(make_client: MakeClient, faulty_server: PostgresServer) -> ThreadClient:
    """A client of the server that hangs at times, its first connection open."""
    eventually(lambda: not sessions(faulty_server))
    made = make_client(faulty_server.url(), pool_size=2, max_overflow=0, connect_timeout=3)
    assert made.ask(select_one) == 1
    return made


def sleep(seconds: float) -> Callable[[Connection], Any]:
    """A question that takes the server so long."""
    return lambda connection: connection.execute(text(f"SELECT pg_sleep({seconds})"))


def assert_recovers(client: ThreadClient, server: PostgresServer) -> None:
    """Check that a server which goes on is used again, and that nothing was left behind."""
    eventually(lambda: succeeds(client))
    eventually(lambda: turn(client) and is_settled(client, server))
    eventually(lambda: threads() == set())
    assert_gauges_agree(client)
    for _ in range(5):
        assert client.ask(select_one, 10) == 1


def is_settled(client: ThreadClient, server: PostgresServer) -> bool:
    """Whether the server has just the sessions that lie idle in the pool.

    A pool that keeps some open may be at it still.
    """
    pool: Any = client.engine.pool
    states = [state for state, _ in sessions(server)]
    return bool(pool.checkedout() == 0 and states == ["idle"] * pool.checkedin())


def test_query_on_a_server_that_hangs_ends_at_its_deadline(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    assert hang_within(client, faulty_server, select_one).was("deadline_exceeded", after=LIMIT)
    metrics = metrics_of(client)
    assert (metrics.closed("deadline_exceeded"), metrics.used, metrics.idle) == (1, 0, 0)
    assert_recovers(client, faulty_server)


def test_many_statements_on_a_server_that_hangs_end_at_their_deadline(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    def insert_many(connection: Connection) -> None:
        connection.execute(text("SELECT :value"), [{"value": value} for value in range(100)])

    ended = hang_within(client, faulty_server, insert_many)
    assert ended.was("deadline_exceeded", after=LIMIT)
    assert_recovers(client, faulty_server)


def test_commit_on_a_server_that_hangs_ends_at_its_deadline(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    ended = hang_within(client, faulty_server, lambda connection: connection.commit())
    assert ended.was("deadline_exceeded", after=LIMIT)
    assert_recovers(client, faulty_server)


def test_rollback_on_a_server_that_hangs_ends_at_its_deadline(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    ended = hang_within(client, faulty_server, lambda connection: connection.rollback())
    assert ended.was("deadline_exceeded", after=max(LIMIT, 0.5))
    assert_recovers(client, faulty_server)


def test_savepoint_on_a_server_that_hangs_ends_at_its_deadline(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    ended = hang_within(client, faulty_server, lambda connection: connection.begin_nested())
    assert ended.was("deadline_exceeded", after=LIMIT)
    assert_recovers(client, faulty_server)


def test_statement_that_was_cut_is_not_followed_by_a_rollback_that_waits_again(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    def fail_and_roll_back(connection: Connection) -> None:
        with connection.begin_nested():
            connection.execute(text("SELECT 1"))

    def attempt() -> Ended:
        ended = hang_within(client, faulty_server, fail_and_roll_back)
        assert_recovers(client, faulty_server)
        return ended

    assert quickest(attempt).was("deadline_exceeded", after=LIMIT, slack=0.3)


def test_fetch_from_a_cursor_of_the_server_ends_at_its_deadline(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    def fetch(connection: Connection) -> None:
        streaming = connection.execution_options(stream_results=True, max_row_buffer=10)
        rows = streaming.execute(text("SELECT * FROM generate_series(1, 100000)"))
        assert rows.fetchmany(10)[0] == (1,)
        faulty_server.pause()
        rows.fetchall()

    try:
        assert client.fail(fetch, LIMIT).was("deadline_exceeded", after=LIMIT)
    finally:
        faulty_server.resume()
    assert_recovers(client, faulty_server)


def test_cursor_of_the_server_works_within_a_limit(client: ThreadClient) -> None:
    def fetch(connection: Connection) -> list[int]:
        streaming = connection.execution_options(yield_per=100)
        return [*streaming.scalars(text("SELECT * FROM generate_series(1, 1000)"))]

    assert client.ask(fetch, 5) == [*range(1, 1001)]
    assert client.ask(fetch) == [*range(1, 1001)]


def test_validation_on_a_server_that_hangs_ends_at_its_deadline(
    make_client: MakeClient, faulty_server: PostgresServer
) -> None:
    client = make_client(faulty_server.url(), pool_validation_bypass=0)
    client.ask(select_one)
    with faulty_server.paused():
        assert client.fail(select_one, LIMIT).was("deadline_exceeded", after=LIMIT)
    metrics = metrics_of(client)
    assert metrics.closed("validation") == 1
    assert metrics.value("checkout_failures_total", reason="deadline_exceeded") == 1
    assert_recovers(client, faulty_server)


def test_opening_a_connection_to_a_server_that_hangs_ends_at_its_deadline(
    make_client: MakeClient, faulty_server: PostgresServer
) -> None:
    client = make_client(faulty_server.url(), pool_validation_bypass=0)
    with faulty_server.paused():
        for _ in range(3):
            assert client.fail(select_one, LIMIT).was("deadline_exceeded", after=LIMIT)
    metrics = metrics_of(client)
    assert metrics.value("create_failures_total", reason="deadline_exceeded") == 3
    assert metrics.value("checkout_failures_total", reason="deadline_exceeded") == 3
    assert_recovers(client, faulty_server)


def test_setting_up_the_first_connection_ends_at_its_deadline(
    make_client: MakeClient, faulty_server: PostgresServer
) -> None:
    client = make_client(faulty_server.url())

    def hang(connection: Any, record: Any) -> None:
        del connection, record
        faulty_server.pause()

    event.listen(client.engine, "connect", hang, insert=True)
    try:
        ended = client.fail(select_one, LIMIT)
    finally:
        faulty_server.resume()
        event.remove(client.engine, "connect", hang)
    # What SQLAlchemy asks by cursors of its own may tell of the cut in the driver's words.
    assert ended.failure is not None
    assert ended.failure.reason in ("deadline_exceeded", "connection_lost")
    assert LIMIT <= ended.seconds < LIMIT + SLACK
    assert_recovers(client, faulty_server)


def test_call_outside_of_a_limit_ends_at_the_deadline_of_the_settings(
    make_client: MakeClient, faulty_server: PostgresServer
) -> None:
    client = make_client(
        faulty_server.url(), query_deadline=LIMIT, statement_timeout=0.2, pool_size=3
    )
    client.ask(select_one)

    def hang(connection: Connection) -> None:
        connection.execute(text("SELECT 1"))
        faulty_server.pause()
        connection.execute(text("SELECT 1"))

    try:
        assert client.fail(hang).was("deadline_exceeded", after=LIMIT)
        assert client.fail(select_one).was("deadline_exceeded", after=LIMIT)
    finally:
        faulty_server.resume()
    assert_recovers(client, faulty_server)


def test_checkout_outside_of_a_limit_waits_for_one_connection_and_not_for_all(
    make_client: MakeClient, faulty_server: PostgresServer
) -> None:
    client = make_client(
        faulty_server.url(), query_deadline=LIMIT, statement_timeout=0.2,
        pool_size=10, pool_min_idle=10, pool_validation_bypass=0,
    )  # fmt: skip
    pool: Any = client.engine.pool
    eventually(lambda: succeeds(client))
    eventually(lambda: turn(client) and pool.checkedin() == 10, within=60)
    with faulty_server.paused():
        assert client.fail(select_one).was("deadline_exceeded", after=LIMIT)
    assert_recovers(client, faulty_server)


def turn(client: ThreadClient) -> bool:
    """Let the pool look after itself, in the client's loop, which stands still otherwise."""
    pool: Any = client.engine.pool
    if not isinstance(client, TaskClient):
        pool.tick()
        return True

    async def tick() -> None:
        pool.tick()
        await asyncio.sleep(0.05)

    client.runner.run(tick())
    return True


def test_cancelled_limit_ends_what_is_being_asked(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    def ask(connection: Connection) -> None:
        cancel_later()
        connection.execute(text("SELECT pg_sleep(20)"))

    assert client.fail(ask, 10).was("cancelled", after=LIMIT)
    metrics = metrics_of(client)
    assert metrics.closed("cancelled") == 1
    # PostgreSQL notices within the interval of its look at the client.
    assert_recovers(client, faulty_server)


@pytest.mark.parametrize("kind", [TaskClient], ids=["asyncpg"], indirect=True)
def test_limit_is_cancelled_by_another_task_of_the_loop(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    def ask(connection: Connection) -> None:
        limit = current_limit()
        assert limit is not None
        asyncio.get_running_loop().call_later(LIMIT, limit.cancel)
        connection.execute(text("SELECT pg_sleep(20)"))

    assert client.fail(ask, 10).was("cancelled", after=LIMIT)
    assert_recovers(client, faulty_server)


def test_cancelled_limit_ends_what_is_asked_of_a_server_that_hangs(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    def ask(connection: Connection) -> None:
        cancel_later()
        connection.execute(text("SELECT 1"))
        faulty_server.pause()
        connection.commit()

    try:
        assert client.fail(ask, 10).was("cancelled", after=LIMIT)
    finally:
        faulty_server.resume()
    assert_recovers(client, faulty_server)


def test_cancelled_limit_ends_the_opening_of_a_connection(
    make_client: MakeClient, faulty_server: PostgresServer
) -> None:
    client = make_client(faulty_server.url(), connect_timeout=3)
    with faulty_server.paused(), time_limit(10) as limit:
        threading.Timer(LIMIT, limit.cancel).start()
        assert client.fail(select_one).was("cancelled", after=LIMIT)
    assert_recovers(client, faulty_server)


def test_cancelled_limit_ends_a_rollback(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    def ask(connection: Connection) -> None:
        connection.execute(text("SELECT 1"))
        faulty_server.pause()
        cancel_later()
        connection.rollback()

    try:
        assert client.fail(ask, 10).was("cancelled", after=LIMIT)
    finally:
        faulty_server.resume()
    assert_recovers(client, faulty_server)


@pytest.mark.parametrize("kind", [ThreadClient], ids=["psycopg2"], indirect=True)
def test_session_whose_commit_hangs_ends_at_its_deadline(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    def attempt() -> Ended:
        start = time.perf_counter()
        try:
            with (
                pytest.raises(SQLAlchemyError) as raised,
                time_limit(LIMIT),
                Session(client.engine) as session,
                session.begin(),
            ):
                session.execute(text("SELECT 1"))
                faulty_server.pause()
            ended = Ended(classify(raised.value), time.perf_counter() - start)
        finally:
            faulty_server.resume()
        assert_recovers(client, faulty_server)
        return ended

    assert quickest(attempt).was("deadline_exceeded", after=LIMIT, slack=0.3)


def test_cancelled_limit_refuses_what_is_asked_later_and_keeps_the_connection(
    client: ThreadClient,
) -> None:
    def ask(connection: Connection) -> Any:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        limit = current_limit()
        assert limit is not None
        assert not limit.is_cancelled
        limit.cancel()
        assert limit.is_cancelled
        assert limit.remaining == 0
        for _ in range(2):
            with pytest.raises(SQLAlchemyError) as raised:
                connection.execute(text("SELECT 1"))
            assert isinstance(classify(raised.value), Cancelled)
        return pid

    pid = client.ask(ask, 10)
    # It was rolled back within the grace, and serves on.
    assert client.ask(lambda one: one.scalar(text("SELECT pg_backend_pid()"))) == pid


def test_limit_that_ended_between_two_statements_keeps_the_connection(client: ThreadClient) -> None:
    def ask(connection: Connection) -> Any:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        with time_limit(0), pytest.raises(SQLAlchemyError) as raised:
            connection.execute(text("SELECT 1"))
        assert isinstance(classify(raised.value), DeadlineExceeded)
        return pid

    pid = client.ask(ask)
    assert client.ask(lambda one: one.scalar(text("SELECT pg_backend_pid()"))) == pid


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["over", "cancelled"])
def test_checkout_within_a_limit_that_has_ended_keeps_the_connection(
    make_client: MakeClient, faulty_server: PostgresServer, is_cancelled: bool
) -> None:
    client = make_client(faulty_server.url(), pool_size=1, pool_validation_bypass=0)
    pid = client.ask(lambda one: one.scalar(text("SELECT pg_backend_pid()")))
    with time_limit(60 if is_cancelled else 0) as limit:
        if is_cancelled:
            limit.cancel()
        failure = client.fail(select_one).failure
        assert isinstance(failure, Cancelled if is_cancelled else DeadlineExceeded)
    # It was not asked whether it is alive, so it is not dead.
    assert client.ask(lambda one: one.scalar(text("SELECT pg_backend_pid()"))) == pid
    metrics = PoolMetrics(client.engine.pool.observer.pool_name)  # type: ignore[attr-defined]
    assert metrics.closed("validation") == 0
    assert_gauges_agree(client)


def test_of_nested_limits_the_earlier_end_counts(client: ThreadClient) -> None:
    with time_limit(LIMIT) as outer:
        assert client.fail(sleep(20), 10).was("deadline_exceeded", after=LIMIT)
    assert outer.remaining == 0
    with time_limit(10) as outer:
        assert client.fail(sleep(20), LIMIT).was("deadline_exceeded", after=LIMIT)
        assert client.ask(select_one) == 1
        with time_limit(10) as inner:
            outer.cancel()
            assert inner.is_cancelled
            assert client.fail(select_one).was("cancelled", after=0)
    assert current_limit() is None
    assert client.ask(select_one) == 1


def test_inner_limit_that_is_cancelled_leaves_the_outer_one(client: ThreadClient) -> None:
    with time_limit(10) as outer:
        with time_limit(10) as inner:
            inner.cancel()
            assert client.fail(select_one).was("cancelled", after=0)
        assert not outer.is_cancelled
        assert client.ask(select_one) == 1


def test_query_that_ends_in_time_is_left_alone(client: ThreadClient) -> None:
    def ask(connection: Connection) -> Any:
        return connection.scalar(text("SELECT pg_backend_pid() FROM pg_sleep(0.1)"))

    pids = set()
    # Until the end of the first limit is past, which could cut one of those that came after.
    end = time.monotonic() + 3.5
    while time.monotonic() < end:
        pids.add(client.ask(ask, 3))
    assert len(pids) == 1


def test_query_that_was_cut_ends_on_the_server(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    assert client.fail(sleep(20), LIMIT).was("deadline_exceeded", after=LIMIT)
    eventually(lambda: not sessions(faulty_server))


def test_no_dead_connection_comes_back_when_queries_end_near_their_deadline(
    make_client: MakeClient, faulty_server: PostgresServer
) -> None:
    client = make_client(faulty_server.url(), pool_size=3, max_overflow=0)
    start = time.monotonic()

    def use(number: int) -> None:
        outcomes = {"in time": 0, "late": 0}
        limit = 0.002 + number * 0.001
        while time.monotonic() < start + 4 or min(outcomes.values()) <= 5:
            assert time.monotonic() < start + 60, outcomes
            try:
                client.ask(sleep(0.002), limit)
                outcome = "in time"
            except SQLAlchemyError as error:
                outcome = {"deadline_exceeded": "late"}[failure_reason(error)]
            outcomes[outcome] += 1
            # It stays about the time that a query takes, which is so cut at every stage.
            limit *= 1.1 if outcome == "late" else 1 / 1.1
            # Outside of a limit nothing may fail, whatever has been cut before.
            assert client.ask(select_one) == 1

    at_once(client, use)
    assert_gauges_agree(client)
    assert_recovers(client, faulty_server)


def at_once(client: ThreadClient, use: Callable[[int], Any], users: int = 4) -> list[Any]:
    """Let several use a client: threads, or tasks, each of which is a greenlet of its own."""
    if not isinstance(client, TaskClient):
        with concurrent.futures.ThreadPoolExecutor(users) as pool:
            return [*pool.map(use, range(users))]

    async def together() -> list[Any]:
        return await asyncio.gather(*(greenlet_spawn(use, number) for number in range(users)))

    return client.runner.run(together())


def fill(client: ThreadClient, then: Callable[[], Any]) -> Any:
    """Do something while all of a pool's connections are out."""
    held = [client.engine.raw_connection() for _ in range(2)]
    try:
        return then()
    finally:
        for each in held:
            each.close()


@pytest.mark.parametrize("kind", [ThreadClient], ids=["psycopg2"], indirect=True)
def test_wait_in_line_ends_at_the_deadline_and_counts_so(client: ThreadClient) -> None:
    ended: Ended = fill(client, lambda: client.fail(select_one, LIMIT))
    assert ended.was("deadline_exceeded", after=LIMIT)
    metrics = metrics_of(client)
    assert metrics.value("checkout_failures_total", reason="deadline_exceeded") == 1
    assert_gauges_agree(client)


@pytest.mark.parametrize("kind", [ThreadClient], ids=["psycopg2"], indirect=True)
def test_wait_in_line_ends_when_its_limit_is_cancelled(client: ThreadClient) -> None:
    def wait() -> Ended:
        with time_limit(10) as limit:
            threading.Timer(LIMIT, limit.cancel).start()
            return client.fail(select_one)

    ended: Ended = fill(client, wait)
    assert ended.was("cancelled", after=LIMIT)
    metrics = metrics_of(client)
    assert metrics.value("checkout_failures_total", reason="cancelled") == 1
    assert metrics.timeouts == 0
    assert_gauges_agree(client)


@pytest.mark.parametrize("kind", [TaskClient], ids=["asyncpg"], indirect=True)
@pytest.mark.parametrize("how", ["deadline_exceeded", "cancelled"])
def test_wait_of_a_task_in_line_ends_with_its_limit(client: ThreadClient, how: str) -> None:
    assert isinstance(client, TaskClient)

    async def wait() -> None:
        async with client.async_engine.connect(), client.async_engine.connect():
            with time_limit(LIMIT if how == "deadline_exceeded" else 10) as limit:
                if how == "cancelled":
                    asyncio.get_running_loop().call_later(LIMIT, limit.cancel)
                start = time.perf_counter()
                with pytest.raises(SQLAlchemyError) as raised:
                    await client.ask_in_loop(select_one)
        assert Ended(classify(raised.value), time.perf_counter() - start).was(how, after=LIMIT)

    client.runner.run(wait())
    metrics = metrics_of(client)
    assert metrics.value("checkout_failures_total", reason=how) == 1
    assert metrics.timeouts == (how == "deadline_exceeded")
    assert_gauges_agree(client)


@pytest.mark.parametrize("kind", [TaskClient], ids=["asyncpg"], indirect=True)
def test_other_tasks_go_on_while_one_waits_for_a_server_that_hangs(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    assert isinstance(client, TaskClient)

    async def ask() -> int:
        with faulty_server.paused():
            asking = asyncio.create_task(client.ask_in_loop(select_one, 2))
            turns = 0
            while not asking.done():
                await asyncio.sleep(0.01)
                turns += 1
            assert isinstance(asking.exception(), SQLAlchemyError)
        return turns

    assert client.runner.run(ask()) > 10
    assert_recovers(client, faulty_server)


@pytest.mark.parametrize("kind", [TaskClient], ids=["asyncpg"], indirect=True)
def test_task_that_is_cancelled_while_the_server_hangs_leaves_nothing(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    assert isinstance(client, TaskClient)

    async def ask() -> float:
        with faulty_server.paused():
            asking = asyncio.create_task(client.ask_in_loop(select_one, 10))
            await asyncio.sleep(0.1)
            start = time.perf_counter()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            return time.perf_counter() - start

    assert client.runner.run(ask()) < SLACK
    assert_recovers(client, faulty_server)


@pytest.mark.parametrize("kind", [ThreadClient], ids=["psycopg2"], indirect=True)
def test_two_phases_on_a_server_that_hangs_end_at_their_deadline(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    def begin(connection: Connection) -> None:
        connection.commit()
        connection.begin_twophase()

    ended = hang_within(client, faulty_server, begin)
    assert ended.was("deadline_exceeded", after=LIMIT)
    assert_recovers(client, faulty_server)


@pytest.mark.parametrize("kind", [ThreadClient], ids=["psycopg2"], indirect=True)
def test_limit_reaches_a_thread_that_has_a_copy_of_the_context(client: ThreadClient) -> None:
    ended: list[Ended] = []
    with time_limit(LIMIT):
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(lambda: ended.append(client.fail(sleep(20))),)
        )
        thread.start()
        thread.join()
    assert ended[0].was("deadline_exceeded", after=LIMIT)


@pytest.mark.parametrize("kind", [ThreadClient], ids=["psycopg2"], indirect=True)
def test_forked_child_has_a_watchdog_of_its_own(
    client: ThreadClient, faulty_server: PostgresServer
) -> None:
    assert client.fail(sleep(20), LIMIT).was("deadline_exceeded", after=LIMIT)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child = ThreadClient(faulty_server.url(), "child")
            child.fail(sleep(20), LIMIT).was("deadline_exceeded", after=LIMIT)
            child.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert client.fail(sleep(20), LIMIT).was("deadline_exceeded", after=LIMIT)


@pytest.mark.parametrize("kind", [ThreadClient], ids=["psycopg2"], indirect=True)
def test_descriptor_that_became_anothers_is_left_alone(client: ThreadClient) -> None:
    ours, theirs = socket.socketpair()
    connection: Any = client.engine.raw_connection().driver_connection
    with ours, theirs:
        original = os.dup(connection.fileno())
        os.dup2(ours.fileno(), connection.fileno())
        try:
            DRIVERS["psycopg2"].cut(connection)
            ours.sendall(b"still here")
            assert theirs.recv(100) == b"still here"
        finally:
            os.dup2(original, connection.fileno())
            os.close(original)
    connection.cursor().execute("SELECT 1")
    connection.close()


def test_connections_by_tls_are_cut_as_well(
    make_client: MakeClient, faulty_server: PostgresServer, tmp_path: Path
) -> None:
    with tls_front(tmp_path, faulty_server.port) as port:
        url = f"postgresql://postgres:x@127.0.0.1:{port}/postgres?sslmode=require"
        client = make_client(url, pool_size=2, connect_timeout=3)
        assert client.ask(select_one) == 1
        for work in (select_one, lambda connection: connection.commit()):
            ended = hang_within(client, faulty_server, work)
            assert ended.was("deadline_exceeded", after=LIMIT)
            assert client.ask(select_one, 10) == 1
        assert client.fail(sleep(20), LIMIT).was("deadline_exceeded", after=LIMIT)
        assert_recovers(client, faulty_server)


ENDLESS: Final = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n"


@pytest.mark.parametrize("kind", [ThreadClient, TaskClient], ids=["sqlite3", "aiosqlite"])
@pytest.mark.parametrize("what", ["max(i)", "i"], ids=["execute", "fetch"])
def test_sqlite_is_interrupted_and_its_connection_stays(
    kind: type[ThreadClient], what: str, tmp_path: Path, pool_name: str
) -> None:
    client = kind(f"sqlite:///{tmp_path / 'test.db'}", pool_name)
    statement = text(ENDLESS.format(what) + (" WHERE i % 3 = 4" if what == "i" else ""))

    def ask(connection: Connection) -> Any:
        connection.execute(text("CREATE TABLE t (i INTEGER)"))
        connection.commit()
        with time_limit(LIMIT), pytest.raises(SQLAlchemyError) as raised:
            connection.execute(statement).fetchall()
        assert isinstance(classify(raised.value), DeadlineExceeded)
        connection.rollback()
        connection.execute(text("INSERT INTO t VALUES (1)"))
        connection.commit()
        return connection.scalar(text("SELECT count(*) FROM t"))

    start = time.perf_counter()
    assert client.ask(ask) == 1
    assert time.perf_counter() - start < LIMIT + SLACK
    assert PoolMetrics(pool_name).closed("error") == 0
    client.close()


@pytest.mark.parametrize("kind", [ThreadClient, TaskClient], ids=["sqlite3", "aiosqlite"])
def test_wait_for_another_writer_of_sqlite_ends_at_the_deadline(
    kind: type[ThreadClient], tmp_path: Path, pool_name: str
) -> None:
    client = kind(f"sqlite:///{tmp_path / 'test.db'}", pool_name)
    query = text("PRAGMA busy_timeout")
    assert client.ask(select_one) == 1
    with contextlib.closing(sqlite3.connect(tmp_path / "test.db")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        ended = client.fail(lambda connection: connection.begin(), LIMIT)
        assert ended.failure is not None
        assert ended.failure.reason in ("deadline_exceeded", "lock_not_available")
        assert LIMIT * 0.9 < ended.seconds < LIMIT + SLACK
        writer.rollback()
    assert client.ask(lambda connection: connection.scalar(query), LIMIT) == 5000
    assert PoolMetrics(pool_name).closed("error") == 0
    client.close()


@pytest.mark.parametrize("statement_timeout", [15, 20])
def test_statement_timeout_has_to_come_before_the_deadline(statement_timeout: float) -> None:
    with pytest.raises(SettingsError) as raised:
        DatabaseSettings.load(statement_timeout=statement_timeout)
    message = str(raised.value)
    assert message.startswith("DATABASE_STATEMENT_TIMEOUT: lower it below DATABASE_QUERY_DEADLINE")
    assert "\n" not in message
    settings = DatabaseSettings.load(statement_timeout=statement_timeout, query_deadline=30)
    assert settings.statement_timeout == statement_timeout


@pytest.mark.parametrize("kind", [ThreadClient], ids=["psycopg2"], indirect=True)
def test_limit_is_cancelled_while_another_thread_is_in_the_pools_line(client: ThreadClient) -> None:
    """That thread may be waiting for the watchdog, to roll back a connection that was collected."""
    pool: Any = client.engine.pool

    def wait() -> Ended:
        with time_limit(60) as limit, concurrent.futures.ThreadPoolExecutor() as others:
            waiting = others.submit(contextvars.copy_context().run, client.fail, select_one)
            eventually(lambda: pool.queue.waiting == 1)
            with pool.queue._lock:  # noqa: SLF001 - what the collector may interrupt
                others.submit(limit.cancel).result(10)
            return waiting.result(10)

    ended: Ended = fill(client, wait)
    assert isinstance(ended.failure, Cancelled)
    assert_gauges_agree(client)

"""The health of a real database that stops, hangs and recovers."""

import concurrent.futures
import gc
import json
import logging
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Connection, Engine, text

from service.database import DatabaseSettings, check_database_health, create_db_engine, process
from service.database.asking import OverdueError, ask
from service.database.failures import DatabaseFailure
from tests.database.conftest import MakeEngine
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer

DEADLINE: Final = 0.3
# For a thread to be scheduled on a machine that has much else to do.
SLACK: Final = 1.5
REASONS: Final = {*(kind.reason for kind in DatabaseFailure.__subclasses__()), "error"}


def waiting() -> list[threading.Thread]:
    """The threads that wait for a server."""
    return [thread for thread in threading.enumerate() if thread.name == "database-connect"]


def assert_healthy(answer: dict[str, Any], within: float) -> None:
    """Check every word of a good answer."""
    latency = answer.pop("latency_seconds")
    assert isinstance(latency, float)
    assert 0 < latency <= within
    assert answer == {"status": "healthy", "database": "connected"}


def assert_unhealthy(answer: dict[str, Any], reason: str, within: float) -> None:
    """Check every word of a bad answer, so that there is no room for another one."""
    latency = answer.pop("latency_seconds")
    assert isinstance(latency, float)
    assert 0 < latency <= within
    assert reason in REASONS
    assert answer == {"status": "unhealthy", "database": "unreachable", "reason": reason}


def is_healthy(engine: Engine) -> bool:
    """Whether a database counts as healthy."""
    return bool(check_database_health(engine, timeout=DEADLINE)["status"] == "healthy")


@pytest.fixture
def engine(faulty_server: PostgresServer, make_engine: MakeEngine) -> Engine:
    engine = make_engine(faulty_server.url(), pool_name="health", connect_timeout=2)
    eventually(lambda: is_healthy(engine))
    return engine


def test_database_that_answers_is_healthy(configured: DatabaseSettings) -> None:
    engine = create_db_engine(settings=configured, pool_name="health")
    assert_healthy(check_database_health(engine), within=2)
    assert_healthy(check_database_health(engine, timeout=10), within=10)
    engine.dispose()


def test_process_engine_is_asked_when_none_is_given(configured: DatabaseSettings) -> None:
    del configured
    assert_healthy(check_database_health(), within=2)
    assert "Connections in pool: 1" in process.engine.pool.status()


def test_process_engine_that_nobody_answers_is_unhealthy(faulty_server: PostgresServer) -> None:
    process.configure(DatabaseSettings(url=faulty_server.url("missing")))
    try:
        assert_unhealthy(check_database_health(), "database_missing", within=2)
    finally:
        process.configure(None)


def test_answer_is_fit_for_json(faulty_server: PostgresServer, engine: Engine) -> None:
    del faulty_server
    answer = check_database_health(engine)
    assert json.loads(json.dumps(answer)) == answer


def test_server_that_stopped_is_lost_and_found_again(
    faulty_server: PostgresServer, engine: Engine
) -> None:
    faulty_server.stop()
    for _ in range(3):
        assert_unhealthy(check_database_health(engine, timeout=2), "connection_lost", within=5)
    faulty_server.start()
    eventually(lambda: is_healthy(engine))
    eventually(lambda: waiting() == [])


def test_server_that_was_killed_is_lost_and_found_again(
    faulty_server: PostgresServer, engine: Engine
) -> None:
    faulty_server.kill()
    assert_unhealthy(check_database_health(engine, timeout=2), "connection_lost", within=5)
    faulty_server.start()
    eventually(lambda: is_healthy(engine))


def test_server_that_hangs_is_told_within_the_deadline(
    faulty_server: PostgresServer, engine: Engine
) -> None:
    with faulty_server.paused():
        start = time.perf_counter()
        answer = check_database_health(engine, timeout=DEADLINE)
        assert time.perf_counter() - start < DEADLINE + SLACK
    assert_unhealthy(answer, "deadline_exceeded", within=DEADLINE + SLACK)
    eventually(lambda: is_healthy(engine))


def test_server_that_hangs_keeps_nothing_however_often_it_is_asked(
    faulty_server: PostgresServer, engine: Engine
) -> None:
    with faulty_server.paused(), concurrent.futures.ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(check_database_health, engine, timeout=DEADLINE) for _ in range(24)]
        for each in asked:
            assert_unhealthy(each.result(), "deadline_exceeded", within=DEADLINE + SLACK)
    pool: Any = engine.pool
    assert pool.checkedout() == 0
    eventually(lambda: is_healthy(engine))
    eventually(lambda: not waiting())


def test_server_that_hangs_while_connecting_is_told_within_the_deadline(
    faulty_server: PostgresServer, make_engine: MakeEngine
) -> None:
    engine = make_engine(faulty_server.url(), pool_name="health", connect_timeout=2)
    with faulty_server.paused():
        answer = check_database_health(engine, timeout=DEADLINE)
        assert_unhealthy(answer, "deadline_exceeded", within=DEADLINE + SLACK)
        # The driver's own limit ends the attempt that was left alone.
        assert len(waiting()) == 1
        eventually(lambda: not waiting(), within=4)
    eventually(lambda: is_healthy(engine))


def test_questions_of_two_engines_do_not_wait_for_each_other(
    faulty_server: PostgresServer, engine: Engine, make_engine: MakeEngine, kit_url: str
) -> None:
    other = make_engine(kit_url, pool_name="other")
    with faulty_server.paused():
        check_database_health(engine, timeout=DEADLINE)
        assert_healthy(check_database_health(other), within=2)
    eventually(lambda: is_healthy(engine))


def test_database_that_many_ask_about_at_once_is_healthy_for_all(engine: Engine) -> None:
    together = threading.Barrier(8, timeout=10)

    def check(_: int) -> str:
        together.wait()
        status: str = check_database_health(engine, timeout=5)["status"]
        return status

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert [*threads.map(check, range(8))] == ["healthy"] * 8


@pytest.mark.parametrize(
    ("pool_timeout", "reason"),
    [(0.05, "pool_timeout"), (30, "deadline_exceeded")],
    ids=["sooner", "later"],
)
def test_full_pool_is_told_as_such(
    make_engine: MakeEngine, kit_url: str, pool_timeout: float, reason: str
) -> None:
    engine = make_engine(
        kit_url, pool_name="full", pool_size=1, max_overflow=0, pool_timeout=pool_timeout
    )
    with engine.connect():
        answer = check_database_health(engine, timeout=DEADLINE)
        assert_unhealthy(answer, reason, within=DEADLINE + SLACK)
    eventually(lambda: is_healthy(engine))


@pytest.mark.parametrize(
    ("database", "reason"), [("postgres", "authentication_failed"), ("walrus", "database_missing")]
)
def test_why_goes_to_the_log_and_a_word_to_the_reader(
    faulty_server: PostgresServer,
    make_engine: MakeEngine,
    caplog: pytest.LogCaptureFixture,
    database: str,
    reason: str,
) -> None:
    user = "postgres" if database == "walrus" else "walrus_user"
    url = f"postgresql://{user}:walrus-password@127.0.0.1:{faulty_server.port}/{database}"
    with caplog.at_level(logging.WARNING, "service.database.health"):
        answer = check_database_health(make_engine(url, pool_name="refused"))
    assert_unhealthy(answer, reason, within=2)
    [record] = caplog.records
    assert "does not exist" in record.getMessage()
    assert "walrus-password" not in record.getMessage()


def test_sqlite_file_is_healthy_and_one_that_is_no_database_is_not(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    good = make_engine(f"sqlite:///{tmp_path / 'good.db'}")
    assert_healthy(check_database_health(good), within=2)
    (tmp_path / "bad.db").write_bytes(b"walrus" * 1000)
    bad = make_engine(f"sqlite:///{tmp_path / 'bad.db'}")
    assert_unhealthy(check_database_health(bad), "connection_lost", within=5)
    missing = make_engine(f"sqlite:///{tmp_path / 'missing' / 'walrus.db'}")
    assert_unhealthy(check_database_health(missing), "connection_lost", within=5)


def test_sqlite_file_is_healthy_while_somebody_writes(
    make_engine: MakeEngine, sqlite_url: str
) -> None:
    engine = make_engine(sqlite_url)
    with engine.begin() as writing:
        writing.execute(text("DELETE FROM products"))
        assert_healthy(check_database_health(engine, timeout=2), 1)


def test_sqlite_in_memory_is_healthy(make_engine: MakeEngine) -> None:
    assert_healthy(check_database_health(make_engine("sqlite:///:memory:")), within=2)


def test_answer_and_error_of_a_question_reach_whoever_asked(
    make_engine: MakeEngine, kit_url: str
) -> None:
    engine = make_engine(kit_url)
    assert ask(engine, lambda one: one.scalar(text("SELECT 42")), timeout=5) == 42
    assert ask(engine, lambda one: None, timeout=5) is None  # noqa: ARG005 - asks nothing

    def fail(connection: Connection) -> None:
        raise KeyError(str(connection.closed))

    with pytest.raises(KeyError, match="False"):
        ask(engine, fail, timeout=5)


def test_health_can_be_asked_something_else_and_tells_the_error_to_the_caller(
    make_engine: MakeEngine, kit_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(kit_url)
    told: list[str] = []
    asked = check_database_health(engine, question=_ask_for_walrus, report=told.append)
    assert_unhealthy(asked, "schema_mismatch", within=2)
    (error,) = told
    assert "walrus" in error
    assert caplog.records == []
    assert_healthy(check_database_health(engine, question=lambda one: one, report=told.append), 2)
    assert told == [error]


def _ask_for_walrus(connection: Connection) -> None:
    connection.execute(text("SELECT 1 FROM walrus"))


def test_overdue_question_is_a_timeout(make_engine: MakeEngine, kit_url: str) -> None:
    engine = make_engine(kit_url)
    with pytest.raises(OverdueError) as raised:
        ask(engine, lambda one: one.execute(text("SELECT pg_sleep(5)")), timeout=0.05)
    assert isinstance(raised.value, TimeoutError)


def test_engine_that_was_asked_is_not_kept_alive(kit_url: str) -> None:
    engine = create_db_engine(kit_url, settings=DatabaseSettings(url=kit_url), pool_name="gone")
    assert is_healthy(engine)
    engine.dispose()
    forgotten = weakref.ref(engine)
    del engine

    def is_gone() -> bool:
        gc.collect()
        return forgotten() is None

    eventually(is_gone)

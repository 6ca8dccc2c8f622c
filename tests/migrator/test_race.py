"""Runners that start together, and runners that are killed: each revision is applied once."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg2
import pytest
from sqlalchemy import Engine, inspect, text

from service.migrator.errors import MigrationError
from service.migrator.events import Event
from service.migrator.lock import LOCK_KEY
from tests.migrator.histories import ADD, CREATE, History, Result, finish, named, read_until
from tests.support.polling import eventually
from tests.support.postgres import execute

# As three of the catalog's: a column, a concurrent index, a batched backfill.
_INDEX: Final = 'create_index_concurrently("ix_things_size", "things", ["size"])'
_FILL: Final = """
    things = sa.table("things", sa.column("id"), sa.column("size"))
    backfill(
        things, key="id", values={"size": things.c.id + 1}, where=things.c.size.is_(None), batch=200
    )
"""
# When the lock of a killed runner has to be free. The promise is 3 s (docs/migrations.md has what
# was measured); the rest is for a machine that has other things to do.
_FREE_SECONDS: Final = 3 + 27


def eight(history: History, url: str) -> list[Result]:
    def one(_: int) -> Result:
        return history.command(url, "up", "--wait", "240")

    with concurrent.futures.ThreadPoolExecutor(8) as runners:
        return [*runners.map(one, range(8))]


def applied_once(results: list[Result], names: list[str]) -> None:
    assert [result.code for result in results] == [0] * len(results), [
        result.errors for result in results
    ]
    ends = [event["revision"] for one in results for event in named(one.events, "revision_end")]
    assert ends == names
    # One worked on it at a time: a single plan has something in it.
    plans = [event for one in results for event in named(one.events, "plan") if event["revisions"]]
    assert len(plans) == 1


def test_eight_at_once_on_an_empty_database(
    history: History, empty_url: str, engine: Engine
) -> None:
    history.add("a1", CREATE)
    history.add("a2", ADD)
    history.add("a3", _INDEX)
    applied_once(eight(history, empty_url), ["a1", "a2", "a3"])
    assert [index["name"] for index in inspect(engine).get_indexes("things")] == ["ix_things_size"]


def test_eight_at_once_on_a_database_with_rows(
    history: History, empty_url: str, engine: Engine
) -> None:
    history.add("a1", CREATE)
    history.runner(empty_url).up()
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO things (id) VALUES (:id)"), [{"id": i} for i in range(1, 1001)]
        )
    history.add("a2", ADD)
    history.add("a3", _INDEX)
    history.add("a4", _FILL)
    applied_once(eight(history, empty_url), ["a2", "a3", "a4"])
    with engine.connect() as connection:
        filled = connection.scalar(text("SELECT count(*) FROM things WHERE size = id + 1"))
    assert filled == 1000


def test_another_finishes_what_a_killed_runner_began(
    history: History, empty_postgres_url: str, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.touch()
    history.add("a1", CREATE)
    # For longer than the second one waits: only the end of the first one's session lets it in.
    wait = f"if os.path.exists({str(slow)!r}): op.execute('SELECT pg_sleep(600)')"
    history.add("a2", f"{ADD}\n{wait}", more="statement_timeout = 700")
    first = history.start(empty_postgres_url, "up")
    with observer(empty_postgres_url) as ask:
        eventually(lambda: ask(_RUNNING, "%pg_sleep(600)%"), within=60)
        (process,) = ask(_RUNNING, "%pg_sleep(600)%")
        second = history.start(empty_postgres_url, "up")
        # The one that works is named to the one that waits.
        assert f'"number": {process}' in read_until(second, "lock_wait")
        slow.unlink()
        killed = datetime.now(UTC)
        first.kill()
        first.communicate()
        # The server's process sleeps on, and has the lock, until it looks whether anybody is there.
        result = finish(second)
        assert not ask(_RUNNING, "%pg_sleep(600)%")
    applied_once([result], ["a2"])
    (acquired,) = named(result.events, "lock_acquired")
    waited = datetime.fromisoformat(acquired["timestamp"]) - killed
    assert waited.total_seconds() < _FREE_SECONDS


def test_index_that_a_killed_runner_left_is_built_anew(
    history: History, empty_postgres_url: str
) -> None:
    history.add("a1", f"{CREATE}\n{ADD}")
    history.runner(empty_postgres_url).up()
    history.add("a2", _INDEX)
    with (
        observer(empty_postgres_url) as ask,
        contextlib.closing(psycopg2.connect(empty_postgres_url)) as reader,
    ):
        # The build waits for a snapshot that is older than it, beyond any lock timeout.
        reader.set_session("REPEATABLE READ")
        with reader.cursor() as cursor:
            cursor.execute("SELECT * FROM things")
        first = history.start(empty_postgres_url, "up", MIGRATE_LOCK_TIMEOUT="0.1")
        assert f'"number": {reader.info.backend_pid}' in read_until(first, "blocked")
        assert ask(_WAITING)
        assert ask(_VALID) == [False]
        first.kill()
        first.communicate()
        eventually(lambda: ask(_LOCK_IS_FREE, LOCK_KEY), within=_FREE_SECONDS)
        reader.rollback()
        assert ask(_VALID) == [False]
        told: list[Event] = []
        history.runner(empty_postgres_url, told=told).up()
        assert [event["index"] for event in named(told, "invalid_index_dropped")] == [
            "ix_things_size"
        ]
        assert ask(_VALID) == [True]


def test_index_that_cannot_be_built_is_an_error_and_the_next_run_mends_it(
    history: History, empty_postgres_url: str
) -> None:
    history.add("a1", f"{CREATE}\n{ADD}")
    history.runner(empty_postgres_url).up()
    execute(empty_postgres_url, "INSERT INTO things VALUES (1, 7), (2, 7)")
    history.add("a2", _INDEX.replace("])", "], unique=True)"))
    runner = history.runner(empty_postgres_url)
    with pytest.raises(MigrationError, match="could not create unique index"):
        runner.up()
    with observer(empty_postgres_url) as ask:
        assert ask(_VALID) == [False]
        execute(empty_postgres_url, "UPDATE things SET size = id")
        runner.up()
        assert ask(_VALID) == [True]
        # A run that was killed between the build and its note finds it, and builds nothing.
        execute(empty_postgres_url, "UPDATE alembic_version SET version_num = 'a1'")
        built = ask("SELECT 'ix_things_size'::regclass::oid::int")
        runner.up()
        assert ask("SELECT 'ix_things_size'::regclass::oid::int") == built


def test_other_index_of_that_name_is_not_taken_for_it(history: History, empty_url: str) -> None:
    history.add("a1", f"{CREATE}\n{ADD}\nop.create_index('ix_things_size', 'things', ['id'])")
    history.add("a2", _INDEX)
    with pytest.raises(MigrationError, match="ix_things_size"):
        history.runner(empty_url).up()


_LOCK_IS_FREE: Final = """
    SELECT true WHERE NOT EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND classid::bigint << 32 | objid::bigint = %s
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
"""
_RUNNING: Final = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()
      AND query LIKE %s
"""
_WAITING: Final = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'CREATE INDEX%'
"""
_VALID: Final = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix_things_size')"


@contextmanager
def observer(url: str) -> Iterator[Callable[..., list[Any]]]:
    """Asks the database, outside of any transaction; gives the first column."""
    connection = psycopg2.connect(url)
    connection.autocommit = True

    def ask(query: str, *values: str | int) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(query, values or None)
            return [row[0] for row in cursor.fetchall()]

    try:
        yield ask
    finally:
        connection.close()

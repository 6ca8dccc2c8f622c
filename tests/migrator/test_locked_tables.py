"""Others hold a table: the runner tries again, names them, and is in nobody's way for long."""

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg2
import pytest
from sqlalchemy import Engine, inspect, text

from service.database import create_db_engine
from service.migrator.errors import LockRetriesError
from service.migrator.events import Event
from service.migrator.history import HISTORY_TABLE
from tests.migrator.histories import ADD, CREATE, History, named
from tests.support.polling import eventually

_LOCK_TIMEOUT: Final = 0.5
_ATTEMPTS: Final = 3


@contextmanager
def held_table(url: str) -> Iterator[Engine]:
    """A transaction that has read the table, and stays open."""
    engine = create_db_engine(url, pool_name="report", connect_args=_named(url))
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Its lock is one for the whole file, and is taken at the start.
            connection.execute(text("INSERT INTO things VALUES (1)"))
        connection.execute(text("SELECT 'secret-word' FROM things"))
        yield engine
        connection.rollback()
    engine.dispose()


def _named(url: str) -> dict[str, str]:
    return {"application_name": "nightly-report"} if url.startswith("postgresql") else {}


@pytest.fixture
def pending(history: History, empty_url: str) -> History:
    """The table is there, a column is to come."""
    history.add("a1", CREATE)
    history.runner(empty_url).up()
    history.add("a2", ADD)
    return history


def columns(engine: Engine) -> list[str]:
    return [column["name"] for column in inspect(engine).get_columns("things")]


def test_runner_gives_up_with_12_and_names_who_holds_the_table(
    pending: History, empty_url: str, engine: Engine
) -> None:
    told: list[Event] = []
    # A budget that no slow first attempt uses up: nothing would be told then.
    runner = pending.runner(empty_url, told=told, lock_timeout=2, lock_budget=8)
    # Nobody lets the table go before it gives up.
    with held_table(empty_url), pytest.raises(LockRetriesError) as given_up:
        runner.up()
    assert int(given_up.value.exit_code) == 12
    retries = named(told, "lock_retry")
    assert len(retries) >= 1
    # Nothing of it is there, and the next run goes on from here.
    assert columns(engine) == ["id"]
    if engine.dialect.name != "sqlite":
        (blocker,) = retries[-1]["blockers"]
        assert blocker["number"] > 0
        assert blocker["transaction_start"] is not None
        is_postgres = engine.dialect.name == "postgresql"
        name = "nightly-report" if is_postgres else "root@"
        assert name in blocker["application_name"]
        assert name in str(given_up.value)
        assert not is_postgres or blocker["query_start"] is not None
    assert "secret-word" not in f"{told}{given_up.value}"
    runner.up()
    assert columns(engine) == ["id", "size"]


def test_runner_goes_on_when_the_table_is_let_go(
    pending: History, empty_url: str, engine: Engine
) -> None:
    held = contextlib.ExitStack()
    told: list[Event] = []

    def tell(event: Event) -> None:
        if event["event"] == "lock_retry":
            held.close()

    runner = pending.runner(empty_url, told=told, lock_timeout=_LOCK_TIMEOUT, lock_budget=30)
    runner.events.add(tell)
    with held:
        held.enter_context(held_table(empty_url))
        runner.up()
    assert columns(engine) == ["id", "size"]
    assert len(named(told, "revision_end")) == 1
    assert len(named(told, "lock_retry")) >= 1


class Reader(threading.Thread):
    """Reads the table all the time, and notes the longest time that took."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.is_over = threading.Event()
        self.longest = 0.0
        self.reads = 0

    def run(self) -> None:
        with contextlib.closing(psycopg2.connect(self._url)) as connection:
            connection.autocommit = True
            while not self.is_over.is_set():
                start = time.monotonic()
                with connection.cursor() as cursor:
                    cursor.execute("SELECT * FROM things")
                self.longest = max(self.longest, time.monotonic() - start)
                self.reads += 1
                time.sleep(0.005)


def test_readers_wait_behind_an_attempt_and_no_longer(
    history: History, empty_postgres_url: str
) -> None:
    history.add("a1", CREATE)
    history.runner(empty_postgres_url).up()
    history.add("a2", ADD)
    runner = history.runner(empty_postgres_url, lock_timeout=_LOCK_TIMEOUT, lock_budget=600)
    readers = [Reader(empty_postgres_url) for _ in range(3)]
    held = contextlib.ExitStack()
    attempts: list[Event] = []

    def tell(event: Event) -> None:
        if event["event"] != "lock_retry":
            return
        # The table is held as before, and nobody is in the queue any more.
        before = [reader.reads for reader in readers]
        eventually(
            lambda: all(now.reads > then + 7 for now, then in zip(readers, before, strict=True)),
            within=60,
        )
        attempts.append(event)
        if len(attempts) == _ATTEMPTS:
            held.close()

    runner.events.add(tell)
    with held:
        held.enter_context(held_table(empty_postgres_url))
        for reader in readers:
            reader.start()
        eventually(lambda: all(reader.reads for reader in readers), within=60)
        runner.up()
    for reader in readers:
        reader.is_over.set()
        reader.join()
    assert len(attempts) == _ATTEMPTS
    # They do wait behind the ALTER in the queue: otherwise this would show nothing. For how long is
    # in docs/migrations.md, by the clock of a machine that has nothing else to do.
    assert max(reader.longest for reader in readers) > _LOCK_TIMEOUT / 2


def test_revision_has_timeouts_of_its_own(history: History, empty_url: str, engine: Engine) -> None:
    history.add("a1", CREATE)
    history.runner(empty_url).up()
    history.add("a2", ADD, more="lock_timeout = 0.2\nstatement_timeout = 7\n")
    told: list[Event] = []
    runner = history.runner(empty_url, told=told, lock_timeout=60, lock_budget=0)
    with held_table(empty_url), pytest.raises(LockRetriesError):
        start = time.monotonic()
        runner.up()
    assert time.monotonic() - start < 45
    (begun,) = named(told, "revision_start")
    assert (begun["lock_timeout"], begun["statement_timeout"]) == (0.2, 7)
    assert HISTORY_TABLE in inspect(engine).get_table_names()

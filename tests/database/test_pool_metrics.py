"""The pool metrics tell the truth, whatever happens to a connection."""

import asyncio
import gc
import math
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, exc, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool, PoolProxiedConnection, QueuePool, StaticPool

from service.database import (
    DatabaseSettings,
    create_async_db_engine,
    create_db_engine,
    instrument,
    process,
)
from service.database.pool_events import follower_of
from service.database.pool_metrics import ROUTE_USE, USE_TIME, flush_observations
from tests.database.conftest import MakeEngine, MakePool
from tests.database.pools import PoolMetrics, ServerView, WatchedPool, pool_of
from tests.support.collector import without_collector
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer


def session_number(connection: Connection | PoolProxiedConnection) -> int:
    """Which of the server's sessions a connection is."""
    if isinstance(connection, Connection):
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
    cursor = connection.cursor()
    cursor.execute("SELECT pg_backend_pid()")
    row = cursor.fetchone()
    cursor.close()
    assert row is not None
    return int(row[0])


class Held:
    """A thread that does one thing, and what became of it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def join(self, seconds: float = 20.0) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the thread hangs"
        if self.error is not None:
            raise self.error


# What happens to a healthy connection.


def test_fresh_pool_has_no_connection_and_tells_its_limits(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=3, max_overflow=4)
    pool.assert_true(used=0, idle=0)
    assert pool.pending == 0
    assert pool.value("max") == 7
    assert pool.value("idle_max") == 3


def test_checkout_and_checkin_move_a_connection_between_used_and_idle(make_pool: MakePool) -> None:
    pool = make_pool()
    with pool.engine.connect():
        pool.assert_true(used=1, idle=0)
    pool.assert_true(used=0, idle=1)
    with pool.engine.connect(), pool.engine.connect():
        pool.assert_true(used=2, idle=0)
    pool.assert_true(used=0, idle=2)
    assert (pool.waits, pool.uses, pool.created) == (3, 3, 2)
    assert pool.pending == 0


def test_raw_connection_counts_as_any_other(make_pool: MakePool) -> None:
    pool = make_pool()
    connection = pool.engine.raw_connection()
    pool.assert_true(used=1, idle=0)
    connection.close()
    pool.assert_true(used=0, idle=1)


def test_overflow_is_closed_on_return(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=1, max_overflow=2)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(pool.engine.connect())
        pool.assert_true(used=3, idle=0)
    pool.assert_true(used=0, idle=1)
    assert pool.closed("released") == 2


def test_hard_invalidated_connection_is_gone(make_pool: MakePool) -> None:
    pool = make_pool()
    with pool.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        connection.invalidate()
        pool.assert_true(used=0, idle=0)
    pool.assert_true(used=0, idle=0)
    assert pool.closed("invalidated") == 1
    assert pool.closed("released") == 0
    assert pool.uses == 1
    with pool.engine.connect():
        pool.assert_true(used=1, idle=0)
    pool.assert_true(used=0, idle=1)


def test_connection_invalidated_by_an_error_is_told_apart(make_pool: MakePool) -> None:
    pool = make_pool()
    with pool.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        pool.end_sessions()
        with pytest.raises(exc.OperationalError):
            connection.execute(text("SELECT 1"))
        pool.assert_true(used=0, idle=0)
    pool.assert_true(used=0, idle=0)
    assert pool.closed("error") == 1


def test_soft_invalidated_connection_is_replaced_at_the_next_checkout(make_pool: MakePool) -> None:
    pool = make_pool()
    connection = pool.engine.raw_connection()
    former = session_number(connection)
    connection.invalidate(soft=True)
    pool.assert_true(used=1, idle=0)
    connection.close()
    pool.assert_true(used=0, idle=1)
    with pool.engine.connect() as other:
        assert session_number(other) != former
        pool.assert_true(used=1, idle=0)
    pool.assert_true(used=0, idle=1)
    assert (pool.created, pool.closed("recycled")) == (2, 1)


def test_detached_connection_leaves_the_counts_and_stays_open(make_pool: MakePool) -> None:
    pool = make_pool()
    with pool.engine.connect() as connection:
        connection.detach()
        pool.assert_true(used=0, idle=0, elsewhere=1)
        assert pool.closed("detached") == 1
        assert pool.uses == 1
    pool.assert_true(used=0, idle=0)
    with pool.engine.connect():
        pool.assert_true(used=1, idle=0)


def test_detached_overflow_leaves_the_counts(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=1, max_overflow=1)
    with pool.engine.connect(), pool.engine.connect() as overflow:
        overflow.detach()
        pool.assert_true(used=1, idle=0, elsewhere=1)
    pool.assert_true(used=0, idle=1)


def test_dispose_closes_what_is_idle(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=3)
    with pool.engine.connect(), pool.engine.connect():
        pass
    pool.assert_true(used=0, idle=2)
    pool.engine.dispose()
    pool.assert_true(used=0, idle=0)
    assert pool.closed("disposed") == 2
    assert pool.value("max") == 8
    with pool.engine.connect():
        pool.assert_true(used=1, idle=0)
    pool.assert_true(used=0, idle=1)


def test_connection_that_is_out_over_a_dispose_belongs_to_the_former_pool(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    with pool.engine.connect() as out:
        number = session_number(out)
        pool.engine.dispose()
        pool.assert_true(used=0, idle=0, elsewhere=1)
        with pool.engine.connect():
            pool.assert_true(used=1, idle=0, elsewhere=1)
        pool.assert_true(used=0, idle=1, elsewhere=1)
    # The former pool has no use for it.
    pool.assert_true(used=0, idle=1)
    assert number not in pool.sessions()
    assert pool.closed("disposed") == 1


def test_dispose_with_connections_out_can_be_repeated(make_pool: MakePool) -> None:
    pool = make_pool()
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(pool.engine.connect())
            pool.engine.dispose()
            assert (pool.used, pool.idle) == (0, 0)
    assert (pool.used, pool.idle) == (0, 0)
    gc.collect()
    pool.assert_true(used=0, idle=0)


def test_recreated_pool_is_measured_as_the_first_was(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=1, max_overflow=0, pool_timeout=0.05)
    for _ in range(2):
        pool.engine.dispose()
    with pool.engine.connect(), pytest.raises(exc.TimeoutError):
        pool.engine.connect()
    assert (pool.timeouts, pool.waits) == (1, 2)
    pool.assert_true(used=0, idle=1)


def test_connection_past_its_lifetime_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool(pool_max_lifetime=60)
    with pool.engine.connect() as connection:
        former = session_number(connection)
        details = connection.info["tidegate.connection"]
    details.expires_at -= 61
    with pool.engine.connect() as connection:
        pool.assert_true(used=1, idle=0)
        assert session_number(connection) != former
    pool.assert_true(used=0, idle=1)
    assert (pool.created, pool.closed("max_lifetime")) == (2, 1)


def test_connection_that_was_collected_returns_to_the_pool(make_pool: MakePool) -> None:
    pool = make_pool()
    forgotten = pool.engine.raw_connection()
    pool.assert_true(used=1, idle=0)
    del forgotten
    gc.collect()
    pool.assert_true(used=0, idle=1)
    assert pool.uses == 1


def test_connections_that_were_out_after_a_fork_of_the_pool_are_not_counted(
    make_pool: MakePool,
) -> None:
    """What `dispose(close=False)` leaves behind belongs to whoever opened it."""
    pool = make_pool()
    with pool.engine.connect():
        pass
    former = pool.engine.pool
    pool.engine.dispose(close=False)
    assert (pool.used, pool.idle) == (0, 0)
    with pool.engine.connect():
        pool.assert_true(used=1, idle=0, elsewhere=1)
    former.dispose()
    pool.assert_true(used=0, idle=1)


# What goes wrong.


def test_full_pool_counts_a_timeout_and_its_wait(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=1, max_overflow=1, pool_timeout=0.2)
    with pool.engine.connect(), pool.engine.connect():
        waited = pool.value("wait_time_seconds_sum")
        short = pool.value("wait_time_seconds_bucket", le="0.1")
        with pytest.raises(exc.TimeoutError):
            pool.engine.connect()
        pool.assert_true(used=2, idle=0)
    assert pool.timeouts == 1
    assert pool.waits == 3
    assert pool.value("wait_time_seconds_sum") - waited >= 0.2
    assert pool.value("wait_time_seconds_bucket", le="0.1") == short
    assert pool.failed("pool_timeout") == 0
    assert pool.pending == 0


def test_checkouts_that_wait_are_pending(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=1, max_overflow=0, pool_timeout=20)

    def wait() -> None:
        with pool.engine.connect():
            pass

    with pool.engine.connect():
        waiters = [Held(wait) for _ in range(3)]
        eventually(lambda: pool.pending == 3)
        pool.assert_true(used=1, idle=0)
    for waiter in waiters:
        waiter.join()
    assert pool.pending == 0
    assert (pool.waits, pool.timeouts) == (4, 0)
    pool.assert_true(used=0, idle=1)


def test_wait_for_a_pool_that_never_opened_a_connection_is_seen(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=1, max_overflow=0, pool_timeout=60)
    pool_of(pool).suspend()
    waiter = Held(lambda: pool.engine.connect().close())
    try:
        eventually(lambda: pool.value("oldest_wait_seconds") > 0, within=30)
    finally:
        pool_of(pool).resume()
    waiter.join()
    pool.assert_true(used=0, idle=1)


def unreachable(make_engine: MakeEngine, url: str, pool_name: str, **settings: Any) -> PoolMetrics:
    """A pool after an attempt to connect that failed."""
    engine = make_engine(url, pool_name=pool_name, **settings)
    with pytest.raises(exc.OperationalError):
        engine.connect()
    metrics = PoolMetrics(pool_name)
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.checkedout() == 0
    assert (metrics.used, metrics.idle, metrics.pending) == (0, 0, 0)
    assert (metrics.waits, metrics.timeouts, metrics.created) == (1, 0, 0)
    return metrics


def test_refused_connection_is_a_create_failure(
    make_engine: MakeEngine, faulty_server: PostgresServer, pool_name: str
) -> None:
    faulty_server.stop()
    try:
        metrics = unreachable(make_engine, faulty_server.url(), pool_name)
    finally:
        faulty_server.start()
    assert metrics.failed("connection_lost") == 1


def test_wrong_password_is_a_create_failure(
    make_engine: MakeEngine, faulty_server: PostgresServer, pool_name: str
) -> None:
    faulty_server.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    faulty_server.ask_for_password("guarded")
    url = faulty_server.url().replace("postgres:not-checked", "guarded:wrong")
    metrics = unreachable(make_engine, url, pool_name)
    assert metrics.failed("authentication_failed") == 1


def test_server_without_room_is_a_create_failure(
    make_engine: MakeEngine, faulty_server: PostgresServer, pool_name: str
) -> None:
    faulty_server.execute("CREATE ROLE crowded LOGIN CONNECTION LIMIT 0")
    url = faulty_server.url().replace("postgres:not-checked", "crowded:not-checked")
    metrics = unreachable(make_engine, url, pool_name)
    assert metrics.failed("too_many_connections") == 1


def test_missing_database_is_a_create_failure(
    make_engine: MakeEngine, faulty_server: PostgresServer, pool_name: str
) -> None:
    metrics = unreachable(make_engine, faulty_server.url("nowhere"), pool_name)
    assert metrics.failed("database_missing") == 1


def test_unreachable_host_is_a_create_failure(make_engine: MakeEngine, pool_name: str) -> None:
    # No name server is asked for one with so long a label.
    url = f"postgresql://user:secret@{'x' * 64}.invalid/name"
    assert unreachable(make_engine, url, pool_name).failed("connection_lost") == 1


def test_restarted_server_costs_the_connections_and_no_count(
    make_engine: MakeEngine, faulty_server: PostgresServer, pool_name: str
) -> None:
    engine = make_engine(faulty_server.url(), pool_name=pool_name, pool_validation_bypass=0)
    metrics = PoolMetrics(pool_name)
    with engine.connect(), engine.connect():
        pass
    assert (metrics.used, metrics.idle) == (0, 2)
    faulty_server.stop()
    with pytest.raises(exc.OperationalError):
        engine.connect()
    assert (metrics.used, metrics.idle, metrics.pending) == (0, 0, 0)
    assert metrics.value("validations_total", outcome="dead") == 2
    assert metrics.failed("connection_lost") == 1
    faulty_server.start()
    with engine.connect() as first, engine.connect() as second:
        assert (metrics.used, metrics.idle) == (2, 0)
        assert session_number(first) != session_number(second)
    assert (metrics.used, metrics.idle) == (0, 2)
    assert metrics.created == 4
    assert metrics.closed("validation") == 2


def test_many_failures_leave_no_trace_in_the_gauges(
    make_engine: MakeEngine, faulty_server: PostgresServer, pool_name: str
) -> None:
    engine = make_engine(
        faulty_server.url(),
        pool_name=pool_name,
        pool_size=2,
        max_overflow=1,
        pool_validation_bypass=0,
    )
    metrics = PoolMetrics(pool_name)
    with engine.connect(), engine.connect():
        pass
    faulty_server.kill()
    for _ in range(5):
        with pytest.raises(exc.OperationalError):
            engine.connect()
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.checkedout() == 0
    assert (metrics.used, metrics.idle) == (0, 0)
    assert metrics.failed("connection_lost") == 5
    faulty_server.start()
    with engine.connect():
        assert (metrics.used, metrics.idle) == (1, 0)
    assert (metrics.used, metrics.idle) == (0, 1)


@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
def test_failing_listener_of_another_leaves_no_connection_behind(
    make_pool: MakePool, is_first: bool
) -> None:
    """A connection that another listener refused is closed, and no event tells of it."""
    pool = make_pool()

    def refuse(connection: DBAPIConnection, record: object) -> None:
        del connection, record
        raise exc.InvalidRequestError("refused")

    event.listen(pool.engine, "connect", refuse, insert=is_first)
    with pytest.raises(exc.InvalidRequestError):
        pool.engine.connect()
    event.remove(pool.engine, "connect", refuse)
    gc.collect()
    with pool.engine.connect():
        pool.assert_true(used=1, idle=0)
    pool.assert_true(used=0, idle=1)


def test_failing_listener_of_another_at_a_reconnect_leaves_no_connection_behind(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    connection = pool.engine.raw_connection()
    connection.invalidate(soft=True)
    connection.close()

    def refuse(connection: DBAPIConnection, record: object) -> None:
        del connection, record
        raise exc.InvalidRequestError("refused")

    event.listen(pool.engine, "connect", refuse)
    with pytest.raises(exc.InvalidRequestError):
        pool.engine.connect()
    pool.assert_true(used=0, idle=0)
    event.remove(pool.engine, "connect", refuse)
    with pool.engine.connect():
        pool.assert_true(used=1, idle=0)


def test_failing_checkout_listener_of_another_leaves_no_connection_out(
    make_pool: MakePool,
) -> None:
    pool = make_pool()

    def refuse(connection: DBAPIConnection, record: object, proxy: object) -> None:
        del connection, record, proxy
        raise exc.InvalidRequestError("refused")

    event.listen(pool.engine, "checkout", refuse)
    with pytest.raises(exc.InvalidRequestError):
        pool.engine.connect()
    pool.assert_true(used=0, idle=0)
    assert pool.closed("error") == 1


def test_listener_that_finds_every_connection_dead_leaves_none_out(make_pool: MakePool) -> None:
    pool = make_pool()

    def disconnect(connection: DBAPIConnection, record: object, proxy: object) -> None:
        del connection, record, proxy
        raise exc.DisconnectionError("dead")

    event.listen(pool.engine, "checkout", disconnect)
    with pytest.raises(exc.InvalidRequestError):
        pool.engine.connect()
    pool.assert_true(used=0, idle=0)
    event.remove(pool.engine, "checkout", disconnect)
    with pool.engine.connect():
        pool.assert_true(used=1, idle=0)


def test_listener_that_gives_fresh_credentials_is_still_asked(make_pool: MakePool) -> None:
    """Clouds hand out passwords that last minutes; SQLAlchemy's place for them is this event."""
    pool = make_pool()
    asked: list[str] = []

    def give_password(dialect: object, record: object, args: list[Any], params: Any) -> None:
        del dialect, record, args
        params["password"] = "fresh"
        asked.append("password")

    def open_it(dialect: Any, record: object, args: list[Any], params: Any) -> DBAPIConnection:
        del record
        asked.append(params["password"])
        connection: DBAPIConnection = dialect.connect(*args, **params)
        return connection

    event.listen(pool.engine, "do_connect", give_password)
    event.listen(pool.engine, "do_connect", open_it)
    with pool.engine.connect():
        pool.assert_true(used=1, idle=0)
    assert asked == ["password", "fresh"]
    assert pool.created == 1


# What happens at once.


def test_record_that_another_thread_took_during_a_detach_stays_counted(
    stock_url: str, pool_name: str
) -> None:
    """SQLAlchemy hands the record on before it tells of the detach."""
    engine = create_engine(stock_url, pool_size=1, max_overflow=0)
    metrics = PoolMetrics(pool_name)
    taken: list[Connection] = []
    waiter: list[Held] = []

    def wait_for_the_other(connection: object, record: object) -> None:
        del connection, record
        waiter[0].join()

    event.listen(engine, "detach", wait_for_the_other)
    instrument(engine, pool_name=pool_name)
    with engine.connect() as connection:
        waiter.append(Held(lambda: taken.append(engine.connect())))
        connection.detach()
    assert isinstance(engine.pool, QueuePool)
    assert (metrics.used, metrics.idle) == (1, 0)
    assert engine.pool.checkedout() == 1
    taken[0].close()
    assert (metrics.used, metrics.idle) == (0, 1)
    assert metrics.closed("detached") == 1
    engine.dispose()


def test_connection_of_the_new_pool_survives_the_news_of_the_dispose(
    stock_url: str, pool_name: str
) -> None:
    """The new pool is in place before SQLAlchemy tells that the old one is gone."""
    engine = create_engine(stock_url)
    metrics = PoolMetrics(pool_name)
    taken: list[Connection] = []

    def take_one(engine: Engine) -> None:
        taken.append(engine.connect())
        engine.connect().close()

    event.listen(engine, "engine_disposed", take_one, once=True)
    instrument(engine, pool_name=pool_name)
    engine.dispose()
    assert (metrics.used, metrics.idle) == (1, 1)
    taken[0].close()
    assert (metrics.used, metrics.idle) == (0, 2)
    engine.dispose()


def test_checkout_that_waited_over_a_dispose_leaves_nothing_in_the_counts(
    make_pool: MakePool,
) -> None:
    """It gets a connection of the pool that came after, in its turn."""
    pool = make_pool(pool_size=1, max_overflow=0, pool_timeout=20)
    inside, leave = threading.Event(), threading.Event()
    former = weakref.ref(pool.engine.pool)

    def use() -> None:
        with pool.engine.connect():
            inside.set()
            leave.wait(20)

    with pool.engine.connect() as out:
        waiter = Held(use)
        eventually(lambda: pool.pending == 1)
        pool.engine.dispose()
        assert inside.wait(20)
        pool.assert_true(used=1, idle=0, elsewhere=1)
        leave.set()
        waiter.join()
    del out
    assert (pool.used, pool.idle) == (0, 1)
    gc.collect()
    assert former() is None, "the metrics keep a pool alive that nobody can use"
    pool.assert_true(used=0, idle=1)


def test_successor_with_the_same_name_is_what_the_metrics_tell_of(
    kit_url: str, pool_name: str
) -> None:
    """As with `process.configure()`: a session of the former engine may end late."""
    settings = DatabaseSettings(url=kit_url)
    former = create_db_engine(settings=settings, pool_name=pool_name)
    metrics = PoolMetrics(pool_name)
    late = former.connect()
    former.dispose()
    successor = create_db_engine(settings=settings, pool_name=pool_name)
    with successor.connect():
        late.close()
        assert (metrics.used, metrics.idle) == (1, 0)
    assert (metrics.used, metrics.idle) == (0, 1)
    successor.dispose()
    former.dispose()


def test_what_becomes_of_a_former_engine_changes_no_gauge_of_its_successor(
    make_engine: MakeEngine, kit_url: str, pool_name: str
) -> None:
    former, successor = (
        make_engine(kit_url, pool_name=pool_name, pool_size=2, leak_threshold=0.001)
        for _ in range(2)
    )
    metrics = PoolMetrics(pool_name)
    watched = [follower for follower in map(follower_of, (former, successor)) if follower]
    late, own = former.connect(), successor.connect()
    try:
        eventually(lambda: all(one.ledger.holders()[0].age > 0.001 for one in watched))
        for follower in watched:
            follower.tick()
        assert metrics.value("leaked") == 1
        late.close()
        assert metrics.value("leaks_returned_total") == 1
        assert metrics.value("leaked") == 1
    finally:
        own.close()
    pool: Any = former.pool
    pool.resize(40, 0)
    pool.suspend()
    assert (metrics.value("idle_max"), metrics.value("suspended")) == (2, 0)


def test_collection_in_the_midst_of_an_event_neither_hangs_nor_drifts(
    make_pool: MakePool,
) -> None:
    """The collector may return a connection at any allocation, also within an event's handler."""
    pool = make_pool(pool_size=3, max_overflow=0)

    def forget_one() -> None:
        cycle: list[Any] = [pool.engine.raw_connection()]
        cycle.append(cycle)

    def sweep() -> None:
        # What is alive now cannot be garbage later; looking at it each time costs seconds.
        gc.freeze()
        for moment in range(1, 150):
            gc.collect()
            gc.disable()
            forget_one()
            gc.set_threshold(moment)
            gc.enable()
            with pool.engine.connect():
                pass
            gc.set_threshold(*thresholds)
            gc.collect()
            # Counted at once, and written a moment later: see the next test.
            eventually(lambda: (pool.used, pool.idle) == (0, len(pool.sessions())))

    thresholds = gc.get_threshold()
    try:
        Held(sweep).join(60)
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
        gc.unfreeze()
    pool.assert_true(used=0, idle=2)


class CollectingLock:
    """A lock in which the garbage collector runs once, as it may in any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.armed = True

    def __enter__(self) -> None:
        assert self._lock.acquire(timeout=5), "the thread waits for itself"
        if self.armed:
            self.armed = False
            gc.collect()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("which", ["a counter", "a histogram"])
def test_collection_within_a_lock_of_prometheus_does_not_hang(
    make_pool: MakePool, which: str
) -> None:
    """Those locks are not reentrant, and a scrape holds them as well as an event's handler."""
    pool = make_pool(pool_size=3, max_overflow=0)
    with without_collector():
        cycle: list[Any] = [pool.engine.raw_connection()]
        cycle.append(cycle)
        del cycle
        connection = pool.engine.connect()
        value: Any = (
            ROUTE_USE.labels(pool.pool_name, "")._value  # noqa: SLF001 - to get at its lock
            if which == "a counter"
            else USE_TIME.labels(pool.pool_name)._sum  # noqa: SLF001 - as above
        )
        value._lock = CollectingLock()  # noqa: SLF001 - as above
        connection.close()
        flush_observations()
        assert not value._lock.armed  # noqa: SLF001 - as above
    eventually(lambda: (pool.used, pool.idle) == (0, 2))


def test_counts_are_right_after_many_threads_did_everything_at_once(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=2, max_overflow=2, pool_timeout=5)

    def work(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - the same on every run
        for _ in range(25):
            connection = pool.engine.raw_connection()
            match chance.randrange(12):
                case 0:
                    connection.invalidate()
                case 1:
                    connection.invalidate(soft=True)
                case 2:
                    connection.detach()
                case 3:
                    pool.engine.dispose()
                case _:
                    connection.cursor().close()
            if connection.is_valid:
                connection.close()

    for worker in [Held(partial(work, seed)) for seed in range(8)]:
        worker.join(60)
    assert (pool.pending, pool.timeouts) == (0, 0)
    gc.collect()
    pool.assert_true(used=0, idle=int(pool.idle))


# Other pools.


def test_two_engines_are_counted_apart(make_pool: MakePool) -> None:
    first, second = make_pool(), make_pool()
    with first.engine.connect(), first.engine.connect(), second.engine.connect():
        first.assert_true(used=2, idle=0)
        second.assert_true(used=1, idle=0)
    first.assert_true(used=0, idle=2)
    second.assert_true(used=0, idle=1)


def test_stock_engine_can_be_instrumented(stock_url: str, server_view: ServerView) -> None:
    engine = create_engine(
        stock_url, pool_size=2, connect_args={"application_name": "stock"}, pool_timeout=0.05
    )
    instrument(engine, pool_name="stock")
    pool = WatchedPool("stock", engine, server_view)
    with engine.connect():
        pool.assert_true(used=1, idle=0)
    pool.assert_true(used=0, idle=1)
    assert (pool.value("max"), pool.value("idle_max")) == (12, 2)
    assert (pool.created, pool.uses) == (1, 1)
    engine.dispose()
    pool.assert_true(used=0, idle=0)


def test_instrumenting_twice_counts_once(make_pool: MakePool) -> None:
    pool = make_pool()
    instrument(pool.engine, pool_name=pool.pool_name)
    # An engine with other options shares the pool.
    reading = pool.engine.execution_options(isolation_level="AUTOCOMMIT")
    instrument(reading, pool_name=pool.pool_name)
    with reading.connect():
        pool.assert_true(used=1, idle=0)
    pool.assert_true(used=0, idle=1)
    assert (pool.created, pool.uses, pool.waits) == (1, 1, 1)
    with reading.connect() as connection:
        connection.invalidate()
    assert pool.closed("invalidated") == 1


@pytest.mark.parametrize(
    ("options", "idle_max", "most"),
    [
        ({"pool_size": 5, "max_overflow": 10}, 5, 15),
        ({"pool_size": 5, "max_overflow": 0}, 5, 5),
        ({"pool_size": 5, "max_overflow": -1}, 5, math.inf),
        ({"pool_size": 0}, math.inf, math.inf),
        ({"poolclass": NullPool}, 0, math.inf),
        ({"poolclass": StaticPool}, 1, 1),
    ],
    ids=["overflow", "no-overflow", "endless-overflow", "endless", "none", "static"],
)
def test_limits_are_those_of_the_pool(
    stock_url: str, pool_name: str, options: dict[str, Any], idle_max: float, most: float
) -> None:
    instrument(create_engine(stock_url, **options), pool_name=pool_name)
    metrics = PoolMetrics(pool_name)
    assert (metrics.value("idle_max"), metrics.value("max")) == (idle_max, most)


def test_engine_without_a_pool_has_no_idle_connection(
    stock_url: str, pool_name: str, server_view: ServerView
) -> None:
    engine = create_engine(
        stock_url, poolclass=NullPool, connect_args={"application_name": pool_name}
    )
    instrument(engine, pool_name=pool_name)
    metrics = PoolMetrics(pool_name)
    with engine.connect():
        assert (metrics.used, metrics.idle) == (1, 0)
    assert (metrics.used, metrics.idle) == (0, 0)
    eventually(lambda: not server_view.sessions(pool_name))


def test_memory_database_has_its_one_connection(make_engine: MakeEngine, pool_name: str) -> None:
    engine = make_engine("sqlite:///:memory:", pool_name=pool_name)
    metrics = PoolMetrics(pool_name)
    assert (metrics.value("max"), metrics.value("idle_max")) == (1, 1)
    for _ in range(2):
        with engine.connect():
            assert (metrics.used, metrics.idle) == (1, 0)
        assert (metrics.used, metrics.idle) == (0, 1)
    engine.dispose()
    assert (metrics.used, metrics.idle) == (0, 0)
    assert metrics.closed("released") == 1


def test_memory_database_can_lose_its_connection(make_engine: MakeEngine, pool_name: str) -> None:
    engine = make_engine("sqlite:///:memory:", pool_name=pool_name)
    metrics = PoolMetrics(pool_name)
    forgotten = engine.raw_connection()
    left_open = forgotten.dbapi_connection
    forgotten.invalidate(soft=True)
    forgotten.close()
    engine.raw_connection().invalidate()
    with engine.connect():
        assert (metrics.used, metrics.idle) == (1, 0)
    assert (metrics.used, metrics.idle) == (0, 1)
    # SQLAlchemy's StaticPool drops a connection that was softly invalidated without closing it.
    assert left_open is not None
    left_open.close()


def test_sqlite_file_is_counted_like_a_server(
    make_engine: MakeEngine, sqlite_url: str, pool_name: str
) -> None:
    engine = make_engine(sqlite_url, pool_name=pool_name, pool_size=1, max_overflow=1)
    metrics = PoolMetrics(pool_name)
    with engine.connect() as first, engine.connect():
        assert (metrics.used, metrics.idle) == (2, 0)
        first.detach()
        assert (metrics.used, metrics.idle) == (1, 0)
    assert (metrics.used, metrics.idle) == (0, 1)
    with engine.connect():
        assert (metrics.used, metrics.idle) == (1, 0)
    assert (metrics.used, metrics.idle) == (0, 1)


# asyncio.


@pytest.fixture
def make_async_engine(kit_url: str, pool_name: str) -> Callable[..., AsyncEngine]:
    """Makes an asyncio engine whose sessions are called after the pool."""

    def make(**settings: Any) -> AsyncEngine:
        url = kit_url.replace("postgresql://", "postgresql+asyncpg://")
        return create_async_db_engine(
            url,
            settings=DatabaseSettings(url=kit_url, **settings),
            pool_name=pool_name,
            connect_args={"server_settings": {"application_name": pool_name}},
        )

    return make


MakeAsyncEngine = Callable[..., AsyncEngine]


def test_async_engine_is_counted_through_every_event(
    make_async_engine: MakeAsyncEngine, pool_name: str, server_view: ServerView
) -> None:
    async def use() -> None:
        engine = make_async_engine(pool_size=1, max_overflow=1)
        pool = WatchedPool(pool_name, engine.sync_engine, server_view)
        async with engine.connect():
            pool.assert_true(used=1, idle=0)
            async with engine.connect() as overflow:
                pool.assert_true(used=2, idle=0)
                await overflow.invalidate()
                pool.assert_true(used=1, idle=0)
        pool.assert_true(used=0, idle=1)
        async with engine.connect():
            pool.assert_true(used=1, idle=0)
        pool.assert_true(used=0, idle=1)
        async with engine.connect() as connection:
            await (await connection.get_raw_connection()).driver_connection.close()  # type: ignore[union-attr]
            with pytest.raises(exc.InterfaceError):
                await connection.execute(text("SELECT 1"))
        assert (pool.used, pool.idle) == (0, 0)
        async with engine.connect():
            pool.assert_true(used=1, idle=0)
        await engine.dispose()
        pool.assert_true(used=0, idle=0)

    asyncio.run(use())


def test_async_pool_counts_a_timeout_and_a_cancelled_wait_apart(
    make_async_engine: MakeAsyncEngine, pool_name: str, server_view: ServerView
) -> None:
    async def use() -> None:
        engine = make_async_engine(pool_size=1, max_overflow=0, pool_timeout=0.2)
        pool = WatchedPool(pool_name, engine.sync_engine, server_view)
        async with engine.connect():
            with pytest.raises(exc.TimeoutError):
                async with engine.connect():
                    pass
            assert (pool.timeouts, pool.waits) == (1, 2)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await engine.connect()
            assert (pool.timeouts, pool.waits, pool.pending) == (1, 3, 0)
            pool.assert_true(used=1, idle=0)
        pool.assert_true(used=0, idle=1)
        await engine.dispose()

    asyncio.run(use())


def test_async_checkout_that_is_cancelled_at_any_step_leaves_no_trace(
    make_async_engine: MakeAsyncEngine, pool_name: str, server_view: ServerView
) -> None:
    """Cancelled while it connects, while it pings, while it returns: wherever it stands."""

    async def use() -> None:
        engine = make_async_engine(pool_size=1, max_overflow=1)
        pool = WatchedPool(pool_name, engine.sync_engine, server_view)

        async def once() -> None:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))

        for steps in range(40):
            task = asyncio.create_task(once())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert (pool.used, pool.pending) == (0, 0), f"after {steps} steps"
            assert pool.idle <= 1
        pool.assert_true(used=0, idle=int(pool.idle))
        await engine.dispose()
        pool.assert_true(used=0, idle=0)

    asyncio.run(use())


def test_async_connection_that_was_collected_is_gone(
    make_async_engine: MakeAsyncEngine, pool_name: str, server_view: ServerView
) -> None:
    async def use() -> None:
        engine = make_async_engine()
        pool = WatchedPool(pool_name, engine.sync_engine, server_view)
        forgotten = await engine.connect()
        pool.assert_true(used=1, idle=0)
        held = [forgotten]
        del forgotten
        with pytest.warns(exc.SAWarning, match="garbage collector"):
            held.clear()
        await asyncio.sleep(0)
        pool.assert_true(used=0, idle=0)
        await engine.dispose()

    asyncio.run(use())


def test_async_refused_connection_is_a_create_failure(pool_name: str) -> None:
    async def use() -> None:
        url = "postgresql+asyncpg://user:secret@127.0.0.1:1/name"
        settings = DatabaseSettings(url="postgresql://user:secret@127.0.0.1:1/name")
        engine = create_async_db_engine(url, settings=settings, pool_name=pool_name)
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await engine.connect()
        await engine.dispose()

    asyncio.run(use())
    metrics = PoolMetrics(pool_name)
    assert (metrics.used, metrics.idle, metrics.waits) == (0, 0, 1)
    assert metrics.failed("connection_lost") == 1


# The process's own.


@pytest.fixture
def _configured_on_the_kit(kit_url: str) -> Iterator[None]:
    process.configure(DatabaseSettings(url=kit_url))
    yield
    process.configure(None)


@pytest.mark.usefixtures("_configured_on_the_kit")
def test_process_engine_is_the_pool_called_primary() -> None:
    metrics = PoolMetrics("primary")
    assert process.engine is process.engine
    with process.engine.connect(), process.read_engine.connect():
        assert (metrics.used, metrics.idle) == (2, 0)
    assert (metrics.used, metrics.idle) == (0, 2)
    process.configure(DatabaseSettings(url="sqlite:///:memory:"))
    assert (metrics.used, metrics.idle) == (0, 0)

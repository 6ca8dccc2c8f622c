"""Reads go to a real streaming replica while it is well, and to the primary while it is not."""

import bisect
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.exc import DataError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from service.database import (
    DatabaseSettings,
    ReplicaFailedError,
    SettingsError,
    process,
    read_session,
    replica_monitor,
    run_read,
    time_limit,
    write_session,
)
from service.database.failures import Cancelled, classify
from service.database.replica import Replica
from service.database.replica_lag import ReplayedTime
from tests.support.database_server import running
from tests.support.forking import in_child
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer, ReplicaServer, fetch

MAX_LAG = 1.0
# For what a busy machine must not let lag: with it the monitor waits longer for an answer.
WIDE_LAG = 4.0
Configure = Callable[..., Replica]


class Pair(NamedTuple):
    """A primary and its replica."""

    primary: PostgresServer
    replica: ReplicaServer


def follower_of(primary: PostgresServer) -> ReplicaServer:
    """One more replica, not started yet."""
    return ReplicaServer(
        primary,
        wal_retrieve_retry_interval="100ms",
        max_standby_streaming_delay="100ms",
        log_statement="all",
    )


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with running(PostgresServer(synchronous_commit="on")) as primary:
        primary.execute("CREATE TABLE notes (id SERIAL PRIMARY KEY, body TEXT)")
        with running(follower_of(primary)) as replica:
            yield Pair(primary, replica)


@pytest.fixture
def configure(pair: Pair) -> Iterator[Configure]:
    """Sets the process up with both servers, and waits until the replica is read."""

    def configure(*, ready: bool = True, **settings: object) -> Replica:
        values = {
            "url": pair.primary.url(),
            "replica_url": pair.replica.url(),
            "replica_max_lag": MAX_LAG,
            **settings,
        }
        process.configure(DatabaseSettings.model_validate(values))
        replica = process.replica
        assert replica is not None
        if ready:
            eventually(reads_replica)
        return replica

    yield configure
    process.configure(None)


def is_in_recovery(session: Session) -> bool:
    return bool(session.execute(text("SELECT pg_is_in_recovery()")).scalar_one())


def reads_replica() -> bool:
    return run_read(is_in_recovery)


def count_notes(session: Session) -> int:
    return int(session.execute(text("SELECT count(*) FROM notes")).scalar_one())


def write() -> None:
    with write_session() as session:
        session.execute(text("INSERT INTO notes (body) VALUES ('x')"))


def keeps_writing() -> bool:
    """Write once more, and tell whether reads go to the primary by now."""
    write()
    return not reads_replica()


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"pool_name": "replica", **labels}) or 0.0


def fallbacks(reason: str) -> float:
    return metric("db_client_replica_fallbacks_total", reason=reason)


def kit_threads() -> list[str]:
    names = ("replica-monitor", "database-connect")
    return [thread.name for thread in threading.enumerate() if thread.name in names]


def last_use(is_read: Callable[[], bool]) -> float:
    """Wait until the replica is not read any more; the last instant at which it still was."""
    last = -math.inf

    def is_over() -> bool:
        nonlocal last
        now = time.monotonic()
        if not is_read():
            return True
        last = now
        return False

    eventually(is_over)
    return last


def test_reads_go_to_the_replica_and_writes_to_the_primary(configure: Configure) -> None:
    configure()
    with read_session() as session:
        assert is_in_recovery(session)
    with write_session() as session:
        assert not is_in_recovery(session)


def test_client_that_just_wrote_reads_from_the_primary(configure: Configure, pair: Pair) -> None:
    configure(replica_max_lag=30)
    pair.replica.pause_replay()
    try:
        before = run_read(count_notes)
        write()
        assert run_read(count_notes, fresh=True) == before + 1
        assert (run_read(count_notes), reads_replica()) == (before, True)
    finally:
        pair.replica.resume_replay()


def test_read_on_the_replica_is_one_round_trip(configure: Configure, pair: Pair) -> None:
    configure(pool_validation_bypass=60, replica_max_lag=30)
    with read_session() as session:
        session.execute(text("SELECT 41"))
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
    log = pair.replica.directory / "log"
    start = log.stat().st_size
    with read_session() as session:
        assert session.execute(text("SELECT 42")).scalar() == 42
    lines = [line for line in log.read_text()[start:].splitlines() if f"[{pid}]" in line]
    assert [line.partition("statement: ")[2] for line in lines] == ["SELECT 42"]


def test_before_the_first_look_reads_go_to_the_primary(configure: Configure) -> None:
    before = fallbacks("starting")
    configure(ready=False)
    assert not reads_replica()
    assert fallbacks("starting") == before + 1


def test_replica_that_lags_past_the_bound_is_not_read_until_it_has_caught_up(
    configure: Configure, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="service.database.replica_monitor")
    configure(replica_max_lag=WIDE_LAG)
    pair.replica.pause_replay()
    before = fallbacks("lagging")
    try:
        write()
        start = time.monotonic()
        assert last_use(reads_replica) < start + WIDE_LAG
        eventually(lambda: metric("db_client_replica_usable") == 0)
        eventually(lambda: metric("db_client_replica_lag_seconds") > WIDE_LAG)
        assert fallbacks("lagging") > before
    finally:
        pair.replica.resume_replay()
    eventually(reads_replica)
    assert metric("db_client_replica_usable") == 1
    assert metric("db_client_replica_lag_seconds") < WIDE_LAG
    assert [record.message.partition(" (")[0] for record in caplog.records] == [
        "reads go to the replica",
        "reads go to the primary: the replica is lagging",
        "reads go to the replica",
    ]


def test_replica_of_an_idle_primary_does_not_lag(configure: Configure, pair: Pair) -> None:
    # At the end of a segment the position of the next insert is one that no replica replays.
    pair.primary.execute("SELECT pg_switch_wal()")
    configure(replica_max_lag=WIDE_LAG)
    end = time.monotonic() + 1.5 * WIDE_LAG
    while time.monotonic() < end:
        assert reads_replica()
    assert metric("db_client_replica_lag_seconds") < WIDE_LAG


def test_replica_of_a_busy_primary_does_not_lag(configure: Configure) -> None:
    configure(replica_max_lag=WIDE_LAG)
    end = time.monotonic() + 1.5 * WIDE_LAG
    while time.monotonic() < end:
        assert not keeps_writing()


def test_replica_is_read_no_longer_than_the_bound_when_the_monitor_cannot_look(
    configure: Configure,
) -> None:
    replica = configure()
    # What a process that gets no time amounts to; a look is over before the lock is had.
    with replica_monitor._looking:  # noqa: SLF001
        start = time.monotonic()
        assert last_use(lambda: replica.unusable_reason is None) < start + MAX_LAG
        assert replica.unusable_reason == "lagging"
    eventually(reads_replica)


def test_replica_that_receives_nothing_is_seen_to_lag(configure: Configure, pair: Pair) -> None:
    replica = configure()
    pair.replica.cut_off()
    try:
        eventually(keeps_writing)
        eventually(lambda: replica.unusable_reason == "lagging")
    finally:
        pair.replica.reconnect()
    eventually(reads_replica, within=20)


def test_no_reader_sees_that_the_replica_was_killed(configure: Configure, pair: Pair) -> None:
    configure()
    errors: list[BaseException] = []
    reads: list[bool] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                reads.append(reads_replica())
        except BaseException as error:  # noqa: BLE001 - whatever it is, a reader saw it
            errors.append(error)

    before = fallbacks("error") + fallbacks("down")
    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        eventually(lambda: sum(reads) > 50)
        pair.replica.kill()
        killed_at = len(reads)
        eventually(lambda: len(reads) > killed_at + 50)
        eventually(lambda: not reads[-1])
        pair.replica.start()
        eventually(lambda: reads[-1])
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert fallbacks("error") + fallbacks("down") > before
    assert errors == []


def test_read_that_finds_no_connection_goes_to_the_primary_in_the_same_call(
    configure: Configure, pair: Pair
) -> None:
    # With so wide a bound the monitor would not notice for a second.
    replica = configure(replica_max_lag=30)
    replica.engine.dispose()
    before = fallbacks("down")
    pair.replica.stop()
    with read_session() as session:
        assert not is_in_recovery(session)
    assert (replica.unusable_reason, fallbacks("down")) == ("down", before + 1)
    pair.replica.start()
    eventually(reads_replica)


def test_replica_whose_failure_was_reported_is_left_alone_for_a_while(
    configure: Configure,
) -> None:
    replica = configure()
    replica.report_failure()
    start = time.monotonic()
    assert not reads_replica()
    eventually(reads_replica)
    assert time.monotonic() - start > 1.9


def test_hung_replica_delays_a_read_once_and_then_none(configure: Configure, pair: Pair) -> None:
    replica = configure(connect_timeout=2)
    replica.engine.dispose()
    with pair.replica.paused():
        start = time.monotonic()
        assert not reads_replica()
        assert time.monotonic() - start < 2 + 5
        eventually(lambda: replica.unusable_reason == "down")
        for _ in range(20):
            start = time.monotonic()
            assert not reads_replica()
            # It tried no connection that would have had to time out.
            assert time.monotonic() - start < 2
    eventually(reads_replica)


def test_read_that_a_hung_replica_holds_up_is_answered_by_the_primary_in_time(
    configure: Configure, pair: Pair
) -> None:
    configure(replica_max_lag=30)
    assert reads_replica()
    before = fallbacks("error")

    def ask(session: Session) -> bool:
        # The connection is one of the pool, and the query is on its way when the replica hangs.
        if is_in_recovery(session):
            pair.replica.pause()
        return is_in_recovery(session)

    try:
        start = time.monotonic()
        with time_limit(6):
            assert run_read(ask) is False
        assert 2.9 < time.monotonic() - start < 6
    finally:
        pair.replica.resume()
    assert fallbacks("error") == before + 1


def test_hung_replica_is_noticed_without_a_read(configure: Configure, pair: Pair) -> None:
    replica = configure()
    with pair.replica.paused():
        start = time.monotonic()
        assert last_use(lambda: replica.unusable_reason is None) < start + MAX_LAG
        assert not reads_replica()
    eventually(reads_replica)


def test_full_pool_of_the_replica_sends_a_read_to_the_primary_and_nothing_else(
    configure: Configure,
) -> None:
    replica = configure(pool_size=1, max_overflow=0, pool_timeout=0.1, replica_max_lag=30)
    before = fallbacks("pool_timeout")
    with read_session() as session:
        assert is_in_recovery(session)
        assert not reads_replica()
    assert fallbacks("pool_timeout") == before + 1
    assert replica.unusable_reason is None
    assert reads_replica()


def test_promoted_replica_is_not_read(configure: Configure, pair: Pair) -> None:
    with running(follower_of(pair.primary)) as follower:
        replica = configure(replica_url=follower.url())
        follower.promote()
        eventually(lambda: replica.unusable_reason == "not_a_replica")
        with read_session() as session:
            here = session.execute(text("SELECT current_setting('port')")).scalar()
        assert here == str(pair.primary.port)
        process.dispose()


def test_replica_of_another_cluster_is_not_read(configure: Configure, kit_url: str) -> None:
    replica = configure(ready=False, url=kit_url)
    eventually(lambda: replica.unusable_reason == "not_a_replica")
    assert not reads_replica()


def test_bound_holds_while_the_primary_is_away(configure: Configure, pair: Pair) -> None:
    """The replica cannot be known to have what others may write to a primary that is out of reach.

    A restart of the primary that is shorter than the bound disturbs no reader.
    """
    configure(replica_max_lag=WIDE_LAG)

    def is_read() -> bool:
        try:
            return reads_replica()
        except OperationalError:  # the primary is asked
            return False

    pair.primary.stop()
    try:
        start = time.monotonic()
        assert is_read()
        assert last_use(is_read) < start + WIDE_LAG
        with pytest.raises(OperationalError):
            reads_replica()
    finally:
        pair.primary.start()
    eventually(reads_replica, within=20)


def test_no_read_is_older_than_the_bound_whatever_becomes_of_the_replica(
    configure: Configure, pair: Pair
) -> None:
    configure()
    commits: list[tuple[float, int]] = []
    reads: list[tuple[float, int, bool]] = []
    errors: list[BaseException] = []
    stop = threading.Event()

    def in_background(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the test fails
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def commit() -> None:
        with write_session() as session:
            insert = text("INSERT INTO notes (body) VALUES ('x') RETURNING id")
            written = session.execute(insert).scalar_one()
        commits.append((time.monotonic(), written))

    def read() -> None:
        start = time.monotonic()
        query = text("SELECT coalesce(max(id), 0), pg_is_in_recovery() FROM notes")
        newest, on_replica = run_read(lambda session: session.execute(query).one())
        reads.append((start, newest, on_replica))

    def suffer(harm: Callable[[], None], cure: Callable[[], None]) -> None:
        harm()
        count, start = len(commits), time.monotonic()
        eventually(lambda: len(commits) > count and time.monotonic() > start + 1.5 * MAX_LAG)
        cure()
        eventually(reads_replica, within=20)

    threads = [in_background(work) for work in (commit, read, read)]
    replica = pair.replica
    try:
        suffer(replica.pause_replay, replica.resume_replay)
        suffer(replica.cut_off, replica.reconnect)
        suffer(replica.pause, replica.resume)
        suffer(replica.kill, replica.start)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert {on_replica for _, _, on_replica in reads} == {True, False}
    instants = [instant for instant, _ in commits]
    for start, newest, on_replica in reads:
        known = bisect.bisect_right(instants, start - (MAX_LAG if on_replica else 0))
        assert known == 0 or newest >= commits[known - 1][1]


def test_query_that_replication_cancelled_is_run_again_on_the_primary(
    configure: Configure, pair: Pair
) -> None:
    replica = configure(replica_max_lag=30)
    write()
    eventually(lambda: run_read(count_notes) > 0)
    served: list[bool] = []

    def read(session: Session) -> int:
        served.append(is_in_recovery(session))
        seconds = 20 if served[-1] else 0
        # Its snapshot needs the rows that the primary is about to remove.
        query = text("SELECT count(*), pg_sleep(:seconds) FROM (SELECT body FROM notes LIMIT 1)")
        return int(session.execute(query, {"seconds": seconds}).one()[0])

    def holds_a_snapshot() -> bool:
        activity = (
            "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND query LIKE '%pg_sleep%' AND backend_xmin IS NOT NULL"
        )
        return fetch(pair.replica.url(), activity) == [(1,)]

    def in_the_way() -> None:
        eventually(holds_a_snapshot)
        pair.primary.execute("DELETE FROM notes")
        pair.primary.execute("VACUUM notes")

    before = fallbacks("error")
    vacuum = threading.Thread(target=in_the_way)
    vacuum.start()
    assert run_read(read) in (0, 1)
    vacuum.join()
    assert served == [True, False]
    assert fallbacks("error") == before + 1
    assert replica.unusable_reason is None


def test_column_that_the_replica_has_not_yet_is_read_on_the_primary(
    configure: Configure, pair: Pair
) -> None:
    configure(replica_max_lag=30)
    pair.replica.pause_replay()
    try:
        pair.primary.execute("CREATE TABLE additions (id INT)")
        with pytest.raises(ReplicaFailedError), read_session() as session:
            session.execute(text("SELECT count(*) FROM additions"))

        def count(session: Session) -> object:
            return session.execute(text("SELECT count(*) FROM additions")).scalar()

        assert run_read(count) == 0
        assert reads_replica()
    finally:
        pair.replica.resume_replay()


def test_error_that_the_primary_would_answer_with_as_well_is_raised(configure: Configure) -> None:
    replica = configure(replica_max_lag=30)
    before = fallbacks("error")
    with pytest.raises(DataError), read_session() as session:
        session.execute(text("SELECT 1 / 0"))
    assert (replica.unusable_reason, fallbacks("error")) == (None, before)


def test_metrics_tell_the_replicas_pool_from_the_primarys(configure: Configure) -> None:
    configure()
    with read_session() as session:
        assert is_in_recovery(session)
        assert metric("db_client_connection_count", state="used") == 1
    assert metric("db_client_connection_count", state="used") == 0
    assert metric("db_client_connection_max") == process.settings.pool_capacity


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_watches_the_replica_itself(configure: Configure) -> None:
    configure()
    ask = text("SELECT pg_backend_pid()")

    def pid() -> object:
        return run_read(lambda session: session.execute(ask).scalar())

    def childs_pid() -> object:
        eventually(reads_replica)
        return pid()

    parents = pid()
    childs = in_child(childs_pid)
    assert isinstance(childs, int)
    assert childs != parents
    assert (pid(), reads_replica()) == (parents, True)


def test_nothing_runs_on_after_dispose(configure: Configure, pair: Pair) -> None:
    configure()
    assert "replica-monitor" in kit_threads()
    replica = process.replica
    assert replica is not None
    process.dispose()
    eventually(lambda: kit_threads() == [])
    # Whoever kept it is sent to the primary, and starts no thread.
    assert replica.connect() is None
    assert kit_threads() == []
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidegate'"
    eventually(lambda: fetch(pair.replica.url(), sessions) == [(0,)])


def test_nothing_of_a_replica_is_made_where_none_is_set(pair: Pair) -> None:
    process.configure(DatabaseSettings(url=pair.primary.url()))
    assert process.replica is None
    assert not reads_replica()
    eventually(lambda: kit_threads() == [])
    process.configure(None)


@pytest.mark.parametrize(
    ("url", "replica_url", "complaint"),
    [
        ("postgresql://p/db", "sqlite:///x.db", "DATABASE_REPLICA_URL is of sqlite"),
        ("sqlite:///x.db", "postgresql://r/db", "DATABASE_URL is of sqlite"),
        ("postgresql://p/db", "nonsense", "DATABASE_REPLICA_URL: not a database URL"),
        ("postgresql://p/db", "postgresql+psycopg://r/db", "is not supported"),
    ],
)
def test_replica_of_anything_but_postgresql_is_refused_in_one_line(
    url: str, replica_url: str, complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint) as refused:
        DatabaseSettings.load(url=url, replica_url=replica_url)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("hosts", ["host=a,b", "host=a&host=b", "host=a:5432,b:5432"])
def test_several_hosts_are_refused(hosts: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_REPLICA_URL: name one host"):
        DatabaseSettings.load(url="postgresql://p/db", replica_url=f"postgresql:///db?{hosts}")


def test_replicas_url_is_a_secret() -> None:
    settings = DatabaseSettings(url="postgresql://p/d", replica_url="postgresql://u:hunter2@r/d")
    assert "hunter2" not in repr(settings)


# What a caller's own limit ends says nothing of the replica.


def test_wait_in_the_replicas_line_that_its_limit_ends_leaves_the_replica_in_use(
    configure: Configure,
) -> None:
    replica = configure(pool_size=1, max_overflow=0, pool_timeout=30, replica_max_lag=30)
    before = fallbacks("pool_timeout")
    with read_session() as session:
        assert is_in_recovery(session)
        with time_limit(0.2):
            assert replica.connect() is None
    assert fallbacks("pool_timeout") == before + 1
    assert replica.unusable_reason is None


def test_read_that_nobody_waits_for_any_more_leaves_the_replica_in_use(
    configure: Configure,
) -> None:
    replica = configure(pool_size=1, max_overflow=0, pool_timeout=30, replica_max_lag=30)
    pool: Any = replica.engine.pool
    before = fallbacks("down")
    with read_session(), time_limit(60) as limit:

        def hang_up() -> None:
            eventually(lambda: pool.queue.waiting == 1)
            limit.cancel()

        caller = threading.Thread(target=hang_up)
        caller.start()
        with pytest.raises(SQLAlchemyError) as raised:
            reads_replica()
        caller.join()
        assert isinstance(classify(raised.value), Cancelled)
    with time_limit(0), pytest.raises(SQLAlchemyError):
        reads_replica()
    assert (replica.unusable_reason, fallbacks("down")) == (None, before)


class TestReplayedTime:
    def test_is_the_newest_instant_whose_position_was_replayed(self) -> None:
        replayed = ReplayedTime()
        for instant, position in ((1, 100), (2, 200), (3, 300)):
            replayed.primary_was_at(position, instant)
        replayed.replica_is_at(250)
        assert replayed.until == 2
        replayed.replica_is_at(300)
        assert replayed.until == 3

    def test_goes_on_while_the_primary_is_idle(self) -> None:
        replayed = ReplayedTime()
        for instant in range(5):
            replayed.primary_was_at(100, instant)
            replayed.replica_is_at(100)
        assert replayed.until == 4

    def test_is_unknown_before_the_replica_has_replayed_a_known_position(self) -> None:
        replayed = ReplayedTime()
        replayed.replica_is_at(100)
        replayed.primary_was_at(200, 1)
        replayed.replica_is_at(199)
        assert replayed.until == -math.inf

    def test_is_unknown_after_the_primary_lost_what_the_replica_has(self) -> None:
        replayed = ReplayedTime()
        replayed.primary_was_at(200, 1)
        replayed.replica_is_at(200)
        for instant, position in ((2, 150), (3, 199)):
            replayed.primary_was_at(position, instant)
            replayed.replica_is_at(200)
            assert replayed.until == -math.inf
        replayed.primary_was_at(201, 4)
        replayed.replica_is_at(200)
        assert replayed.until == -math.inf

    def test_is_unknown_after_the_primary_lost_what_the_replica_had_not_yet(self) -> None:
        replayed = ReplayedTime()
        replayed.primary_was_at(100, 1)
        replayed.primary_was_at(200, 2)
        replayed.replica_is_at(120)
        replayed.primary_was_at(150, 3)
        assert replayed.until == -math.inf
        replayed.replica_is_at(150)
        assert replayed.until == 3

    def test_is_unknown_after_the_replica_went_back(self) -> None:
        replayed = ReplayedTime()
        replayed.primary_was_at(200, 1)
        replayed.replica_is_at(200)
        replayed.replica_is_at(190)
        assert replayed.until == -math.inf
        replayed.primary_was_at(200, 2)
        replayed.replica_is_at(200)
        assert replayed.until == 2

    def test_of_a_replica_that_stands_still_does_not_come_nearer_when_samples_are_dropped(
        self,
    ) -> None:
        replayed = ReplayedTime()
        replayed.primary_was_at(1, 0)
        replayed.replica_is_at(1)
        for instant in range(1, 5000):
            replayed.primary_was_at(instant + 1, instant)
            replayed.replica_is_at(1)
        assert replayed.until == 0

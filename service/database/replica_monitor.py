"""Watching a replica: whether it answers, follows this primary, and lags within the bound."""

import logging
import math
import os
import threading
import time
from typing import Final

from prometheus_client import Gauge
from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.engine import URL

from service.database.asking import ask
from service.database.engine import create_db_engine
from service.database.failures import failure_reason
from service.database.replica_lag import ReplayedTime
from service.database.settings import DatabaseSettings

POOL_NAME: Final = "replica"
# How long one that failed is left alone: else each look that succeeds would send reads into a
# server that answers the monitor and nobody else.
HOLD_OFF_SECONDS: Final = 2.0
_MAX_INTERVAL: Final = 1.0
_MAX_TIMEOUT: Final = 1.0
# Between two looks the replica can prove nothing newer, and under writes a look proves what the
# one before saw: a quarter of the bound leaves half of it to the replica itself.
_LOOKS_PER_BOUND: Final = 4

# Not pg_current_wal_insert_lsn(): at the end of a page it counts the header of the next one, which
# no replica replays while the primary is idle.
_PRIMARY: Final = text("""
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS position, system_identifier
FROM pg_control_system()
""")
_REPLICA: Final = text("""
SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint AS position, system_identifier,
       pg_is_in_recovery() AS is_replica
FROM pg_control_system()
""")

# Of several workers, the worst counts.
USABLE = Gauge(
    "db_client_replica_usable",
    "Whether reads go to the replica (1) or to the primary (0).",
    ["pool_name"],
    multiprocess_mode="livemin",
)
LAG = Gauge(
    "db_client_replica_lag_seconds",
    "How old what the replica shows may be; infinite before that is known.",
    ["pool_name"],
    multiprocess_mode="livemax",
)

logger = logging.getLogger(__name__)

# Held by a monitor while it asks: a fork waits for it, for what it uses has locks of its own.
_looking = threading.Lock()
_is_held_over_fork = False


class ReplicaMonitor:
    """A thread that asks primary and replica for their positions, from the first use on.

    Each look that proves something lets the replica be read until the bound has passed since the
    instant that it proved. So the bound holds whatever keeps the next look from coming.

    Args:
        settings: Both URLs and the bound.

    Raises:
        ValueError: There is no replica.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        if settings.replica_sync_url is None:
            raise ValueError("DATABASE_REPLICA_URL is not set")
        self._settings = settings
        self._max_lag = settings.replica_max_lag
        self._interval = min(_MAX_INTERVAL, self._max_lag / _LOOKS_PER_BOUND)
        self._timeout = min(_MAX_TIMEOUT, self._max_lag / 2)
        self._primary = self._engine(settings.sync_url, "primary_monitor")
        self._replica = self._engine(settings.replica_sync_url, "replica_monitor")
        self._begin()

    def _engine(self, url: URL, pool_name: str) -> Engine:
        """An engine of one connection: a full pool must not look like a replica that is down."""
        return create_db_engine(
            url,
            settings=self._settings,
            pool_name=pool_name,
            pool_size=1,
            max_overflow=0,
        )

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._replayed = ReplayedTime()
        self._identifier: int | None = None
        self._held_off_until = -math.inf
        self._usable_until = -math.inf
        self._reason = "starting"
        USABLE.labels(POOL_NAME).set(0)
        LAG.labels(POOL_NAME).set(math.inf)

    @property
    def unusable_reason(self) -> str | None:
        """Why the replica must not be read now, as one word; None when it may be."""
        if self._thread is None:
            self._start()
        if time.monotonic() < self._usable_until:
            return None
        return self._reason or "lagging"

    def take_out(self, detail: str) -> None:
        """Let the replica not be read for at least `HOLD_OFF_SECONDS`.

        Args:
            detail: What happened, as one word, for the log.
        """
        with self._lock:
            self._held_off_until = time.monotonic() + HOLD_OFF_SECONDS
            self._settle("down", detail)

    def dispose(self) -> None:
        """End the thread, within the time that two questions may take; it does not start again."""
        self._stop.set()
        with self._lock:
            thread, self._usable_until, self._reason = self._thread, -math.inf, "down"
            USABLE.labels(POOL_NAME).set(0)
        if thread is not None:
            thread.join()
        self._primary.dispose()
        self._replica.dispose()

    def abandon(self) -> None:
        """Begin anew in a forked child; the sockets stay the parent's to close."""
        self._primary.dispose(close=False)
        self._replica.dispose(close=False)
        self._begin()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="replica-monitor", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            with _looking:
                self._look()
            self._stop.wait(self._interval)

    def _look(self) -> None:
        asked_at = time.monotonic()
        try:
            primary = ask(self._primary, _ask_primary, timeout=self._timeout)
        except Exception as error:  # noqa: BLE001 - what is known holds until it is too old
            logger.debug("the primary does not tell its position: %s", error)
        else:
            self._replayed.primary_was_at(primary.position, asked_at)
            self._identifier = primary.system_identifier
        try:
            replica = ask(self._replica, _ask_replica, timeout=self._timeout)
        except Exception as error:  # noqa: BLE001 - whatever it is, the replica did not answer
            with self._lock:
                self._settle("down", failure_reason(error))
            return
        with self._lock:
            self._judge(replica)

    def _judge(self, replica: "Row[int | None, int, bool]") -> None:
        if not replica.is_replica:
            self._settle("not_a_replica", "it is in no recovery")
        elif self._identifier not in (None, replica.system_identifier):
            self._settle("not_a_replica", "it is one of another cluster")
        elif replica.position is None:
            self._settle("not_a_replica", "it does not tell its position")
        else:
            self._replayed.replica_is_at(replica.position)
            if time.monotonic() < self._held_off_until:
                return
            lag = time.monotonic() - self._replayed.until
            self._settle("" if lag < self._max_lag else "lagging", f"{lag:.1f} s")

    def _settle(self, reason: str, detail: str) -> None:
        """Publish whether the replica may be read; within the lock."""
        if self._stop.is_set():
            return
        if reason != self._reason:
            level = logging.WARNING if reason else logging.INFO
            target = f"primary: the replica is {reason} ({detail})" if reason else "replica"
            logger.log(level, "reads go to the %s", target)
        self._reason = reason
        self._usable_until = -math.inf if reason else self._replayed.until + self._max_lag
        USABLE.labels(POOL_NAME).set(not reason)
        LAG.labels(POOL_NAME).set(time.monotonic() - self._replayed.until)


def _ask_primary(connection: Connection) -> "Row[int, int]":
    return connection.execute(_PRIMARY).one()


def _ask_replica(connection: Connection) -> "Row[int | None, int, bool]":
    return connection.execute(_REPLICA).one()


def _hold_for_fork() -> None:
    global _is_held_over_fork  # noqa: PLW0603 - a process forks once at a time
    # A look that takes longer waits for a server, and holds nothing.
    _is_held_over_fork = _looking.acquire(timeout=0.1)


def _let_go_in_parent() -> None:
    if _is_held_over_fork:
        _looking.release()


def _start_anew() -> None:
    global _looking  # noqa: PLW0603 - the parent's may be held by a thread that is not here
    _looking = threading.Lock()


os.register_at_fork(
    before=_hold_for_fork, after_in_parent=_let_go_in_parent, after_in_child=_start_anew
)

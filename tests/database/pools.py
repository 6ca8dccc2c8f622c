"""Holding the pool metrics against the truth: the pool's own counts, and the server's sessions."""

from typing import Any, Final

import psycopg2
from prometheus_client import REGISTRY
from sqlalchemy import Engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import QueuePool

from service.database.pool import MeteredQueuePool
from tests.support.polling import eventually

# Why a pool closes a connection; the fixture `only_known_reasons` looks for others.
CLOSE_REASONS: Final = {
    *("released", "max_lifetime", "idle_timeout", "validation", "keepalive", "error"),
    *("deadline_exceeded", "cancelled", "invalidated", "detached", "recycled"),
    *("resized", "evicted", "disposed"),
}


class ServerView:
    """A session that looks at the others.

    Args:
        url: Any database of the server.
    """

    def __init__(self, url: str) -> None:
        plain = make_url(url).set(drivername="postgresql")
        self._connection = psycopg2.connect(plain.render_as_string(hide_password=False))
        self._connection.autocommit = True

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    def sessions(self, application_name: str) -> set[int]:
        """The process numbers of the sessions that call themselves so."""
        return {row[0] for row in self._query(_SESSIONS, application_name)}

    def end_sessions(self, application_name: str) -> None:
        """Cut the sessions that call themselves so."""
        self._query(_TERMINATE, application_name)
        eventually(lambda: not self.sessions(application_name))

    def end_session(self, pid: int) -> None:
        """Cut one session, by its process number, and wait until it is gone."""
        assert self._query("SELECT pg_terminate_backend(%s, 10000)", pid) == [(True,)]

    def _query(self, statement: str, argument: str | int) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, (argument,))
            return cursor.fetchall()


_SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
_TERMINATE = f"SELECT pg_terminate_backend(pid) FROM ({_SESSIONS}) AS session"  # noqa: S608


class PoolMetrics:
    """The values that Prometheus would read for one pool; what was never counted is 0.

    Args:
        pool_name: The pool's label.
    """

    def __init__(self, pool_name: str) -> None:
        self.pool_name = pool_name

    def value(self, name: str, **labels: str) -> float:
        """One sample, its name without the common prefix."""
        labels["pool_name"] = self.pool_name
        full = f"db_client_connection_{name}"
        # As REGISTRY.get_sample_value(), which collects every metric of the process each time.
        for metric in REGISTRY.restricted_registry([full]).collect():
            for sample in metric.samples:
                if (sample.name, sample.labels) == (full, labels):
                    return sample.value
        return 0.0

    @property
    def used(self) -> float:
        """Connections that are checked out."""
        return self.value("count", state="used")

    @property
    def idle(self) -> float:
        """Connections that wait in the pool."""
        return self.value("count", state="idle")

    @property
    def pending(self) -> float:
        """Checkouts that wait."""
        return self.value("pending_requests")

    @property
    def timeouts(self) -> float:
        """Checkouts that waited in vain."""
        return self.value("timeouts_total")

    @property
    def created(self) -> float:
        """Connections that were opened."""
        return self.value("create_time_seconds_count")

    @property
    def waits(self) -> float:
        """Checkouts that ended."""
        return self.value("wait_time_seconds_count")

    @property
    def uses(self) -> float:
        """Connections that came back."""
        return self.value("use_time_seconds_count")

    def closed(self, reason: str) -> float:
        """Connections that were closed for a reason."""
        return self.value("closed_total", reason=reason)

    def failed(self, reason: str) -> float:
        """Connections that could not be opened for a reason."""
        return self.value("create_failures_total", reason=reason)


class WatchedPool(PoolMetrics):
    """A pool on PostgreSQL whose metrics can be held against the server.

    Args:
        name: The pool's label, which is its sessions' application name too.
        engine: The engine.
        server: The server's view.
    """

    def __init__(self, name: str, engine: Engine, server: ServerView) -> None:
        super().__init__(name)
        self.engine = engine
        self._server = server

    def sessions(self) -> set[int]:
        """The server's sessions of this pool, by process number."""
        return self._server.sessions(self.pool_name)

    def end_sessions(self) -> None:
        """Have the server cut every session of this pool."""
        self._server.end_sessions(self.pool_name)

    def assert_true(self, *, used: int, idle: int, elsewhere: int = 0) -> None:
        """Check the gauges, the pool's own count and the server's sessions against each other.

        Args:
            used: How many connections are checked out.
            idle: How many wait in the pool.
            elsewhere: How many sessions the server has that the pool gave away.
        """
        pool = self.engine.pool
        assert isinstance(pool, QueuePool)
        assert (self.used, self.idle) == (used, idle)
        assert pool.checkedout() == used
        # A session ends a moment after its connection was closed.
        eventually(lambda: len(self.sessions()) == used + idle + elsewhere, every=0.002)


def pool_of(watched: WatchedPool) -> MeteredQueuePool:
    """The pool itself."""
    assert isinstance(watched.engine.pool, MeteredQueuePool)
    return watched.engine.pool

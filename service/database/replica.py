"""The read replica: connections to it while it may be read, and what becomes of it when one fails.

Nothing is read from a replica that lags past `DATABASE_REPLICA_MAX_LAG`, because that bound is what
read-your-writes rests on: whoever wrote longer ago finds it there.
"""

from typing import Final

from prometheus_client import Counter
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolFullError

from service.database.deadline import current_limit
from service.database.engine import autocommit_engine, create_db_engine
from service.database.failures import (
    Cancelled,
    ConnectionLost,
    DeadlineExceeded,
    DeadlockDetected,
    SchemaMismatch,
    SerializationFailure,
    classify,
    failure_reason,
)
from service.database.replica_monitor import POOL_NAME, ReplicaMonitor
from service.database.settings import DatabaseSettings

FALLBACKS = Counter(
    "db_client_replica_fallbacks",
    "Reads that went to the primary in the replica's place, by reason.",
    ["pool_name", "reason"],
)
# What the primary may not answer with. A deadline does not take the replica out: the query may have
# been slow, and the monitor finds by itself that the replica hangs.
_REPLICAS_OWN: Final = (SerializationFailure, DeadlockDetected, SchemaMismatch, DeadlineExceeded)
_REASONS: Final = (
    *("starting", "down", "lagging", "not_a_replica"),
    *("pool_timeout", "error", "recent_write"),
)


class ReplicaFailedError(SQLAlchemyError):
    """The replica failed in the middle of a read that may well succeed on the primary.

    Run it again with `read_session(fresh=True)`; `__cause__` tells what happened. Raised where
    the connection was lost, where PostgreSQL cancelled the query because it was in the way of
    replication (SQLSTATE 40001 or 40P01, "conflict with recovery"), where a table or column is
    missing, which a migration may just have added to the primary, and where half of the time was
    over that `time_limit` had left.
    """

    def __init__(self) -> None:
        super().__init__("the replica failed; read from the primary, with fresh=True")


class Replica:
    """A replica with its pool and its monitor.

    Args:
        settings: Both URLs, the bound, and the pool's sizes.

    Raises:
        ValueError: There is no replica.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self._monitor = ReplicaMonitor(settings)
        self.max_lag = settings.replica_max_lag
        self._pool_engine = create_db_engine(
            settings.replica_sync_url, settings=settings, pool_name=POOL_NAME
        )
        self.engine = autocommit_engine(self._pool_engine)
        for reason in _REASONS:
            FALLBACKS.labels(POOL_NAME, reason)

    @property
    def unusable_reason(self) -> str | None:
        """Why the replica must not be read now, as one word; None when it may be."""
        return self._monitor.unusable_reason

    def connect(self) -> Connection | None:
        """Check a connection to the replica out, in AUTOCOMMIT.

        Returns:
            None when the read has to go to the primary, which is counted with its reason. A
            replica that cannot be reached is taken out at once.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: The caller's limit was cancelled, or over before it
                asked: the primary would not answer either.
        """
        reason = self.unusable_reason
        if reason is None:
            limit = current_limit()
            had_time = limit is None or limit.remaining > 0
            try:
                return self.engine.connect()
            except SQLAlchemyError as error:
                if isinstance(classify(error), Cancelled) or not had_time:
                    raise
                # A pool that is full is full of reads: the replica itself may be well.
                reason = "pool_timeout" if isinstance(error, PoolFullError) else "down"
                if reason == "down":
                    self.report_failure(failure_reason(error))
        self.count_fallback(reason)
        return None

    def failed(self, error: DBAPIError) -> bool:
        """Take note of an error of a query on the replica.

        Returns:
            Whether the read should be run again on the primary, which is counted. An error that
            the primary would answer with as well is none of the replica's.
        """
        failure = classify(error)
        if isinstance(failure, ConnectionLost):
            self.report_failure(failure.reason)
        elif not isinstance(failure, _REPLICAS_OWN):
            return False
        self.count_fallback("error")
        return True

    def report_failure(self, detail: str = "reported") -> None:
        """Take the replica out at once, for at least `HOLD_OFF_SECONDS`.

        Args:
            detail: What happened, as one word, for the log.
        """
        self._monitor.take_out(detail)

    def count_fallback(self, reason: str) -> None:
        """Count a read that goes to the primary in the replica's place.

        Args:
            reason: One of a fixed list of words.
        """
        FALLBACKS.labels(POOL_NAME, reason).inc()

    def dispose(self) -> None:
        """End the monitor and close what is idle."""
        self._monitor.dispose()
        self._pool_engine.dispose()

    def abandon(self) -> None:
        """Begin anew in a forked child; the sockets stay the parent's to close."""
        self._monitor.abandon()
        self._pool_engine.dispose(close=False)

"""The Prometheus metrics of a pool; docs/pool-metrics.md explains each."""

import atexit
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, Metric

from service.database.batches import Batch, SampledGauges, observe_all

# From a checkout that finds an idle connection to one that waits for the stock timeout.
_BUCKETS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)


# Why a connection is closed that should have lived on.
_LOST: Final = (
    *("error", "recycled", "validation"),
    *("keepalive", "deadline_exceeded", "invalidated"),
)


class _Batched:
    """A metric that takes in what was noted for it, before it is read."""

    def collect(self) -> Iterable[Metric]:
        """The samples."""
        flush_observations()
        return super().collect()  # type: ignore[misc,no-any-return] # of the metric beside it


class _BatchedHistogram(_Batched, Histogram):
    pass


class _BatchedCounter(_Batched, Counter):
    pass


# Of several workers, gauges are added up over those that live; ages are those of the oldest.
CONNECTIONS = Gauge(
    "db_client_connection_count",
    "Open connections of the pool, by state.",
    ["pool_name", "state"],
    multiprocess_mode="livesum",
)
CONNECTIONS_MAX = Gauge(
    "db_client_connection_max",
    "The most connections that the pool opens.",
    ["pool_name"],
    multiprocess_mode="livesum",
)
CONNECTIONS_IDLE_MAX = Gauge(
    "db_client_connection_idle_max",
    "The most idle connections that the pool keeps.",
    ["pool_name"],
    multiprocess_mode="livesum",
)
PENDING_REQUESTS = Gauge(
    "db_client_connection_pending_requests",
    "Checkouts that wait for a connection.",
    ["pool_name"],
    multiprocess_mode="livesum",
)
OLDEST_WAIT = Gauge(
    "db_client_connection_oldest_wait_seconds",
    "How long the first checkout in the line has waited.",
    ["pool_name"],
    multiprocess_mode="livemax",
)
OLDEST_USE = Gauge(
    "db_client_connection_oldest_use_seconds",
    "How long the connection that was taken first of those in use has been out.",
    ["pool_name"],
    multiprocess_mode="livemax",
)
SUSPENDED = Gauge(
    "db_client_connection_suspended",
    "Whether the pool is suspended (1): every checkout waits until it is resumed.",
    ["pool_name"],
    multiprocess_mode="livesum",
)
LEAKED = Gauge(
    "db_client_connection_leaked",
    "Connections that have been out for longer than the leak threshold.",
    ["pool_name"],
    multiprocess_mode="livesum",
)
LEAKS = Counter(
    "db_client_connection_leaks",
    "Connections that were out for longer than the leak threshold.",
    ["pool_name"],
)
LEAKS_RETURNED = Counter(
    "db_client_connection_leaks_returned",
    "Connections that came back after all, later than the leak threshold.",
    ["pool_name"],
)
TIMEOUTS = Counter(
    "db_client_connection_timeouts",
    "Checkouts that gave up waiting for a connection.",
    ["pool_name"],
)
CHECKOUT_FAILURES = Counter(
    "db_client_connection_checkout_failures",
    "Checkouts that ended without a connection, by reason.",
    ["pool_name", "reason"],
)
CLOSED = Counter(
    "db_client_connection_closed", "Connections closed, by reason.", ["pool_name", "reason"]
)
CREATE_FAILURES = Counter(
    "db_client_connection_create_failures",
    "Connections that could not be opened, by reason.",
    ["pool_name", "reason"],
)
VALIDATIONS = Counter(
    "db_client_connection_validations",
    "Idle connections that were asked whether they are alive, by outcome.",
    ["pool_name", "outcome"],
)
WAIT_TIME = _BatchedHistogram(
    "db_client_connection_wait_time_seconds",
    "How long a checkout took, whether it got a connection or not.",
    ["pool_name"],
    buckets=_BUCKETS,
)
USE_TIME = _BatchedHistogram(
    "db_client_connection_use_time_seconds",
    "How long a connection was checked out.",
    ["pool_name"],
    buckets=_BUCKETS,
)
CREATE_TIME = Histogram(
    "db_client_connection_create_time_seconds",
    "How long it took to open a connection.",
    ["pool_name"],
    buckets=_BUCKETS,
)
ROUTE_USE = _BatchedCounter(
    "db_client_connection_route_use_seconds",
    "How long connections were checked out for each route; empty outside of any.",
    ["pool_name", "http_route"],
)
DRIFTS = Counter(
    "db_client_connection_drifts",
    "Times that the gauges were found to disagree with the pool, and set right.",
    ["pool_name"],
)


class _Observations:
    """What every checkout adds to histograms, by pool.

    Args:
        pool_name: The pool's label.
    """

    def __init__(self, pool_name: str) -> None:
        self.waits: Batch[float] = Batch()
        self.uses: Batch[tuple[float, str]] = Batch()
        self._pool_name = pool_name
        self._wait_time = WAIT_TIME.labels(pool_name)
        self._use_time = USE_TIME.labels(pool_name)
        ROUTE_USE.labels(pool_name, "")

    def flush(self) -> None:
        observe_all(self._wait_time, self.waits.take())
        uses = self.uses.take()
        observe_all(self._use_time, (seconds for seconds, _ in uses))
        routes: defaultdict[str, float] = defaultdict(float)
        for seconds, route in uses:
            routes[route] += seconds
        for route, total in routes.items():
            ROUTE_USE.labels(self._pool_name, route).inc(total)


_observations: Final[dict[str, _Observations]] = {}


def flush_observations() -> None:
    """Put what checkouts have added into the metrics.

    It happens before they are read, every second, and at the end of the process: in the files of
    several workers, what the last second added is lost with a worker that is killed.
    """
    for observations in [*_observations.values()]:
        observations.flush()


atexit.register(flush_observations)


def _start_anew() -> None:
    """Forget, in a forked child, what the parent has yet to tell."""
    for observations in _observations.values():
        observations.waits.take()
        observations.uses.take()


os.register_at_fork(after_in_child=_start_anew)


class PoolSeries:
    """The series of one pool.

    Args:
        pool_name: The pool's label.
        counts: Tells how many connections are used and idle.
    """

    def __init__(self, pool_name: str, counts: Callable[[], tuple[int, int]]) -> None:
        self.pool_name = pool_name
        self.connections = SampledGauges(
            {
                CONNECTIONS.labels(pool_name, "used"): lambda: counts()[0],
                CONNECTIONS.labels(pool_name, "idle"): lambda: counts()[1],
            }
        )
        self.pending = PENDING_REQUESTS.labels(pool_name)
        self.oldest_use = OLDEST_USE.labels(pool_name)
        self.oldest_wait = OLDEST_WAIT.labels(pool_name)
        self.suspended = SUSPENDED.labels(pool_name)
        self.leaked = LEAKED.labels(pool_name)
        self.leaks = LEAKS.labels(pool_name)
        self.leaks_returned = LEAKS_RETURNED.labels(pool_name)
        self.timeouts = TIMEOUTS.labels(pool_name)
        self.drifts = DRIFTS.labels(pool_name)
        self.create_time = CREATE_TIME.labels(pool_name)
        for reason in _LOST:
            # A series that appears with its first event has not risen for an alert.
            CLOSED.labels(pool_name, reason)
        observations = _observations.setdefault(pool_name, _Observations(pool_name))
        self.flush = observations.flush
        # Take how long a checkout took, in seconds.
        self.waited = observations.waits.add
        # Take how long a connection was out, in seconds, and for which route.
        self.used = observations.uses.add

    def checkout_failed(self, reason: str) -> None:
        """Count a checkout that ended without a connection."""
        CHECKOUT_FAILURES.labels(self.pool_name, reason).inc()

    def create_failed(self, reason: str) -> None:
        """Count a connection that could not be opened."""
        CREATE_FAILURES.labels(self.pool_name, reason).inc()

    def closed(self, reason: str) -> None:
        """Count a connection that was closed."""
        CLOSED.labels(self.pool_name, reason).inc()

    def validated(self, outcome: str) -> None:
        """Count an idle connection that was asked whether it is alive."""
        VALIDATIONS.labels(self.pool_name, outcome).inc()

    def limit(self, idle: float, most: float) -> None:
        """Tell how many connections the pool keeps, and how many it opens at most."""
        CONNECTIONS_IDLE_MAX.labels(self.pool_name).set(idle)
        CONNECTIONS_MAX.labels(self.pool_name).set(most)

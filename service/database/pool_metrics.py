"""The Prometheus metrics of a pool; `pool_events` feeds them."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

# From a checkout that finds an idle connection to one that waits for the stock timeout.
_BUCKETS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)

CONNECTIONS = Gauge(
    "db_client_connection_count",
    "Open connections of the pool, by state.",
    ["pool_name", "state"],
)
CONNECTIONS_MAX = Gauge(
    "db_client_connection_max", "The most connections that the pool opens.", ["pool_name"]
)
CONNECTIONS_IDLE_MAX = Gauge(
    "db_client_connection_idle_max", "The most idle connections that the pool keeps.", ["pool_name"]
)
PENDING_REQUESTS = Gauge(
    "db_client_connection_pending_requests", "Checkouts that wait for a connection.", ["pool_name"]
)
TIMEOUTS = Counter(
    "db_client_connection_timeouts",
    "Checkouts that found the pool full for the whole timeout.",
    ["pool_name"],
)
CLOSED = Counter(
    "db_client_connection_closed", "Connections closed, by reason.", ["pool_name", "reason"]
)
CREATE_FAILURES = Counter(
    "db_client_connection_create_failures",
    "Connections that could not be opened, by reason.",
    ["pool_name", "reason"],
)
WAIT_TIME = Histogram(
    "db_client_connection_wait_time_seconds",
    "How long a checkout took, whether it got a connection or not.",
    ["pool_name"],
    buckets=_BUCKETS,
)
USE_TIME = Histogram(
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

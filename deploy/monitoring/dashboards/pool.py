"""The pools: whether they are large enough, who has the connections, how the server answers."""

from grafana_foundation_sdk.builders import timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, Row

from deploy.monitoring.dashboards.panels import (
    SCOPE,
    SOURCE,
    graph,
    increase,
    new_dashboard,
    quantile,
    rate,
)

_POOL = f'{SCOPE},pool_name=~"$pool"'


def dashboard() -> Dashboard:
    """The one for alerts of the pool; docs/pool-metrics.md explains its metrics."""
    board = new_dashboard(
        "pool",
        "Whether the pool is large enough, who has its connections, and how the server answers.",
    ).with_variable(
        QueryVariable("pool")
        .label("Pool")
        .datasource(SOURCE)
        .query(f"label_values(db_client_connection_max{{{SCOPE}}}, pool_name)")
        .multi(True)
        .include_all(True)
    )
    _add_size(board)
    _add_holders(board)
    _add_server(board)
    return board


def _add_size(board: Dashboard) -> None:
    board.with_row(Row("Is the pool large enough?")).with_panel(
        graph(
            "Saturation by instance",
            "Never an average: the one that is full turns its users away.",
            (
                f"instance_pool:db_client_connection_saturation:ratio{{{_POOL}}}",
                "{{instance}} {{pool_name}}",
            ),
            unit="percentunit",
            limits=(0.9, 0.99),
        )
    ).with_panel(
        graph(
            "Connections",
            "All instances, against the most that they open, and the most that there are.",
            (
                f"sum by (pool_name, state) (db_client_connection_count{{{_POOL}}})",
                "{{pool_name}} {{state}}",
            ),
            (f"sum by (pool_name) (db_client_connection_max{{{_POOL}}})", "{{pool_name}} max"),
            (
                f"sum by (pool_name) (db_client_connection_idle_max{{{_POOL}}})",
                "{{pool_name}} idle max",
            ),
            (f"min by (source) (service_connection_limit{{{SCOPE}}})", "limit: {{source}}"),
        )
    ).with_panel(
        graph(
            "Waiting now",
            "Checkouts that wait, and for how long the first of them has.",
            (
                f"sum by (pool_name) (db_client_connection_pending_requests{{{_POOL}}})",
                "{{pool_name}} waiting",
            ),
            (
                f"max by (pool_name) (db_client_connection_oldest_wait_seconds{{{_POOL}}})",
                "{{pool_name}} oldest (s)",
            ),
        )
    ).with_panel(
        graph(
            "Wait for a connection",
            "A pool that is large enough gives one in microseconds.",
            (
                f"job_pool:db_client_connection_wait_time_seconds:p99_rate5m{{{_POOL}}}",
                "p99 {{pool_name}}",
            ),
            (
                quantile(0.5, "db_client_connection_wait_time_seconds", "pool_name", scope=_POOL),
                "p50 {{pool_name}}",
            ),
            unit="s",
            limits=(0.25,),
        )
    ).with_panel(
        graph(
            "Checkouts that failed",
            "pool_timeout: nothing came back in time; the others: the server.",
            (
                rate(
                    "db_client_connection_checkout_failures_total",
                    "pool_name",
                    "reason",
                    scope=_POOL,
                ),
                "{{pool_name}} {{reason}}",
            ),
            (
                rate("db_client_connection_timeouts_total", "pool_name", scope=_POOL),
                "{{pool_name}} timeouts",
            ),
            unit="ops",
        )
    )


def _add_holders(board: Dashboard) -> None:
    held = rate("db_client_connection_route_use_seconds_total", "http_route", scope=_POOL)
    board.with_row(Row("Who has the connections?")).with_panel(
        graph(
            "Connections by route",
            "How many each holds on average: seconds held in each second.",
            (f"topk(10, {held})", "{{http_route}}"),
        )
    ).with_panel(
        graph(
            "Time of use",
            "Queries, locks, or work that is done while a connection is held.",
            (
                quantile(0.99, "db_client_connection_use_time_seconds", "pool_name", scope=_POOL),
                "p99 {{pool_name}}",
            ),
            (
                f"max by (pool_name) (db_client_connection_oldest_use_seconds{{{_POOL}}})",
                "oldest {{pool_name}}",
            ),
            unit="s",
        )
    ).with_panel(
        graph(
            "Leaks",
            "Each is lost to all others; the log names the code that took it.",
            (
                f"sum by (instance, pool_name) (db_client_connection_leaked{{{_POOL}}})",
                "{{instance}} {{pool_name}} out now",
            ),
            (
                increase("db_client_connection_leaks_total", "1h", "pool_name", scope=_POOL),
                "{{pool_name}} in 1 h",
            ),
            (
                increase(
                    "db_client_connection_leaks_returned_total", "1h", "pool_name", scope=_POOL
                ),
                "{{pool_name}} came back in 1 h",
            ),
        )
    )


def _add_server(board: Dashboard) -> None:
    board.with_row(Row("Does the server answer?")).with_panel(
        graph(
            "Time to open a connection",
            "The network, the server's load, or its authentication.",
            (
                quantile(
                    0.99, "db_client_connection_create_time_seconds", "pool_name", scope=_POOL
                ),
                "p99 {{pool_name}}",
            ),
            unit="s",
        )
    ).with_panel(
        _events(
            "Connections that could not be opened",
            "too_many_connections: compare the limits above.",
            "db_client_connection_create_failures_total",
            "reason",
        )
    ).with_panel(
        _events(
            "Connections closed",
            "released, max_lifetime and idle_timeout are as they should be.",
            "db_client_connection_closed_total",
            "reason",
        )
    ).with_panel(
        _events(
            "Validations",
            "dead: something between here and the server cuts idle connections.",
            "db_client_connection_validations_total",
            "outcome",
        )
    ).with_panel(
        graph(
            "Drifts",
            "Above 0: a defect of Tidegate, please report it.",
            (
                increase("db_client_connection_drifts_total", "1h", "pool_name", scope=_POOL),
                "{{pool_name}}",
            ),
        )
    )


def _events(title: str, description: str, counter: str, label: str) -> timeseries.Panel:
    """How often something happened to the connections of each pool, by one label."""
    query = rate(counter, "pool_name", label, scope=_POOL)
    return graph(title, description, (query, f"{{{{pool_name}}}} {{{{{label}}}}}"), unit="ops")

"""The service: its objectives, requests, admission, health and processes."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from deploy.monitoring.dashboards.panels import (
    SCOPE,
    figure,
    graph,
    increase,
    new_dashboard,
    quantile,
    rate,
)

_TIME = "http_server_request_duration_seconds"


def dashboard() -> Dashboard:
    """The first one to open when an alert has fired."""
    board = new_dashboard("service", "Whether users are served, and what keeps them from it.")
    _add_figures(board)
    _add_requests(board)
    _add_admission(board)
    _add_processes(board)
    return board


def _add_figures(board: Dashboard) -> None:
    """The state of now in one line."""
    board.with_panel(
        figure(
            "Instances",
            "That answer Prometheus.",
            f"count(service_build_info{{{SCOPE}}}) or vector(0)",
        )
    ).with_panel(
        figure(
            "Failed, 1 h",
            "Share of the requests that failed; the budget of 30 days is 0.1 %.",
            f"max(job:availability_errors:ratio_rate1h{{{SCOPE}}})",
            unit="percentunit",
            limits=(0.001, 0.0144),
        )
    ).with_panel(
        figure(
            "Slow, 1 h",
            "Share of the answers that took longer than 0.5 s; the budget of 30 days is 1 %.",
            f"max(job:latency_errors:ratio_rate1h{{{SCOPE}}})",
            unit="percentunit",
            limits=(0.01, 0.144),
        )
    ).with_panel(
        figure(
            "Worst health check",
            "1 passes, 0.5 warns, 0 fails.",
            f"min(service_health_check_status{{{SCOPE}}})",
        )
    ).with_panel(
        figure(
            "Fullest pool",
            "Share of its connections that are in use.",
            f"max(instance_pool:db_client_connection_saturation:ratio{{{SCOPE}}})",
            unit="percentunit",
            limits=(0.9, 0.99),
        )
    ).with_panel(
        figure(
            "Unexpected errors, 1 h",
            "Defects: the log has their stacks.",
            f"sum(increase(service_unexpected_errors_total{{{SCOPE}}}[1h]))",
            limits=(1,),
        )
    )


def _add_requests(board: Dashboard) -> None:
    board.with_row(Row("Requests")).with_panel(
        graph(
            "Requests by status",
            "503 are those that were turned away, or found no database.",
            (rate(f"{_TIME}_count", "http_response_status_code"), "{{http_response_status_code}}"),
            unit="reqps",
        )
    ).with_panel(
        graph(
            "Time of an answer",
            "To the last byte; of all routes together.",
            (quantile(0.5, _TIME), "p50"),
            (quantile(0.99, _TIME), "p99"),
            unit="s",
            limits=(0.5,),
        )
    ).with_panel(
        graph(
            "p99 by route",
            "Which one became slow.",
            (quantile(0.99, _TIME, "http_route"), "{{http_route}}"),
            unit="s",
        )
    ).with_panel(
        graph(
            "How fast the budget of failures goes",
            "1 uses it up in 30 days; from 14.4 on somebody is paged.",
            (f"max(job:availability_errors:ratio_rate5m{{{SCOPE}}}) / 0.001", "5 m"),
            (f"max(job:availability_errors:ratio_rate1h{{{SCOPE}}}) / 0.001", "1 h"),
            (f"max(job:availability_errors:ratio_rate6h{{{SCOPE}}}) / 0.001", "6 h"),
            limits=(1, 14.4),
        )
    ).with_panel(
        graph(
            "How fast the budget of slow answers goes",
            "1 uses it up in 30 days; from 14.4 on somebody is paged.",
            (f"max(job:latency_errors:ratio_rate5m{{{SCOPE}}}) / 0.01", "5 m"),
            (f"max(job:latency_errors:ratio_rate1h{{{SCOPE}}}) / 0.01", "1 h"),
            (f"max(job:latency_errors:ratio_rate6h{{{SCOPE}}}) / 0.01", "6 h"),
            limits=(1, 14.4),
        )
    ).with_panel(
        graph(
            "Transactions run again",
            "Rows that many change at once.",
            (
                rate("service_transaction_retries_total", "http_route", "reason"),
                "{{http_route}} {{reason}}",
            ),
            unit="ops",
        )
    )


def _add_admission(board: Dashboard) -> None:
    board.with_row(Row("Admission")).with_panel(
        graph(
            "Admitted and queued",
            "All instances; the line is how many may be admitted.",
            (f"sum by (gate, state) (service_admission_requests{{{SCOPE}}})", "{{gate}} {{state}}"),
            (
                f'sum by (gate) (service_admission_limit{{{SCOPE},state="admitted"}})',
                "{{gate}} limit",
            ),
        )
    ).with_panel(
        graph(
            "Turned away",
            "queue_full: more load than there are connections; timeout: work became slow.",
            (rate("service_admission_shed_total", "gate", "reason"), "{{gate}} {{reason}}"),
            unit="reqps",
        )
    ).with_panel(
        graph(
            "Wait for admission",
            "Users wait before anything is done for them.",
            (quantile(0.99, "service_admission_queue_time_seconds", "gate"), "p99 {{gate}}"),
            unit="s",
        )
    )


def _add_processes(board: Dashboard) -> None:
    board.with_row(Row("Health and processes")).with_panel(
        graph(
            "Health checks",
            "1 passes, 0.5 warns, 0 fails; the worst of all instances.",
            (f"min by (check) (service_health_check_status{{{SCOPE}}})", "{{check}}"),
        )
    ).with_panel(
        graph(
            "Workers started",
            "died and blocked are those that nobody ordered.",
            (increase("service_worker_starts_total", "5m", "reason"), "{{reason}}"),
        )
    ).with_panel(
        graph(
            "Replica",
            "How old what it shows may be; reads go to the primary while it is not usable.",
            (f"max by (instance) (db_client_replica_lag_seconds{{{SCOPE}}})", "lag {{instance}}"),
            (
                rate("db_client_replica_fallbacks_total", "reason"),
                "reads elsewhere a second: {{reason}}",
            ),
            unit="s",
        )
    ).with_panel(
        graph(
            "Memory",
            "Resident, all workers of each instance.",
            (f"process_resident_memory_bytes{{{SCOPE}}}", "{{instance}}"),
            unit="bytes",
        )
    ).with_panel(
        graph(
            "CPU",
            "Cores in use, all workers of each instance.",
            (f"rate(process_cpu_seconds_total{{{SCOPE}}}[$__rate_interval])", "{{instance}}"),
        )
    ).with_panel(
        graph(
            "Versions",
            "Two lines: a rollout is on.",
            (f"count by (version) (service_build_info{{{SCOPE}}})", "{{version}}"),
        )
    )

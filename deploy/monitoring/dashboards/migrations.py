"""The schema as the service sees it, and the runs of `tidegate migrate`."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from deploy.monitoring.dashboards.panels import SCOPE, figure, graph, new_dashboard

# Runs are found under the job of a Pushgateway or of a node exporter.
_RUN = "service_migration"


def dashboard() -> Dashboard:
    """The one to watch while a release is rolled out."""
    board = new_dashboard(
        "migrations", "Whether the schema fits the releases, and how migrations went."
    )
    board.with_row(Row("The schema")).with_panel(
        figure(
            "Instances that fit",
            "Share of the instances whose release can work with the database.",
            f"avg(service_schema_compatible{{{SCOPE}}})",
            unit="percentunit",
        )
    ).with_panel(
        figure(
            "Pending revisions",
            "What the newest release lacks in the database.",
            f"max(service_schema_pending_revisions{{{SCOPE}}})",
            limits=(1,),
        )
    ).with_panel(
        graph(
            "Instances by state",
            "behind is not ready; ahead is served on, until the rollout ends.",
            (f"sum by (state) (service_schema_state{{{SCOPE}}})", "{{state}}"),
        )
    ).with_panel(
        graph(
            "Revision of the database and of the release",
            "How many instances see it so.",
            (
                f"sum by (revision, head) (service_schema_revision_info{{{SCOPE}}}) > 0",
                "database {{revision}}, release {{head}}",
            ),
        )
    )
    board.with_row(Row("Runs")).with_panel(
        graph(
            "Time of a run",
            "And how much of it went on waiting for another runner.",
            (f"max({_RUN}_duration_seconds)", "run"),
            (f"max({_RUN}_lock_wait_seconds)", "wait for another runner"),
            unit="s",
        )
    ).with_panel(
        graph(
            "Revisions and locks",
            "Above 0 retries: others held the tables.",
            (f"max({_RUN}_revisions)", "revisions"),
            (f"max({_RUN}_lock_retries)", "retries"),
        )
    ).with_panel(
        graph(
            "Time of each revision",
            "Of the last run.",
            (
                f"max by (revision, phase) ({_RUN}_revision_duration_seconds)",
                "{{revision}} {{phase}}",
            ),
            unit="s",
        )
    ).with_panel(
        figure(
            "Exit code",
            "Of the last run; docs/migrations.md tells what each means.",
            f"max({_RUN}_last_exit_code)",
            limits=(1,),
        )
    ).with_panel(
        figure(
            "Last success",
            "How long ago a run succeeded.",
            f"time() - max({_RUN}_last_success_timestamp_seconds)",
            unit="s",
        )
    ).with_panel(
        figure(
            "Last run",
            "How long ago it ended.",
            f"time() - max({_RUN}_last_run_timestamp_seconds)",
            unit="s",
        )
    )
    return board

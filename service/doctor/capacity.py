"""Whether the server has as many connections as the deployment may open."""

import math
from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, text

from service.database.budget import server_complaint, server_limit
from service.doctor.findings import Finding, Findings
from service.settings import Settings

# GitLab's soft limit of a saturation is 0.9; whoever looks by hand wants to know before.
_MUCH: Final = 0.8
_USED: Final = {
    "postgresql": text(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    ),
    "mariadb": text(
        "SELECT variable_value FROM information_schema.global_status"
        " WHERE variable_name = 'Threads_connected'"
    ),
}


def examine_capacity(
    connection: Connection, settings: Settings, *, is_deployed: bool
) -> Iterator[Finding]:
    """Compare what the deployment may open with its budget, and with what the server has.

    Args:
        connection: One of the service's role.
        settings: The deployment.
        is_deployed: Whether a budget is missed.
    """
    findings = Findings("connections", "DATABASE_CONNECTION_BUDGET")
    budget, demand = settings.database.connection_budget, settings.connection_demand
    if budget is not None:
        # One that is too small is refused with the settings.
        yield findings.passed(f"{budget} are enough for {demand}")
    else:
        yield findings.judged(
            not is_deployed, f"unset; {demand}", "set it to what this deployment may have"
        )
    if (used := _USED.get(connection.dialect.name)) is None:
        return
    limit = server_limit(connection)
    findings = Findings("connections", "server")
    if complaint := server_complaint(demand, limit):
        told, _, advice = complaint.partition("; ")
        yield findings.failed(told, advice)
    elif limit.connections < math.inf:
        yield findings.passed(f"{limit.subject} allows {limit.connections:g}: enough")
    count = int(connection.execute(used).scalar_one())
    yield findings.judged(
        count < _MUCH * limit.connections,
        f"{count} of {limit.connections:g} connections are open, those of others included",
        "see who has them, and lower what is not needed",
    )

"""Where the database's schema stands, and whether its history can be read."""

from collections.abc import Iterator

from sqlalchemy import Connection

from service.doctor.findings import Finding, Findings
from service.migrator.errors import MigrationError
from service.migrator.history import HISTORY_TABLE
from service.migrator.revisions import Revisions
from service.migrator.schema_status import SchemaState
from service.web.health_checks import SCHEMA_ADVICE


def examine_schema(connection: Connection) -> Iterator[Finding]:
    """Compare the schema with this release.

    Args:
        connection: One of the service's role.
    """
    findings = Findings("schema", "revisions")
    try:
        status = Revisions().status(connection)
    except MigrationError as error:
        yield findings.failed("this release's revisions are wrong", str(error))
        return
    told = f"the database is at {status.current or 'none'}, this release at {status.head}"
    if status.state is SchemaState.CURRENT:
        yield findings.passed(told)
    elif status.is_compatible:
        yield findings.passed(f"{told}: ahead, by what is in nobody's way")
    else:
        yield findings.failed(f"{status.state}: {told}", SCHEMA_ADVICE[status.state])
    if not status.is_phase_known:
        yield findings.warned(
            "whether a later release took something away cannot be read",
            f"grant SELECT on {HISTORY_TABLE} to the role of DATABASE_URL",
        )

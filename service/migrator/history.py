"""The tables in which a database remembers what was applied to it.

The table is made by the runner and not by a revision: it has to be there before the first one, and
comes into databases that have none from before there was any.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from alembic.script import Script
from sqlalchemy import (
    Column,
    Connection,
    Float,
    MetaData,
    String,
    Table,
    delete,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from service.database.base import NAMING_CONVENTION
from service.database.types import UTCDateTime
from service.migrator.errors import ChecksumError
from service.migrator.phases import Phase, phase_of

HISTORY_TABLE: Final = "migration_history"
VERSION_TABLE: Final = "alembic_version"
# They are the runner's and Alembic's, not the models', so a comparison of schemas leaves them out.
BOOKKEEPING_TABLES: Final = frozenset({VERSION_TABLE, HISTORY_TABLE})

# Of its own metadata: the models' would have `create_all()` and the comparisons know it.
_history = Table(
    HISTORY_TABLE,
    MetaData(naming_convention=NAMING_CONVENTION),
    Column("revision", String(64), primary_key=True),
    Column("phase", String(16), nullable=False),
    Column("checksum", String(64), nullable=False),
    # Both unknown for a revision that was applied before there was this table.
    Column("applied_at", UTCDateTime()),
    Column("duration_seconds", Float()),
    # The version of the release that applied it, or first noted it.
    Column("release", String(64), nullable=False),
)

# What was applied before there was this table comes first.
_IN_ORDER: Final = select(_history).order_by(
    _history.c.applied_at.is_not(None), _history.c.applied_at, _history.c.revision
)
_READERS: Final = text(f"""
    SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END
    FROM pg_class c CROSS JOIN aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE c.oid = to_regclass('{VERSION_TABLE}') AND a.privilege_type = 'SELECT'
      AND a.grantee <> c.relowner
""")  # noqa: S608 - text of ours
_MAY_READ: Final = text(f"""
    SELECT coalesce(has_table_privilege(to_regclass('{HISTORY_TABLE}'), 'SELECT'), false)
""")


@dataclass(frozen=True, slots=True)
class AppliedRevision:
    """What is known of a revision that was applied.

    Args:
        revision: Its identifier.
        phase: What it did to the release before it.
        checksum: The SHA-256 of its file, as it was.
        applied_at: When; None if before there was a history.
        duration_seconds: How long it took; None if before there was a history.
        release: The version of the release that applied it, or first noted it.
    """

    revision: str
    phase: Phase
    checksum: str
    applied_at: datetime | None
    duration_seconds: float | None
    release: str


def checksum_of(script: Script) -> str:
    """The SHA-256 of a revision's file, in hexadecimal; the same whatever its line ends are."""
    content = Path(script.path).read_bytes().replace(b"\r\n", b"\n")
    return hashlib.sha256(content).hexdigest()


def read_history(connection: Connection) -> dict[str, AppliedRevision] | None:
    """What the database remembers, by revision, in the order in which it was applied.

    Returns:
        None where there is nothing that could be read: no such table, or no right to.
    """
    if connection.dialect.name == "postgresql":
        # An error would end the transaction that there may be.
        if not connection.execute(_MAY_READ).scalar_one():
            return None
    elif not inspect(connection).has_table(HISTORY_TABLE):
        return None
    try:
        rows = connection.execute(_IN_ORDER).mappings().all()
    except SQLAlchemyError:
        return None
    return {
        row["revision"]: AppliedRevision(**{**row, "phase": Phase(row["phase"])}) for row in rows
    }


def adopt(connection: Connection, applied: Iterable[Script]) -> list[str]:
    """Make the table where it is missing, and note what was applied before there was any.

    The files are taken to be what was applied, as nobody can know otherwise.

    Args:
        connection: What is done is committed by whoever calls.
        applied: The revisions that the database says it has.

    Returns:
        The revisions that were noted.
    """
    # MariaDB commits before the statement, whether or not it makes the table.
    if not inspect(connection).has_table(HISTORY_TABLE):
        _history.create(connection, checkfirst=True)
    known = read_history(connection) or {}
    new = [script for script in applied if script.revision not in known]
    for script in new:
        connection.execute(insert(_history).values(_row(script)))
    _share(connection)
    return [script.revision for script in new]


def record(connection: Connection, script: Script, seconds: float) -> None:
    """Note that a revision was applied, within the transaction that does it.

    Args:
        connection: The one that does.
        script: Which.
        seconds: How long it took.
    """
    forget(connection, script.revision)
    row = {**_row(script), "applied_at": datetime.now(UTC), "duration_seconds": round(seconds, 6)}
    connection.execute(insert(_history).values(row))
    _share(connection)


def forget(connection: Connection, revision: str) -> None:
    """Note that a revision was taken back."""
    connection.execute(delete(_history).where(_history.c.revision == revision))


def accept(connection: Connection, script: Script) -> None:
    """Take a file that was edited for the one that was applied."""
    values = {"checksum": checksum_of(script), "phase": str(phase_of(script))}
    connection.execute(
        update(_history).where(_history.c.revision == script.revision).values(values)
    )


def verify_checksums(history: dict[str, AppliedRevision], applied: Iterable[Script]) -> None:
    """Compare the files of revisions with what was applied.

    Raises:
        ChecksumError: Some differ; names them.
    """
    edited = [
        Path(script.path).name
        for script in applied
        if script.revision in history and history[script.revision].checksum != checksum_of(script)
    ]
    if edited:
        raise ChecksumError(
            f"edited after it was applied: {', '.join(edited)}; restore the file and write a new"
            " revision, or, if it does the same, run `tidegate migrate up --accept REVISION`"
        )


def _share(connection: Connection) -> None:
    """Let whoever may read where the database stands read what that means for him."""
    if connection.dialect.name == "postgresql":
        for grantee in connection.execute(_READERS).scalars().all():
            connection.execute(text(f"GRANT SELECT ON {HISTORY_TABLE} TO {grantee}"))


def _row(script: Script) -> dict[str, str]:
    return {
        "revision": script.revision,
        "phase": str(phase_of(script)),
        "checksum": checksum_of(script),
        "release": version("tidegate"),
    }

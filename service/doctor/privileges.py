"""Whether the service's role may do what it must, and whether the migrations' role may."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text

from service.database import metadata
from service.database.urls import sqlite_file
from service.doctor.findings import Finding, Findings
from service.migrator.history import VERSION_TABLE

_SERVING: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
_MIGRATING: Final = ("ALTER", "CREATE", "DROP", "INDEX", "REFERENCES")
_READ: Final = ("SELECT",)
_SEPARATE: Final = (
    "serve by a role that owns nothing, and let the owner's URL be MIGRATE_DATABASE_URL"
)

_POSTGRESQL_TABLE: Final = text("""
SELECT has_table_privilege(to_regclass(:table), :privilege)
""")
_POSTGRESQL_OWNER: Final = text("""
SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
       coalesce(bool_and(pg_has_role(current_user, relowner, 'USAGE')), true) AS owns_all,
       coalesce(bool_or(pg_has_role(current_user, relowner, 'USAGE')), false) AS owns_some
FROM pg_class WHERE oid = ANY (SELECT to_regclass(name) FROM unnest(:tables) AS name)
""")
# The patterns of databases in it are LIKE's own.
_MARIADB: Final = text("""
SELECT privilege_type, NULL AS table_name FROM information_schema.user_privileges
WHERE grantee = :grantee
UNION SELECT privilege_type, NULL FROM information_schema.schema_privileges
WHERE grantee = :grantee AND database() LIKE table_schema
UNION SELECT privilege_type, table_name FROM information_schema.table_privileges
WHERE grantee = :grantee AND table_schema = database()
""")
_MARIADB_USER: Final = text("SELECT current_user(), current_role()")


def service_tables() -> list[str]:
    """The tables of the models, all of which have been imported by now."""
    return sorted(metadata.tables)


def examine_serving_role(
    connection: Connection, setting: str, *, is_deployed: bool
) -> Iterator[Finding]:
    """Whether the role can serve, and no more than that.

    Args:
        connection: One of its.
        setting: Which setting names it.
        is_deployed: Whether one that may change the schema is worth a warning.
    """
    findings = Findings("privileges", setting)
    match connection.dialect.name:
        case "postgresql":
            missing = _missing_postgresql(connection)
            may_alter = _may_alter_postgresql(connection)
        case "mariadb":
            granted = _granted_mariadb(connection)
            if granted is None:
                yield findings.passed("granted by a role of the server, which is not looked into")
                return
            missing = _missing_mariadb(granted)
            may_alter = bool(_everywhere(granted) & {"ALTER", "CREATE", "DROP"})
        case _:
            yield _examine_file(connection, findings)
            return
    if missing:
        yield findings.failed(
            f"the role lacks {', '.join(missing)}", f"grant it {', '.join(missing)}"
        )
    else:
        yield findings.passed("the role can read and write every table that there is")
    if may_alter:
        yield findings.judged(not is_deployed, "the role may change the schema, too", _SEPARATE)


def examine_migrating_role(connection: Connection, setting: str) -> Iterator[Finding]:
    """Whether the role can migrate.

    Args:
        connection: One of its.
        setting: Which setting names it.
    """
    findings = Findings("privileges", setting)
    match connection.dialect.name:
        case "postgresql":
            row = connection.execute(_POSTGRESQL_OWNER, {"tables": service_tables()}).one()
            is_able = row.is_superuser or (row.may_create and row.owns_all)
            lack = "does not own the tables, or may not create any in the schema"
            advice = "make it the owner of the schema and its tables"
        case "mariadb":
            granted = _granted_mariadb(connection)
            missing = sorted(set(_MIGRATING) - _everywhere(granted)) if granted is not None else []
            is_able, lack = not missing, f"lacks {', '.join(missing)}"
            advice = f"grant it {', '.join(missing)} on the database"
        case _:
            return
    if is_able:
        yield findings.passed("the role can migrate")
    else:
        yield findings.failed(f"the role {lack}", advice)


def _missing_postgresql(connection: Connection) -> list[str]:
    wanted = {**dict.fromkeys(service_tables(), _SERVING), VERSION_TABLE: _READ}
    return [
        f"{privilege} on {table}"
        for table, privileges in wanted.items()
        for privilege in privileges
        # None for a table that is not there: that is the schema's matter.
        if connection.scalar(_POSTGRESQL_TABLE, {"table": table, "privilege": privilege}) is False
    ]


def _may_alter_postgresql(connection: Connection) -> bool:
    row = connection.execute(_POSTGRESQL_OWNER, {"tables": service_tables()}).one()
    return bool(row.is_superuser or row.may_create or row.owns_some)


def _granted_mariadb(connection: Connection) -> set[tuple[str, str | None]] | None:
    user, role = connection.execute(_MARIADB_USER).one()
    if role is not None:
        return None
    name, _, host = user.rpartition("@")
    rows = connection.execute(_MARIADB, {"grantee": f"'{name}'@'{host}'"})
    return {(privilege, table) for privilege, table in rows}


def _everywhere(granted: set[tuple[str, str | None]] | None) -> set[str]:
    return {privilege for privilege, table in granted or () if table is None}


def _missing_mariadb(granted: set[tuple[str, str | None]]) -> list[str]:
    wanted: dict[str, Collection[str]] = {
        **dict.fromkeys(service_tables(), _SERVING),
        VERSION_TABLE: _READ,
    }
    return [
        f"{privilege} on {table}"
        for table, privileges in wanted.items()
        for privilege in privileges
        if not {(privilege, None), (privilege, table)} & granted
    ]


def _examine_file(connection: Connection, findings: Findings) -> Finding:
    file = (sqlite_file(connection.engine.url) or Path()).absolute()
    if os.access(file, os.W_OK) and os.access(file.parent, os.W_OK):
        return findings.passed("the file and its directory can be written to")
    return findings.failed(
        "the file, or its directory, cannot be written to",
        "let the service's user write to both: SQLite keeps its log beside the file",
    )

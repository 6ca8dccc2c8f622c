"""The catalog of a MariaDB database."""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Final

from sqlalchemy import Connection, RowMapping, text

from service.migrator.catalog.things import Thing, ask

_TABLES: Final = """
    SELECT CASE table_type WHEN 'VIEW' THEN 'view' ELSE 'table' END AS kind, table_name AS name,
        table_name AS belongs_to, engine, table_collation AS collation,
        nullif(create_options, '') AS options, nullif(table_comment, '') AS comment
    FROM information_schema.tables
    WHERE table_schema = database() AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')
"""

_VIEWS: Final = """
    SELECT 'view' AS kind, table_name AS name, table_name AS belongs_to,
        replace(view_definition, concat('`', database(), '`.'), '') AS definition,
        nullif(check_option, 'NONE') AS 'check option', security_type AS security
    FROM information_schema.views WHERE table_schema = database()
"""

_COLUMNS: Final = """
    SELECT 'column' AS kind, concat(table_name, '.', column_name) AS name, table_name AS belongs_to,
        column_type AS type, lower(is_nullable) AS nullable,
        nullif(column_default, 'NULL') AS 'default', collation_name AS collation,
        nullif(extra, '') AS extra, generation_expression AS generated,
        nullif(column_comment, '') AS comment
    FROM information_schema.columns WHERE table_schema = database()
"""

# One row for each column; put together here, because a query that groups and joins what the server
# computes on the fly is more than it may be asked in production.
_INDEXED: Final = text("""
    SELECT table_name, index_name, column_name, sub_part, collation, non_unique, index_type,
        ignored, index_comment
    FROM information_schema.statistics WHERE table_schema = database()
    ORDER BY table_name, index_name, seq_in_index
""")

_CHECKS: Final = """
    SELECT 'constraint' AS kind, concat(table_name, '.', constraint_name) AS name,
        table_name AS belongs_to, concat('CHECK (', check_clause, ')') AS definition
    FROM information_schema.check_constraints WHERE constraint_schema = database()
"""

_REFERRING: Final = text("""
    SELECT table_name, constraint_name, column_name, referenced_table_name, referenced_column_name
    FROM information_schema.key_column_usage
    WHERE table_schema = database() AND referenced_table_name IS NOT NULL
    ORDER BY table_name, constraint_name, ordinal_position
""")
_REFERENTIAL_ACTIONS: Final = text("""
    SELECT table_name, constraint_name, lower(update_rule), lower(delete_rule)
    FROM information_schema.referential_constraints WHERE constraint_schema = database()
""")

_PARTITIONS: Final = """
    SELECT 'partition' AS kind, concat(table_name, '.', partition_name) AS name,
        table_name AS belongs_to, partition_method AS method, partition_expression AS expression,
        partition_description AS description
    FROM information_schema.partitions
    WHERE table_schema = database() AND partition_name IS NOT NULL
"""

_TRIGGERS: Final = """
    SELECT 'trigger' AS kind, concat(event_object_table, '.', trigger_name) AS name,
        event_object_table AS belongs_to,
        concat_ws(' ', action_timing, event_manipulation, action_statement) AS definition
    FROM information_schema.triggers WHERE trigger_schema = database()
"""

_ROUTINES: Final = """
    SELECT lower(routine_type) AS kind, routine_name AS name, NULL AS belongs_to,
        nullif(dtd_identifier, '') AS returns, routine_definition AS definition,
        is_deterministic AS 'deterministic', sql_data_access AS 'data access',
        security_type AS security, nullif(routine_comment, '') AS comment
    FROM information_schema.routines WHERE routine_schema = database()
"""

_PARAMETERS: Final = """
    SELECT 'parameter' AS kind, concat(specific_name, '.', ordinal_position) AS name,
        NULL AS belongs_to, parameter_mode AS mode, parameter_name AS called, dtd_identifier AS type
    FROM information_schema.parameters
    WHERE specific_schema = database() AND ordinal_position > 0
"""

_EVENTS: Final = """
    SELECT 'event' AS kind, event_name AS name, NULL AS belongs_to, event_definition AS definition,
        concat_ws(' ', interval_value, interval_field, execute_at) AS schedule, status
    FROM information_schema.events WHERE event_schema = database()
"""

_SEQUENCES: Final = text("""
    SELECT table_name FROM information_schema.tables
    WHERE table_schema = database() AND table_type = 'SEQUENCE'
""")

_QUERIES: Final = (
    _TABLES,
    _VIEWS,
    _COLUMNS,
    _CHECKS,
    _PARTITIONS,
    _TRIGGERS,
    _ROUTINES,
    _PARAMETERS,
    _EVENTS,
)


def things(connection: Connection) -> Iterator[Thing]:
    """Everything in the database."""
    for query in _QUERIES:
        yield from ask(connection, query)
    yield from _indexes(connection)
    yield from _foreign_keys(connection)
    for name in connection.execute(_SEQUENCES).scalars():
        yield from _sequence(connection, name)


def _indexes(connection: Connection) -> Iterator[Thing]:
    rows = connection.execute(_INDEXED).mappings().all()
    for (table, name), group in groupby(rows, key=itemgetter("table_name", "index_name")):
        columns = [*group]
        properties = {
            "columns": ", ".join(map(_indexed, columns)),
            "unique": "no" if columns[0]["non_unique"] else "yes",
            "type": columns[0]["index_type"],
            "ignored": columns[0]["ignored"].lower(),
            "comment": columns[0]["index_comment"],
        }
        yield Thing("index", f"{table}.{name}", table, properties)


def _indexed(column: RowMapping) -> str:
    length = f"({column['sub_part']})" if column["sub_part"] else ""
    return f"{column['column_name']}{length}{' desc' if column['collation'] == 'D' else ''}"


def _foreign_keys(connection: Connection) -> Iterator[Thing]:
    rows = connection.execute(_REFERRING).all()
    actions = {(row[0], row[1]): row[2:] for row in connection.execute(_REFERENTIAL_ACTIONS)}
    for (table, name, other), group in groupby(rows, key=itemgetter(0, 1, 3)):
        columns = [*group]
        mine, theirs = (", ".join(row[at] for row in columns) for at in (2, 4))
        update, delete = actions.get((table, name), ("", ""))
        properties = {
            "definition": f"FOREIGN KEY ({mine}) REFERENCES {other} ({theirs})",
            "on update": update,
            "on delete": delete,
        }
        yield Thing("constraint", f"{table}.{name}", table, properties)


def _sequence(connection: Connection, name: str) -> Iterator[Thing]:
    """A sequence, which is a table of one row that says how it counts."""
    quoted = connection.dialect.identifier_preparer.quote(name)
    yield from ask(
        connection,
        "SELECT 'sequence' AS kind, :name AS name, NULL AS belongs_to, start_value AS start,"
        " minimum_value AS minimum, maximum_value AS maximum, increment, cache_size AS cache,"
        f" cycle_option AS cycle FROM {quoted}",
        name=name,
    )

"""Which columns a constraint has, told by the name that a database gave it."""

from typing import Final

from sqlalchemy import Dialect, Index, MetaData
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import ColumnCollectionConstraint, conv

POSTGRESQL: Final[Dialect] = postgresql.dialect()  # type: ignore[no-untyped-call]


def columns_of(
    constraint: str | None, metadata: MetaData | None, dialect: Dialect = POSTGRESQL
) -> tuple[str, ...]:
    """The columns of a constraint or index, or none where they cannot be told.

    Args:
        constraint: What the database calls it.
        metadata: Where to look it up.
        dialect: Whose limit on names applies.
    """
    if constraint is None or metadata is None:
        return ()
    for table in metadata.tables.values():
        for candidate in (*table.constraints, *table.indexes):
            kinds = ColumnCollectionConstraint | Index
            if isinstance(candidate, kinds) and _name_of(candidate, dialect) == constraint:
                return tuple(candidate.columns.keys())
    return ()


def _name_of(rule: ColumnCollectionConstraint | Index, dialect: Dialect) -> str | None:
    """What the database calls it: a name of the convention is cut to what the database takes."""
    if not isinstance(rule.name, conv):
        return rule.name if isinstance(rule.name, str) else None
    return dialect.identifier_preparer.format_constraint(rule, _alembic_quote=False)

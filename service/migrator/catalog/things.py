"""What the readers of the databases' catalogs have in common."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, text


class Thing(NamedTuple):
    """Something that a database holds.

    Args:
        kind: What it is: "column", "index", "enum".
        name: What it is called; that of a part begins with its table's.
        table: The bare name of the table that it belongs to, or None.
        properties: All that tells one state of it from another.
    """

    kind: str
    name: str
    table: str | None
    properties: Mapping[str, str]


def ask(connection: Connection, query: str, **values: Any) -> Iterator[Thing]:
    """Run a query whose first columns are kind, name and table; the others are properties.

    A property that is NULL is left out.
    """
    for row in connection.execute(text(query), values).mappings():
        found = {name: _words(value) for name, value in row.items() if value is not None}
        kind, name = found.pop("kind"), found.pop("name")
        yield Thing(kind, name, found.pop("belongs_to", None), found)


def _words(value: Any) -> str:
    """A value of any driver's type; `1` and `true` are the same whoever says it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, bytes):
        return value.decode()
    return str(value)

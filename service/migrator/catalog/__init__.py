"""What a database holds, read from its own catalog: whatever differs there is a difference."""

import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import Connection

from service.migrator.catalog import mariadb, postgresql, sqlite
from service.migrator.catalog.things import Thing


class Key(NamedTuple):
    """Which thing of a database: "column", "products.price"."""

    kind: str
    name: str


# Each thing with its properties.
Catalog = Mapping[Key, Mapping[str, str]]

_ONLY: Final = "only in"
_LONGEST: Final = 200
_READERS: Final[Mapping[str, Callable[[Connection], Iterable[Thing]]]] = {
    "postgresql": postgresql.things,
    "mariadb": mariadb.things,
    "sqlite": sqlite.things,
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same in two catalogs.

    Args:
        kind: What it is: "column", "index", "enum".
        name: What it is called.
        what: How it differs, in words.
    """

    kind: str
    name: str
    what: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.kind} {self.name}: {self.what}"


def snapshot(connection: Connection, *, without: Collection[str] = ()) -> Catalog:
    """Read the catalog of the database that a connection is connected to.

    The order of columns is no part of it: a column that was added later stands last, wherever
    the model has it.

    Args:
        connection: Its transaction is left open, as it was found or begun here.
        without: Tables that are left out, with all that belongs to them.
    """
    things = _READERS[connection.dialect.name](connection)
    return {
        Key(thing.kind, thing.name): thing.properties
        for thing in things
        if thing.table not in without
    }


def differences(
    left: Catalog, right: Catalog, *, left_name: str, right_name: str
) -> tuple[Difference, ...]:
    """Tell how two catalogs differ.

    Args:
        left: One of them.
        right: The other one.
        left_name: What the first one is called in a sentence, like "the models".
        right_name: The same of the other one.
    """
    found = []
    for key in sorted({*left, *right}):
        if key not in right:
            found.append(_missing(key, left[key], left_name))
        elif key not in left:
            found.append(_missing(key, right[key], right_name))
        else:
            changes = _changes(left[key], right[key], left_name, right_name)
            found.extend(Difference(*key, what) for what in changes)
    return tuple(_without_parts(found))


def _missing(key: Key, properties: Mapping[str, str], where: str) -> Difference:
    definition = properties.get("definition")
    behind = f": {_short(definition)}" if definition else ""
    return Difference(*key, f"{_ONLY} {where}{behind}")


def _changes(
    left: Mapping[str, str], right: Mapping[str, str], left_name: str, right_name: str
) -> Iterator[str]:
    for name in sorted({*left, *right}):
        mine, other = left.get(name, "none"), right.get(name, "none")
        if mine != other:
            mine, other = _short(mine), _short(other)
            yield f"{name} is {mine} in {left_name}, {other} in {right_name}"


def _short(text: str) -> str:
    """One line of a definition, which may be a whole function."""
    return textwrap.shorten(text, _LONGEST, placeholder=" …")


def _without_parts(found: list[Difference]) -> Iterator[Difference]:
    """Leave out the columns and indexes of a table that is itself missing."""
    missing = [
        f"{one.name}."
        for one in found
        if one.kind in ("table", "view", "sequence") and one.what.startswith(_ONLY)
    ]
    return (one for one in found if not one.name.startswith(tuple(missing)))

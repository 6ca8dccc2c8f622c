"""Whether each revision can be taken back: up, down and up again, on tables that hold rows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from alembic.script import Script
from sqlalchemy import Connection, Engine, Table, func, select

from service.migrator import rows, schemas
from service.migrator.catalog import Catalog, differences
from service.migrator.errors import MigrationError
from service.migrator.revisions import Revisions
from service.migrator.scratch import Scratch

_BEFORE: Final = "the schema before"
_DOWN: Final = "the schema after up and down"
_UP: Final = "the schema after up"
_AGAIN: Final = "the schema after up, down and up"

# How many values each column of each table holds; by None, how many rows.
Values = Mapping[tuple[str, str | None], int]


@dataclass(frozen=True, slots=True)
class Trip:
    """How one revision went there and back.

    Args:
        revision: Its identifier.
        title: The first line of its description.
        irreversible: The reason for which it cannot be taken back, if it says one.
        problems: What is not as it was, or failed; a line each.
        notes: What `down` cannot bring back because `up` took it away.
    """

    revision: str
    title: str
    irreversible: str | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """In a word: "returned", "failed", or "irreversible"."""
        if self.problems:
            return "failed"
        return "returned" if self.irreversible is None else "irreversible"

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {**asdict(self), "outcome": self.outcome}


class _StoppedError(Exception):
    """The database is in no state to go on from."""


def roundtrip(
    revisions: Revisions, scratch: Scratch, report: Callable[[Trip], None] = lambda _: None
) -> list[Trip]:
    """Take each revision up, down and up again, from the first to the last.

    Before it there are rows in every table, and rows in what it makes before it is taken back. The
    catalogs before and after have to be equal, and no row may be lost from what stays.

    Args:
        revisions: The revisions.
        scratch: Where to do it.
        report: Told of each as it is done.

    Returns:
        One trip for each revision; after one that left the database half way there is none.

    Raises:
        HeadsError: There is no single last revision.
        UnreachableError: The server does not answer.
    """
    _ = revisions.head
    trips = []
    samples: dict[str, Any] = {}
    with scratch.database() as engine:
        for script in revisions.known.values():
            samples |= getattr(script.module, "sample_rows", {})
            travel = _Journey(engine, revisions, script, samples)
            trips.append(travel.trip())
            report(trips[-1])
            if travel.is_stopped:
                break
    return trips


class _Journey:
    """One revision's way."""

    def __init__(
        self, engine: Engine, revisions: Revisions, script: Script, samples: rows.Samples
    ) -> None:
        self._engine, self._revisions, self._script = engine, revisions, script
        self._samples = samples
        self._problems: list[str] = []
        self._notes: list[str] = []
        self.is_stopped = False

    def trip(self) -> Trip:
        reason = getattr(self._script.module, "irreversible", None)
        try:
            self._go(is_reversible=reason is None and not self._script.is_merge_point)
        except _StoppedError:
            self.is_stopped = True
        return Trip(
            self._script.revision,
            self._script.doc,
            reason,
            tuple(self._problems),
            tuple(self._notes),
        )

    def _go(self, *, is_reversible: bool) -> None:
        before, values_before = schemas.read(self._engine), self._values()
        self._do("up", schemas.upgrade, self._script.revision)
        self._fill()
        if not is_reversible:
            return
        after, values_after = schemas.read(self._engine), self._values()
        self._do("down", schemas.downgrade, str(self._script.down_revision or "base"))
        down = schemas.read(self._engine)
        self._compare(before, down, _BEFORE, _DOWN)
        self._compare_values(values_before, values_after, self._values())
        self._do("up again", schemas.upgrade, self._script.revision)
        again = schemas.read(self._engine)
        self._compare(after, again, _UP, _AGAIN)
        self._fill()

    def _do(self, what: str, work: Callable[[Engine, Revisions, str], None], target: str) -> None:
        try:
            work(self._engine, self._revisions, target)
        except MigrationError as error:
            self._problems.append(f"{what} failed: {error}")
            raise _StoppedError from error

    def _fill(self) -> None:
        with self._engine.begin() as connection:
            empty = rows.fill(connection, self._samples)
        self._problems += [line for line in empty if line not in self._problems]

    def _compare(self, left: Catalog, right: Catalog, left_name: str, right_name: str) -> None:
        found = differences(left, right, left_name=left_name, right_name=right_name)
        self._problems += map(str, found)

    def _values(self) -> Values:
        with self._engine.connect() as connection:
            return {
                key: number
                for table in rows.reflected(connection)
                for key, number in _count(connection, table).items()
            }

    def _compare_values(self, before: Values, after: Values, down: Values) -> None:
        stayed = {key: number for key, number in after.items() if key in before}
        self._problems += [f"down lost {words}" for words in _lost(stayed, down)]
        dropped = {key: number for key, number in before.items() if key not in after}
        self._notes += [f"down does not bring back {words}" for words in _lost(dropped, down)]


def _count(connection: Connection, table: Table) -> dict[tuple[str, str | None], int]:
    counts = [func.count(), *map(func.count, table.columns)]
    row = connection.execute(select(*counts).select_from(table)).one()
    keys = [None, *table.columns.keys()]
    return {(table.fullname, key): number for key, number in zip(keys, row, strict=True)}


def _lost(held: Values, now: Values) -> Iterator[str]:
    """What was there and is not; of a table that lost rows, the rows alone."""
    lost = {key: number - now[key] for key, number in held.items() if now.get(key, number) < number}
    for (table, column), number in lost.items():
        if column is None:
            yield f"{number} rows of {table}"
        elif (table, None) not in lost:
            yield f"{number} values of {table}.{column}"

"""Looking at a database and its revisions, and changing neither."""

from dataclasses import dataclass
from typing import Any

from service.database.engine import autocommit_engine
from service.migrator.errors import ExitCode, UsageError
from service.migrator.history import AppliedRevision, checksum_of, read_history
from service.migrator.lock import lock_holder
from service.migrator.phases import describe
from service.migrator.rendering import render
from service.migrator.runner import Runner
from service.migrator.schema_status import SchemaState, SchemaStatus, refuse_incompatible
from service.migrator.sessions import Session, waiting

_DIALECTS = ("postgresql", "mariadb", "sqlite")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a database stands, revision by revision.

    Args:
        status: The verdict.
        revisions: Each revision of this release, or of the database's, with what is known of it.
        exit_code: How a command ends that finds it so.
    """

    status: SchemaStatus
    revisions: list[dict[str, Any]]
    exit_code: ExitCode


@dataclass(frozen=True, slots=True)
class PlannedRevision:
    """A revision that `up` would apply.

    Args:
        fields: What it is.
        sql: Its statements.
    """

    fields: dict[str, Any]
    sql: str


@dataclass(frozen=True, slots=True)
class Locks:
    """Who holds what.

    Args:
        holder: Who has the runner's lock; None if nobody has.
        waiting: Who waits for a lock, with those whom he waits for.
        is_known: Whether the database knows any of it; SQLite does not.
    """

    holder: Session | None
    waiting: list[tuple[Session, list[Session]]]
    is_known: bool

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "is_known": self.is_known,
            "holder": self.holder.as_event() if self.holder else None,
            "waiting": [
                {**session.as_event(), "blockers": [one.as_event() for one in holders]}
                for session, holders in self.waiting
            ],
        }


def inspect_database(runner: Runner) -> Standing:
    """Where the database stands.

    Raises:
        UnreachableError: It does not answer.
        HeadsError: This release has no single head.
    """
    _ = runner.revisions.head
    with runner.connected() as engine, autocommit_engine(engine).connect() as connection:
        status = runner.revisions.status(connection)
        history = read_history(connection) or {}
    rows = [
        _row(runner, status, name, history.get(name))
        for name in {**runner.revisions.known, **history}
    ]
    is_edited = any(row["note"] == "edited" for row in rows)
    code = status.state.exit_code or (ExitCode.CHECKSUM if is_edited else ExitCode.DONE)
    return Standing(status, rows, code)


def make_plan(
    runner: Runner, *, dialect_name: str | None = None, start: str | None = None
) -> list[PlannedRevision]:
    """What `up` would apply, with its SQL.

    Args:
        runner: Has the database.
        dialect_name: For which database to write it, without asking one.
        start: Then, the revision that is applied last; None for an empty database.

    Raises:
        MigrationError: The database cannot be brought to this release, or does not answer.
        UsageError: The dialect is unknown, or `start` is given without one.
    """
    revisions = runner.revisions
    _ = revisions.head
    if dialect_name is None:
        if start is not None:
            raise UsageError("--from needs --dialect: a database knows where it stands")
        with runner.connected() as engine, autocommit_engine(engine).connect() as connection:
            status = revisions.status(connection)
            dialect_name = engine.dialect.name
        refuse_incompatible(status)
        if status.state is not SchemaState.BEHIND:
            return []
        start = status.current
    elif dialect_name not in _DIALECTS:
        raise UsageError(f"--dialect: one of {', '.join(_DIALECTS)}")
    return [
        PlannedRevision(describe(revisions.known[one.revision], runner.limits), one.sql)
        for one in render(revisions, dialect_name, start)
    ]


def find_locks(runner: Runner) -> Locks:
    """Who holds the runner's lock, and who waits for whom.

    Raises:
        UnreachableError: The database does not answer.
    """
    with runner.connected() as engine, autocommit_engine(engine).connect() as connection:
        return Locks(
            lock_holder(connection),
            waiting(connection),
            is_known=connection.dialect.name != "sqlite",
        )


def _row(
    runner: Runner, status: SchemaStatus, name: str, applied: AppliedRevision | None
) -> dict[str, Any]:
    script = runner.revisions.known.get(name)
    if script is None:
        note = "unknown to this release"
    elif name in status.pending:
        note = "pending"
    elif applied is not None and applied.checksum != checksum_of(script):
        note = "edited"
    else:
        note = None
    return {
        "revision": name,
        "title": script.doc if script else None,
        "phase": str(applied.phase if applied else describe(script, runner.limits)["phase"]),  # type: ignore[arg-type] # it is one of the two
        "applied": applied.applied_at if applied else None,
        "seconds": applied.duration_seconds if applied else None,
        "release": applied.release if applied else None,
        "note": note,
    }

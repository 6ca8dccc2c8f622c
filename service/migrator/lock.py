"""The runner's lock: of those that start together, one migrates and the others wait for it."""

import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from service.database.urls import sqlite_file
from service.migrator.cancellation import Cancellation
from service.migrator.connections import ask
from service.migrator.errors import LockBusyError, UsageError
from service.migrator.events import Events
from service.migrator.sessions import Session, holder_columns, read_sessions

# Advisory locks are numbers, and one namespace for each database: "tidegate" in ASCII.
LOCK_KEY: Final = int.from_bytes(b"tidegate")
_POLL_SECONDS: Final = 0.2
# How often it is told that the wait goes on.
_TELL_SECONDS: Final = 10.0

# Names of locks are one namespace for the whole server.
_LOCK_NAME: Final = "concat('tidegate:', md5(database()))"


@contextmanager
def runner_lock(
    engine: Engine,
    *,
    wait: float,
    events: Events | None = None,
    cancellation: Cancellation | None = None,
) -> Iterator[Connection]:
    """Hold the lock that allows one runner at a time.

    It is polled for, never waited for in the database: a blocked `pg_advisory_lock()` is a
    transaction that CREATE INDEX CONCURRENTLY waits for, so the two would deadlock.

    Args:
        engine: The database that is to be migrated.
        wait: Seconds to wait for another runner.
        events: Told when there is one.
        cancellation: Ends the wait.

    Returns:
        The connection that holds it. The work has to be done on this one: whatever ends the one
        then ends the other, and no runner works on without the lock.

    Raises:
        LockBusyError: Another one holds it for longer; names the holder.
        UsageError: The file of SQLite's lock cannot be made.
        StoppedError: Somebody stopped it.
    """
    events, cancellation = events or Events(), cancellation or Cancellation()
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            file = sqlite_file(engine.url)
            if file is None:
                # It is in memory, where nobody else can reach it.
                yield connection
                return
            with _file_lock(file.with_name(f"{file.name}.lock"), wait, events, cancellation):
                yield connection
            return
        acquire, release = _SERVER_LOCKS[engine.dialect.name]
        values = _values(engine)

        def attempt() -> bool:
            return bool(ask(connection, text(acquire), **values).scalar_one())

        _poll(attempt, wait, lambda: lock_holder(connection), events, cancellation)
        try:
            yield connection
        finally:
            _release(connection, release, values)


def _release(connection: Connection, release: str, values: dict[str, int]) -> None:
    if connection.closed or connection.invalidated:
        return
    try:
        connection.rollback()
        ask(connection, text(release), **values)
    except SQLAlchemyError:
        # The end of the session frees it as well; the pool would keep that.
        connection.invalidate()


def lock_holder(connection: Connection) -> Session | None:
    """Who holds the runner's lock, if anybody does that the database knows of.

    Args:
        connection: It has no transaction, before and after.
    """
    query = _HOLDERS.get(connection.dialect.name)
    if query is None:
        return None
    found = read_sessions(connection, text(query), **_values(connection.engine))
    return found[0] if found else None


def _values(engine: Engine) -> dict[str, int]:
    return {"key": LOCK_KEY} if engine.dialect.name == "postgresql" else {}


_SERVER_LOCKS: Final = {
    "postgresql": ("SELECT pg_try_advisory_lock(:key)", "SELECT pg_advisory_unlock(:key)"),
    "mariadb": (f"SELECT get_lock({_LOCK_NAME}, 0)", f"SELECT release_lock({_LOCK_NAME})"),
}
_HOLDERS: Final = {
    "postgresql": f"""
        SELECT {holder_columns("postgresql")}
        FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND (l.classid::bigint << 32 | l.objid::bigint) = :key
    """,  # noqa: S608 - text of ours
    "mariadb": f"""
        SELECT {holder_columns("mariadb")}
        FROM information_schema.processlist p WHERE p.id = is_used_lock({_LOCK_NAME})
    """,  # noqa: S608 - as above
}


@contextmanager
def _file_lock(
    path: Path, wait: float, events: Events, cancellation: Cancellation
) -> Iterator[None]:
    with _opened(path) as file:

        def acquire() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        _poll(acquire, wait, lambda: _file_holder(path), events, cancellation)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _opened(path: Path) -> TextIO:
    try:
        return path.open("a+")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be opened: {error.strerror}; let this user write to the directory of"
            " the database, where SQLite keeps its log, too"
        ) from error


def _file_holder(path: Path) -> Session | None:
    number = path.read_text(encoding="ascii", errors="replace")
    return Session(int(number), f"has {path.name} locked") if number.isdecimal() else None


def _poll(
    acquire: Callable[[], bool],
    wait: float,
    find_holder: Callable[[], Session | None],
    events: Events,
    cancellation: Cancellation,
) -> None:
    start = time.monotonic()
    tell_at = start
    while not acquire():
        now = time.monotonic()
        is_over = now >= start + wait
        if is_over or now >= tell_at:
            holder = find_holder()
            event = holder.as_event() if holder else {"description": "unknown"}
            if is_over:
                raise LockBusyError(
                    f"another runner is migrating: {event['description']};"
                    f" waited {wait:g} s, try again later"
                )
            events.emit("lock_wait", holder=event, waited_seconds=round(now - start, 3))
            tell_at = now + _TELL_SECONDS
        # Jitter, so that runners that started together do not ask together.
        cancellation.wait(_POLL_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
    events.emit("lock_acquired", waited_seconds=round(time.monotonic() - start, 3))

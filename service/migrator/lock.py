"""The runner's lock: of those that start together, one migrates and the others wait for it."""

import fcntl
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, text

from service.database.urls import is_memory
from service.migrator.errors import LockBusyError

# Advisory locks are numbers, and one namespace for each database: "tidegate" in ASCII.
LOCK_KEY: Final = int.from_bytes(b"tidegate")
_POLL_SECONDS: Final = 0.2

_HOLDER: Final = text("""
    SELECT 'process ' || l.pid || coalesce(' (' || nullif(a.application_name, '') || ')', '')
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (l.classid::bigint << 32 | l.objid::bigint) = :key
""")

# Names of locks are one namespace for the whole server.
_LOCK_NAME: Final = "concat('tidegate:', md5(database()))"
_NAMED_HOLDER: Final = text(f"""
    SELECT concat('connection ', id, ' (', user, '@', host, ')')
    FROM information_schema.processlist WHERE id = is_used_lock({_LOCK_NAME})
""")  # noqa: S608 - text of ours


@contextmanager
def runner_lock(engine: Engine, *, wait: float) -> Iterator[None]:
    """Hold the lock that allows one runner at a time.

    It is polled for, never waited for in the database: a blocked `pg_advisory_lock()` is a
    transaction that CREATE INDEX CONCURRENTLY waits for, so the two would deadlock.

    Args:
        engine: The database that is to be migrated.
        wait: Seconds to wait for another runner.

    Raises:
        LockBusyError: Another one holds it for longer; names the holder.
    """
    if engine.dialect.name == "postgresql":
        with _advisory_lock(engine, wait):
            yield
    elif engine.dialect.name == "mariadb":
        with _named_lock(engine, wait):
            yield
    elif is_memory(engine.url):
        # Nobody else can reach it.
        yield
    else:
        with _file_lock(Path(f"{engine.url.database}.lock"), wait):
            yield


@contextmanager
def _advisory_lock(engine: Engine, wait: float) -> Iterator[None]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        key = {"key": LOCK_KEY}

        def acquire() -> bool:
            query = text("SELECT pg_try_advisory_lock(:key)")
            return bool(connection.execute(query, key).scalar_one())

        _poll(acquire, wait, lambda: connection.execute(_HOLDER, key).scalar() or "unknown")
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)


@contextmanager
def _named_lock(engine: Engine, wait: float) -> Iterator[None]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

        def acquire() -> bool:
            query = text(f"SELECT get_lock({_LOCK_NAME}, 0)")
            return bool(connection.execute(query).scalar_one())

        _poll(acquire, wait, lambda: connection.execute(_NAMED_HOLDER).scalar() or "unknown")
        try:
            yield
        finally:
            connection.execute(text(f"SELECT release_lock({_LOCK_NAME})"))


@contextmanager
def _file_lock(path: Path, wait: float) -> Iterator[None]:
    with path.open("w") as file:

        def acquire() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        _poll(acquire, wait, lambda: f"whoever has {path.name} locked")
        yield


def _poll(acquire: Callable[[], bool], wait: float, holder: Callable[[], str]) -> None:
    deadline = time.monotonic() + wait
    while not acquire():
        if time.monotonic() >= deadline:
            raise LockBusyError(
                f"another runner is migrating: {holder()}; waited {wait:g} s, try again later"
            )
        # Jitter, so that runners that started together do not ask together.
        time.sleep(_POLL_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - no secret

"""Trying what needs a lock again, until those who have it let it go or the time is over."""

import random
import time
from collections.abc import Callable
from typing import Final

from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from service.database.failures import (
    ConnectionLost,
    DeadlockDetected,
    LockNotAvailable,
    classify,
)
from service.migrator.cancellation import Cancellation, interruption
from service.migrator.connections import set_timeouts
from service.migrator.errors import (
    LockRetriesError,
    MigrationError,
    UnreachableError,
    first_line,
)
from service.migrator.events import Events
from service.migrator.sessions import Session
from service.migrator.settings import MigratorSettings
from service.migrator.watching import SessionWatch

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
_LEFT_BEHIND: Final = (
    "; MariaDB keeps what the revision did before: undo that by hand, then run it again"
)


class Retrier:
    """Does things on a connection, each again while others hold what it needs.

    Args:
        engine: Where connections come from beside that one.
        connection: The one that holds the runner's lock; it has no transaction.
        limits: For how long a thing is tried.
        events: Told of each attempt that failed, with those who held the lock.
        cancellation: Ends it.
    """

    def __init__(
        self,
        engine: Engine,
        connection: Connection,
        *,
        limits: MigratorSettings,
        events: Events,
        cancellation: Cancellation,
    ) -> None:
        self._connection = connection
        self._budget = limits.lock_budget
        self._events = events
        self._cancellation = cancellation
        self._interrupt = interruption(engine, connection)
        self._watch = SessionWatch(engine, connection, events)

    def run(self, name: str, work: Callable[[], None], *, lock: float, statement: float) -> int:
        """Do something.

        Args:
            name: What, for whoever reads of it.
            work: Does it, and begins with nothing of it done.
            lock: Seconds that a statement of it waits for a lock.
            statement: Seconds that a statement of it takes.

        Returns:
            How many attempts it took.

        Raises:
            LockRetriesError: Others held what it needs for as long as it was tried.
            UnreachableError: The connection was lost; what was not finished is rolled back.
            StoppedError: Somebody stopped it; the same.
            MigrationError: It failed, whatever it raised; the same. On MariaDB, where each DDL
                statement commits, what it did before stays.
        """
        retry = _Retry(time.monotonic() + self._budget)
        attempts = 0
        while True:
            attempts += 1
            try:
                set_timeouts(self._connection, lock=lock, statement=statement)
                with self._watch.watching(name), self._cancellation.guarding(self._interrupt):
                    work()
            except MigrationError:
                raise
            except Exception as error:  # noqa: BLE001 - a revision is a program, and may do anything
                reason = self._reason_to_retry(name, error)
                pause = retry.pause_after(name, error, self._watch.seen)
                self._events.emit(
                    "lock_retry",
                    revision=name,
                    reason=reason,
                    attempt=attempts,
                    lock_timeout=lock,
                    retry_in=round(pause, 3),
                    blockers=[session.as_event() for session in self._watch.seen],
                )
                self._cancellation.wait(pause)
            else:
                return attempts

    def _reason_to_retry(self, name: str, error: Exception) -> str:
        """Roll back, and say why it is tried again.

        Raises:
            MigrationError: Why it is not.
        """
        connection = self._connection
        if not (connection.closed or connection.invalidated):
            connection.rollback()
        if self._cancellation.is_requested:
            raise self._cancellation.error() from error
        # A revision's own OSError is none of the connection's.
        failure = classify(error) if isinstance(error, SQLAlchemyError) else None
        if isinstance(failure, ConnectionLost):
            raise UnreachableError(
                f"the connection was lost during {name}; what was not finished is rolled back,"
                " run it again"
            ) from error
        if not isinstance(failure, LockNotAvailable | DeadlockDetected):
            # What to know where a revision is not rolled back.
            left = _LEFT_BEHIND if connection.dialect.name == "mariadb" else ""
            raise MigrationError(f"{name} failed: {_in_words(error)}{left}") from error
        return failure.reason


def _in_words(error: Exception) -> str:
    """An error in one line: the text of one that was raised to be read, or what kind it is."""
    if isinstance(error, SQLAlchemyError | CommandError):
        return first_line(error)
    return f"{type(error).__name__}: {first_line(error)}".removesuffix(": ")


class _Retry:
    """When a thing is tried again.

    Args:
        deadline: When it is given up, by the monotonic clock.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._pause = _FIRST_PAUSE

    def pause_after(self, name: str, error: Exception, seen: list[Session]) -> float:
        """How long to wait before the next attempt, in seconds.

        Raises:
            LockRetriesError: The time is over.
        """
        if time.monotonic() + self._pause > self._deadline:
            who = ", ".join(session.description for session in seen) or "unknown"
            raise LockRetriesError(
                f"{name}: others hold what it needs ({who}); nothing of it is applied, end their"
                " transactions or try at a quieter time"
            ) from error
        # Jitter, so that it does not meet the same periodic job each time.
        pause = self._pause * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return pause

"""Asking a database something within a deadline, and whether it answers at all."""

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, text

from service.database.engine import autocommit_engine, process
from service.database.failures import failure_reason

AnswerT = TypeVar("AnswerT")

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT: Final = 2.0
# The thread that asks, and when its answer is overdue.
_in_flight: "weakref.WeakKeyDictionary[Engine, tuple[threading.Thread, float]]" = (
    weakref.WeakKeyDictionary()
)
_lock = threading.Lock()


class OverdueError(TimeoutError):
    """The database did not answer within the deadline."""


def ask(engine: Engine, question: Callable[[Connection], AnswerT], *, timeout: float) -> AnswerT:
    """Ask a database something within a deadline that holds even when the server hangs.

    The question runs in a thread of its own, because no setting of a driver ends the wait for a
    server that is stopped. One is in flight for each engine: the next waits its turn, and fails
    at once while an overdue one still waits, instead of taking another connection.

    Args:
        engine: Which database.
        question: What to do with a connection.
        timeout: Seconds.

    Raises:
        OverdueError: There was no answer in time.
        sqlalchemy.exc.SQLAlchemyError: The database answered with an error.
    """
    deadline = time.monotonic() + timeout
    answers: list[AnswerT] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            # A transaction would cost more round trips, and on SQLite wait for every writer.
            with autocommit_engine(engine).connect() as connection:
                answers.append(question(connection))
        except Exception as error:  # noqa: BLE001 - raised again by the thread that asked
            errors.append(error)

    thread = threading.Thread(target=run, name="database-question", daemon=True)
    _start_in_turn(engine, thread, deadline)
    thread.join(max(0.0, deadline - time.monotonic()))
    if errors:
        raise errors[0]
    if not answers:
        raise OverdueError
    return answers[0]


def _start_in_turn(engine: Engine, thread: threading.Thread, deadline: float) -> None:
    while True:
        with _lock:
            former, overdue = _in_flight.get(engine, (None, 0.0))
            if former is None or not former.is_alive():
                _in_flight[engine] = thread, deadline
                thread.start()
                return
        patience = min(deadline, overdue) - time.monotonic()
        if patience <= 0:
            raise OverdueError
        former.join(patience)


def check_database_health(
    engine: Engine | None = None, *, timeout: float = DEFAULT_TIMEOUT
) -> dict[str, Any]:
    """Run `SELECT 1` and tell how it went.

    Args:
        engine: Which database; the process's engine when left out.
        timeout: Seconds after which the database counts as unhealthy.

    Returns:
        `{"status": "healthy", "database": "connected", "latency_seconds": 0.0004}`, or
        `{"status": "unhealthy", "database": "unreachable", "reason": "connection_lost", …}`.
        `reason` is a word from a fixed list, never a message: that goes to the log.
    """
    start = time.perf_counter()
    try:
        ask(engine or process.engine, _select_one, timeout=timeout)
    except OverdueError:
        logger.warning("database health check: no answer within %s s", timeout)
        reason = "timeout"
    except Exception as error:  # noqa: BLE001 - whatever it is, the database did not answer
        logger.warning("database health check: %s", error)
        reason = failure_reason(error)
    else:
        return {"status": "healthy", "database": "connected", "latency_seconds": _since(start)}
    return {
        "status": "unhealthy",
        "database": "unreachable",
        "reason": reason,
        "latency_seconds": _since(start),
    }


def _select_one(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 6)

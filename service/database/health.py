"""Asking a database something within a deadline, and whether it answers at all."""

import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from service.database.deadline import time_limit
from service.database.engine import autocommit_engine, process
from service.database.failures import DeadlineExceeded, classify, failure_reason

AnswerT = TypeVar("AnswerT")

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT: Final = 2.0


class OverdueError(TimeoutError):
    """The database did not answer within the deadline."""


def ask(engine: Engine, question: Callable[[Connection], AnswerT], *, timeout: float) -> AnswerT:
    """Ask a database something within a deadline that holds even when the server hangs.

    Args:
        engine: Which database; an engine of the kit.
        question: What to do with a connection.
        timeout: Seconds.

    Raises:
        OverdueError: There was no answer in time.
        sqlalchemy.exc.SQLAlchemyError: The database answered with an error.
    """
    try:
        # A transaction would cost more round trips, and on SQLite wait for every writer.
        with time_limit(timeout), autocommit_engine(engine).connect() as connection:
            return question(connection)
    except SQLAlchemyError as error:
        if isinstance(classify(error), DeadlineExceeded):
            raise OverdueError from error
        raise


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

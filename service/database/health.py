"""Whether a database answers."""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, text

from service.database.asking import OverdueError, ask
from service.database.failures import DeadlineExceeded, failure_reason
from service.database.process_engines import process

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT: Final = 2.0


def check_database_health(
    engine: Engine | None = None,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    question: Callable[[Connection], object] | None = None,
    report: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Ask the database something and tell how it went.

    Args:
        engine: Which database; the process's engine when left out.
        timeout: Seconds after which the database counts as unhealthy.
        question: What to ask; `SELECT 1` when left out. What it raises makes the database
            unhealthy.
        report: Takes the full error; it goes to the log when left out.

    Returns:
        `{"status": "healthy", "database": "connected", "latency_seconds": 0.0004}`, or
        `{"status": "unhealthy", "database": "unreachable", "reason": "connection_lost", …}`.
        `reason` is a word from a fixed list, never a message: that is only reported.
    """
    start = time.perf_counter()
    report = report or _warn
    try:
        ask(engine or process.engine, question or _select_one, timeout=timeout)
    except OverdueError:
        report(f"no answer within {timeout:g} s")
        reason = DeadlineExceeded.reason
    except Exception as error:  # noqa: BLE001 - whatever it is, the database did not answer
        report(str(error))
        reason = failure_reason(error)
    else:
        return {"status": "healthy", "database": "connected", "latency_seconds": _since(start)}
    return {
        "status": "unhealthy",
        "database": "unreachable",
        "reason": reason,
        "latency_seconds": _since(start),
    }


def _warn(error: str) -> None:
    logger.warning("database health check: %s", error)


def _select_one(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 6)

"""Asking a database something within a deadline."""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from service.database.deadline import time_limit
from service.database.engine import autocommit_engine
from service.database.failures import DeadlineExceeded, classify

AnswerT = TypeVar("AnswerT")


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

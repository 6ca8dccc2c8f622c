"""What several tests of the catalog do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import text
from typer.testing import Result

from service.database import process

Command = Callable[..., Result]
"""Runs `tidegate catalog` with arguments, and `input` for standard input."""


@contextmanager
def renamed_table() -> Iterator[None]:
    """The table cannot be found for a while: every query of it fails, for real."""
    with process.engine.begin() as connection:
        connection.execute(text("ALTER TABLE products RENAME TO hidden"))
    try:
        yield
    finally:
        with process.engine.begin() as connection:
            connection.execute(text("ALTER TABLE hidden RENAME TO products"))

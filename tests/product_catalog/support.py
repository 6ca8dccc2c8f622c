"""What several tests of the catalog do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Final

from sqlalchemy import text
from typer.testing import Result

from service.database import process
from service.product_catalog.files import ProductRow
from service.product_catalog.models import Product

Command = Callable[..., Result]
"""Runs `tidegate catalog` with arguments, and `input` for standard input."""
HEADER: Final = "code,name,description,price\n"


def product(code: str = "A", **values: object) -> ProductRow:
    """A row of a file."""
    return {"code": code, "name": "n", "description": None, "price": Decimal("1.00"), **values}


def rope(code: str = "ROPE") -> Product:
    """A product to store."""
    return Product(code=code, name="Rope", price=Decimal("19.00"))


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

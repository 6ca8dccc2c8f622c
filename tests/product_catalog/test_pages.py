"""Pages of the catalog while others write to it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete

from service.database import read_session, write_session
from service.product_catalog.models import Product
from service.product_catalog.schemas import ProductQuery, ProductSort
from service.product_catalog.service import ProductService

MOMENT: Final = datetime(2026, 2, 3, 4, 5, 6, 789, UTC)

# Few values, so that nearly every row ties with others. The keys are given, as the database's own
# would only ever come behind those that a page had.
products = st.fixed_dictionaries(
    {
        "id": st.integers(1, 1000),
        "name": st.sampled_from("abc"),
        "price": st.sampled_from([Decimal("0.00"), Decimal("9.99"), Decimal("10.00")]),
        "created_at": st.integers(0, 2).map(lambda number: MOMENT + timedelta(microseconds=number)),
    }
)


class ReaderAmongWriters(RuleBasedStateMachine):
    """A client follows the pages of one order to the end, again and again; others write meanwhile.

    Args:
        sort: The order.
    """

    def __init__(self, sort: ProductSort) -> None:
        super().__init__()
        self.query = ProductQuery(sort=sort)
        self.column = sort.removeprefix("-")
        self.is_descending = sort.startswith("-")
        self.used: set[int] = set()
        self.present: set[int] = set()
        self.begin(limit=1)

    def begin(self, limit: int) -> None:
        """Go back to the first page."""
        self.query = self.query.model_copy(update={"limit": limit, "cursor": None})
        self.lasting = {*self.present}
        self.shown: list[Any] = []

    def place(self, product: Product) -> tuple[Any, int]:
        """Where a product stands in the order."""
        return getattr(product, self.column), product.id

    @initialize(rows=st.lists(products, max_size=15), limit=st.integers(1, 4))
    def fill(self, rows: list[dict[str, Any]], limit: int) -> None:
        for row in rows:
            self.insert(row)
        self.begin(limit)

    @rule(row=products)
    def insert(self, row: dict[str, Any]) -> None:
        # A key that is used again would be another row, and may well be shown again.
        if row["id"] in self.used:
            return
        with write_session() as session:
            session.add(Product(code=f"P{row['id']}", **row))
        self.used.add(row["id"])
        self.present.add(row["id"])

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.remove_id(data.draw(st.sampled_from(sorted(self.present))))

    @precondition(lambda self: self.shown and self.shown[-1].id in self.present)
    @rule()
    def remove_what_the_cursor_stands_on(self) -> None:
        self.remove_id(self.shown[-1].id)

    def remove_id(self, key: int) -> None:
        """Delete a product."""
        with write_session() as session:
            ProductService(session).delete(key)
        self.present.discard(key)
        self.lasting.discard(key)

    @rule(limit=st.integers(1, 4))
    def read_a_page(self, limit: int) -> None:
        with read_session() as session:
            page = ProductService(session).search(self.query)
        self.shown += page.items
        places = [self.place(product) for product in self.shown]
        # No place twice is no row twice; and in order over the ends of pages too.
        assert places == sorted({*places}, reverse=self.is_descending)
        assert {product.id for product in page.items} <= self.present
        if page.next_cursor is not None:
            assert len(page.items) == self.query.limit
            self.query = self.query.model_copy(update={"cursor": page.next_cursor})
            return
        assert self.lasting <= {product.id for product in self.shown}
        self.begin(limit)

    def teardown(self) -> None:
        try:
            while self.query.cursor is not None:
                self.read_a_page(limit=1)
        finally:
            with write_session() as session:
                session.execute(delete(Product))


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("sort", ProductSort)
def test_pages_neither_skip_nor_repeat_whatever_others_write(sort: ProductSort) -> None:
    run_state_machine_as_test(
        lambda: ReaderAmongWriters(sort),  # type: ignore[arg-type] # it is only called
        settings=settings(max_examples=12, stateful_step_count=30, deadline=None),
    )

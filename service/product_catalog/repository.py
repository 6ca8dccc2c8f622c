"""The queries of the catalog."""

from collections.abc import Iterator
from decimal import Decimal

from sqlalchemy import ColumnElement, select

from service.database import BaseRepository, Page, Sort
from service.product_catalog.models import Product


class ProductRepository(BaseRepository[Product]):
    """Products, by key, by page, or all of them one after the other."""

    model = Product

    def search(  # noqa: PLR0913 - each is a filter with a name of its own
        self,
        *,
        name_prefix: str | None,
        min_price: Decimal | None,
        max_price: Decimal | None,
        sort: Sort,
        limit: int,
        cursor: str | None,
    ) -> Page[Product]:
        """A page of the products that match every filter that is given.

        Raises:
            InvalidCursorError: The cursor is not one of this order.
        """
        where: list[ColumnElement[bool]] = []
        if name_prefix is not None:
            where.append(Product.name.istartswith(name_prefix, autoescape=True))
        if min_price is not None:
            where.append(Product.price >= min_price)
        if max_price is not None:
            where.append(Product.price <= max_price)
        return self.page(*where, sort=sort, limit=limit, cursor=cursor)

    def stream(self) -> Iterator[tuple[str, str, str | None, Decimal]]:
        """Code, name, description and price of every product by code, in constant memory."""
        query = select(Product.code, Product.name, Product.description, Product.price)
        rows = self.session.execute(query.order_by(Product.code).execution_options(yield_per=1000))
        for row in rows:
            yield row.tuple()

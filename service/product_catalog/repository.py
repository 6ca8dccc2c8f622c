"""The queries of the catalog."""

from collections.abc import AsyncIterator, Generator, Iterable, Sequence
from decimal import Decimal
from typing import Any, Final
from typing import cast as typed

from sqlalchemy import (
    ColumnElement,
    Insert,
    Select,
    Text,
    bindparam,
    cast,
    column,
    func,
    select,
)
from sqlalchemy.dialects import postgresql

from service.database import BaseRepository, BaseRepositoryAsync, Page, Sort, metadata
from service.database.statements import RowValues
from service.database.upserts import in_key_order, update_taken
from service.product_catalog.models import Product
from service.product_catalog.schemas import ProductOutput

# Code, name, description and price.
ExportedProduct = tuple[str, str, str | None, Decimal]
# Rows that are fetched at once.
_PORTION: Final = 1000

# Text without a length, so that the table refuses what is too long: a cast would cut it off.
_ARRAYS: Final[dict[str, postgresql.ARRAY[Any]]] = {
    "code": postgresql.ARRAY(Text()),
    "name": postgresql.ARRAY(Text()),
    "description": postgresql.ARRAY(Text()),
    "price": postgresql.ARRAY(Product.price.type),
}


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
    ) -> Page[ProductOutput]:
        """A page of the products that match every filter that is given.

        Raises:
            InvalidCursorError: The cursor is not one of this list, order and key.
        """
        where: list[ColumnElement[bool]] = []
        if name_prefix is not None:
            where.append(Product.name.istartswith(name_prefix, autoescape=True))
        if min_price is not None:
            where.append(Product.price >= min_price)
        if max_price is not None:
            where.append(Product.price <= max_price)
        return self.view_page(ProductOutput, *where, sort=sort, limit=limit, cursor=cursor)

    def load(self, products: Iterable[RowValues]) -> None:
        """Insert products, or update those whose code is taken and that differ.

        As `upsert`, three times as fast on PostgreSQL: given many rows as VALUES it spends
        most of the time on parsing them, so each column is sent as one array.

        Args:
            products: Code, name, description and price of each, no code twice.
        """
        if self.session.get_bind().dialect.name != "postgresql":
            self.upsert(products, key=["code"])
        elif rows := in_key_order(products, ["code"]):
            arrays = {name: [row[name] for row in rows] for name in _ARRAYS}
            self.session.execute(_load_arrays(), arrays)

    def stream(self) -> Generator[ExportedProduct, None, None]:
        """Code, name, description and price of every product by code, in constant memory."""
        # Whoever stops early closes the generator: pymysql can ask for nothing else before.
        with self.session.execute(_select_export()) as rows:
            yield from rows


class ProductRepositoryAsync(BaseRepositoryAsync[Product]):
    """Products, all of them one after the other, within an event loop."""

    model = Product

    async def stream(self) -> AsyncIterator[Sequence[ExportedProduct]]:
        """As `ProductRepository.stream`, some products at a time."""
        result = await self.session.stream(_select_export())
        async for rows in result.partitions():
            yield typed("Sequence[ExportedProduct]", rows)


def _select_export() -> Select[str, str, str | None, Decimal]:
    query = select(Product.code, Product.name, Product.description, Product.price)
    return query.order_by(Product.code).execution_options(yield_per=_PORTION)


def _load_arrays() -> Insert:
    """Upsert the products that the parameters hold, one array for each column."""
    columns = [*_ARRAYS]
    arrays = [cast(bindparam(name, type_=kind), kind) for name, kind in _ARRAYS.items()]
    given = func.unnest(*arrays).table_valued(*(column(name) for name in columns))
    rows = select(*given.render_derived("given").c)
    statement = postgresql.insert(metadata.tables[Product.__tablename__]).from_select(columns, rows)
    return update_taken(statement, Product, columns, ["code"])

"""What can be done with the catalog."""

from typing import Final

from sqlalchemy.orm import InstrumentedAttribute, Session

from service.database import Page, Sort
from service.errors import NotFoundError
from service.product_catalog.models import Product
from service.product_catalog.repository import ProductRepository
from service.product_catalog.schemas import ProductInput, ProductPatch, ProductQuery, ProductSort

_SORT_COLUMNS: Final[dict[str, InstrumentedAttribute[object]]] = {
    "id": Product.id,
    "name": Product.name,
    "price": Product.price,
    "created_at": Product.created_at,
}


class ProductService:
    """The catalog's use cases, within one session that somebody else opened and commits.

    Args:
        session: The session to work in.
    """

    def __init__(self, session: Session) -> None:
        self._products = ProductRepository(session)

    def search(self, query: ProductQuery) -> Page[Product]:
        """A page of the products that match.

        Raises:
            InvalidCursorError: The cursor is not one of this order.
        """
        return self._products.search(
            name_prefix=query.name_prefix,
            min_price=query.min_price,
            max_price=query.max_price,
            sort=_sort(query.sort),
            limit=query.limit,
            cursor=query.cursor,
        )

    def get(self, product_id: int) -> Product:
        """One product.

        Raises:
            NotFoundError: There is none with this id.
        """
        product = self._products.get(product_id)
        if product is None:
            raise NotFoundError("product", product_id)
        return product

    def create(self, product: ProductInput) -> Product:
        """A new product.

        Raises:
            sqlalchemy.exc.IntegrityError: The code is in use.
        """
        return self._products.add(Product(**product.model_dump()))

    def change(self, product_id: int, patch: ProductPatch) -> Product:
        """The product with what the patch sets.

        Raises:
            NotFoundError: There is none with this id.
            sqlalchemy.exc.IntegrityError: The new code is in use.
            sqlalchemy.orm.exc.StaleDataError: Somebody else changed it meanwhile.
        """
        return self._products.update(self.get(product_id), patch.model_dump(exclude_unset=True))

    def delete(self, product_id: int) -> None:
        """Remove a product.

        Raises:
            NotFoundError: There is none with this id.
            sqlalchemy.orm.exc.StaleDataError: Somebody else changed it meanwhile.
        """
        self._products.delete(self.get(product_id))


def _sort(sort: ProductSort) -> Sort:
    return Sort(sort.value, _SORT_COLUMNS[sort.value.removeprefix("-")], sort.value.startswith("-"))

"""What can be done with the catalog."""

from collections.abc import Callable, Collection
from typing import Final, TypeVar

from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.orm.exc import StaleDataError

from service.database import Page, Sort
from service.database.views import view_of
from service.errors import NotFoundError, PreconditionFailedError
from service.product_catalog.models import Product
from service.product_catalog.repository import ProductRepository
from service.product_catalog.schemas import (
    ProductInput,
    ProductOutput,
    ProductPatch,
    ProductQuery,
    ProductSort,
)

ResultT = TypeVar("ResultT")

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

    def search(self, query: ProductQuery) -> Page[ProductOutput]:
        """A page of the products that match.

        Raises:
            InvalidCursorError: The cursor is not one of this list, order and key.
        """
        return self._products.search(
            name_prefix=query.name_prefix,
            min_price=query.min_price,
            max_price=query.max_price,
            sort=_sort(query.sort),
            limit=query.limit,
            cursor=query.cursor,
        )

    def view(self, product_id: int) -> ProductOutput:
        """One product, to be shown.

        Raises:
            NotFoundError: There is none with this id.
        """
        return _found(product_id, self._products.view(ProductOutput, product_id))

    def create(self, product: ProductInput) -> ProductOutput:
        """A new product.

        Raises:
            sqlalchemy.exc.IntegrityError: The code is in use.
        """
        return self._products.insert(ProductOutput, product.model_dump())

    def change(
        self, product_id: int, patch: ProductPatch, versions: Collection[str] | None = None
    ) -> ProductOutput:
        """The product with what the patch sets.

        Args:
            product_id: Which.
            patch: What to set.
            versions: The versions that may be changed; every one when left out.

        Raises:
            NotFoundError: There is none with this id.
            PreconditionFailedError: It is of another version, or was changed meanwhile.
            sqlalchemy.exc.IntegrityError: The new code is in use.
            sqlalchemy.orm.exc.StaleDataError: Somebody else changed it meanwhile.
        """
        changes = patch.model_dump(exclude_unset=True)
        product = self._of_version(product_id, versions)
        changed = _unless_stale(versions, lambda: self._products.update(product, changes))
        return view_of(ProductOutput, changed)

    def delete(self, product_id: int, versions: Collection[str] | None = None) -> None:
        """Remove a product.

        Args:
            product_id: Which.
            versions: The versions that may be removed; every one when left out.

        Raises:
            NotFoundError: There is none with this id.
            PreconditionFailedError: It is of another version, or was changed meanwhile.
            sqlalchemy.orm.exc.StaleDataError: Somebody else changed it meanwhile.
        """
        product = self._of_version(product_id, versions)
        _unless_stale(versions, lambda: self._products.delete(product))

    def _of_version(self, product_id: int, versions: Collection[str] | None) -> Product:
        product = _found(product_id, self._products.get(product_id))
        if versions is not None and str(product.version) not in versions:
            raise PreconditionFailedError
        return product


def _found(product_id: int, product: ResultT | None) -> ResultT:
    if product is None:
        raise NotFoundError("product", product_id)
    return product


def _unless_stale(versions: Collection[str] | None, write: Callable[[], ResultT]) -> ResultT:
    try:
        return write()
    except StaleDataError:
        if versions is None:
            raise
        raise PreconditionFailedError from None


def _sort(sort: ProductSort) -> Sort:
    return Sort(sort.value, _SORT_COLUMNS[sort.value.removeprefix("-")], sort.value.startswith("-"))

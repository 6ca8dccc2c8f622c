"""The catalog over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response, status

from service.product_catalog.models import Product
from service.product_catalog.schemas import (
    ProductInput,
    ProductOutput,
    ProductPage,
    ProductPatch,
    ProductQuery,
)
from service.product_catalog.service import ProductService
from service.web.dependencies import ReadSession, WriteSession
from service.web.problems import problem_responses

router = APIRouter(prefix="/products", tags=["products"], responses=problem_responses(422, 503))

# What a 64-bit key can be: beyond it the database would answer with an error.
ProductId = Annotated[int, Path(ge=1, lt=1 << 63)]


@router.get("", response_model=ProductPage, summary="List products")
def list_products(session: ReadSession, query: Annotated[ProductQuery, Query()]) -> object:
    """List products by page, filtered and sorted."""
    return ProductService(session).search(query)


@router.post(
    "",
    response_model=ProductOutput,
    status_code=status.HTTP_201_CREATED,
    responses=problem_responses(409, 413),
    summary="Create a product",
)
def create_product(
    session: WriteSession, product: ProductInput, request: Request, response: Response
) -> Product:
    """Create a product; its code must be free."""
    created = ProductService(session).create(product)
    response.headers["Location"] = request.app.url_path_for("get_product", product_id=created.id)
    return created


@router.get(
    "/{product_id}",
    response_model=ProductOutput,
    responses=problem_responses(404),
    summary="Get a product",
)
def get_product(session: ReadSession, product_id: ProductId) -> Product:
    """Get one product."""
    return ProductService(session).get(product_id)


@router.patch(
    "/{product_id}",
    response_model=ProductOutput,
    responses=problem_responses(404, 409, 413),
    summary="Change a product",
)
def change_product(session: WriteSession, product_id: ProductId, patch: ProductPatch) -> Product:
    """Change what the body names, and nothing else."""
    return ProductService(session).change(product_id, patch)


@router.delete(
    "/{product_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    response_class=Response,
    responses=problem_responses(404, 409),
    summary="Delete a product",
)
def delete_product(session: WriteSession, product_id: ProductId) -> None:
    """Delete one product."""
    ProductService(session).delete(product_id)

"""The catalog over HTTP."""

from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request, Response, status
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from service.database import Page
from service.product_catalog.import_export import ndjson_line
from service.product_catalog.repository import ProductRepositoryAsync
from service.product_catalog.schemas import (
    ProductInput,
    ProductOutput,
    ProductPage,
    ProductPatch,
    ProductQuery,
)
from service.product_catalog.service import ProductService
from service.web.endpoints import DatabaseRoute, reads, writes
from service.web.idempotency import creates
from service.web.preconditions import (
    IF_NONE_MATCH,
    IfMatch,
    entity_tag,
    expected_versions,
    is_known,
)
from service.web.problems import problem_responses
from service.web.streaming import StreamResponse

router = APIRouter(
    prefix="/products",
    tags=["products"],
    responses=problem_responses(422, 503),
    route_class=DatabaseRoute,
)

NDJSON: Final = "application/x-ndjson"
# What a 64-bit key can be: beyond it the database would answer with an error.
ProductId = Annotated[int, Path(ge=1, lt=1 << 63)]


@router.get("", response_model=ProductPage, summary="List products")
@reads
def list_products(session: Session, query: Annotated[ProductQuery, Query()]) -> Page[ProductOutput]:
    """List products by page, filtered and sorted."""
    return ProductService(session).search(query)


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    responses=problem_responses(409, 413),
    summary="Create a product",
)
@creates
def create_product(
    session: Session, product: ProductInput, request: Request, response: Response
) -> ProductOutput:
    """Create a product; its code must be free."""
    created = ProductService(session).create(product)
    response.headers["Location"] = request.app.url_path_for("get_product", product_id=created.id)
    response.headers["ETag"] = entity_tag(created.version)
    return created


@router.get(
    "/export",
    response_class=Response,
    responses={200: {"content": {NDJSON: {}}}},
    summary="Export every product",
)
async def export_products() -> Response:
    """Give every product as a line of JSON, in the order of their codes."""
    return StreamResponse(_export, NDJSON)


async def _export(session: AsyncSession) -> AsyncIterator[bytes]:
    async for products in ProductRepositoryAsync(session).stream():
        yield "".join(map(ndjson_line, products)).encode()


@router.get(
    "/{product_id}",
    response_model=ProductOutput,
    responses={304: {"description": "Not Modified"}, **problem_responses(404)},
    summary="Get a product",
    openapi_extra={"parameters": [IF_NONE_MATCH]},
)
@reads
def get_product(
    session: Session, product_id: ProductId, request: Request, response: Response
) -> ProductOutput | Response:
    """Get one product."""
    product = ProductService(session).view(product_id)
    tag = entity_tag(product.version)
    if is_known(product.version, request):
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers={"ETag": tag})
    response.headers["ETag"] = tag
    return product


@router.patch(
    "/{product_id}",
    responses=problem_responses(404, 409, 412, 413),
    summary="Change a product",
)
@writes()
def change_product(
    session: Session,
    product_id: ProductId,
    patch: ProductPatch,
    response: Response,
    if_match: IfMatch = None,
) -> ProductOutput:
    """Change what the body names, and nothing else."""
    changed = ProductService(session).change(product_id, patch, expected_versions(if_match))
    response.headers["ETag"] = entity_tag(changed.version)
    return changed


@router.delete(
    "/{product_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    response_class=Response,
    responses=problem_responses(404, 409, 412),
    summary="Delete a product",
)
@writes()
def delete_product(session: Session, product_id: ProductId, if_match: IfMatch = None) -> None:
    """Delete one product."""
    ProductService(session).delete(product_id, expected_versions(if_match))

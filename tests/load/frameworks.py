"""The same by FastAPI and SQLAlchemy's Core, used as usual, and nothing else.

One connection, asked from within the event loop: no pool, no session, no thread, no limit, no
metric, no log. So it waits for the database with everything, and serves no more than one at a time;
what it tells is the CPU of a request.
"""

import os
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from sqlalchemy import bindparam, create_engine, insert, select
from sqlalchemy.engine import make_url

from tests.load.textbook import Product, ProductInput, ProductOutput

_TABLE = Product.__table__
_GET = select(_TABLE).where(_TABLE.c.id == bindparam("key"))
_LIST = select(_TABLE).order_by(_TABLE.c.id).limit(50)
_CREATE = insert(Product).returning(*_TABLE.c)

url = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg2")
connection = create_engine(url, isolation_level="AUTOCOMMIT").connect()
app = FastAPI()


@app.get("/products", response_model=list[ProductOutput])
async def list_products() -> Sequence[Any]:
    """List the first products."""
    return connection.execute(_LIST).all()


@app.post("/products", response_model=ProductOutput, status_code=201)
async def create_product(product: ProductInput) -> Any:
    """Create a product."""
    return connection.execute(_CREATE, product.model_dump()).one()


@app.get("/products/{product_id}", response_model=ProductOutput)
async def get_product(product_id: int) -> Any:
    """Get one product."""
    return connection.execute(_GET, {"key": product_id}).one()

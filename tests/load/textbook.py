"""The catalog as tutorials write it, to measure beside: sync routes, one session a request.

Its pool is the tutorials' too; `POOL_SIZE` and `MAX_OVERFLOW` change it for an equal comparison.
"""

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Numeric, create_engine, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

engine = create_engine(
    make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg2"),
    pool_size=int(os.environ.get("POOL_SIZE", "5")),
    max_overflow=int(os.environ.get("MAX_OVERFLOW", "10")),
    pool_pre_ping=True,
)
SessionLocal = sessionmaker(autoflush=False, bind=engine)
app = FastAPI()


class Base(DeclarativeBase):
    """Of its own: nothing of the service is in here."""


class Product(Base):
    """A row of the service's table."""

    __tablename__ = "products"

    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    description: Mapped[str | None]
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ProductInput(BaseModel):
    """What a product is created from."""

    code: str
    name: str
    description: str | None = None
    price: Decimal


class ProductOutput(ProductInput):
    """What is shown of a product."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    created_at: datetime
    updated_at: datetime


def get_db() -> Iterator[Session]:
    """Give a request a session."""
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


Database = Annotated[Session, Depends(get_db)]


@app.get("/products", response_model=list[ProductOutput])
def list_products(db: Database, limit: int = 50) -> Sequence[Product]:
    """List the first products."""
    return db.scalars(select(Product).order_by(Product.id).limit(limit)).all()


@app.post("/products", response_model=ProductOutput, status_code=201)
def create_product(db: Database, product: ProductInput) -> Product:
    """Create a product."""
    created = Product(**product.model_dump())
    db.add(created)
    db.commit()
    db.refresh(created)
    return created


@app.get("/products/{product_id}", response_model=ProductOutput)
def get_product(db: Database, product_id: int) -> Product:
    """Get one product."""
    product = db.get(Product, product_id)
    if product is None:
        raise HTTPException(404)
    return product

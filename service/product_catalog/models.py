"""The tables of the catalog."""

from decimal import Decimal
from typing import Final

from sqlalchemy import CheckConstraint, Index, String, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from service.database import Base
from service.database.mixins import IdentityMixin, TimestampMixin, VersionMixin
from service.database.types import ExactDecimal

CODE_LENGTH: Final = 64
NAME_LENGTH: Final = 200
DESCRIPTION_LENGTH: Final = 4000
PRICE_DIGITS: Final = 12
PRICE_DECIMALS: Final = 2


class Product(IdentityMixin, TimestampMixin, VersionMixin, Base):
    """Something that is sold, known to the outside by its code."""

    __tablename__ = "products"

    code: Mapped[str] = mapped_column(String(CODE_LENGTH), unique=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH))
    description: Mapped[str | None] = mapped_column(Text)
    price: Mapped[Decimal] = mapped_column(ExactDecimal(PRICE_DIGITS, PRICE_DECIMALS))

    # Each order that the list offers is an index with the tie-breaker behind the column.
    __table_args__ = (
        CheckConstraint("price >= 0", name="price_not_negative"),
        Index("ix_products_name", "name", "id"),
        Index("ix_products_price", "price", "id"),
        Index("ix_products_created_at", "created_at", "id"),
        # LIKE 'prefix%' uses an index only in the byte order of this operator class.
        Index(
            "ix_products_name_prefix",
            func.lower(name).label("name_prefix"),
            postgresql_ops={"name_prefix": "text_pattern_ops"},
        ).ddl_if(dialect="postgresql"),
    )

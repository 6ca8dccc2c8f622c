"""Create products."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from service.database.types import BigIntegerKey, ExactDecimal, UTCDateTime

revision: str = "7c1f0a52d3e8"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

phase = "expand"


def upgrade() -> None:
    """Make the table and the indexes of its orders."""
    op.create_table(
        "products",
        sa.Column("id", BigIntegerKey, sa.Identity(), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("price", ExactDecimal(12, 2), nullable=False),
        sa.Column("created_at", UTCDateTime(), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), server_default=sa.func.now(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.CheckConstraint("price >= 0", name=op.f("ck_products_price_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_products")),
        sa.UniqueConstraint("code", name=op.f("uq_products_code")),
    )
    op.create_index(op.f("ix_products_name"), "products", ["name", "id"])
    op.create_index(op.f("ix_products_price"), "products", ["price", "id"])
    op.create_index(op.f("ix_products_created_at"), "products", ["created_at", "id"])
    if op.get_context().dialect.name == "postgresql":
        op.create_index(
            op.f("ix_products_name_prefix"),
            "products",
            [sa.func.lower(sa.column("name")).label("name_prefix")],
            postgresql_ops={"name_prefix": "text_pattern_ops"},
        )


def downgrade() -> None:
    """Drop the table, and its indexes with it."""
    op.drop_table("products")

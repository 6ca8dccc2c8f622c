"""A revision that only the next release has, for a migration to apply."""

from pathlib import Path
from typing import Final

from service.migrator.revisions import Revisions

_REVISION: Final = '''"""Add products.weight."""

import sqlalchemy as sa
from alembic import op

revision = "0123456789ab"
down_revision = "{head}"
branch_labels = None
depends_on = None

phase = "expand"


def upgrade() -> None:
    op.add_column("products", sa.Column("weight", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("products", "weight")
'''


def write_next_revision(directory: Path) -> Path:
    """Write the revision, after the last one of this release.

    Args:
        directory: Where.

    Returns:
        Its file.
    """
    path = directory / "9999_12_31_add_products_weight.py"
    path.write_text(_REVISION.format(head=Revisions().head), encoding="utf-8")
    return path

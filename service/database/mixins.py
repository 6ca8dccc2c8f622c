"""Columns that most tables have."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Identity, func
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from service.database.types import BigIntegerKey


def utc_now() -> datetime:
    """The present instant, aware."""
    return datetime.now(UTC)


class IdentityMixin:
    """A 64-bit key that the database numbers."""

    id: Mapped[int] = mapped_column(BigIntegerKey, Identity(), primary_key=True, sort_order=-1)


class TimestampMixin:
    """When a row was made and last changed, in UTC."""

    created_at: Mapped[datetime] = mapped_column(
        default=utc_now, server_default=func.now(), sort_order=100
    )
    updated_at: Mapped[datetime] = mapped_column(
        default=utc_now, onupdate=utc_now, server_default=func.now(), sort_order=101
    )


class VersionMixin:
    """A counter that each update raises, so that a lost update is an error and not silence."""

    version: Mapped[int] = mapped_column(default=1, server_default="1", sort_order=102)

    @declared_attr.directive
    def __mapper_args__(cls) -> dict[str, Any]:  # noqa: N805 - called on the class
        """Have the ORM compare and raise the counter."""
        return {"version_id_col": cls.version}

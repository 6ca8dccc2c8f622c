"""The declarative base, and the names that constraints get."""

from datetime import datetime
from typing import Final

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from service.database.types import UTCDateTime

# A constraint without a name cannot be dropped by a later migration, nor named in an error.
# For one column `column_0_N_name` gives what `column_0_name` would; for several it stays unique.
NAMING_CONVENTION: Final = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Base(DeclarativeBase):
    """The base of every model; timestamps are aware and in UTC on every database."""

    metadata = metadata
    type_annotation_map = {datetime: UTCDateTime()}  # noqa: RUF012 - SQLAlchemy's own declaration

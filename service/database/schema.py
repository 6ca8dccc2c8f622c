"""Creating and destroying the tables, outside production."""

from sqlalchemy import Engine

from service.database.base import metadata
from service.database.process_engines import process


class ProductionSchemaError(RuntimeError):
    """In production the schema belongs to the migrations alone."""

    def __init__(self, function: str) -> None:
        super().__init__(
            f"{function}() refuses to run with ENVIRONMENT=production:"
            " change the schema with `tidegate migrate up`"
        )


def init_db(engine: Engine | None = None) -> None:
    """Create the tables that are missing; a second call changes nothing.

    It knows the models that were imported. Meant for tests and first steps: it leaves no
    revision behind, so that migrations do not start from what it made.

    Args:
        engine: Where to; the process's engine when left out.

    Raises:
        ProductionSchemaError: `ENVIRONMENT` is production.
    """
    _refuse_in_production("init_db")
    metadata.create_all(engine or process.engine)


def drop_db(engine: Engine | None = None) -> None:
    """Drop the tables of every imported model, with all their rows.

    Args:
        engine: Where; the process's engine when left out.

    Raises:
        ProductionSchemaError: `ENVIRONMENT` is production.
    """
    _refuse_in_production("drop_db")
    metadata.drop_all(engine or process.engine)


def reset_db(engine: Engine | None = None) -> None:
    """Drop the tables with all their rows and create them anew.

    Args:
        engine: Where; the process's engine when left out.

    Raises:
        ProductionSchemaError: `ENVIRONMENT` is production.
    """
    _refuse_in_production("reset_db")
    drop_db(engine)
    init_db(engine)


def _refuse_in_production(function: str) -> None:
    if process.settings.environment == "production":
        raise ProductionSchemaError(function)

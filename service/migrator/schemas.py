"""Schemas made by revisions, or by models, and what came of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

from alembic import command
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import Engine, MetaData
from sqlalchemy.exc import SQLAlchemyError

from service.migrator.catalog import Catalog, snapshot
from service.migrator.errors import MigrationError, first_line
from service.migrator.history import BOOKKEEPING_TABLES
from service.migrator.revisions import Revisions


def upgrade(engine: Engine, revisions: Revisions, target: str = "head") -> None:
    """Apply the revisions up to one.

    Raises:
        MigrationError: One of them failed.
    """
    with _connected(engine, revisions):
        command.upgrade(revisions.config, target)


def downgrade(engine: Engine, revisions: Revisions, target: str) -> None:
    """Undo the revisions behind one; "base" stands for all.

    Raises:
        MigrationError: One of them failed.
    """
    with _connected(engine, revisions):
        command.downgrade(revisions.config, target)


def create_all(engine: Engine, revisions: Revisions) -> None:
    """Create what the models say.

    Raises:
        MigrationError: The database refuses it.
    """
    try:
        for metadata in models_of(revisions):
            metadata.create_all(engine)
    except SQLAlchemyError as error:
        raise MigrationError(f"the models cannot be created: {first_line(error)}") from error


def read(engine: Engine) -> Catalog:
    """What a database holds, without the tables of the runner's and of Alembic's own."""
    with engine.connect() as connection:
        return snapshot(connection, without=BOOKKEEPING_TABLES)


def models_of(revisions: Revisions) -> tuple[MetaData, ...]:
    """The metadata that Alembic's environment names; it knows which models there are."""
    found: list[MetaData] = []

    def note(applied: Any, context: MigrationContext) -> tuple[()]:
        del applied
        given = context.opts["target_metadata"]
        found.extend([given] if isinstance(given, MetaData) else given)
        return ()

    # Written as SQL, of which there is none, so that it needs no database.
    revisions.config.output_buffer = StringIO()
    with EnvironmentContext(revisions.config, revisions.scripts, fn=note, as_sql=True):
        revisions.scripts.run_env()
    return tuple(found)


@contextmanager
def _connected(engine: Engine, revisions: Revisions) -> Iterator[None]:
    with engine.connect() as connection:
        revisions.config.attributes["connection"] = connection
        try:
            yield
        except MigrationError:
            raise
        except (SQLAlchemyError, CommandError) as error:
            raise MigrationError(first_line(error)) from error
        except Exception as error:
            # A revision is a program, and may fail as any.
            words = f"{type(error).__name__}: {first_line(error)}".removesuffix(": ")
            raise MigrationError(words) from error
        finally:
            del revisions.config.attributes["connection"]

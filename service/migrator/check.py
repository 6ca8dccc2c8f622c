"""Whether the schema that the revisions make is the one that the models say."""

from typing import Final

from sqlalchemy import Engine

from service.migrator import schemas
from service.migrator.catalog import Catalog, Difference, differences
from service.migrator.revisions import Revisions
from service.migrator.scratch import Scratch

REVISIONS: Final = "the revisions"
MODELS: Final = "the models"
DATABASE: Final = "the database"


def compare_with_models(revisions: Revisions, scratch: Scratch) -> tuple[Difference, ...]:
    """Tell how the schema of the last revision differs from that of the models.

    Both are made, in databases of their own, and read from the server's catalog: enum values,
    server defaults, CHECKs, predicates of indexes, sequences, functions, comments.

    Args:
        revisions: The revisions, and by Alembic's environment the models.
        scratch: Where to make them.

    Raises:
        HeadsError: There is no single last revision.
        MigrationError: A revision failed, or the models cannot be created.
        UnreachableError: The server does not answer.
    """
    migrated = migrated_schema(revisions, scratch, revisions.head)
    with scratch.database() as engine:
        schemas.create_all(engine, revisions)
        modelled = schemas.read(engine)
    return differences(migrated, modelled, left_name=REVISIONS, right_name=MODELS)


def compare_with_database(
    engine: Engine,
    revisions: Revisions,
    scratch: Scratch,
    *,
    revision: str | None = None,
) -> tuple[Difference, ...]:
    """Tell how a database differs from what the revisions that it had would make.

    Args:
        engine: The database; nothing is changed in it.
        revisions: The revisions.
        scratch: Where to make what it should be.
        revision: The one to compare with; the one that the database says it is at when left out.

    Raises:
        MigrationError: The revision that the database is at is unknown to this release, or one
            of them failed.
    """
    if revision is None:
        with engine.connect() as connection:
            revision = revisions.status(connection).current
    found = schemas.read(engine)
    expected = migrated_schema(revisions, scratch, revision)
    return differences(found, expected, left_name=DATABASE, right_name=REVISIONS)


def migrated_schema(revisions: Revisions, scratch: Scratch, revision: str | None) -> Catalog:
    """What the revisions up to one make of an empty database; of none, what it begins with."""
    with scratch.database() as engine:
        if revision is not None:
            schemas.upgrade(engine, revisions, revision)
        return schemas.read(engine)

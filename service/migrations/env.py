"""How Alembic reaches the database; run by Alembic, not imported."""

from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection

from service.database import DatabaseSettings, idempotency, metadata
from service.migrator.connections import migration_engine
from service.migrator.history import BOOKKEEPING_TABLES
from service.product_catalog import models

# Importing the models is what fills the metadata; name each domain's module here.
MODELS = (models, idempotency)

config = context.config


def keep_identity(context: MigrationContext, *columns_and_defaults: Any) -> bool | None:
    """Say that MariaDB's AUTO_INCREMENT, which it shows as no default, is the model's IDENTITY.

    Returns:
        False for equal, or None to leave it to Alembic.
    """
    del context
    model_column = columns_and_defaults[1]
    return None if model_column.identity is None else False


# SQLite numbers rows without the IDENTITY that the model asks for.
DEFAULTS: dict[str, Any] = {"postgresql": True, "mariadb": keep_identity, "sqlite": False}

# SQLite rolls DDL back as well, since the kit begins its transactions for real.
TRANSACTIONAL = ("postgresql", "sqlite")


def is_comparable(item: Any, name: str | None, kind: str, reflected: bool, other: Any) -> bool:
    """Leave out what is not the models', and what a database cannot have.

    MariaDB has no index on an expression.
    """
    del reflected, other
    if kind == "table":
        return name not in BOOKKEEPING_TABLES
    if kind != "index" or context.get_context().dialect.name != "mariadb":
        return True
    return all(isinstance(expression, Column) for expression in item.expressions)


def configure_and_run(connection: Connection) -> None:
    """Run the revisions on a connection that has no transaction yet.

    A statement on the connection before `configure()` would open a transaction that Alembic
    takes for somebody else's: it would not commit, and nothing would be persisted.
    """
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=True,
        transactional_ddl=connection.dialect.name in TRANSACTIONAL,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        compare_server_default=DEFAULTS[connection.dialect.name],
        include_object=is_comparable,
        on_version_apply=config.attributes.get("on_version_apply"),
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run on the connection that the runner gave, or on one of the settings' own."""
    connection = config.attributes.get("connection")
    if connection is not None:
        configure_and_run(connection)
        return
    with migration_engine(DatabaseSettings.load()) as engine, engine.connect() as own:
        configure_and_run(own)


def run_offline() -> None:
    """Write the SQL instead of running it."""
    name = config.attributes.get("dialect_name")
    name = name or DatabaseSettings.load().migration_url.get_backend_name()
    context.configure(
        # The kit's own dialect writes the tables' options.
        dialect_name="mariadb+pymysql" if name == "mariadb" else name,
        # A driver's own style would have each % of the SQL doubled.
        dialect_opts={"paramstyle": "named"},
        target_metadata=metadata,
        literal_binds=True,
        transaction_per_migration=True,
        transactional_ddl=name in TRANSACTIONAL,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()

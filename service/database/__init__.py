"""The database kit: engines, sessions, repositories, pool metrics and health.

It needs SQLAlchemy, pydantic-settings and prometheus_client, and nothing of the rest of the
service: copy the folder to use it elsewhere. Importing it opens and needs no database.
"""

from typing import TYPE_CHECKING, Any

from service.database.base import NAMING_CONVENTION, Base, metadata
from service.database.deadline import TimeLimit, time_limit
from service.database.engine import create_async_db_engine, create_db_engine
from service.database.health import check_database_health
from service.database.layered_settings import SettingsError
from service.database.pagination import InvalidCursorError, Page, Sort
from service.database.pool_events import instrument
from service.database.pool_holders import route_source
from service.database.pool_policy import PoolPolicy
from service.database.pool_snapshot import (
    HolderSnapshot,
    PoolSnapshot,
    UnknownPoolError,
    WaiterSnapshot,
    operable_pool,
    pool_snapshot,
    pool_snapshots,
)
from service.database.process_engines import process
from service.database.replica import ReplicaFailedError
from service.database.repository import BaseRepository
from service.database.repository_async import BaseRepositoryAsync
from service.database.schema import ProductionSchemaError, drop_db, init_db, reset_db
from service.database.session import (
    ReadOnlySessionError,
    SessionLocal,
    get_db,
    get_db_context,
    read_session,
    run_read,
    write_session,
)
from service.database.session_async import AsyncSessionLocal, get_async_db
from service.database.settings import DatabaseSettings
from service.database.urls import UnsupportedUrlError

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    engine: Engine
    async_engine: AsyncEngine

__all__ = [
    "NAMING_CONVENTION",
    "AsyncSessionLocal",
    "Base",
    "BaseRepository",
    "BaseRepositoryAsync",
    "DatabaseSettings",
    "HolderSnapshot",
    "InvalidCursorError",
    "Page",
    "PoolPolicy",
    "PoolSnapshot",
    "ProductionSchemaError",
    "ReadOnlySessionError",
    "ReplicaFailedError",
    "SessionLocal",
    "SettingsError",
    "Sort",
    "TimeLimit",
    "UnknownPoolError",
    "UnsupportedUrlError",
    "WaiterSnapshot",
    "async_engine",
    "check_database_health",
    "create_async_db_engine",
    "create_db_engine",
    "drop_db",
    "engine",
    "get_async_db",
    "get_db",
    "get_db_context",
    "init_db",
    "instrument",
    "metadata",
    "operable_pool",
    "pool_snapshot",
    "pool_snapshots",
    "process",
    "read_session",
    "reset_db",
    "route_source",
    "run_read",
    "time_limit",
    "write_session",
]

# Importing the submodule engine.py bound its name here, where it would hide the engine.
globals().pop("engine", None)


def __getattr__(name: str) -> Any:
    """Make `engine` and `async_engine` when they are first asked for (PEP 562)."""
    if name in ("engine", "async_engine"):
        return getattr(process, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What the kit promises by name, and what importing it does not do."""

import subprocess

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

import service.database
from tests.support.server import PYTHON, environment

NAMES = (
    "NAMING_CONVENTION",
    "metadata",
    "Base",
    "create_db_engine",
    "engine",
    "SessionLocal",
    "get_db",
    "get_db_context",
    "init_db",
    "drop_db",
    "reset_db",
    "check_database_health",
    "create_async_db_engine",
    "async_engine",
    "AsyncSessionLocal",
    "get_async_db",
    "BaseRepository",
    "BaseRepositoryAsync",
)

IMPORT_ALONE = """
import socket, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"fastapi", "starlette", "alembic", "structlog", "typer"}:
            raise ImportError(f"the kit imported {name}")
        if name.startswith("service.") and not name.startswith("service.database"):
            raise ImportError(f"the kit imported {name}")

def refuse(*arguments):
    raise AssertionError("the import opened a connection")

sys.meta_path.insert(0, Refuse())
socket.socket.connect = refuse
import service.database
from service.database import SessionLocal, AsyncSessionLocal, process
assert process._engine is None and process._async_engine is None
SessionLocal()
AsyncSessionLocal()
assert process._engine is None and process._async_engine is None
"""


@pytest.mark.usefixtures("configured")
def test_every_promised_name_is_there() -> None:
    for name in NAMES:
        assert getattr(service.database, name) is not None
        assert name in service.database.__all__


@pytest.mark.usefixtures("configured")
def test_engine_is_the_engine_and_not_the_module() -> None:
    from service.database import async_engine, engine  # noqa: PLC0415 - this is what is tested

    assert isinstance(engine, Engine)
    assert isinstance(async_engine, AsyncEngine)
    assert engine is service.database.process.engine


def test_import_needs_no_database_no_settings_and_no_framework() -> None:
    wrong = {"DATABASE_POOL_SIZE": "not-read-at-import", "DATABASE_URL": "nonsense"}
    result = subprocess.run(
        [PYTHON, "-c", IMPORT_ALONE],
        env=environment(wrong),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")

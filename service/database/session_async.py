"""The asyncio twins of the sessions."""

from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from service.database.process_engines import process


class AsyncProcessSession(Session):
    """What an `AsyncSession` drives: a session on the process's asyncio engine."""

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        """The engine or connection that the session was given, or else the process's engine."""
        if self.bind is not None:
            return super().get_bind(*args, **kwargs)
        return process.async_engine.sync_engine


AsyncSessionLocal = async_sessionmaker(
    class_=AsyncSession,
    sync_session_class=AsyncProcessSession,
    autoflush=False,
    expire_on_commit=False,
)


async def get_async_db() -> AsyncIterator[AsyncSession]:
    """Give one request an asyncio session, for FastAPI's `Depends`.

    It is closed in any case, which rolls back what the caller did not commit.
    """
    async with AsyncSessionLocal() as session:
        yield session

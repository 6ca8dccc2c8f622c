"""The one set of engines that a process has, `process`, and what becomes of it over a fork."""

import os
import threading

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from service.database.engine import autocommit_engine, create_async_db_engine, create_db_engine
from service.database.replica import Replica
from service.database.settings import DatabaseSettings


class ProcessEngines:
    """The engines of this process, made on first use and never shared with a forked child."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._settings: DatabaseSettings | None = None
        self._engine: Engine | None = None
        self._read_engine: Engine | None = None
        self._async_engine: AsyncEngine | None = None
        self._replica: Replica | None = None

    @property
    def settings(self) -> DatabaseSettings:
        """The settings in force, read from the environment on first use."""
        with self._lock:
            if self._settings is None:
                self._settings = DatabaseSettings.load()
            return self._settings

    @property
    def engine(self) -> Engine:
        """The sync engine."""
        with self._lock:
            if self._engine is None:
                self._engine = create_db_engine(settings=self.settings)
            return self._engine

    @property
    def read_engine(self) -> Engine:
        """The sync engine's pool in AUTOCOMMIT: a read costs no BEGIN and no ROLLBACK."""
        with self._lock:
            if self._read_engine is None:
                self._read_engine = autocommit_engine(self.engine)
            return self._read_engine

    @property
    def async_engine(self) -> AsyncEngine:
        """The asyncio engine; its connections belong to the loop that opened them."""
        with self._lock:
            if self._async_engine is None:
                self._async_engine = create_async_db_engine(settings=self.settings)
            return self._async_engine

    @property
    def replica(self) -> Replica | None:
        """The read replica, watched from its first use on; None without DATABASE_REPLICA_URL."""
        with self._lock:
            if self._replica is None and self.settings.replica_url is not None:
                self._replica = Replica(self.settings)
            return self._replica

    def configure(self, settings: DatabaseSettings | None) -> None:
        """Replace the settings; engines made from the former ones are disposed.

        Args:
            settings: What the next engines are made from; None reads the environment again.
        """
        with self._lock:
            self._discard(close=True)
            self._settings = settings

    def dispose(self) -> None:
        """Close the idle connections of the sync engines, and drop all engines.

        An asyncio pool closes within its own loop: `await async_engine.dispose()` there first.
        """
        with self._lock:
            self._discard(close=True)

    def abandon(self) -> None:
        """Drop what was inherited over a fork; the sockets stay the parent's to close."""
        self._lock = threading.RLock()
        self._discard(close=False)

    def _discard(self, *, close: bool) -> None:
        if self._engine is not None:
            self._engine.dispose(close=close)
        if self._async_engine is not None:
            self._async_engine.sync_engine.dispose(close=False)
        if self._replica is not None:
            self._replica.dispose() if close else self._replica.abandon()
        if close:
            # After a fork the objects stay: a module may hold them, and their pools are new.
            self._engine = self._read_engine = self._async_engine = self._replica = None


process = ProcessEngines()
os.register_at_fork(after_in_child=process.abandon)

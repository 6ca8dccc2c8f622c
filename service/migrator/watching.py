"""Looking at a session from another one while it works: who blocks it, and how far it is."""

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from service.migrator.connections import ask
from service.migrator.events import Events
from service.migrator.sessions import Session, blockers, session_number

_LOOK_SECONDS: Final = 0.1
_TELL_SECONDS: Final = 5.0
_INDEX_BUILD: Final = text("""
    SELECT phase, round(100.0 * blocks_done / nullif(blocks_total, 0), 1)::float AS percent
    FROM pg_stat_progress_create_index WHERE pid = :number
""")


class SessionWatch:
    """Notes who blocks a session, for after its lock timeout nobody could tell.

    Args:
        engine: Where a connection of its own comes from.
        connection: The session's.
        events: Told every 5 s who blocks it, and how far the index is that it builds.
    """

    def __init__(self, engine: Engine, connection: Connection, events: Events) -> None:
        self._engine = engine
        self._number = session_number(connection)
        self._events = events
        self._is_over = threading.Event()
        # Those who were seen last.
        self.seen: list[Session] = []

    @contextmanager
    def watching(self, revision: str) -> Iterator[None]:
        """Look for as long as the context is open.

        Args:
            revision: What the session applies.
        """
        self.seen = []
        if self._number is None:
            yield
            return
        self._is_over.clear()
        thread = threading.Thread(target=self._look, args=(self._number, revision), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def _look(self, number: int, revision: str) -> None:
        # Without it the retries only cannot name anybody.
        with contextlib.suppress(SQLAlchemyError), self._engine.connect() as connection:
            tell_at = time.monotonic() + _TELL_SECONDS
            while not self._is_over.wait(_LOOK_SECONDS):
                if found := blockers(connection, number):
                    self.seen = found
                if time.monotonic() >= tell_at:
                    self._tell(connection, number, revision, found)
                    tell_at = time.monotonic() + _TELL_SECONDS

    def _tell(
        self, connection: Connection, number: int, revision: str, found: list[Session]
    ) -> None:
        if found:
            # No lock timeout ends this soon: an index that is built concurrently has none.
            self._events.emit(
                "blocked",
                revision=revision,
                blockers=[session.as_event() for session in found],
            )
        if connection.dialect.name != "postgresql":
            return
        if build := ask(connection, _INDEX_BUILD, number=number).mappings().first():
            self._events.emit("index_progress", revision=revision, **build)

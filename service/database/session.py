"""Sync sessions: `get_db` for requests, `get_db_context` for scripts, and two doors of intent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import ORMExecuteState, Session, sessionmaker

from service.database.engine import process


class ReadOnlySessionError(RuntimeError):
    """Something was to be written through a session that only reads."""

    def __init__(self) -> None:
        super().__init__("this session only reads; write through write_session()")


class ProcessSession(Session):
    """A session on the process's engine, which is looked up when first needed."""

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        """The engine or connection that the session was given, or else the process's engine."""
        return super().get_bind(*args, **kwargs) if self.bind is not None else process.engine


class ReadSession(Session):
    """A session in AUTOCOMMIT: one round trip a query. Writing through it is an error.

    It sees what the ORM and SQLAlchemy's statements would write. SQL in `text()`, and what is run
    on `connection()`, it does not look at.
    """

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        """As `ProcessSession`, in AUTOCOMMIT."""
        return super().get_bind(*args, **kwargs) if self.bind is not None else process.read_engine

    def flush(self, objects: Any = None) -> None:
        """Refuse to write.

        Raises:
            ReadOnlySessionError: There is something to write.
        """
        if self.new or self.deleted or any(self.is_modified(row) for row in self.dirty):
            raise ReadOnlySessionError
        # An attribute that was set to what it was leaves nothing to write, but has to be noted.
        super().flush(objects)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        del args, kwargs
        raise ReadOnlySessionError

    # These pass by both `flush()` and the statements' event.
    bulk_save_objects = bulk_insert_mappings = bulk_update_mappings = _refuse


@event.listens_for(ReadSession, "do_orm_execute")
def _refuse_dml(state: ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        raise ReadOnlySessionError


SessionLocal = sessionmaker(class_=ProcessSession, autoflush=False, expire_on_commit=False)
ReadSessionLocal = sessionmaker(class_=ReadSession, autoflush=False, expire_on_commit=False)


def get_db() -> Iterator[Session]:
    """Give one request a session, for FastAPI's `Depends`.

    It is closed in any case, which rolls back what the caller did not commit.
    """
    with SessionLocal() as session:
        yield session


@contextmanager
def get_db_context() -> Iterator[Session]:
    """Give a script a session; it commits itself, and an exception rolls back."""
    with SessionLocal() as session:
        try:
            yield session
        except BaseException:
            session.rollback()
            raise


@contextmanager
def read_session() -> Iterator[Session]:
    """Give a session that only reads, without a transaction.

    Without one psycopg2 has no server-side cursor: for rows in portions (`yield_per`) take
    `get_db_context`.

    Raises:
        ReadOnlySessionError: From within, on an attempt to write.
    """
    with ReadSessionLocal() as session:
        yield session


@contextmanager
def write_session() -> Iterator[Session]:
    """Give a session whose work is committed at the end, or rolled back on any exception.

    This is the one place that commits for a caller; repositories only flush.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The commit failed; nothing was persisted.
    """
    with SessionLocal.begin() as session:
        yield session

"""Sync sessions: `get_db` for requests, `get_db_context` for scripts, and two doors of intent."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import ORMExecuteState, Session, sessionmaker

from service.database.deadline import current_limit, time_limit
from service.database.process_engines import process
from service.database.replica import ReplicaFailedError

ResultT = TypeVar("ResultT")


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

    What needs no more than `connection()` pays for no transaction of the session, which takes as
    long as the connection itself.
    """

    _own_connection: Connection | None = None

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        """The connection or engine that it was given, or else a connection of its own."""
        return super().get_bind(*args, **kwargs) if self.bind is not None else self.connection()

    def connection(self, *args: Any, **kwargs: Any) -> Connection:
        """The connection that the session reads by, taken from the process's when first needed."""
        if self.bind is not None:
            return super().connection(*args, **kwargs)
        if self._own_connection is None:
            self._own_connection = process.read_engine.connect()
        return self._own_connection

    def close(self) -> None:
        """End what was begun, and give the connection back."""
        try:
            super().close()
        finally:
            if self._own_connection is not None:
                self._own_connection.close()
                self._own_connection = None

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
def read_session(*, fresh: bool = False) -> Iterator[Session]:
    """Give a session that only reads, without a transaction.

    It reads from the replica where there is one that lags no more than it may, and else from the
    primary: also when the replica has no connection to give. Without a transaction psycopg2 has no
    server-side cursor: for rows in portions (`yield_per`) take `get_db_context`.

    Args:
        fresh: Read from the primary, for whoever just wrote.

    Raises:
        ReadOnlySessionError: From within, on an attempt to write.
        ReplicaFailedError: The replica failed in the middle, and the primary may not: run the
            whole block again with `fresh=True`, as `run_read` does.
    """
    replica = None if fresh else process.replica
    if replica is None:
        with ReadSessionLocal() as session:
            yield session
        return
    with _half_the_time():
        connection = replica.connect()
        if connection is not None:
            try:
                with connection, ReadSessionLocal(bind=connection) as session:
                    yield session
            except DBAPIError as error:
                if not replica.failed(error):
                    raise
                raise ReplicaFailedError from error
            return
    with ReadSessionLocal() as session:
        yield session


@contextmanager
def _half_the_time() -> Iterator[None]:
    """Leave the primary half of what time is left, should the replica hang."""
    limit = current_limit()
    if limit is None:
        yield
        return
    with time_limit(limit.remaining / 2):
        yield


def run_read(work: Callable[[Session], ResultT], *, fresh: bool = False) -> ResultT:
    """Run something that reads, and run it again on the primary where the replica fails in it.

    Args:
        work: What to do with the session of `read_session`; it may be called twice.
        fresh: Read from the primary, for whoever just wrote.

    Returns:
        What `work` returned.
    """
    try:
        with read_session(fresh=fresh) as session:
            return work(session)
    except ReplicaFailedError:
        with read_session(fresh=True) as session:
            return work(session)


@contextmanager
def write_session() -> Iterator[Session]:
    """Give a session whose work is committed at the end, or rolled back on any exception.

    This is the one place that commits for a caller; repositories only flush.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: The commit failed; nothing was persisted.
    """
    with SessionLocal.begin() as session:
        yield session

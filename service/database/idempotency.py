"""Doing something once, however often it is asked for under one key.

The key and the answer are stored in the transaction that does the work: both are there, or neither.
Whoever asks with the same key meanwhile waits for that transaction in the database's own unique
index, and then finds the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Index, LargeBinary, String, and_, delete, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from service.database.base import Base
from service.database.mixins import utc_now
from service.database.session import get_db_context, write_session

SCOPE_LENGTH: Final = 200
KEY_LENGTH: Final = 255
# How long a key is remembered: clients retry for minutes, an operator perhaps on the next day.
RETENTION: Final = timedelta(hours=24)
MOST_FORGOTTEN_AT_ONCE: Final = 2000


class KeyReusedError(ValueError):
    """The key belongs to another request."""

    def __init__(self) -> None:
        super().__init__("This key was used for another request; take a new one for each.")


class _TakenError(Exception):
    """Somebody else has the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request was answered with.

    Args:
        status: The HTTP status.
        body: The body.
        location: The header `Location`, if there was one.
        etag: The header `ETag`, if there was one.
        is_replayed: Whether it was given before.
    """

    status: int
    body: bytes
    location: str | None = None
    etag: str | None = None
    is_replayed: bool = False


class IdempotencyKey(Base):
    """A key that was used, and the answer that goes with it."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(String(SCOPE_LENGTH), primary_key=True)
    key: Mapped[str] = mapped_column(String(KEY_LENGTH), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    # Without an answer for as long as the work goes on, which nobody else can see.
    status: Mapped[int | None]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    location: Mapped[str | None] = mapped_column(String(2000))
    etag: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]
    # None where a release wrote it that had no such column; then it is `RETENTION` later.
    expires_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_idempotency_keys_expires_at", "expires_at"),)

    def is_past(self, now: datetime) -> bool:
        """Whether its time is over."""
        return (self.expires_at or self.created_at + RETENTION) < now


def answer_once(
    work: Callable[[Session], Answer], *, scope: str, key: str, fingerprint: str
) -> Answer:
    """Do something in a transaction of its own, unless it was done under this key.

    Args:
        work: What to do.
        scope: What the key is unique within: an operation, or an operation of one user.
        key: What the client calls this request and its retries.
        fingerprint: Tells one request from another: a hash of all that matters of it.

    Raises:
        KeyReusedError: The key was used for a request with another fingerprint.
        sqlalchemy.exc.SQLAlchemyError: As `work` raises it; then the key is as if never used.
    """
    while True:
        try:
            return _do(work, scope, key, fingerprint)
        except _TakenError:
            # It may be gone by now; then the key is free.
            if (answer := _find(scope, key, fingerprint)) is not None:
                return answer


def forget_old_keys(session: Session, *, most: int = MOST_FORGOTTEN_AT_ONCE) -> bool:
    """Delete keys that are past their time, which would be as good as unused; the oldest first.

    Args:
        session: The session to work in.
        most: How many; one statement for a large backlog could take longer than any may.

    Returns:
        Whether there may be more of them.
    """
    ends, now = IdempotencyKey.expires_at, utc_now()
    last = session.scalar(select(ends).where(ends < now).order_by(ends).offset(most - 1).limit(1))
    session.execute(delete(IdempotencyKey).where(ends < now if last is None else ends <= last))
    return last is not None


def _do(work: Callable[[Session], Answer], scope: str, key: str, fingerprint: str) -> Answer:
    with write_session() as session:
        now = utc_now()
        row = IdempotencyKey(
            scope=scope,
            key=key,
            fingerprint=fingerprint,
            created_at=now,
            expires_at=now + RETENTION,
        )
        session.add(row)
        try:
            session.flush()
        except IntegrityError:
            raise _TakenError from None
        answer = work(session)
        row.status, row.body = answer.status, answer.body
        row.location, row.etag = answer.location, answer.etag
        session.flush()
        return answer


def _is_past(now: datetime) -> ColumnElement[bool]:
    """As `IdempotencyKey.is_past`, for the database to decide."""
    return or_(
        IdempotencyKey.expires_at < now,
        and_(IdempotencyKey.expires_at.is_(None), IdempotencyKey.created_at < now - RETENTION),
    )


def _find(scope: str, key: str, fingerprint: str) -> Answer | None:
    now = utc_now()
    # On the primary: a replica may not have heard of it.
    with get_db_context() as session:
        row = session.get(IdempotencyKey, (scope, key))
        if row is None:
            return None
        if row.is_past(now):
            # Not the row that another request may have put into its place meanwhile.
            session.execute(
                delete(IdempotencyKey).where(
                    IdempotencyKey.scope == scope, IdempotencyKey.key == key, _is_past(now)
                )
            )
            session.commit()
            return None
    if row.fingerprint != fingerprint:
        raise KeyReusedError
    return Answer(
        status=row.status or 0,
        body=row.body or b"",
        location=row.location,
        etag=row.etag,
        is_replayed=True,
    )

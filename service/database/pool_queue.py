"""What a pool holds: connections that lie idle, places for those in use, and a line before them.

QueuePool takes connections from its queue and puts them back there, so this stands in for that
queue and touches nothing else of QueuePool. It counts the places itself, because QueuePool's own
bound lets newcomers overtake those that wait, and cannot be changed while the pool runs.
"""

import contextlib
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util.queue import Empty, QueueCommon

from service.database.failures import OutOfTime
from service.database.pool_policy import PoolPolicy

# Where a connection's details stand in `ConnectionPoolEntry.info`, which SQLAlchemy clears when
# it replaces the connection.
_DETAILS: Final = "tidegate.connection"
# Why a connection is being closed; in `record_info`, which SQLAlchemy leaves alone.
CLOSE_REASON: Final = "tidegate.close_reason"

# HikariCP's shares: connections that were opened together must not all be replaced together.
_LIFETIME_JITTER: Final = 0.025
_KEEPALIVE_JITTER: Final = 0.1


class Waiter(Protocol):
    """One checkout in the line."""

    since: float
    # The template of the HTTP route that it is for.
    route: str
    # Set with a place. A waiter that is woken without one and is in the line no more has to ask
    # another pool.
    has_place: bool

    def wake(self) -> bool:
        """Let it go on; False when it cannot hear any more."""


class _Details:
    """What the queue knows of one open connection. Instants are of `time.monotonic`."""

    __slots__ = ("expires_at", "generation", "heard_at", "keepalive", "used_at")

    def __init__(self, generation: int, policy: PoolPolicy) -> None:
        now = time.monotonic()
        self.generation = generation
        self.expires_at = now + policy.max_lifetime * _jittered(_LIFETIME_JITTER)
        self.keepalive = policy.keepalive * _jittered(_KEEPALIVE_JITTER)
        self.used_at = self.heard_at = now


def _jittered(share: float) -> float:
    return 1 - share * random.random()  # noqa: S311 - spreads load, guards nothing


class FairQueue(QueueCommon[ConnectionPoolEntry]):
    """Idle connections, the most recently used first out, and the places for those in use.

    A place is taken before a connection is asked for, and given back with it. Open connections
    are never more than places, and whoever has waited longest gets the next one.

    Args:
        maxsize: How many idle connections are kept; 0 keeps all.
        use_lifo: Given by QueuePool. The last in is first out in any case: what is needed less
            grows cold at the other end, and can be closed there.
    """

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self.capacity: float = maxsize or math.inf
        self.policy = PoolPolicy()
        self.suspended = False
        self.validate: Callable[[ConnectionPoolEntry], bool] = lambda _record: True
        # Reentrant, for the garbage collector may put a connection back in the very thread that
        # holds it. `_busy` tells of that: the connection then waits until the change is complete.
        self._lock = threading.RLock()
        self._busy = False
        self._deferred: deque[ConnectionPoolEntry] = deque()
        self._idle: deque[ConnectionPoolEntry] = deque()
        self._waiters: deque[Waiter] = deque()
        self._out: set[_Details] = set()
        self._places = 0
        self._maintained = 0
        self._generation = 0
        self._evict_reason = ""
        self._is_retired = False
        # Connections that were last heard of before this instant are asked before they are used.
        self._suspect_before = -math.inf

    @property
    def checked_out(self) -> int:
        """How many connections are in use."""
        return len(self._out)

    @property
    def waiting(self) -> int:
        """How many checkouts wait for a place."""
        return len(self._waiters)

    @property
    def waiting_since(self) -> float | None:
        """Since when the first in the line waits (`time.monotonic`)."""
        try:
            return self._waiters[0].since
        except IndexError:
            return None

    def line(self) -> list[Waiter]:
        """Who waits, whoever has waited longest first."""
        with self._lock:
            return [*self._waiters]

    def qsize(self) -> int:
        """How many connections lie idle."""
        return len(self._idle) + self._maintained

    def try_enter(self) -> bool:
        """Take a place, if there is one and nobody waits for it."""
        with self._lock:
            self._busy = True
            try:
                is_free = self._places < self.capacity and not self._waiters and not self.suspended
                self._places += is_free
            finally:
                self._busy = False
        if self._deferred:
            self._settle()
        return is_free

    def enter_to_open(self, least: float) -> bool:
        """Take a place to open a connection with, if fewer are open, or about to be, than `least`.

        Nobody waits then, and whoever has a place counts: he has a connection, opens one, or takes
        one of the idle ones.
        """
        with self._lock:
            self._busy = True
            try:
                is_missing = len(self._idle) + self._places < min(least, self.capacity)
                is_free = is_missing and not self._waiters and not self.suspended
                self._places += is_free
            finally:
                self._busy = False
        self._settle()
        return is_free

    def line_up(self, waiter: Waiter) -> None:
        """Wait for a place: `waiter.wake` is called, perhaps before this returns."""
        with self._lock:
            self._busy = True
            try:
                self._waiters.append(waiter)
                self._admit()
            finally:
                self._busy = False
        self._settle()

    def abandon(self, waiter: Waiter) -> bool:
        """Leave the line.

        Returns:
            Whether it was too late: the waiter was taken out of the line, and what place it has is
            to be used or given back.
        """
        is_late = False
        with self._lock:
            self._busy = True
            try:
                self._waiters.remove(waiter)
            except ValueError:
                is_late = True
            finally:
                self._busy = False
        self._settle()
        return is_late

    def leave(self) -> None:
        """Give a place back."""
        with self._lock:
            self._busy = True
            try:
                self._places -= 1
                self._admit()
            finally:
                self._busy = False
        self._settle()

    def bind(self, info: dict[str, object]) -> None:
        """Tie the caller's place to the connection that it got: they are given back together."""
        details = info.get(_DETAILS)
        if not isinstance(details, _Details):
            details = info[_DETAILS] = _Details(self._generation, self.policy)
        self._out.add(details)

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        """Take the idle connection that was used last, if it is fit.

        Never blocks: whoever calls has a place, and opens a connection where none lies idle.

        Raises:
            sqlalchemy.util.queue.Empty: None does.
        """
        del block, timeout
        while True:
            try:
                record = self._idle.pop()
            except IndexError:
                raise Empty from None
            now = time.monotonic()
            details: _Details = record.info[_DETAILS]
            if reason := self._obsolete(details, now):
                close(record, reason)
            elif (
                self._suspect_before < details.heard_at > now - self.policy.validation_bypass
            ) or self._is_fit(record, details):
                return record

    def put(
        self,
        item: ConnectionPoolEntry,
        block: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Take a connection back, with its place: keep it or close it."""
        del block, timeout
        with self._lock:
            if self._busy:
                self._deferred.append(item)
                return
            self._busy = True
            try:
                details = item.info.get(_DETAILS)
                had_place = details in self._out
                self._out.discard(details)
                is_open = item.dbapi_connection is not None
                reason = self._reject(details) if is_open else None
                if is_open and reason is None:
                    self._idle.append(item)
                # A place is free when its connection is closed, and not before.
                if had_place and reason is None:
                    self._places -= 1
                    self._admit()
            finally:
                self._busy = False
        if reason is not None:
            try:
                close(item, reason)
            finally:
                if had_place:
                    self.leave()
        self._settle()

    def evict(self, reason: str) -> None:
        """Have every open connection closed: an idle one by `maintain_one`, others on return."""
        # Under the lock, so that none which was found good enough before lies down after it.
        with self._lock:
            self._evict_reason = reason
            self._generation += 1

    def retire(self, reason: str) -> None:
        """As `evict`, also of connections that are opened later."""
        self._is_retired = True
        self.evict(reason)

    def resize(self, size: int, capacity: float) -> None:
        """Change the limits; who waits gets what is more; the rest is shed."""
        with self._lock:
            self._busy = True
            try:
                self.maxsize = size
                self.capacity = capacity
                self._admit()
            finally:
                self._busy = False
        self._settle()

    def suspend(self) -> None:
        """Let nobody have a place until `resume`."""
        self.suspended = True

    def resume(self) -> None:
        """Go on with those who wait."""
        with self._lock:
            self._busy = True
            try:
                self.suspended = False
                self._admit()
            finally:
                self._busy = False
        self._settle()

    def disband(self) -> None:
        """Send everyone in the line away without a place."""
        with self._lock:
            self._busy = True
            try:
                while self._waiters:
                    self._waiters.popleft().wake()
            finally:
                self._busy = False
        self._settle()

    def is_due(self) -> bool:
        """Whether `maintain_one` would find something, given a place."""
        now = time.monotonic()
        return any(self._due(record, now) for record in [*self._idle])

    def _take_due(self) -> tuple[ConnectionPoolEntry, str] | None:
        now = time.monotonic()
        with self._lock:
            self._busy = True
            try:
                # With a place of its own, so that nobody opens another connection for it. When
                # there is none, the pool is busy and uses what it has; unless it was made smaller.
                if self._places >= self.capacity >= len(self._idle) + len(self._out):
                    return None
                # From the cold end, so that the idle timeout leaves the warm ones.
                for record in [*self._idle]:
                    if (reason := self._due(record, now)) and self._take(record):
                        self._places += 1
                        self._maintained += 1
                        return record, reason
                return None
            finally:
                self._busy = False

    def maintain_one(self) -> bool:
        """Close an idle connection that is due for it, or ask one whether it is alive.

        One caller at a time.

        Returns:
            Whether there was one.
        """
        taken = self._take_due()
        self._settle()
        if taken is None:
            return False
        record, reason = taken
        try:
            if reason != "keepalive":
                close(record, reason)
            elif self._answers(record, reason):
                details: _Details = record.info[_DETAILS]
                details.heard_at = time.monotonic()
                self._lay_down(record, at_cold_end=True)
        finally:
            self._maintained -= 1
            self.leave()
        return True

    def _take(self, record: ConnectionPoolEntry) -> bool:
        # `get` takes no lock.
        with contextlib.suppress(ValueError):
            self._idle.remove(record)
            return True
        return False

    def _admit(self) -> None:
        while self._waiters and not self.suspended and self._places < self.capacity:
            waiter = self._waiters.popleft()
            waiter.has_place = True
            if waiter.wake():
                self._places += 1
            else:
                # Else it would give back, when it is cleared away, what it never had.
                waiter.has_place = False

    def _settle(self) -> None:
        while self._deferred:
            try:
                record = self._deferred.popleft()
            except IndexError:
                return
            self.put(record)

    def _reject(self, details: _Details | None) -> str | None:
        """Why not to keep a connection that comes back."""
        if details is None:
            return "released"
        now = details.used_at = details.heard_at = time.monotonic()
        if reason := self._obsolete(details, now):
            return reason
        idle = len(self._idle)
        is_over = idle + len(self._out) >= self.capacity
        return "released" if is_over or 0 < self.maxsize <= idle + self._maintained else None

    def _obsolete(self, details: _Details, now: float) -> str | None:
        if details.generation != self._generation or self._is_retired:
            return self._evict_reason
        return "max_lifetime" if now >= details.expires_at else None

    def _is_fit(self, record: ConnectionPoolEntry, details: _Details) -> bool:
        if self._answers(record, "validation"):
            details.heard_at = time.monotonic()
            return True
        # What killed this connection may have killed the others.
        self._suspect_before = time.monotonic()
        return False

    def _answers(self, record: ConnectionPoolEntry, purpose: str) -> bool:
        """Ask a connection whether it is alive; one that is not is closed."""
        try:
            is_alive = self.validate(record)
        except BaseException as error:
            if isinstance(error, OutOfTime) and not error.is_cut:
                # Whoever asks has no time left, which says nothing of the connection.
                self._lay_down(record)
            else:
                close(record, purpose, politely=False)
            raise
        if not is_alive:
            close(record, purpose, politely=False)
        return is_alive

    def _lay_down(self, record: ConnectionPoolEntry, *, at_cold_end: bool = False) -> None:
        """Let a connection lie idle again that was taken to be asked."""
        # Once it lies there it may be handed out, and opened anew.
        details: _Details = record.info[_DETAILS]
        (self._idle.appendleft if at_cold_end else self._idle.append)(record)
        # It may have been evicted while it was asked, when the idle ones were closed.
        reason = self._obsolete(details, time.monotonic())
        if reason is not None and self._take(record):
            close(record, reason)

    def _due(self, record: ConnectionPoolEntry, now: float) -> str | None:
        details: _Details | None = record.info.get(_DETAILS)
        if details is None:
            # `get`, which takes no lock, has handed it out, and it is being opened anew.
            return None
        if reason := self._obsolete(details, now):
            return reason
        idle = len(self._idle)
        total = idle + len(self._out)
        if 0 < self.maxsize < idle or total > self.capacity:
            return "resized"
        is_spare = total > self.policy.min_idle
        if is_spare and now - details.used_at >= self.policy.idle_timeout:
            return "idle_timeout"
        return "keepalive" if now - details.heard_at >= details.keepalive else None


def close(record: ConnectionPoolEntry, reason: str, *, politely: bool = True) -> None:
    """Close a connection.

    Args:
        record: Which.
        reason: What its `close` event finds in `record_info`, under `CLOSE_REASON`.
        politely: Whether the server is told, which an asyncio driver waits for.
    """
    if record.record_info is not None:
        record.record_info[CLOSE_REASON] = reason
    if politely:
        record.close()
    else:
        record.invalidate()

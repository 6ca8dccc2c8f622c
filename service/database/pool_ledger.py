"""Which connections of a pool are open, and who has which.

Counts are the sizes of sets, not sums of steps: an event that comes twice or never (as with
invalidate, detach and dispose) cannot make them drift.
"""

import threading
import weakref
from collections.abc import Callable

from sqlalchemy.pool import ConnectionPoolEntry

from service.database.pool_holders import Holder


class PoolLedger:
    """The connections of one engine, those of a pool that `dispose()` replaced apart."""

    def __init__(self) -> None:
        # Reentrant, for the collector may check a connection in while this thread holds it.
        self.lock = threading.RLock()
        # Weak, because a pool may drop a record without an event.
        self._open: weakref.WeakSet[ConnectionPoolEntry] = weakref.WeakSet()
        self._open_count = 0
        self._used: dict[ConnectionPoolEntry, Holder] = {}
        self._former: dict[ConnectionPoolEntry, Holder] = {}

    def counts(self) -> tuple[int, int]:
        """How many connections are out, and how many lie idle."""
        with self.lock:
            used = len(self._used)
            return used, self._open_count - used

    def holders(self) -> list[Holder]:
        """Who has a connection, whoever has had it for longest first."""
        with self.lock:
            holders = [*self._used.values(), *self._former.values()]
        return sorted(holders, key=lambda holder: holder.since)

    def open(self, record: ConnectionPoolEntry) -> None:
        """Enter a connection."""
        with self.lock:
            self._open.add(record)
            self.count()

    def close(self, record: ConnectionPoolEntry) -> None:
        """Strike a connection out; whoever has it may have it still."""
        with self.lock:
            self._open.discard(record)

    def count(self) -> None:
        """Count the open connections."""
        with self.lock:
            self._open_count = len(self._open)

    def take(self, record: ConnectionPoolEntry, holder: Holder, *, is_former: bool) -> None:
        """Enter who has a connection; within the lock in which `is_former` was found out."""
        (self._former if is_former else self._used)[record] = holder

    def give_back(self, record: ConnectionPoolEntry) -> Holder | None:
        """Strike out who has a connection, if somebody does."""
        return self._used.pop(record, None) or self._former.pop(record, None)

    def replace(self, is_former: Callable[[ConnectionPoolEntry], bool]) -> None:
        """Set the connections of a replaced pool apart: they return there, and nobody asks it."""
        with self.lock:
            for record in [*filter(is_former, [*self._open])]:
                self._open.discard(record)
            for record in [*filter(is_former, [*self._used])]:
                self._former[record] = self._used.pop(record)

    def mend(self) -> None:
        """Strike out whoever has a record that nobody has."""
        with self.lock:
            for record in [*self._used]:
                if not record.in_use:
                    self._used.pop(record, None)

    def clear(self) -> None:
        """Forget everything, in a forked child: it is the parent's."""
        self.lock = threading.RLock()
        self._used.clear()
        self._former.clear()
        self._open.clear()

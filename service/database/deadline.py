"""Limits on how long a database may take, and the watchdog that enforces them.

No setting of a driver ends the wait for a server that hangs: its own timer stands still, and its
kernel acknowledges every probe. So each call to a driver is entered here with the instant at which
it has to end, and a thread cuts what is late.
"""

import contextlib
import itertools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final

from service.database.failures import Cancelled, DatabaseFailure, DeadlineExceeded

logger = logging.getLogger(__name__)


class TimeLimit:
    """Until when everything that is asked of a database has to end; made by `time_limit`.

    Args:
        ends: The instant (`time.monotonic`).
        outer: The limit around this one.
    """

    # `cancelled` tells of this one alone, and is read faster than the property.
    __slots__ = ("cancelled", "ends", "outer")

    def __init__(self, ends: float, outer: "TimeLimit | None") -> None:
        self.ends: float = ends if outer is None else min(ends, outer.ends)
        self.outer = outer
        self.cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether it, or a limit around it, was cancelled."""
        return self.cancelled or (self.outer is not None and self.outer.is_cancelled)

    @property
    def remaining(self) -> float:
        """The seconds that are left; 0 when it is over or cancelled."""
        return 0.0 if self.is_cancelled else max(0.0, self.ends - time.monotonic())

    @property
    def failure(self) -> type[DatabaseFailure]:
        """What it means that this limit ended something."""
        return Cancelled if self.is_cancelled else DeadlineExceeded

    def cancel(self) -> None:
        """End what is being asked at this moment, and refuse what would be asked later.

        From any thread; returns at once.
        """
        self.cancelled = True
        watchdog.cut_all(self.contains)

    def contains(self, other: "TimeLimit | None") -> bool:
        """Whether a limit is this one, or lies within it."""
        while other is not None and other is not self:
            other = other.outer
        return other is self


_current: ContextVar[TimeLimit | None] = ContextVar("database_time_limit", default=None)
# How many nanoseconds matter here: it is asked for at every call to a driver.
current_limit = _current.get


class _Limited:
    """`time_limit`; made of a generator it would take three times as long."""

    __slots__ = ("_seconds", "_token")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> TimeLimit:
        limit = TimeLimit(time.monotonic() + self._seconds, _current.get())
        self._token = _current.set(limit)
        return limit

    def __exit__(self, *_exception: object) -> None:
        _current.reset(self._token)


def time_limit(seconds: float) -> contextlib.AbstractContextManager[TimeLimit]:
    """Have everything that is asked of a database within end in time.

    That is: waiting for a connection, opening and validating it, statements, fetches, COMMIT and
    ROLLBACK, on every engine of the kit, in this thread or task and in those that have a copy of
    its context. Of nested limits the one that ends first counts. What is not done raises an error
    that `failures.classify` takes for `DeadlineExceeded`, or for `Cancelled`.

    Args:
        seconds: From when it is entered.
    """
    return _Limited(seconds)


@contextlib.contextmanager
def outside_limits() -> Iterator[None]:
    """Do something that is nobody's request, whoever caused it."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


# Where nothing may be waited for: a connection that the collector gives back there is closed.
NO_TIME: Final = TimeLimit(-math.inf, None)

# When it has to end, by which limit, how to cut it, and what.
_Call = tuple[float, TimeLimit | None, Callable[[Any], object], Any]
_keys: Final = itertools.count()


class Watchdog:
    """Cuts the calls that are late, in a thread of its own, which sleeps until one may be.

    Whoever takes a call's entry first decides: the call itself, which has ended then, or who cuts
    it. So nothing is cut that has ended, and a call that was cut knows.
    """

    def __init__(self) -> None:
        self._start_anew()
        os.register_at_fork(after_in_child=self._start_anew)

    def _start_anew(self) -> None:
        # Neither the thread nor the calls of others survive a fork.
        self._calls: dict[int, _Call] = {}
        self._wakes_at = math.inf
        # Reentrant, as the collector may give a connection back, and so make a call, anywhere.
        self._cutting = threading.RLock()
        self._starting = threading.RLock()
        # Held, but for an instant when the thread is to look again. An Event is not reentrant.
        self._asleep = threading.Lock()
        self._asleep.acquire()
        self._thread: threading.Thread | None = None

    def enter(
        self, ends: float, limit: TimeLimit | None, cut: Callable[[Any], object], target: Any
    ) -> int:
        """Enter a call.

        Args:
            ends: When it has to end (`time.monotonic`).
            limit: Whose cancellation ends it, too.
            cut: Called with `target` to end it, in any thread; must not wait for anything.
            target: What is asked.

        Returns:
            What `leave` is told.
        """
        key = next(_keys)
        self._calls[key] = (ends, limit, cut, target)
        if ends < self._wakes_at:
            self._wake()
        return key

    def leave(self, key: int) -> bool:
        """Tell that a call has ended.

        Returns:
            Whether it was not cut; the cut is done when this returns.
        """
        if self._calls.pop(key, None) is not None:
            return True
        with self._cutting:
            return False

    def cut_all(self, is_meant: Callable[[TimeLimit | None], bool]) -> None:
        """Cut the calls whose limit is meant."""
        for key, call in self._calls.copy().items():
            if is_meant(call[1]):
                self._cut(key)

    def _cut(self, key: int) -> None:
        with self._cutting:
            call = self._calls.pop(key, None)
            if call is None:
                return
            token = _current.set(NO_TIME)
            try:
                call[2](call[3])
            except Exception:
                # The other calls need the thread, and this one ends by itself, perhaps late.
                logger.exception("a call to a database could not be cut")
            finally:
                _current.reset(token)

    def _wake(self) -> None:
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="database-deadlines", daemon=True
                    )
                    self._thread.start()
        with contextlib.suppress(RuntimeError):  # it looks already
            self._asleep.release()

    def _run(self) -> None:
        _current.set(NO_TIME)
        while True:
            # Whoever enters from here on wakes the thread; whoever did before is seen below.
            self._wakes_at = math.inf
            earliest = self._cut_late_ones()
            self._wakes_at = earliest
            patience = min(max(0.0, earliest - time.monotonic()), threading.TIMEOUT_MAX)
            self._asleep.acquire(timeout=patience)

    def _cut_late_ones(self) -> float:
        """Cut what is late; returns when the next call may be."""
        earliest = math.inf
        # A copy of a dict is the one that no collection and no other thread can disturb.
        for key, call in self._calls.copy().items():
            if call[0] <= time.monotonic():
                self._cut(key)
            else:
                earliest = min(earliest, call[0])
        return earliest


watchdog: Final = Watchdog()

"""Stopping the runner: a signal ends the statement that runs, and whatever it waits for."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, text

from service.migrator.errors import StoppedError

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# A request that arrives between two statements ends neither.
_REPEAT_SECONDS: Final = 0.1


class Cancellation:
    """Whether somebody wants the runner to stop, and how what it does now is ended."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._signum = signal.SIGTERM
        self._lock = threading.Lock()
        self._interrupt: Callable[[], None] | None = None

    @property
    def is_requested(self) -> bool:
        """Whether it is to stop."""
        return self._requested.is_set()

    def error(self) -> StoppedError:
        """What to raise then."""
        return StoppedError(self._signum)

    def check(self) -> None:
        """Go on, if nobody wants it to stop.

        Raises:
            StoppedError: Somebody does.
        """
        if self.is_requested:
            raise self.error()

    def wait(self, seconds: float) -> None:
        """Sleep.

        Raises:
            StoppedError: Somebody wants it to stop.
        """
        self._requested.wait(seconds)
        self.check()

    def request(self, signum: int) -> None:
        """Have it stop; ends the statement that runs.

        Args:
            signum: The signal that is the reason.
        """
        self._signum = signal.Signals(signum)
        self._requested.set()
        threading.Thread(target=self._keep_interrupting, daemon=True).start()

    @contextmanager
    def guarding(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Interrupt what is done within the context, when it is to stop.

        Args:
            interrupt: Ends a statement; called from another thread, perhaps several times.

        Raises:
            StoppedError: It was to stop before.
        """
        with self._lock:
            self._interrupt = interrupt
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._interrupt = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT for as long as the context is open; in the main thread only.

        A handler in Python runs only when the driver's call in C is over, which may take hours. So
        the number of the signal is read in another thread, to where C's own handler writes it.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        former_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        former = {signum: signal.signal(signum, _do_nothing) for signum in _SIGNALS}
        thread = threading.Thread(target=self._read, args=(reader,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(former_fd)
            for signum, handler in former.items():
                signal.signal(signum, handler)
            os.close(writer)
            thread.join()
            os.close(reader)

    def _read(self, reader: int) -> None:
        while received := os.read(reader, 1):
            if received[0] in _SIGNALS:
                self.request(received[0])

    def _keep_interrupting(self) -> None:
        while True:
            with self._lock:
                interrupt = self._interrupt
                if interrupt is None:
                    return
                # The connection may be closed by now, and then nothing is left to be ended.
                with contextlib.suppress(Exception):
                    interrupt()
            threading.Event().wait(_REPEAT_SECONDS)


def interruption(engine: Engine, connection: Connection) -> Callable[[], None]:
    """How the statement that runs on a connection is ended from another thread.

    Args:
        engine: Where another connection comes from, if one is needed.
        connection: Which.
    """
    driver: Any = connection.connection.dbapi_connection
    if engine.dialect.name == "postgresql":
        cancel: Callable[[], None] = driver.cancel
        return cancel
    if engine.dialect.name == "sqlite":
        interrupt: Callable[[], None] = driver.interrupt
        return interrupt
    number = int(driver.thread_id())

    def kill_query() -> None:
        with engine.connect() as other:
            other.execute(text(f"KILL QUERY {number}"))

    return kill_query


def _do_nothing(signum: int, frame: Any) -> None:
    del signum, frame

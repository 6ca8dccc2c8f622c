"""One thread for each process that lets pools and their metrics look at the time."""

import logging
import os
import threading
import weakref
from typing import Final, Protocol

logger = logging.getLogger(__name__)

# How old what depends on time may be: ages, leaks, what idle connections need.
TICK_SECONDS: Final = 1.0


class Watched(Protocol):
    """Something that has to look at the time."""

    def tick(self) -> None:
        """Look; must not wait for anything."""


class _Clock:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._thread: threading.Thread | None = None

    def watch(self, watched: Watched) -> None:
        with self._lock:
            self._watched.add(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pool-clock", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(TICK_SECONDS):
            self.tick()

    def tick(self) -> None:
        with self._lock:
            watched = [*self._watched]
        for each in watched:
            try:
                each.tick()
            except Exception:
                # The others need their ticks too, and no caller is there to hear of it.
                logger.exception("a pool could not be looked after")


_clock = _Clock()


def watch(watched: Watched) -> None:
    """Call `tick()` of something every second, for as long as somebody else holds it.

    Threads do not survive a fork: a child begins with nothing watched.
    """
    _clock.watch(watched)


def _start_anew() -> None:
    global _clock  # noqa: PLW0603 - there is one for the process
    _clock = _Clock()


os.register_at_fork(after_in_child=_start_anew)

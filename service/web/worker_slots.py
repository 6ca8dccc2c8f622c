"""Slots: the metrics of several workers in files that a worker's successor goes on with.

prometheus_client keeps the values of each process in files named by its pid, and reads all of them
at every scrape, those of the dead too: each restart makes every later scrape slower. Here the files
are named by a slot, which is the worker's for as long as it lives and then another's. So there are
no more files than workers at once, and a counter goes on where the worker before left it.

It is used by `deploy/gunicorn.conf.py`, and imports nothing that makes a metric.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

from service.web.memory_directory import memory_directory
from service.web.shared_metrics import VARIABLE, value_files

_PREFIX: Final = "tidegate-metrics-"
# Whose files those of an application are that the arbiter itself has loaded (`--preload`).
_ARBITER: Final = "arbiter"
_own_slot = 0


def own_slot() -> int:
    """This process's slot; 0 for a server that is one process."""
    return _own_slot


class WorkerSlots:
    """The slots of one server, and the directory that holds their files.

    Args:
        directory: Where the files lie; this process's own, as `_claim` found.
        lock: The file descriptor that holds the claim.
        temporary: Whether the directory itself goes when the server does.
    """

    def __init__(self, directory: Path, lock: int, *, temporary: bool) -> None:
        self.directory = directory
        self._lock = lock
        self._temporary = temporary
        self._server = os.getpid()
        self._identifier = _ARBITER

    def install(self) -> None:
        """Let every metric made from now on keep its values in the slot's files."""
        os.environ[VARIABLE] = str(self.directory)
        shared = values.MultiProcessValue(process_identifier=lambda: self._identifier)  # type: ignore[no-untyped-call] # as the library has it
        values.ValueClass = shared

    def take(self, slot: int) -> None:
        """Make a slot this process's own; for a worker, before it loads the application.

        The values that the fork brought along are read anew, from the slot's files.
        """
        # Gunicorn's `--env` has been applied since.
        os.environ[VARIABLE] = str(self.directory)
        self._identifier = str(slot)
        global _own_slot  # noqa: PLW0603 - there is one for the process
        _own_slot = slot

    def release(self, slot: int) -> None:
        """Remove the gauges of a worker that has ended, whichever way it did."""
        mark_process_dead(slot, str(self.directory))  # type: ignore[no-untyped-call] # as above

    def remove(self) -> None:
        """Remove the files; does nothing in a worker, which ends before its server."""
        if os.getpid() != self._server:
            return
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            _remove_values(self.directory)
        os.close(self._lock)
        self._server = 0


@cache
def worker_slots() -> WorkerSlots:
    """Set up the slots of this server, once however often it is reloaded.

    The directory is `PROMETHEUS_MULTIPROC_DIR` where that is set, whose values from an earlier run
    are removed; unless another server uses it now, such as the one that a SIGUSR2 replaces by this.
    Otherwise it is a new one in memory.

    Raises:
        OSError: The directory cannot be made or written to.
    """
    slots = _given() or _temporary()
    slots.install()
    # Beyond gunicorn's `on_exit`, this comes after a start that failed, too.
    atexit.register(slots.remove)
    return slots


def free_slot(taken: Iterable[int]) -> int:
    """The lowest slot that no worker has.

    Args:
        taken: The slots of the workers that live.
    """
    known = set(taken)
    return next(slot for slot in count() if slot not in known)


def _given() -> WorkerSlots | None:
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    directory = Path(name)
    directory.mkdir(parents=True, exist_ok=True)
    lock = _claim(directory)
    if lock is None:
        return None
    _remove_values(directory)
    with tempfile.TemporaryFile(dir=directory):
        return WorkerSlots(directory, lock, temporary=False)


def _temporary() -> WorkerSlots:
    parent = memory_directory()
    for abandoned in parent.glob(f"{_PREFIX}*"):
        # A server that ends just now removes its own.
        with contextlib.suppress(FileNotFoundError):
            lock = _claim(abandoned) if abandoned.lstat().st_uid == os.geteuid() else None
            if lock is not None:
                shutil.rmtree(abandoned, ignore_errors=True)
                os.close(lock)
    while True:
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = _claim(directory)
        # Another server that starts now may have taken it for abandoned.
        if lock is not None and directory.exists():
            return WorkerSlots(directory, lock, temporary=True)


def _claim(directory: Path) -> int | None:
    """Lock a directory.

    The kernel holds the lock for this process and the workers forked from it, and lets go when the
    last of them is dead. A pid in a file would mean nothing in the next container.

    Returns:
        The descriptor that holds the lock, or None if it cannot be had.
    """
    lock = -1
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if lock >= 0:
            os.close(lock)
        return None
    return lock


def _remove_values(directory: Path) -> None:
    for file in value_files(directory):
        with contextlib.suppress(OSError):
            file.unlink()

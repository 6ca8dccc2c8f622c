"""Whether the garbage collector runs in this thread.

It may return a leaked connection at any moment, and so run the pool's events within whatever it
interrupted: a scrape for one, which holds a lock of prometheus_client that is not reentrant.
"""

import _thread
import contextlib
import gc
import threading
from collections.abc import Callable

# The thread in which it runs, if it does.
_thread_ident = 0


def is_collecting() -> bool:
    """Whether the code that runs now was called by the collector."""
    return _thread_ident == threading.get_ident()


def run_elsewhere(work: Callable[[], None]) -> None:
    """Run something in another thread, which may wait for what this one holds."""
    with contextlib.suppress(RuntimeError):  # at the end of the interpreter
        _thread.start_new_thread(work, ())


def _note_collection(phase: str, info: dict[str, int]) -> None:
    global _thread_ident  # noqa: PLW0603 - there is one collector in the process
    del info
    _thread_ident = threading.get_ident() if phase == "start" else 0


gc.callbacks.append(_note_collection)

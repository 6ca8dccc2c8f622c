"""A time in which Python's garbage collector does nothing by itself."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collector() -> Iterator[None]:
    """Collect what there is, and then nothing that is not asked for."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

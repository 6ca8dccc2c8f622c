"""What changes too often for prometheus_client, which is told of it less often.

Observations are noted, and reckoned up many at once; gauges are read from their sources.
prometheus_client looks for the bucket one by one and takes a lock for each of two values; in the
files of several workers it writes both. To note a number costs a twentieth of that.
"""

import os
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

from prometheus_client import Gauge, Histogram

NoteT = TypeVar("NoteT")


# As prometheus_client decides it: several workers then share the values in files.
_IS_SHARED: Final = "PROMETHEUS_MULTIPROC_DIR" in os.environ
# How often gauges that change all the time are written to the file: it costs more than the rest.
_WRITE_SECONDS: Final = 0.1


class Batch(Generic[NoteT]):
    """Notes that any thread may add to, also one that the garbage collector interrupted."""

    def __init__(self) -> None:
        self._notes: deque[NoteT] = deque()
        self.add: Callable[[NoteT], None] = self._notes.append

    def take(self) -> list[NoteT]:
        """Remove and return what was added."""
        # One by one: each is atomic, so that none is lost or taken twice.
        notes: list[NoteT] = []
        try:
            while True:
                notes.append(self._notes.popleft())
        except IndexError:
            return notes


def observe_all(histogram: Histogram, values: Iterable[float]) -> None:
    """Observe many values.

    Args:
        histogram: The one to observe them with, its labels chosen.
        values: What was measured.
    """
    # The library has no public way to observe more than one.
    own: Any = histogram
    bounds = own._upper_bounds  # noqa: SLF001
    total = 0.0
    buckets: Counter[int] = Counter()
    for value in values:
        total += value
        buckets[bisect_left(bounds, value)] += 1
    if buckets:
        own._sum.inc(total)  # noqa: SLF001
    for index, count in buckets.items():
        own._buckets[index].inc(count)  # noqa: SLF001


class SampledGauges:
    """Gauges that are read from their sources.

    Within one process that happens when somebody reads them. In files they are written at most ten
    times a second, and at the latest by the next `write()`.

    Args:
        sources: What tells the value of each.
    """

    def __init__(self, sources: Mapping[Gauge, Callable[[], float]]) -> None:
        self._sources = {} if not _IS_SHARED else dict(sources)
        self._next_write = 0.0
        if not _IS_SHARED:
            for gauge, source in sources.items():
                gauge.set_function(source)

    def changed(self) -> None:
        """Tell that a value may have changed."""
        if self._sources and time.monotonic() >= self._next_write:
            self.write()

    def write(self) -> None:
        """Write the values, where they are written."""
        self._next_write = time.monotonic() + _WRITE_SECONDS
        for gauge, source in self._sources.items():
            gauge.set(source())

"""What the pools were like in the last minutes, for whoever opens the ops page afterwards."""

import time
from array import array
from collections.abc import Iterable, Mapping
from typing import Any, Final

from service.database import PoolSnapshot, pool_clock, pool_snapshots

# Ten minutes, a sample each second: 3.6 kB for each pool.
SAMPLES: Final = 600
_SERIES: Final = ("used", "idle", "pending")
# The clock runs a little slower than seconds pass, so that it passes over one now and then.
_BRIDGED: Final = 2
# A second in which nobody looked: the process was stopped, or a call held the interpreter.
_NOTHING: Final = -1
_MOST: Final = 32_767


class PoolHistory:
    """One pool's last minutes.

    Args:
        samples: How many seconds are kept.
    """

    def __init__(self, samples: int = SAMPLES) -> None:
        self._samples = samples
        self._values = {name: array("h", [_NOTHING]) * samples for name in _SERIES}
        self._length = 0
        self._latest = 0

    def add(self, second: int, counts: Iterable[int]) -> None:
        """Note the counts of a second.

        Args:
            second: A number that rises by one each second.
            counts: How many connections are used and idle, and how many checkouts wait.
        """
        passed = second - self._latest if self._length else 1
        if passed <= 0:
            return
        is_bridged = passed <= _BRIDGED
        for name, count in zip(_SERIES, counts, strict=True):
            values = self._values[name]
            for missed in range(max(1, passed - self._samples + 1), passed):
                at = (self._latest + missed) % self._samples
                values[at] = min(count, _MOST) if is_bridged else _NOTHING
            values[second % self._samples] = min(count, _MOST)
        self._length = min(self._length + passed, self._samples)
        self._latest = second

    def report(self) -> Mapping[str, list[int]]:
        """The counts of each second by series, from the oldest to the latest; -1 where none is."""
        first = self._latest - self._length + 1
        return {
            name: [values[at % self._samples] for at in range(first, self._latest + 1)]
            for name, values in self._values.items()
        }


class PoolHistories:
    """The histories of every pool of this process, kept by the pool clock."""

    def __init__(self) -> None:
        self._histories: dict[str, PoolHistory] = {}
        pool_clock.watch(self)
        self.tick()

    def tick(self) -> None:
        """Note the counts of now."""
        second = int(time.monotonic())
        for pool in pool_snapshots():
            self._histories.setdefault(pool.pool_name, PoolHistory()).add(second, _counts(pool))

    def report(self, pool_name: str) -> Mapping[str, Any] | None:
        """What `PoolHistory.report` tells of a pool; None of one that was not seen yet.

        Args:
            pool_name: Its label.
        """
        history = self._histories.get(pool_name)
        return None if history is None else history.report()


def _counts(pool: PoolSnapshot) -> tuple[int, int, int]:
    return pool.used, pool.idle, pool.pending

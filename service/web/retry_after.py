"""How long those who are turned away are told to stay away."""

import time
from typing import Final

# What turning one away takes of the CPU is some 150 us, its connection's part included. So many in
# a second take 3 % of a core from those who are served.
_MANY_PER_SECOND: Final = 200.0
# Below this half the time would do: it doubles how many come.
_FEW_PER_SECOND: Final = 50.0
# Whoever was told so stays away as long after an overload has ended.
_LONGEST_SECONDS: Final = 30


class RetryAfter:
    """The `Retry-After` of a gate: it doubles for as long as many are turned away in each second.

    Clients that are told the same in every overload come back the more often the more they are, and
    in the end the service does nothing but turn them away.

    Args:
        shortest: The seconds to begin with, and to come back to.
    """

    def __init__(self, shortest: int) -> None:
        self._seconds = shortest
        self._shortest = shortest
        self._longest = max(shortest, _LONGEST_SECONDS)
        self._count = self._counted = 0
        self._counted_at = time.monotonic()

    def turned_away(self) -> int:
        """Count one that is turned away; the seconds to tell it. From one thread."""
        self._count += 1
        return self._seconds

    def tick(self) -> None:
        """Follow the load; from another thread, about once a second."""
        count, now = self._count, time.monotonic()
        per_second = (count - self._counted) / max(now - self._counted_at, 1e-9)
        self._counted, self._counted_at = count, now
        if per_second > _MANY_PER_SECOND:
            self._seconds = min(self._seconds * 2, self._longest)
        elif per_second < _FEW_PER_SECOND:
            self._seconds = max(self._seconds // 2, self._shortest)

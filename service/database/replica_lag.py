"""How old what a replica shows may be, told from positions in the write-ahead log."""

import math
from collections import deque
from typing import Final

# Those of some minutes; a replica that is further behind shows as such until it has caught up.
_MAX_SAMPLES: Final = 1000


class ReplayedTime:
    """Up to which instant a replica is known to have everything that the primary had.

    `pg_last_xact_replay_timestamp()` cannot tell: it stands still while the primary is idle, and
    also while the replica receives nothing. A position that the primary had at a known instant,
    and that the replica has replayed, tells in both cases.

    Instants are of `time.monotonic`, in seconds.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_MAX_SAMPLES)
        self._written = 0
        self._replayed = 0
        self.until = -math.inf

    def primary_was_at(self, position: int, instant: float) -> None:
        """Note a position of the primary.

        Args:
            position: In the write-ahead log, in bytes.
            instant: One before which all that was written lies before the position.
        """
        if position < max(self._written, self._replayed):
            # Another server became the primary, and what the former wrote last is lost.
            self._samples.clear()
            self.until = -math.inf
        self._written = position
        if position < self._replayed:
            # The replica has some of that, so that it does not follow the new one.
            return
        if self._samples and position == self._samples[-1][1]:
            self._samples.pop()
        self._samples.append((instant, position))

    def replica_is_at(self, position: int) -> None:
        """Note up to which position the replica has replayed the log."""
        if position < self._replayed:
            # Restored from a backup, or replaced by another.
            self.until = -math.inf
        self._replayed = position
        while self._samples and self._samples[0][1] <= position:
            self.until = self._samples.popleft()[0]

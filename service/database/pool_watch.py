"""What only time tells of a pool: ages, leaks, and whether its gauges are right."""

import logging
import time

from sqlalchemy.pool import Pool, QueuePool

from service.database.pool import MeteredPoolMixin
from service.database.pool_holders import Holder
from service.database.pool_ledger import PoolLedger
from service.database.pool_metrics import PoolSeries

logger = logging.getLogger(__name__)


class PoolWatch:
    """Looks at a pool every second.

    Args:
        ledger: Who has which connection.
        series: Where to write what is found.
        leak_threshold: Seconds after which a connection that is out is taken for leaked.
    """

    def __init__(self, ledger: PoolLedger, series: PoolSeries, leak_threshold: float) -> None:
        self._ledger = ledger
        self._series = series
        self._leak_threshold = leak_threshold
        self._suspicion: object = None

    def publish_ages(self, pool: Pool) -> None:
        """Tell how long the first has been out, and how long the first in the line has waited."""
        holders = self._ledger.holders()
        self._series.connections.write()
        self._series.oldest_use.set(holders[0].age if holders else 0)
        self._series.oldest_wait.set(oldest_wait(pool))
        self.publish_leaks()

    def publish_leaks(self) -> None:
        """Tell how many connections are out that are taken for leaked."""
        self._series.leaked.set(sum(holder.is_leaked for holder in self._ledger.holders()))

    def look_for_leaks(self) -> None:
        """Tell of each connection that has been out for too long, once."""
        for holder in self._ledger.holders():
            if holder.is_leaked or holder.age < self._leak_threshold:
                continue
            holder.is_leaked = True
            self._series.leaks.inc()
            logger.warning(
                "a connection of pool %s is out for %s: taken for leaked; it was taken at\n%s",
                self._series.pool_name,
                holder,
                "\n".join(holder.borrow_site()),
            )

    def leak_returned(self, holder: Holder) -> None:
        """Tell of one that was no leak."""
        self._series.leaks_returned.inc()
        logger.warning("a leaked connection came back after all, after %s", holder)

    def look_for_drift(self, pool: QueuePool) -> None:
        """Count and mend a disagreement that two looks in a row have found."""
        (used, _), truth = self._ledger.counts(), pool.checkedout()
        found = (used, truth, self._ledger.holders()) if used != truth else None
        if found is not None and found == self._suspicion:
            self._series.drifts.inc()
            logger.error(
                "pool %s: %d in use, %d counted; please report this",
                self._series.pool_name,
                truth,
                used,
            )
            self._ledger.mend()
        self._suspicion = found


def oldest_wait(pool: Pool) -> float:
    """How long the first checkout in the line has waited, in seconds; 0 without one."""
    since = pool.queue.waiting_since if isinstance(pool, MeteredPoolMixin) else None
    return time.monotonic() - since if since is not None else 0.0

"""How long checkouts have waited lately, told from the histogram that Prometheus reads."""

from service.database.pool_metrics import WAIT_TIME


class RecentWaits:
    """The waits of one pool since it was last asked about them.

    Args:
        pool_name: The pool's label.
    """

    def __init__(self, pool_name: str) -> None:
        self._pool_name = pool_name
        self._seen = self._buckets()

    def percentile(self, share: float, *, least: int = 1) -> float:
        """The time within which this share of the checkouts had a connection, or gave up.

        Args:
            share: Between 0 and 1.
            least: How many checkouts there have to be for the answer to mean something.

        Returns:
            Seconds: the upper bound of the histogram's bucket, at most infinite; 0 for fewer
            checkouts than `least`.
        """
        before, self._seen = self._seen, self._buckets()
        counts = {bound: count - before.get(bound, 0.0) for bound, count in self._seen.items()}
        total = max(counts.values(), default=0.0)
        if total < least:
            return 0.0
        return min(bound for bound, count in counts.items() if count >= share * total)

    def _buckets(self) -> dict[float, float]:
        """How many waits there were up to each bound, since the process began."""
        return {
            float(sample.labels["le"]): sample.value
            for metric in WAIT_TIME.collect()
            for sample in metric.samples
            if sample.name.endswith("_bucket") and sample.labels["pool_name"] == self._pool_name
        }

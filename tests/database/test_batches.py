"""Observations in batches: the same figures as one by one, none lost, none told twice."""

import os
import threading
import warnings

from prometheus_client import CollectorRegistry, Histogram

from service.database.batches import Batch, observe_all
from service.database.pool_metrics import PoolSeries
from tests.database.pools import PoolMetrics

_BUCKETS = (0.001, 0.01, 0.1)


def _samples(values: list[float], *, at_once: bool) -> list[tuple[str, dict[str, str], float]]:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "Seconds.", buckets=_BUCKETS, registry=registry)
    if at_once:
        observe_all(histogram, values)
    else:
        for value in values:
            histogram.observe(value)
    return [
        (sample.name, sample.labels, sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    ]


def test_many_at_once_are_what_they_would_be_one_by_one() -> None:
    values = [0.0, 0.001, 0.0011, 0.01, 0.5, 0.001, 7.0]
    assert _samples(values, at_once=True) == _samples(values, at_once=False)


def test_none_at_all_change_nothing() -> None:
    assert _samples([], at_once=True) == _samples([], at_once=False)


def test_notes_of_many_threads_are_each_taken_once() -> None:
    batch: Batch[int] = Batch()
    taken: list[int] = []

    def add(first: int) -> None:
        for number in range(first, first + 5000):
            batch.add(number)

    threads = [threading.Thread(target=add, args=[first]) for first in range(0, 20_000, 5000)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += batch.take()
    taken += batch.take()
    assert sorted(taken) == list(range(20_000))


def test_forked_child_does_not_tell_what_its_parent_observed(pool_name: str) -> None:
    series = PoolSeries(pool_name, lambda: (0, 0))
    series.waited(0.5)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        child = os.fork()
    if child == 0:
        os._exit(int(PoolMetrics(pool_name).waits))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert PoolMetrics(pool_name).waits == 1

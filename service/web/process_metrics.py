"""Memory, CPU time and open files, added up over the workers.

prometheus_client's own collector reads them of the process that is scraped. Of several workers that
is any one; so there each writes its own to the files that are shared, under the same names.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal

from prometheus_client import Counter, Gauge, Metric, ProcessCollector

from service.web.shared_metrics import is_shared

_INTERVAL: Final = 5.0
# The rest are sums.
_LEAST: Final = ("process_start_time_seconds", "process_max_fds")


class ProcessMetrics:
    """What the kernel tells of this process, as metrics that add up with those of the others."""

    def __init__(self) -> None:
        self._collector = ProcessCollector(registry=None)
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}
        self._counted: dict[str, float] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write them every 5 s for as long as the context is open, if metrics are shared."""
        if not is_shared():
            yield
            return
        self.write()
        task = asyncio.create_task(self._run(), name="process-metrics")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.write()

    def write(self) -> None:
        """Write them as they are now."""
        for family in self._collector.collect():
            (sample,) = family.samples
            if family.type == "counter":
                self._count(family, sample.value)
            else:
                self._gauge(family).set(sample.value)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            self.write()

    def _gauge(self, family: Metric) -> Gauge:
        if family.name not in self._gauges:
            mode: Literal["livemin", "livesum"] = "livemin" if family.name in _LEAST else "livesum"
            self._gauges[family.name] = Gauge(
                family.name, family.documentation, registry=None, multiprocess_mode=mode
            )
        return self._gauges[family.name]

    def _count(self, family: Metric, value: float) -> None:
        """Add what is new: the counter goes on from the worker before in the slot."""
        if family.name not in self._counters:
            self._counters[family.name] = Counter(family.name, family.documentation, registry=None)
        self._counters[family.name].inc(value - self._counted.get(family.name, 0.0))
        self._counted[family.name] = value

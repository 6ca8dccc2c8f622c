"""The metrics of all workers of one server, read from the files that they share."""

import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

# prometheus_client's name for the directory of those files.
VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_PATTERNS: Final = ("counter_*.db", "gauge_*.db", "histogram_*.db", "summary_*.db")


def is_shared() -> bool:
    """Whether metrics are kept in files for several workers, as prometheus_client decides it."""
    return VARIABLE in os.environ


def value_files(directory: Path) -> list[Path]:
    """The files of values in a directory, which may hold others."""
    return sorted(chain.from_iterable(map(directory.glob, _PATTERNS)))


def present_registry() -> CollectorRegistry:
    """All metrics: of every worker where they are shared, otherwise of this process."""
    if not is_shared():
        return REGISTRY
    registry = CollectorRegistry()
    registry.register(_SharedCollector())
    return registry


class _SharedCollector(Collector):
    def collect(self) -> Iterable[Metric]:
        files = [str(file) for file in value_files(Path(os.environ[VARIABLE]))]
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call] # as the library has it
        return merged

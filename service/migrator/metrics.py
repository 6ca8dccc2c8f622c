"""The metrics of a process that does not live long enough to be scraped.

They are written to a file that the node exporter reads, or pushed to a Pushgateway. That of the
last success stays what it was when a run fails, so that an alert can ask how long ago it was.
"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from prometheus_client import CollectorRegistry, Metric, pushadd_to_gateway, write_to_textfile
from prometheus_client.exposition import basic_auth_handler
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from service.migrator.events import Event

_JOB: Final = "tidegate_migrate"
_PUSH_SECONDS: Final = 5.0
_LAST_SUCCESS: Final = "service_migration_last_success_timestamp_seconds"


class RunMetrics(Collector):
    """What one run was like, reckoned up from its events. It is a sink of them."""

    def __init__(self) -> None:
        self._start = time.time()
        self._revisions: dict[tuple[str, str], float] = {}
        self._lock_wait = 0.0
        self._lock_retries = 0
        self._exit_code: int | None = None
        self._seconds = 0.0
        self._last_success: float | None = None

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        match event["event"]:
            case "lock_acquired":
                self._lock_wait += event["waited_seconds"]
            case "lock_retry":
                self._lock_retries += 1
            case "revision_end":
                self._revisions[event["revision"], str(event["phase"])] = event["seconds"]
            case "summary":
                self._exit_code = event["exit_code"]
                self._seconds = event["seconds"]

    def collect(self) -> Iterator[Metric]:
        """The metrics; gauges, because each run replaces those of the one before."""
        yield from (
            _gauge("last_run_timestamp_seconds", "When a run ended last.", time.time()),
            _gauge("last_exit_code", "Its exit code.", self._exit_code or 0),
            _gauge("duration_seconds", "How long it took.", self._seconds),
            _gauge("lock_wait_seconds", "How long it waited for another runner.", self._lock_wait),
            _gauge("lock_retries", "How often it found a table locked.", self._lock_retries),
            _gauge(
                "revisions", "How many revisions it applied or took back.", len(self._revisions)
            ),
        )
        took = GaugeMetricFamily(
            "service_migration_revision_duration_seconds",
            "How long a revision of the last run took.",
            labels=("revision", "phase"),
        )
        for labels, seconds in self._revisions.items():
            took.add_metric(labels, seconds)
        yield took
        success = time.time() if self._exit_code == 0 else self._last_success
        if success is not None:
            yield _gauge("last_success_timestamp_seconds", "When a run succeeded last.", success)

    def write(self, path: Path) -> None:
        """Write them to a file, which is replaced as a whole.

        Args:
            path: One that ends in .prom, in a directory that is there.

        Raises:
            OSError: It cannot be written.
        """
        self._last_success = _last_success(path)
        write_to_textfile(str(path), self._registry())

    def push(self, url: str) -> None:
        """Send them to a Pushgateway, within 5 s. What they do not name stays there.

        Args:
            url: Its address; a user and a password in it are sent by HTTP Basic authentication.

        Raises:
            OSError: It cannot be reached, or refuses them.
        """
        self._last_success = None
        address, user, password = _without_userinfo(url)
        pushadd_to_gateway(
            address,
            job=_JOB,
            registry=self._registry(),
            timeout=_PUSH_SECONDS,
            handler=partial(basic_auth_handler, username=user, password=password),
        )

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(self)
        return registry


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"service_migration_{name}", documentation, value=value)


def _without_userinfo(url: str) -> tuple[str, str | None, str | None]:
    """An address, the user and the password, which urllib would take for a part of the host."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.username is None:
        return url, None, None
    address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return address, unquote(parts.username), unquote(parts.password or "")


def _last_success(path: Path) -> float | None:
    """What the former run's file says."""
    try:
        families = [*text_string_to_metric_families(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError):
        return None
    for family in families:
        if family.name == _LAST_SUCCESS and family.samples:
            return float(family.samples[0].value)
    return None

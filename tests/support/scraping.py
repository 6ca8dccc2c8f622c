"""Reading the metrics of a running service as Prometheus does."""

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tests.support.server import Service

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(service: Service) -> Series:
    """The metrics, over a connection of its own: another one may be another worker's."""
    answer = httpx2.get(f"http://127.0.0.1:{service.port}/metrics", timeout=10).raise_for_status()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def total(series: Series, name: str, **labels: str) -> float:
    """The sum of the samples of a name that have these labels, and perhaps others."""
    return sum(
        value
        for (found, having), value in series.items()
        if found == name and labels.items() <= dict(having).items()
    )


def scraped(service: Service, name: str, **labels: str) -> float:
    """As `total`, of the metrics at this moment."""
    return total(scrape(service), name, **labels)

"""docs/requests.md explains the metrics of admission, retries and streams, and no others."""

import re
from typing import Final

from prometheus_client import REGISTRY

import service.app  # noqa: F401 - registers the metrics
from tests.support.server import ROOT

PAGE: Final = (ROOT / "docs" / "requests.md").read_text(encoding="utf-8")
PREFIXES: Final = ("service_admission_", "service_transaction_", "service_streams_")


def exported() -> set[str]:
    return {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in REGISTRY.collect()
        if metric.name.startswith(PREFIXES)
    }


def test_every_metric_is_explained_and_every_explained_one_exists() -> None:
    assert {*re.findall(r"^\| `(service_\w+)", PAGE, flags=re.MULTILINE)} == exported()


def test_query_asks_for_what_is_exported() -> None:
    queries = "".join(re.findall(r"```promql\n(.*?)```", PAGE, flags=re.DOTALL))
    asked = {*re.findall(r"service_\w+", queries)}
    assert asked
    assert {name.removesuffix("_count") for name in asked} <= exported()

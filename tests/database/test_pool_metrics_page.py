"""docs/pool-metrics.md explains what is exported, and nothing else."""

import re

import pytest
from prometheus_client import REGISTRY

import service.database  # noqa: F401 - registers the metrics
from tests.support.server import ROOT

PAGE = (ROOT / "docs" / "pool-metrics.md").read_text(encoding="utf-8")
PREFIX = "db_client_connection_"
SUFFIXES = ("_bucket", "_count", "_sum")


def exported() -> set[str]:
    """The names of the pool's metrics, as Prometheus reads them."""
    return {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in REGISTRY.collect()
        if metric.name.startswith(PREFIX)
    }


def explained() -> set[str]:
    """The names in the first column of a table."""
    return {*re.findall(rf"^\| `({PREFIX}\w+)", PAGE, flags=re.MULTILINE)}


def test_every_metric_is_explained_and_every_explained_one_exists() -> None:
    assert explained() == exported()


@pytest.mark.parametrize("query", re.findall(r"```promql\n(.*?)```", PAGE, flags=re.DOTALL))
def test_query_asks_for_what_is_exported(query: str) -> None:
    asked = {*re.findall(rf"{PREFIX}\w+", query)}
    assert asked
    for name in asked:
        series = next((name.removesuffix(end) for end in SUFFIXES if name.endswith(end)), name)
        assert {name, series} & exported()


def test_every_reason_of_a_close_is_explained() -> None:
    table = PAGE.partition("### Why a connection was closed")[2]
    explained_reasons = {*re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)}
    kit = ROOT / "service/database"
    paths = [*kit.glob("pool*.py"), kit / "failure_kinds.py"]
    source = "".join(path.read_text(encoding="utf-8") for path in paths)
    assert all(f'"{reason}"' in source for reason in explained_reasons)

"""What is asked for in rules, dashboards, runbooks and docs is exported; what is, is explained."""

import re
from typing import Final

import pytest

from tests.monitoring.asked import queries
from tests.monitoring.exported import BUILT_IN, Exported, exported_series
from tests.monitoring.promql import TARGET_LABELS, groupings, selectors
from tests.monitoring.rules import recordings
from tests.support.databases import PostgresDatabases, worker_name
from tests.support.server import ROOT

OURS: Final = ("db_client_", "http_server_", "service_")
# Every metric of a pool or a replica has it, so that no table repeats it.
IMPLIED: Final = {"pool_name"}
PARTS: Final = ("_bucket", "_sum", "_count")
# HTTP and Prometheus say which there are.
STANDARD: Final = {"le", "http_response_status_code", *TARGET_LABELS}
PAGES: Final = "\n".join(
    path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresDatabases) -> Exported:
    name = f"exported_{worker_name()}"
    url = postgres.create(name)
    try:
        return exported_series(tmp_path_factory.mktemp("exported"), url)
    finally:
        postgres.drop(name)


@pytest.fixture(scope="module")
def known(exported: Exported) -> Exported:
    """What Prometheus has: that, what it adds, and what the rules record."""
    found: Exported = {**exported, **BUILT_IN}
    for name, query in recordings().items():
        labels = {label for grouping in groupings(query) for label in grouping.labels}
        sources = [found[selector.name] for selector in selectors(query)]
        found[name] = {
            label: {value for source in sources for value in source.get(label, ())}
            for label in labels
        }
    return found


def test_every_metric_asked_for_is_exported(known: Exported) -> None:
    asked = {(place, found.name) for place, query in queries() for found in selectors(query)}
    assert len(asked) > 100
    assert not {(place, name) for place, name in asked if name not in known}


def test_every_label_asked_for_is_one_of_the_metric(known: Exported) -> None:
    wrong = [
        (place, selector.name, label)
        for place, query in queries()
        for selector in selectors(query)
        for label, _ in selector.matchers
        if label not in {*known[selector.name], *TARGET_LABELS}
    ]
    wrong += [
        (place, name, label)
        for place, query in queries()
        for grouping in groupings(query)
        for name in grouping.names
        for label in grouping.labels
        if label not in {*known[name], *TARGET_LABELS}
    ]
    assert not wrong


def test_every_value_asked_for_was_seen_or_is_explained(known: Exported) -> None:
    wrong = [
        (place, selector.name, label, value)
        for place, query in queries()
        for selector in selectors(query)
        for label, value in selector.matchers
        if label not in STANDARD
        and not value.startswith("$")
        and not any(re.fullmatch(value, seen) for seen in known[selector.name][label])
        and not {f"`{value}`", f'"{value}"'} & {*re.findall(r"`[^`]+`|\"[^\"]+\"", PAGES)}
    ]
    assert not wrong


def test_every_metric_of_ours_is_explained_with_its_labels(exported: Exported) -> None:
    explained = {
        name: {*re.findall(r"\w+", labels)}
        for name, labels in re.findall(r"^\| `(\w+)(?:\{([\w,]+)\})?`", PAGES, flags=re.MULTILINE)
        if name.startswith(OURS)
    }
    found: dict[str, set[str]] = {}
    for sample, values in exported.items():
        if sample.startswith(OURS):
            part = next((part for part in PARTS if sample.endswith(part)), "")
            family = sample.removesuffix(part)
            name = family if f"{family}_bucket" in exported else sample
            found.setdefault(name, set()).update({*values} - {"le"} - IMPLIED)
    assert found == explained

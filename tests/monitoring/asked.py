"""All queries of deploy/monitoring and deploy/runbooks, and where each stands."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from tests.monitoring.rules import MONITORING, RUNBOOKS, alerts, recordings
from tests.support.server import ROOT

DASHBOARDS: Final = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
# Grafana puts its own values there.
_INTERVAL: Final = "$__rate_interval"


def queries() -> Iterator[tuple[str, str]]:
    """Pairs of a place and a query."""
    yield from recordings().items()
    for alert in alerts():
        yield alert.name, alert.query
    for path in DASHBOARDS:
        for query in dashboard_queries(json.loads(path.read_text(encoding="utf-8"))):
            yield path.name, query
    for path in [*sorted(RUNBOOKS.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]:
        for query in fenced(path.read_text(encoding="utf-8"), "promql"):
            yield path.name, query


def dashboard_queries(dashboard: Any) -> Iterator[str]:
    """The PromQL of a dashboard, with an interval in the place of Grafana's variable."""
    for query in _values(dashboard, "expr"):
        yield query.replace(_INTERVAL, "5m")
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            (values,) = re.findall(r"^label_values\((.+), \w+\)$", variable["query"])
            yield values


def fenced(page: str, language: str) -> list[str]:
    """The blocks of a language in a page; in one of PromQL, each query by itself."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    if language != "promql":
        return blocks
    return [query for block in blocks for query in _separate(block)]


def _separate(block: str) -> list[str]:
    """A line that is not indented, and does not go on with the one before, begins a query."""
    return [query for query in re.split(r"\n(?=[a-z]+[\w ]*\()", block) if query.strip()]


def _values(node: Any, key: str) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            else:
                yield from _values(value, key)
    elif isinstance(node, list):
        for item in node:
            yield from _values(item, key)

"""The rules hold what promtool and our own conventions ask of them."""

import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from deploy.monitoring.prometheus_rule import TARGET, prometheus_rule
from tests.deploy.support import run
from tests.monitoring.installed import program
from tests.monitoring.promql import selectors
from tests.monitoring.rules import (
    MONITORING,
    RULE_TESTS,
    RULES,
    Alert,
    alerts,
    expectations,
    recordings,
)

# A page, or a ticket.
SEVERITIES: Final = {"critical", "warning"}
BASE_URL: Final = "https://runbooks.example.com"
# Told by a Pushgateway or a node exporter, and `absent` has no labels to keep.
WITHOUT_JOB: Final = {"service_migration_last_exit_code"}


@pytest.mark.monitoring
def test_prometheus_takes_the_rules_and_the_configuration() -> None:
    promtool = program("promtool")
    run(promtool, "check", "rules", "--lint-fatal", *RULES)
    checked = run(promtool, "check", "config", MONITORING / "prometheus.yml").stdout
    assert f"SUCCESS: {len(RULES)} rule files found" in checked


@pytest.mark.monitoring
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_rules_pass_their_unit_tests(path: Path) -> None:
    run(program("promtool"), "test", "rules", path)


def test_the_operators_resource_holds_the_rules_as_they_are() -> None:
    committed = TARGET.read_text(encoding="utf-8")
    assert committed == prometheus_rule(), "run `python -m deploy.monitoring.prometheus_rule`"
    groups = yaml.safe_load(committed)["spec"]["groups"]
    assert {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule} == {
        alert.name for alert in alerts()
    }
    assert len({group["name"] for group in groups}) == len(groups)


def test_every_alert_is_tested_to_fire_and_not_to() -> None:
    names = {alert.name for alert in alerts()}
    told = expectations()
    assert {name for name, fires in told if fires} == names
    assert {name for name, fires in told if not fires} == names


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_alert_says_what_whoever_is_woken_needs(alert: Alert) -> None:
    assert re.fullmatch(r"Tidegate([A-Z][a-z]+)+", alert.name)
    assert alert.labels["severity"] in SEVERITIES
    assert set(alert.annotations) == {"summary", "description", "runbook_url"}
    assert alert.annotations["runbook_url"] == f"{BASE_URL}/{alert.name}.md"
    assert alert.annotations["summary"].endswith(".")
    assert len(alert.annotations["summary"]) <= 110, "it is the subject of a message"
    assert alert.annotations["description"].endswith(".")


def test_names_are_unique() -> None:
    names = [alert.name for alert in alerts()]
    assert len(set(names)) == len(names)


def test_every_query_is_of_this_service_alone() -> None:
    recorded = recordings()
    for query in [*recorded.values(), *(alert.query for alert in alerts())]:
        for selector in selectors(query):
            if selector.name not in {*recorded, *WITHOUT_JOB}:
                assert ("job", "tidegate") in selector.matchers, query


def test_what_is_recorded_is_asked_for() -> None:
    recorded = recordings()
    queries = [*recorded.values(), *(alert.query for alert in alerts())]
    assert set(recorded) <= {selector.name for query in queries for selector in selectors(query)}

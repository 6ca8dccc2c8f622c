"""The rules of deploy/monitoring, and the tests that promtool runs of them."""

from dataclasses import dataclass
from typing import Any, Final

import yaml

from tests.support.server import ROOT

MONITORING: Final = ROOT / "deploy" / "monitoring"
RULES: Final = sorted((MONITORING / "rules").glob("*.yml"))
RULE_TESTS: Final = sorted((MONITORING / "rule-tests").glob("*.yml"))
RUNBOOKS: Final = ROOT / "deploy" / "runbooks"


@dataclass(frozen=True)
class Alert:
    """An alert of the rules."""

    name: str
    query: str
    labels: dict[str, str]
    annotations: dict[str, str]
    pending_for: str | None


def alerts() -> list[Alert]:
    """All alerts."""
    return [
        Alert(rule["alert"], rule["expr"], rule["labels"], rule["annotations"], rule.get("for"))
        for rule in _rules()
        if "alert" in rule
    ]


def recordings() -> dict[str, str]:
    """The queries of the recording rules, by name."""
    return {rule["record"]: rule["expr"] for rule in _rules() if "record" in rule}


def expectations() -> list[tuple[str, bool]]:
    """What promtool's tests expect: pairs of an alert and whether it fires."""
    return [
        (expected["alertname"], bool(expected["exp_alerts"]))
        for path in RULE_TESTS
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
        for expected in test["alert_rule_test"]
    ]


def _rules() -> list[dict[str, Any]]:
    return [
        rule
        for path in RULES
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]

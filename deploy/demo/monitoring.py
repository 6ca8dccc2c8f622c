"""Prometheus' configuration and rules for the demo: those of deploy/monitoring, made faster.

An alert that waits for ten minutes, so that nobody is woken for nothing, would make a long demo.
There is no second copy of the rules: each run makes its own of the real ones.
"""

import re
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.demo.metrics_file import PORT

MONITORING: Final = Path(__file__).parents[1] / "monitoring"
# So many times faster than written do the rules run: their `for`, and the ranges of their queries.
FACTOR: Final = 30
INTERVAL: Final = "1s"
_UNITS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = re.compile(r"(\d+)([smhd])")
_RANGE: Final = re.compile(r"\[\d+[smhd]\]")


def write_faster(directory: Path) -> None:
    """Write the configuration and the rules.

    Args:
        directory: An empty one, which Prometheus will find under /etc/prometheus.
    """
    configuration = _read(MONITORING / "prometheus.yml")
    (directory / "prometheus.yml").write_text(yaml.safe_dump(faster_configuration(configuration)))
    for source in MONITORING.glob("rules/*.yml"):
        target = directory / source.relative_to(MONITORING)
        target.parent.mkdir(exist_ok=True)
        target.write_text(yaml.safe_dump(faster_rules(_read(source))))


def faster_configuration(configuration: dict[str, Any]) -> dict[str, Any]:
    """The same, with an interval of a second, and with the metrics of the last migration."""
    times = {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL}
    targets = [{"targets": [f"migration-metrics:{PORT}"]}]
    migrations = {"job_name": "migrations", "static_configs": targets}
    return {
        **configuration,
        "global": {**configuration["global"], **times, "evaluation_interval": INTERVAL},
        "scrape_configs": [*configuration["scrape_configs"], migrations],
    }


def faster_rules(document: dict[str, Any], factor: int = FACTOR) -> dict[str, Any]:
    """A file of rules with each `for`, `keep_firing_for` and range divided by a factor."""
    return {
        **document,
        "groups": [
            {**group, "rules": [_faster(rule, factor) for rule in group["rules"]]}
            for group in document["groups"]
        ],
    }


def _faster(rule: dict[str, Any], factor: int) -> dict[str, Any]:
    waits: dict[str, Any] = {
        name: _divide(rule[name], factor) for name in ("for", "keep_firing_for") if name in rule
    }
    query = _RANGE.sub(lambda match: _divide(match[0], factor), rule["expr"])
    return {**rule, **waits, "expr": query}


def _divide(text: str, factor: int) -> str:
    return _DURATION.sub(lambda found: f"{int(found[1]) * _UNITS[found[2]] // factor}ms", text)


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document

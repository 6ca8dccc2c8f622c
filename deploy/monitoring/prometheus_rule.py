"""The rules as the resource that Prometheus' operator reads.

`python -m deploy.monitoring.prometheus_rule` writes it into the component `alerts`.
"""

from pathlib import Path
from typing import Any, Final

import yaml

RULES: Final = Path(__file__).parent / "rules"
TARGET: Final = Path(__file__).parents[1] / "kubernetes/components/alerts/prometheusrule.yaml"
_HEAD: Final = """\
# Made of deploy/monitoring/rules by `python -m deploy.monitoring.prometheus_rule`.
# yamllint disable rule:line-length
"""


class _Dumper(yaml.SafeDumper):
    """Writes what is of several lines as it stands in the rules, and lists as our manifests do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent a list in a mapping."""
        del indentless
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = dumper.analyze_scalar(text).allow_block_plain
    style = "|" if "\n" in text else None if plain else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def prometheus_rule() -> str:
    """The manifest, as YAML."""
    groups: list[dict[str, Any]] = []
    for path in sorted(RULES.glob("*.yml")):
        groups += yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    name = "app.kubernetes.io/name"
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "tidegate",
            "labels": {name: "tidegate", "app.kubernetes.io/part-of": "tidegate"},
        },
        "spec": {"groups": groups},
    }
    return _HEAD + yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=90)


if __name__ == "__main__":
    TARGET.write_text(prometheus_rule(), encoding="utf-8")

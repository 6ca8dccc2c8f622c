"""The dashboards are what their source says, and are whole."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.dashboards.__main__ import main
from deploy.monitoring.dashboards.generate import DIRECTORY, dashboards
from tests.monitoring.asked import DASHBOARDS
from tests.monitoring.rules import MONITORING
from tests.support.server import ROOT


def test_what_is_committed_is_what_the_source_says(tmp_path: Path) -> None:
    main(tmp_path)
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text(encoding="utf-8") for path in DIRECTORY.iterdir()}
    assert made == committed, "run `python -m deploy.monitoring.dashboards`"
    assert len(made) == len(dashboards()) == len(DASHBOARDS)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_is_whole(path: Path) -> None:
    board = json.loads(path.read_text(encoding="utf-8"))
    assert board["uid"] == f"tidegate-{path.stem}"
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert variables >= {"datasource", "job", "namespace"}
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) >= 8
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith((".", "%."))
        assert panel["datasource"]["uid"] == "${datasource}"
        assert [target["refId"] for target in panel["targets"]] == sorted(
            {target["refId"] for target in panel["targets"]}
        )
    ids = [panel["title"] for panel in panels]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_do_not_cover_each_other(path: Path) -> None:
    board = json.loads(path.read_text(encoding="utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        cells = _cells(panel["gridPos"])
        assert not taken & cells, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def _cells(place: dict[str, int]) -> set[tuple[int, int]]:
    return {
        (x, y)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    }


def test_compose_gives_grafana_the_dashboards_and_the_source() -> None:
    service = _yaml(ROOT / "docker-compose.yml")["services"]["grafana"]
    assert service["profiles"] == ["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    (source,) = _yaml(MONITORING / "grafana" / "datasources.yml")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert mounts["./deploy/monitoring/grafana/datasources.yml"].endswith(
        "/provisioning/datasources/tidegate.yml"
    )
    (provider,) = _yaml(MONITORING / "grafana" / "dashboards.yml")["providers"]
    assert provider["options"]["path"] == mounts["./deploy/monitoring/grafana/dashboards"]
    assert mounts["./deploy/monitoring/grafana/dashboards.yml"].endswith(
        "/provisioning/dashboards/tidegate.yml"
    )


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))

"""The dashboards as the JSON that Grafana reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.monitoring.dashboards import migrations, pool, service

DIRECTORY: Final = Path(__file__).parents[1] / "grafana" / "dashboards"
_DASHBOARDS: Final[dict[str, Callable[[], Dashboard]]] = {
    "service": service.dashboard,
    "pool": pool.dashboard,
    "migrations": migrations.dashboard,
}


def dashboards() -> dict[str, str]:
    """The text of each dashboard, by the name of its file."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {name: f"{encoder.encode(make().build())}\n" for name, make in _DASHBOARDS.items()}

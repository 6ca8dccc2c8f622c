"""Which metrics there are: those of a running service, and of a migration's run."""

from collections import defaultdict
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.support import run
from tests.monitoring.rules import alerts
from tests.support.ports import free_port
from tests.support.postgres import execute
from tests.support.server import PYTHON, Service, running_service

# Prometheus' own, of every target, and of the alerts.
BUILT_IN = {
    "up": {"job": set[str](), "instance": set[str]()},
    "ALERTS": {
        "alertname": {alert.name for alert in alerts()},
        "alertstate": {"firing", "pending"},
    },
}
# A conflict with another transaction, which every attempt has.
_CONFLICT = """
CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = 'serialization_failure'; END $$;
CREATE TRIGGER conflict BEFORE INSERT ON products
    FOR EACH ROW WHEN (NEW.code = 'CONFLICT') EXECUTE FUNCTION conflict();
"""
_OTHERS = (
    "/nothing",
    "/livez",
    "/readyz",
    "/startupz",
    "/version",
    "/ops",
    "/docs",
    "/openapi.json",
    "/metrics",
)
# Series by name: what values each label has had.
Exported = dict[str, dict[str, set[str]]]


def exported_series(directory: Path, url: str) -> Exported:
    """Run a migration and the service, ask for everything once, and read all metrics.

    Args:
        directory: Where the service works.
        url: An empty database.
    """
    found: Exported = {}
    file = directory / "migration.prom"
    run(
        *(PYTHON, "-m", "service", "migrate", "up"),
        env={"DATABASE_URL": url, "MIGRATE_METRICS_FILE": str(file)},
    )
    _add(found, file.read_text(encoding="utf-8"))
    execute(url, _CONFLICT)
    # Nobody listens there, so that reads fall back and connections fail.
    replica = url.replace(f":{urlsplit(url).port}/", f":{free_port()}/")
    variables = {"DATABASE_URL": url, "DATABASE_REPLICA_URL": replica, "ENVIRONMENT": "test"}
    variables |= {"DATABASE_CONNECTION_BUDGET": "40", "DATABASE_POOL_VALIDATION_BYPASS": "0"}
    with running_service(directory, variables) as service:
        _ask_for_everything(service)
        _add(found, service.http.get("/metrics").text)
    return found


def _ask_for_everything(service: Service) -> None:
    ask = service.http
    product = {"code": "ROPE", "name": "Rope", "price": "1.00"}
    created = ask.post("/products", json=product)
    assert created.status_code == httpx2.codes.CREATED
    ask.post("/products", json={**product, "code": "CONFLICT"})
    for path in ("/products", f"/products/{created.json()['id']}", "/products/export", *_OTHERS):
        ask.get(path)


def _add(found: Exported, text: str) -> None:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, defaultdict(set))
            for label, value in sample.labels.items():
                labels[label].add(value)

"""What the service shows of its schema follows the last answer."""

from prometheus_client import REGISTRY

from service.migrator.schema_metrics import SchemaMetrics
from service.migrator.schema_status import SchemaState, SchemaStatus


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"service_schema_{name}", labels)


def test_metrics_show_revision_head_and_compatibility() -> None:
    metrics = SchemaMetrics()
    metrics.show(SchemaStatus(SchemaState.BEHIND, None, "a2", ("a1", "a2")))
    assert value("compatible") == 0
    assert value("pending_revisions") == 2
    assert value("state", state="behind") == 1
    assert value("revision_info", revision="none", head="a2") == 1
    metrics.show(SchemaStatus(SchemaState.CURRENT, "a2", "a2", ()))
    assert value("compatible") == 1
    assert (value("state", state="behind"), value("state", state="current")) == (0, 1)
    assert value("revision_info", revision="none", head="a2") == 0
    assert value("revision_info", revision="a2", head="a2") == 1
    metrics.show(SchemaStatus(SchemaState.AHEAD_PAST_CONTRACT, "a9", "a2", (), ("a9",)))
    assert value("compatible") == 0
    assert value("state", state="ahead_past_contract") == 1

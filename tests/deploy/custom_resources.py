"""Custom resources, as far as the manifests use them: a field that is not here is an error.

Names and types are those of the projects' own references:
https://keda.sh/docs/latest/reference/scaledobject-spec/,
https://keda.sh/docs/latest/scalers/prometheus/,
https://prometheus-operator.dev/docs/api-reference/api/ and
https://cloudnative-pg.io/documentation/current/cloudnative-pg.v1/.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, StringConstraints
from pydantic.alias_generators import to_camel

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Duration = Annotated[str, StringConstraints(pattern=r"^([0-9]+(ms|s|m|h))+$")]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|Mi|Gi|Ti)?$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
Number = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?$")]
Boolean = Literal["true", "false"]
Labels = dict[str, str]


class _Strict(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", strict=True, populate_by_name=False
    )


class _Metadata(_Strict):
    name: Name
    namespace: Name
    labels: Labels = {}
    annotations: Labels = {}


class _Reference(_Strict):
    name: Name


class _Policy(_Strict):
    type: Literal["Pods", "Percent"]
    value: Positive
    period_seconds: Annotated[int, Field(ge=1, le=1800)]


class _Rules(_Strict):
    stabilization_window_seconds: Annotated[int, Field(ge=0, le=3600)]
    policies: list[_Policy]


class _Behavior(_Strict):
    scale_up: _Rules | None = None
    scale_down: _Rules | None = None


class _Autoscaler(_Strict):
    behavior: _Behavior


class _Advanced(_Strict):
    horizontal_pod_autoscaler_config: _Autoscaler


class _Target(_Strict):
    api_version: str
    kind: str
    name: Name


class _Fallback(_Strict):
    failure_threshold: Positive
    replicas: Count


class _PrometheusQuery(_Strict):
    server_address: Annotated[HttpUrl, Field(strict=False)]
    query: str
    # KEDA's metadata are strings, all of them.
    threshold: Number
    ignore_null_values: Boolean = "true"


class _Trigger(_Strict):
    type: Literal["prometheus"]
    metric_type: Literal["AverageValue", "Value"]
    metadata: _PrometheusQuery


class _ScaledObjectSpec(_Strict):
    scale_target_ref: _Target
    polling_interval: Positive
    min_replica_count: Count
    max_replica_count: Positive
    fallback: _Fallback
    advanced: _Advanced
    triggers: Annotated[list[_Trigger], Field(min_length=1)]


class ScaledObject(_Strict):
    """KEDA's autoscaler."""

    api_version: Literal["keda.sh/v1alpha1"]
    kind: Literal["ScaledObject"]
    metadata: _Metadata
    spec: _ScaledObjectSpec


class _Selector(_Strict):
    match_labels: Labels


class _Endpoint(_Strict):
    port: Name
    path: Annotated[str, StringConstraints(pattern="^/")]
    interval: Duration
    scrape_timeout: Duration


class _ServiceMonitorSpec(_Strict):
    selector: _Selector
    endpoints: Annotated[list[_Endpoint], Field(min_length=1)]


class ServiceMonitor(_Strict):
    """What Prometheus' operator makes a scrape configuration from."""

    api_version: Literal["monitoring.coreos.com/v1"]
    kind: Literal["ServiceMonitor"]
    metadata: _Metadata
    spec: _ServiceMonitorSpec


class _RecordingRule(_Strict):
    record: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")]
    expr: str
    labels: Labels = {}


class _AlertingRule(_Strict):
    alert: str
    expr: str
    for_: Annotated[Duration | None, Field(alias="for")] = None
    keep_firing_for: Annotated[Duration | None, Field(alias="keep_firing_for")] = None
    labels: Labels
    annotations: Labels


class _RuleGroup(_Strict):
    name: str
    interval: Duration | None = None
    rules: list[_RecordingRule | _AlertingRule]


class _PrometheusRuleSpec(_Strict):
    groups: list[_RuleGroup]


class PrometheusRule(_Strict):
    """Rules that Prometheus' operator gives to a Prometheus."""

    api_version: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PrometheusRule"]
    metadata: _Metadata
    spec: _PrometheusRuleSpec


class _Parameters(_Strict):
    # The values of a configuration file: the API server refuses numbers.
    parameters: dict[str, str]


class _InitDb(_Strict):
    database: str
    owner: str
    secret: _Reference
    post_init_application_sql: Annotated[list[str], Field(alias="postInitApplicationSQL")]


class _Bootstrap(_Strict):
    initdb: _InitDb


class _Role(_Strict):
    name: str
    ensure: Literal["present", "absent"]
    login: bool
    password_secret: _Reference


class _Managed(_Strict):
    roles: list[_Role]


class _Affinity(_Strict):
    topology_key: str
    pod_anti_affinity_type: Literal["preferred", "required"]


class _Resources(_Strict):
    requests: dict[Literal["cpu", "memory"], Quantity]
    limits: dict[Literal["cpu", "memory"], Quantity]


class _Storage(_Strict):
    size: Quantity


class _ClusterSpec(_Strict):
    instances: Positive
    image_name: str
    postgresql: _Parameters
    bootstrap: _Bootstrap
    managed: _Managed
    affinity: _Affinity
    resources: _Resources
    storage: _Storage


class Cluster(_Strict):
    """CloudNativePG's PostgreSQL."""

    api_version: Literal["postgresql.cnpg.io/v1"]
    kind: Literal["Cluster"]
    metadata: _Metadata
    spec: _ClusterSpec


MODELS: Final[dict[tuple[str, str], type[BaseModel]]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): ScaledObject,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ServiceMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PrometheusRule,
    ("postgresql.cnpg.io/v1", "Cluster"): Cluster,
}


def validate(manifest: dict[str, Any]) -> None:
    """Refuse a custom resource with a field that is unknown, missing or of another type.

    Raises:
        ValidationError: Says which.
        KeyError: There is no model for it.
    """
    MODELS[manifest["apiVersion"], manifest["kind"]].model_validate(manifest)

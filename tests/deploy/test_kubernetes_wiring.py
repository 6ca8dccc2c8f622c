"""The Kubernetes manifests: what selects which pods, and through which ports they are reached."""

from collections.abc import Callable
from typing import Any

import pytest

from service.web import probes
from tests.deploy.manifests import (
    SERVICES,
    Manifest,
    Pod,
    config,
    container,
    environment,
    named,
    of_kind,
    pods,
    rendered,
    service_pod,
)
from tests.deploy.pod_security import containers

OURS = ("tidegate", "tidegate-pgbouncer", "tidegate-migrate")


@pytest.fixture(params=SERVICES)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(request.param)


@pytest.fixture
def api(manifests: list[Manifest]) -> Manifest:
    return container(service_pod(manifests), "api")


def selected(manifests: list[Manifest], selector: dict[str, str]) -> list[Pod]:
    assert selector, "that would be every pod"
    return [pod for pod in pods(manifests) if selector.items() <= pod.labels.items()]


def selector_of(manifest: Manifest) -> dict[str, str]:
    spec = manifest["spec"]
    match manifest["kind"]:
        case "Service":
            labels: Any = spec["selector"]
        case "NetworkPolicy":
            labels = spec["podSelector"]["matchLabels"]
        case _:
            labels = spec["selector"]["matchLabels"]
    result: dict[str, str] = labels
    return result


def test_each_selector_finds_the_pods_of_its_name_alone(manifests: list[Manifest]) -> None:
    kinds = ("Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment")
    for manifest in of_kind(manifests, *kinds):
        found = [pod.name for pod in selected(manifests, selector_of(manifest))]
        assert found == [manifest["metadata"]["name"]], manifest["kind"]


def test_nothing_takes_the_pods_of_a_migration_for_its_own(manifests: list[Manifest]) -> None:
    jobs = [pod for pod in pods(manifests) if pod.kind == "Job"]
    for manifest in of_kind(manifests, "Service", "PodDisruptionBudget", "Deployment"):
        chosen = selected(manifests, selector_of(manifest))
        assert not [job.name for job in jobs if job in chosen]
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject"):
        # An autoscaler asks for the metrics of the pods that its target's selector finds.
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["apiVersion"], target["kind"]) == ("apps/v1", "Deployment")
        chosen = selected(manifests, selector_of(named(manifests, "Deployment", target["name"])))
        assert [pod.name for pod in chosen] == ["tidegate"]


def test_every_pod_has_its_policy_and_each_deployment_its_budget(
    manifests: list[Manifest],
) -> None:
    for pod in pods(manifests):
        policy = named(manifests, "NetworkPolicy", pod.name)["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        if pod.kind == "Job":
            assert "ingress" not in policy
        if pod.kind == "Deployment":
            budget = named(manifests, "PodDisruptionBudget", pod.name)["spec"]
            assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
            spread = pod.spec["topologySpreadConstraints"]
            assert all(
                one["labelSelector"]["matchLabels"].items() <= pod.labels.items() for one in spread
            )


def test_budget_lets_a_node_be_drained_and_a_pod_stay(manifests: list[Manifest]) -> None:
    for deployment in of_kind(manifests, "Deployment"):
        spec, name = deployment["spec"], deployment["metadata"]["name"]
        budget = named(manifests, "PodDisruptionBudget", name)["spec"]
        fewest = [spec["replicas"]] if "replicas" in spec else []
        for scaler in of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject"):
            if scaler["spec"]["scaleTargetRef"]["name"] == name:
                counts = scaler["spec"]
                fewest.append(counts.get("minReplicas", counts.get("minReplicaCount")))
        evicted = budget["maxUnavailable"]
        assert evicted >= 1, "no node could be drained"
        assert fewest
        assert all(count == 1 or count > evicted for count in fewest)


def test_services_lead_to_ports_that_exist(manifests: list[Manifest]) -> None:
    for service in of_kind(manifests, "Service"):
        for pod in selected(manifests, selector_of(service)):
            open_ports = {p["name"] for c in pod.spec["containers"] for p in c.get("ports", ())}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= open_ports


def test_monitors_scrape_ports_of_services_that_exist(manifests: list[Manifest]) -> None:
    for monitor in of_kind(manifests, "ServiceMonitor"):
        wanted = selector_of(monitor)
        (service,) = (
            s
            for s in of_kind(manifests, "Service")
            if wanted.items() <= s["metadata"].get("labels", {}).items()
        )
        assert [pod.name for pod in selected(manifests, selector_of(service))] == ["tidegate"]
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_policies_let_through_what_is_connected_to(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        policy = named(manifests, "NetworkPolicy", pod.name)["spec"]
        let_in = {port["port"] for rule in policy.get("ingress", ()) for port in rule["ports"]}
        assert let_in == {p["name"] for c in pod.spec["containers"] for p in c.get("ports", ())}
        assert not [rule for rule in policy["egress"] if "to" in rule]
        let_out = {(p["port"], p["protocol"]) for rule in policy["egress"] for p in rule["ports"]}
        assert let_out == {(53, "UDP"), (53, "TCP"), (5432, "TCP")}
    for pooler in of_kind(manifests, "Service"):
        if pooler["metadata"]["name"] == "tidegate-pgbouncer":
            (policy,) = (
                p
                for p in of_kind(manifests, "NetworkPolicy")
                if p["metadata"]["name"] == "tidegate-pgbouncer"
            )
            ((source,),) = (rule["from"] for rule in policy["spec"]["ingress"])
            clients = selected(manifests, source["podSelector"]["matchLabels"])
            assert [pod.name for pod in clients] == ["tidegate"]


def test_probes_ask_the_service_itself(manifests: list[Manifest], api: Manifest) -> None:
    (port,) = api["ports"]
    assert port["containerPort"] == int(config(manifests)["PORT"])
    routes = {getattr(route, "path", None) for route in probes.router.routes}
    paths = {}
    for name in ("startup", "liveness", "readiness"):
        get = api[f"{name}Probe"]["httpGet"]
        assert get["port"] == port["name"]
        assert get["path"] in routes
        paths[name] = get["path"]
    assert paths == {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}


def test_probes_of_other_pods_ask_ports_that_exist(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        for each in containers(pod.spec):
            ports = {port["name"] for port in each.get("ports", ())}
            for name in ("startup", "liveness", "readiness"):
                for handler in each.get(f"{name}Probe", {}).values():
                    if isinstance(handler, dict):
                        assert handler["port"] in ports


def test_rollouts_never_lower_the_capacity(manifests: list[Manifest]) -> None:
    for deployment in of_kind(manifests, "Deployment"):
        strategy = deployment["spec"]["strategy"]
        assert strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_configuration_is_read_from_what_is_rendered(manifests: list[Manifest]) -> None:
    maps = {m["metadata"]["name"] for m in of_kind(manifests, "ConfigMap")}
    for pod in pods(manifests):
        assert pod.name in OURS
        for each in containers(pod.spec):
            assert {one["configMapRef"]["name"] for one in each.get("envFrom", ())} <= maps
        for volume in pod.spec["volumes"]:
            assert volume.get("configMap", {}).get("name") in {None, *maps}
        # Otherwise a Service called "database" puts DATABASE_* into the pods.
        assert pod.spec["enableServiceLinks"] is False


def test_no_secret_is_a_literal(manifests: list[Manifest]) -> None:
    assert not of_kind(manifests, "Secret")
    for pod in pods(manifests):
        for each in containers(pod.spec):
            for name, value in environment(manifests, each).items():
                assert name.endswith("_FILE") or not any(
                    word in name for word in ("URL", "TOKEN", "PASSWORD", "SECRET", "KEY")
                )
                assert "://" not in value


def _select_by(label: str, kind: str) -> Callable[[list[Manifest]], None]:
    def change(manifests: list[Manifest]) -> None:
        manifest = of_kind(manifests, kind)[-1]
        pod = service_pod(manifests)
        selector_of(manifest).clear()
        selector_of(manifest)[label] = pod.labels[label]

    return change


PART_OF = "app.kubernetes.io/part-of"
BREAKAGES: dict[str, tuple[Callable[[list[Manifest]], None], Callable[[list[Manifest]], None]]] = {
    "a Service that takes the Job's pods too": (
        _select_by(PART_OF, "Service"),
        test_nothing_takes_the_pods_of_a_migration_for_its_own,
    ),
    "a budget that counts the Job's pods too": (
        _select_by(PART_OF, "PodDisruptionBudget"),
        test_nothing_takes_the_pods_of_a_migration_for_its_own,
    ),
    "a policy for every pod": (
        _select_by(PART_OF, "NetworkPolicy"),
        test_each_selector_finds_the_pods_of_its_name_alone,
    ),
    "a ServiceMonitor of two Services": (
        _select_by(PART_OF, "ServiceMonitor"),
        test_monitors_scrape_ports_of_services_that_exist,
    ),
    "a port that nobody opens": (
        lambda m: of_kind(m, "Service")[0]["spec"]["ports"][0].update(targetPort="web"),
        test_services_lead_to_ports_that_exist,
    ),
    "a probe of a port that is not there": (
        lambda m: container(service_pod(m), "api")["livenessProbe"]["httpGet"].update(port="web"),
        test_probes_of_other_pods_ask_ports_that_exist,
    ),
    "a budget that lets no node be drained": (
        lambda m: of_kind(m, "PodDisruptionBudget")[0]["spec"].update(maxUnavailable=0),
        test_budget_lets_a_node_be_drained_and_a_pod_stay,
    ),
    "a budget that lets every pod be evicted": (
        lambda m: of_kind(m, "PodDisruptionBudget")[0]["spec"].update(maxUnavailable=2),
        test_budget_lets_a_node_be_drained_and_a_pod_stay,
    ),
    "a URL in the configuration": (
        lambda m: config(m).update(PUBLIC_ADDRESS="https://example.com"),
        test_no_secret_is_a_literal,
    ),
}


@pytest.mark.parametrize(("break_it", "test"), BREAKAGES.values(), ids=BREAKAGES)
def test_breakage_is_noticed(
    break_it: Callable[[list[Manifest]], None], test: Callable[[list[Manifest]], None]
) -> None:
    manifests = rendered(SERVICES[-1])
    test(manifests)
    break_it(manifests)
    with pytest.raises((AssertionError, ValueError)):
        test(manifests)

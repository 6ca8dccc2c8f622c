"""The Kubernetes manifests, rendered as `kubectl apply -k` would render them."""

import copy
import functools
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # it ships no types
import pytest
import yaml

from service.database.settings import variable_names
from service.settings import DatabaseSettings, Settings, load_settings
from service.web import probes
from tests.deploy.pod_security import containers, violations
from tests.deploy.support import ROOT, run

Manifest = dict[str, Any]

KUBERNETES = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.33", kubernetes_validate.latest_version())


def kustomizations() -> list[Path]:
    """Every directory that can be applied; components only work inside another."""
    files = sorted(KUBERNETES.rglob("kustomization.yaml"))
    return [f.parent for f in files if yaml.safe_load(f.read_text())["kind"] == "Kustomization"]


@functools.cache
def rendered(directory: Path) -> tuple[Manifest, ...]:
    if shutil.which("kubectl"):
        output = run("kubectl", "kustomize", directory).stdout
    elif shutil.which("kustomize"):
        output = run("kustomize", "build", directory).stdout
    else:
        pytest.skip("rendering needs kubectl or kustomize on PATH")
    return tuple(yaml.safe_load_all(output))


@pytest.fixture(params=kustomizations(), ids=lambda path: str(path.relative_to(KUBERNETES)))
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return copy.deepcopy(list(rendered(request.param)))


def named(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {m["metadata"]["name"]: m for m in manifests if m["kind"] == kind}


def only(manifests: list[Manifest], kind: str) -> Manifest:
    (manifest,) = named(manifests, kind).values()
    return manifest


@pytest.fixture
def pod(manifests: list[Manifest]) -> Manifest:
    spec: Manifest = only(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def api(pod: Manifest) -> Manifest:
    (container,) = (c for c in pod["containers"] if c["name"] == "api")
    result: Manifest = container
    return result


@pytest.fixture
def config(manifests: list[Manifest]) -> dict[str, str]:
    data: dict[str, str] = only(manifests, "ConfigMap")["data"]
    return data


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_validation_refuses_an_unknown_field(manifests: list[Manifest]) -> None:
    deployment = only(manifests, "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 40
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


def test_no_manifest_names_a_namespace_of_its_own(manifests: list[Manifest]) -> None:
    namespace = only(manifests, "Namespace")["metadata"]["name"]
    rest = [m for m in manifests if m["kind"] != "Namespace"]
    assert {m["metadata"]["namespace"] for m in rest} == {namespace}


def test_the_namespace_enforces_the_restricted_profile(manifests: list[Manifest]) -> None:
    labels = only(manifests, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_pod_meets_the_restricted_profile(pod: Manifest) -> None:
    assert violations(pod) == []


def _first(pod: Manifest, kind: str = "containers") -> Manifest:
    container: Manifest = pod[kind][0]
    return container


def _context(pod: Manifest, kind: str = "containers") -> Manifest:
    context: Manifest = _first(pod, kind)["securityContext"]
    return context


BREAKAGES: dict[str, Callable[[Manifest], object]] = {
    "hostNetwork": lambda pod: pod.update(hostNetwork=True),
    "volume host is a hostPath": lambda pod: pod["volumes"].append(
        {"name": "host", "hostPath": {"path": "/"}}
    ),
    "sysctl kernel.msgmax": lambda pod: pod["securityContext"].update(
        sysctls=[{"name": "kernel.msgmax", "value": "1"}]
    ),
    "runAsNonRoot must be true": lambda pod: pod["securityContext"].pop("runAsNonRoot"),
    "runAsUser must not be 0": lambda pod: pod["securityContext"].update(runAsUser=0),
    "seccompProfile must be set": lambda pod: pod["securityContext"].pop("seccompProfile"),
    "seccompProfile must be Runtime": lambda pod: _context(pod).update(
        seccompProfile={"type": "Unconfined"}
    ),
    "appArmorProfile": lambda pod: _context(pod).update(appArmorProfile={"type": "Unconfined"}),
    "seLinuxOptions": lambda pod: _context(pod).update(seLinuxOptions={"user": "system_u"}),
    "privileged": lambda pod: _context(pod).update(privileged=True),
    "procMount": lambda pod: _context(pod).update(procMount="Unmasked"),
    "api: allowPrivilegeEscalation": lambda pod: _context(pod).pop("allowPrivilegeEscalation"),
    "migrate: allowPrivilegeEscalation": lambda pod: _context(pod, "initContainers").pop(
        "allowPrivilegeEscalation"
    ),
    "migrate: capabilities.drop": lambda pod: _context(pod, "initContainers").pop("capabilities"),
    "capabilities.add": lambda pod: _context(pod)["capabilities"].update(add=["NET_RAW"]),
    "hostPort": lambda pod: _first(pod)["ports"][0].update(hostPort=8000),
    "must not name a host": lambda pod: _first(pod)["livenessProbe"]["httpGet"].update(
        host="localhost"
    ),
}


@pytest.mark.parametrize(("expected", "break_it"), BREAKAGES.items(), ids=BREAKAGES)
def test_the_profile_refuses_a_broken_pod(
    pod: Manifest, expected: str, break_it: Callable[[Manifest], object]
) -> None:
    break_it(pod)
    assert [text for text in violations(pod) if expected in text]


def test_containers_can_write_only_where_they_must(pod: Manifest) -> None:
    for container in containers(pod):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        writable = {m["name"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert writable == {"tmp"}


def test_the_pod_runs_as_the_user_of_the_image(pod: Manifest) -> None:
    context = pod["securityContext"]
    assert (
        f"USER {context['runAsUser']}:{context['runAsGroup']}" in (ROOT / "Dockerfile").read_text()
    )
    assert context["runAsUser"] > 10_000, "a low UID may be someone's on the node"


def test_the_pod_holds_no_token_for_the_cluster(manifests: list[Manifest], pod: Manifest) -> None:
    accounts = named(manifests, "ServiceAccount")
    assert accounts[pod["serviceAccountName"]]["automountServiceAccountToken"] is False
    assert pod["automountServiceAccountToken"] is False


def test_resources_are_bounded(pod: Manifest) -> None:
    for container in containers(pod):
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert limits.keys() >= {"memory", "ephemeral-storage"}
        assert requests.keys() >= {"cpu", "memory", "ephemeral-storage"}
    for volume in pod["volumes"]:
        if "emptyDir" in volume:
            assert volume["emptyDir"]["sizeLimit"]


def test_the_image_is_this_version(pod: Manifest) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {c["image"].rpartition(":")[2] for c in containers(pod)} == {version}


def test_the_probes_ask_the_service_itself(api: Manifest, config: dict[str, str]) -> None:
    (port,) = api["ports"]
    assert port["containerPort"] == int(config["PORT"])
    paths = {}
    for name in ("startup", "liveness", "readiness"):
        get = api[f"{name}Probe"]["httpGet"]
        assert get["port"] == port["name"]
        paths[name] = get["path"]
    assert paths == {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}


def test_the_probed_paths_are_routed(api: Manifest) -> None:
    routes = {getattr(route, "path", None) for route in probes.router.routes}
    for name in ("startup", "liveness", "readiness"):
        assert api[f"{name}Probe"]["httpGet"]["path"] in routes


def test_the_service_finds_the_pods(manifests: list[Manifest], api: Manifest) -> None:
    deployment, service = only(manifests, "Deployment"), only(manifests, "Service")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for constraint in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"].items() <= labels.items()
    assert {p["targetPort"] for p in service["spec"]["ports"]} <= {p["name"] for p in api["ports"]}


def test_a_rollout_never_lowers_the_capacity(manifests: list[Manifest]) -> None:
    strategy = only(manifests, "Deployment")["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_the_init_container_migrates(pod: Manifest) -> None:
    assert [c["command"] for c in pod["initContainers"]] == [["tidegate", "migrate", "up"]]


def environment(container: Manifest) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container.get("env", [])}


def test_every_variable_is_a_setting(pod: Manifest, config: dict[str, str]) -> None:
    known = variable_names(Settings) | variable_names(DatabaseSettings)
    present = config.keys() | {name for c in containers(pod) for name in environment(c)}
    assert {name.removesuffix("_FILE") for name in present} <= known


@pytest.fixture
def settings(config: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As the service reads them in a pod."""
    url = tmp_path / "database-url"
    url.write_text("postgresql://tidegate@db/tidegate\n")
    for name, value in {**config, "DATABASE_URL_FILE": str(url)}.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_the_settings_accept_the_values(settings: Settings, config: dict[str, str]) -> None:
    assert settings.environment == "production"
    assert settings.port == int(config["PORT"])


def test_configuration_is_read_from_what_is_rendered(
    manifests: list[Manifest], pod: Manifest
) -> None:
    maps = named(manifests, "ConfigMap")
    for container in containers(pod):
        assert {source["configMapRef"]["name"] for source in container["envFrom"]} <= maps.keys()


def secret_files(pod: Manifest, container: Manifest) -> Iterator[str]:
    """The paths at which a container finds the keys of its secrets."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        for item in volumes[mount["name"]].get("secret", {}).get("items", []):
            yield f"{mount['mountPath']}/{item['path']}"


def test_secrets_are_files(pod: Manifest) -> None:
    for container in containers(pod):
        mounted = set(secret_files(pod, container))
        pointed_at = {v for n, v in environment(container).items() if n.endswith("_FILE")}
        assert pointed_at == mounted


def test_the_serving_process_never_sees_the_migration_role(pod: Manifest, api: Manifest) -> None:
    assert not [path for path in secret_files(pod, api) if "migrate" in path]


def test_secret_files_are_for_the_group_of_the_process_alone(pod: Manifest) -> None:
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    modes = {v["secret"]["defaultMode"] for v in pod["volumes"] if "secret" in v}
    assert modes == {0o440}


def test_no_secret_is_a_literal(manifests: list[Manifest], pod: Manifest) -> None:
    assert not named(manifests, "Secret")
    values = dict(only(manifests, "ConfigMap")["data"])
    for container in containers(pod):
        assert all("value" in variable for variable in container.get("env", []))
        values |= environment(container)
    for name, value in values.items():
        assert name.endswith("_FILE") or not any(
            word in name for word in ("URL", "TOKEN", "PASSWORD", "SECRET", "KEY")
        )
        assert "://" not in value


def test_the_kubelet_waits_for_the_whole_shutdown(
    pod: Manifest, api: Manifest, settings: Settings
) -> None:
    hook = api.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert settings.drain_seconds + hook >= 5, "the proxies need some time"
    assert not (settings.drain_seconds and hook), "they need it once"
    assert pod["terminationGracePeriodSeconds"] > hook + settings.shutdown_seconds
    # So that the service does the sum as well, whatever an overlay changes.
    assert settings.termination_grace_seconds == pod["terminationGracePeriodSeconds"]


def test_connections_are_counted_for_every_pod_of_an_update(
    manifests: list[Manifest], config: dict[str, str]
) -> None:
    deployment = only(manifests, "Deployment")["spec"]
    surge = deployment["strategy"]["rollingUpdate"]["maxSurge"]
    assert int(config["REPLICAS"]) == deployment["replicas"] + surge

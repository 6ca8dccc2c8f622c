"""The Kubernetes manifests: what the API server and its admission would say of each object."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # it ships no types
import pytest
from pydantic import ValidationError

from tests.deploy import custom_resources
from tests.deploy.manifests import (
    KUBERNETES,
    OVERLAYS,
    RENDERED,
    SERVICES,
    VERSION,
    Manifest,
    Pod,
    container,
    named,
    of_kind,
    pods,
    render,
    rendered,
    service_pod,
)
from tests.deploy.pod_security import containers, violations
from tests.support.server import ROOT

API_VERSIONS = ("1.33", kubernetes_validate.latest_version())


@pytest.fixture(params=RENDERED)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(request.param)


@pytest.fixture(params=SERVICES)
def all_pods(request: pytest.FixtureRequest) -> list[Pod]:
    return pods(rendered(request.param))


def validate(manifest: Manifest, version: str) -> None:
    if (manifest["apiVersion"], manifest["kind"]) in custom_resources.MODELS:
        custom_resources.validate(manifest)
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", API_VERSIONS)
def test_every_manifest_is_valid(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        validate(manifest, version)


@pytest.mark.parametrize(
    ("rendering", "kind", "path", "value"),
    [
        ("base", "Deployment", ("spec", "template", "spec", "terminationGracePeriod"), 40),
        ("base", "PodDisruptionBudget", ("spec", "maxUnavailable"), ["1"]),
        ("base", "NetworkPolicy", ("spec", "policytypes"), []),
        ("base+migrate-job", "Job", ("spec", "backoffLimits"), 3),
        ("base+autoscale-cpu", "HorizontalPodAutoscaler", ("spec", "maxReplica"), 3),
        ("base+autoscale-keda", "ScaledObject", ("spec", "maxReplicas"), 3),
        ("base+autoscale-keda", "ScaledObject", ("spec", "pollingInterval"), "15"),
        ("base+service-monitor", "ServiceMonitor", ("spec", "endpoint"), []),
        ("base+alerts", "PrometheusRule", ("spec", "group"), []),
        ("cloudnative-pg", "Cluster", ("spec", "postgresql", "parameters", "max_connections"), 200),
        ("cloudnative-pg", "Cluster", ("spec", "replicas"), 2),
    ],
)
def test_validation_refuses_what_is_unknown_or_of_another_type(
    rendering: str, kind: str, path: tuple[str, ...], value: object
) -> None:
    (manifest, *_) = of_kind(rendered(rendering), kind)
    validate(manifest, API_VERSIONS[0])
    part: Any = manifest
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    with pytest.raises((kubernetes_validate.ValidationError, ValidationError)):
        validate(manifest, API_VERSIONS[0])


def test_no_manifest_names_a_namespace_of_its_own(manifests: list[Manifest]) -> None:
    namespaces = {m["metadata"]["name"] for m in of_kind(manifests, "Namespace")}
    rest = {m["metadata"]["namespace"] for m in manifests if m["kind"] != "Namespace"}
    assert len(rest) == 1
    assert namespaces <= rest


@pytest.mark.parametrize("rendering", SERVICES)
def test_namespace_enforces_the_restricted_profile(rendering: str) -> None:
    (namespace,) = of_kind(rendered(rendering), "Namespace")
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_pod_meets_the_restricted_profile(all_pods: list[Pod]) -> None:
    assert {pod.name: violations(pod.spec) for pod in all_pods} == {
        pod.name: [] for pod in all_pods
    }


def _context(pod: Pod, name: str = "api") -> Manifest:
    context: Manifest = container(pod, name)["securityContext"]
    return context


BREAKAGES: dict[str, Callable[[Pod], object]] = {
    "hostNetwork": lambda pod: pod.spec.update(hostNetwork=True),
    "volume host is a hostPath": lambda pod: pod.spec["volumes"].append(
        {"name": "host", "hostPath": {"path": "/"}}
    ),
    "sysctl kernel.msgmax": lambda pod: pod.spec["securityContext"].update(
        sysctls=[{"name": "kernel.msgmax", "value": "1"}]
    ),
    "runAsNonRoot must be true": lambda pod: pod.spec["securityContext"].pop("runAsNonRoot"),
    "runAsUser must not be 0": lambda pod: pod.spec["securityContext"].update(runAsUser=0),
    "seccompProfile must be set": lambda pod: pod.spec["securityContext"].pop("seccompProfile"),
    "seccompProfile must be Runtime": lambda pod: _context(pod).update(
        seccompProfile={"type": "Unconfined"}
    ),
    "appArmorProfile": lambda pod: _context(pod).update(appArmorProfile={"type": "Unconfined"}),
    "seLinuxOptions": lambda pod: _context(pod).update(seLinuxOptions={"user": "system_u"}),
    "privileged": lambda pod: _context(pod).update(privileged=True),
    "procMount": lambda pod: _context(pod).update(procMount="Unmasked"),
    "api: allowPrivilegeEscalation": lambda pod: _context(pod).pop("allowPrivilegeEscalation"),
    "migrate: allowPrivilegeEscalation": lambda pod: _context(pod, "migrate").pop(
        "allowPrivilegeEscalation"
    ),
    "migrate: capabilities.drop": lambda pod: _context(pod, "migrate").pop("capabilities"),
    "capabilities.add": lambda pod: _context(pod)["capabilities"].update(add=["NET_RAW"]),
    "hostPort": lambda pod: container(pod, "api")["ports"][0].update(hostPort=8000),
    "must not name a host": lambda pod: container(pod, "api")["livenessProbe"]["httpGet"].update(
        host="localhost"
    ),
}


@pytest.mark.parametrize(("expected", "break_it"), BREAKAGES.items(), ids=BREAKAGES)
def test_profile_refuses_a_broken_pod(expected: str, break_it: Callable[[Pod], object]) -> None:
    pod = service_pod(rendered("base"))
    break_it(pod)
    assert [text for text in violations(pod.spec) if expected in text]


def test_profile_is_applied_to_jobs_and_other_deployments() -> None:
    for rendering, name in (("base+migrate-job", "migrate"), ("base+pgbouncer", "pgbouncer")):
        (pod,) = (p for p in pods(rendered(rendering)) if p.name == f"tidegate-{name}")
        _context(pod, name).update(privileged=True)
        assert violations(pod.spec) == [f"{name}: privileged must not be true"]


def test_containers_can_write_only_where_they_must(all_pods: list[Pod]) -> None:
    for pod in all_pods:
        for each in containers(pod.spec):
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
            writable = {m["name"] for m in each["volumeMounts"] if not m.get("readOnly")}
            assert writable <= {"tmp"}
            # A directory in a mounted ConfigMap or Secret cannot be made to mount another one on.
            paths = [m["mountPath"] for m in each["volumeMounts"]]
            assert not [p for p in paths for other in paths if p.startswith(f"{other}/")]


def test_pods_run_as_the_user_of_the_image(all_pods: list[Pod]) -> None:
    for pod in all_pods:
        context = pod.spec["securityContext"]
        user = f"USER {context['runAsUser']}:{context['runAsGroup']}"
        assert user in (ROOT / "Dockerfile").read_text()
        assert context["runAsUser"] > 10_000, "a low UID may be someone's on the node"


@pytest.mark.parametrize("rendering", SERVICES)
def test_no_pod_holds_a_token_for_the_cluster(rendering: str) -> None:
    manifests = rendered(rendering)
    for pod in pods(manifests):
        assert pod.spec["automountServiceAccountToken"] is False
        if name := pod.spec.get("serviceAccountName"):
            account = named(manifests, "ServiceAccount", name)
            assert account["automountServiceAccountToken"] is False


def test_resources_are_bounded(all_pods: list[Pod]) -> None:
    for pod in all_pods:
        for each in containers(pod.spec):
            limits, requests = each["resources"]["limits"], each["resources"]["requests"]
            assert limits.keys() >= {"memory", "ephemeral-storage"}
            assert requests.keys() >= {"cpu", "memory", "ephemeral-storage"}
        for volume in pod.spec["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"]


def _images(all_pods: list[Pod]) -> set[str]:
    return {each["image"] for pod in all_pods for each in containers(pod.spec)}


def test_images_are_of_this_version(all_pods: list[Pod]) -> None:
    for image in _images(all_pods):
        name, _, tag = image.rpartition(":")
        assert name, "without a tag"
        assert tag == VERSION if name.endswith("tidegate") else tag != "latest"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_digest_has_a_place(overlay: str, tmp_path: Path) -> None:
    """Uncommented, it reaches every container of ours."""
    copied = shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    file = copied / "overlays" / overlay / "kustomization.yaml"
    text, place = file.read_text(), "# digest: sha256:..."
    assert place in text
    file.write_text(text.replace(place, f"digest: sha256:{'0' * 64}"))
    ours = {image for image in _images(pods(render(file.parent))) if "/tidegate" in image}
    assert len(ours) == 1
    assert ours.pop().endswith(f"@sha256:{'0' * 64}")

"""The Kubernetes manifests, rendered as `kubectl apply -k` would render them."""

import copy
import functools
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.deploy.support import run
from tests.support.missing import missing
from tests.support.server import ROOT

Manifest = dict[str, Any]

VERSION: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
IMAGE: Final = "registry.example.com/tidegate"
KUBERNETES: Final = ROOT / "deploy" / "kubernetes"
# A part of the autoscalers, and none by itself.
_PARTS: Final = {"autoscaled"}
COMPONENTS: Final = tuple(sorted({p.name for p in (KUBERNETES / "components").iterdir()} - _PARTS))
OVERLAYS: Final = tuple(sorted(p.name for p in (KUBERNETES / "overlays").iterdir()))
# What is not in one of these goes together with everything.
EXCLUSIVE: Final = (
    ("migrate-job", "migrate-argocd"),
    ("autoscale-cpu", "autoscale-pool", "autoscale-keda"),
)
_TOGETHER: Final = [
    "base",
    "migrate-argocd",
    "autoscale-keda",
    *sorted({*COMPONENTS} - {name for group in EXCLUSIVE for name in group}),
]
# Everything that runs the service. A name with "+" is the base with these components.
SERVICES: Final = (
    "base",
    *(f"overlays/{name}" for name in OVERLAYS),
    *(f"base+{name}" for name in COMPONENTS),
    "+".join(_TOGETHER),
)
RENDERED: Final = (*SERVICES, "cloudnative-pg")


@dataclass(frozen=True)
class Pod:
    """What a controller makes pods from.

    Attributes:
        kind: The controller's.
        name: The controller's.
        labels: Of the pods.
        spec: Of the pods.
    """

    kind: str
    name: str
    labels: dict[str, str]
    spec: Manifest


def rendered(name: str) -> list[Manifest]:
    """The manifests of one of `RENDERED`, which the caller may change."""
    return copy.deepcopy(_rendered(name))


@functools.cache
def _rendered(name: str) -> list[Manifest]:
    base, *components = name.split("+")
    if not components:
        return render(KUBERNETES / base)
    with tempfile.TemporaryDirectory() as directory:
        to_kubernetes = os.path.relpath(KUBERNETES, Path(directory).resolve())
        kustomization = {
            "namespace": "tidegate",
            "images": [{"name": "tidegate", "newName": IMAGE, "newTag": VERSION}],
            "resources": [f"{to_kubernetes}/{base}"],
            "components": [f"{to_kubernetes}/components/{one}" for one in components],
        }
        Path(directory, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return render(Path(directory))


def render(directory: Path) -> list[Manifest]:
    """What a directory with a kustomization consists of."""
    if shutil.which("kubectl"):
        output = run("kubectl", "kustomize", directory).stdout
    elif shutil.which("kustomize"):
        output = run("kustomize", "build", directory).stdout
    else:
        missing("rendering needs kubectl or kustomize on PATH")
    return list(yaml.safe_load_all(output))


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """Those of some kinds."""
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one of a kind and a name."""
    (found,) = (m for m in of_kind(manifests, kind) if m["metadata"]["name"] == name)
    return found


def pods(manifests: list[Manifest]) -> list[Pod]:
    """What pods are made from."""
    found = []
    for manifest in of_kind(manifests, "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"):
        spec = manifest["spec"]
        template = spec["jobTemplate"]["spec"]["template"] if "jobTemplate" in spec else None
        template = template or spec["template"]
        labels = template["metadata"]["labels"]
        name = manifest["metadata"]["name"]
        found.append(Pod(manifest["kind"], name, labels, template["spec"]))
    return found


def service_pod(manifests: list[Manifest]) -> Pod:
    """That of the service itself."""
    (found,) = (pod for pod in pods(manifests) if pod.name == "tidegate")
    return found


def container(pod: Pod, name: str) -> Manifest:
    """One of its containers, an initial one or not."""
    spec = pod.spec
    (found,) = (
        c for c in (*spec.get("initContainers", ()), *spec["containers"]) if c["name"] == name
    )
    result: Manifest = found
    return result


def config(manifests: list[Manifest]) -> dict[str, str]:
    """What the service's ConfigMap says."""
    (found,) = (
        m["data"] for m in of_kind(manifests, "ConfigMap") if "WEB_CONCURRENCY" in m.get("data", {})
    )
    result: dict[str, str] = found
    return result


def pgbouncer_files(manifests: list[Manifest]) -> dict[str, str]:
    """The files that PgBouncer reads, by name."""
    (found,) = (
        m["data"] for m in of_kind(manifests, "ConfigMap") if "pgbouncer.ini" in m.get("data", {})
    )
    result: dict[str, str] = found
    return result


def environment(manifests: list[Manifest], container: Manifest) -> dict[str, str]:
    """The variables of a container, as the kubelet would set them."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        variables |= named(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    return variables | {one["name"]: one["value"] for one in container.get("env", ())}


def secret_files(spec: Manifest, container: Manifest) -> Iterator[tuple[str, str]]:
    """Where a container finds its secrets, and by which key each."""
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in container["volumeMounts"]:
        for item in volumes[mount["name"]].get("secret", {}).get("items", ()):
            yield f"{mount['mountPath']}/{item['path']}", item["key"]


def most_pods(manifests: list[Manifest]) -> int:
    """How many pods of the service there are at most, those of an update included."""
    spec = named(manifests, "Deployment", "tidegate")["spec"]
    limits: list[int] = [spec["replicas"]] if "replicas" in spec else []
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject"):
        limits += [
            scaler["spec"][name]
            for name in ("maxReplicas", "maxReplicaCount")
            if name in scaler["spec"]
        ]
    surge: int = spec["strategy"]["rollingUpdate"]["maxSurge"]
    return max(limits) + surge

"""Pods on a Docker Engine: what the kubelet does of a pod's description, done by `docker`.

One container holds the network and the volumes, as a pod's sandbox does; the others join it. Not
done: resource requests, CPU limits, restarts, and whatever a scheduler or an admission decides.
"""

import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import pytest

from tests.deploy.engine import inspect
from tests.deploy.manifests import Manifest, Pod, environment, named
from tests.deploy.support import run
from tests.support.ports import free_port

_UNITS: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@dataclass(frozen=True)
class Container:
    """A container of a pod that was started.

    Attributes:
        name: In the engine.
        spec: Its description.
        pod: Where it runs.
    """

    name: str
    spec: Manifest
    pod: "RunningPod"

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return int(run("docker", "wait", self.name).stdout)

    def logs(self) -> str:
        """What it wrote."""
        done = run("docker", "logs", self.name, check=False)
        return done.stdout + done.stderr

    def state(self) -> dict[str, Any]:
        """What the engine knows of its process."""
        state: dict[str, Any] = inspect("container", self.name)["State"]
        return state

    def execute(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command inside, whatever comes of it."""
        return run("docker", "exec", self.name, *command, check=False)

    def wait_for_probe(self, kind: str) -> float:
        """Probe as often as it is described, until it succeeds; returns the seconds it took."""
        probe = self.spec[f"{kind}Probe"]
        start = time.monotonic()
        for _ in range(probe["failureThreshold"]):
            if self.probe(kind):
                return time.monotonic() - start
            if not self.state()["Running"]:
                break
            time.sleep(probe["periodSeconds"])
        pytest.fail(f"{self.spec['name']}: its {kind} probe failed\n{self.logs()}")

    def probe(self, kind: str) -> bool:
        """Whether a probe succeeds now."""
        probe = self.spec[f"{kind}Probe"]
        if "httpGet" not in probe:
            # From within the network of the pod, as the kubelet's own comes from outside of it.
            port = self.pod.port_of(probe["tcpSocket"]["port"])
            check = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
            return not self.pod.in_network("python", "-c", check).returncode
        get = probe["httpGet"]
        try:
            answer = self.pod.get(get["path"], timeout=probe["timeoutSeconds"])
        except httpx2.TransportError:
            return False
        return 200 <= answer.status_code < 400

    def terminate(self) -> None:
        """Run its hook to the end, then send SIGTERM if it still runs."""
        if hook := self.spec.get("lifecycle", {}).get("preStop", {}).get("exec"):
            self.execute(*hook["command"])
        run("docker", "kill", "--signal=TERM", self.name, check=False)


@dataclass
class RunningPod:
    """A pod.

    Attributes:
        description: What it is made from.
        manifests: Where its configuration stands.
        images: The engine's name of each image that the description names.
        secrets: The keys of each Secret.
        network: The engine's network that it is in.
        name: Of its sandbox; the others' begin with it.
    """

    description: Pod
    manifests: list[Manifest]
    images: Callable[[str], str]
    secrets: Mapping[str, Mapping[str, str]]
    network: str
    name: str = field(default_factory=lambda: f"tidegate-pod-{uuid.uuid4().hex[:8]}")
    port: int = field(default_factory=free_port)

    @property
    def sandbox_image(self) -> str:
        """That of our service, which has all that is needed."""
        return self.images("tidegate")

    def port_of(self, name: str) -> int:
        """The number of a port."""
        (port,) = (
            port["containerPort"]
            for container in self.description.spec["containers"]
            for port in container.get("ports", ())
            if port["name"] == name
        )
        return int(port)

    def get(self, path: str, timeout: float = 10) -> httpx2.Response:
        """Ask its port `http`."""
        return httpx2.get(f"http://127.0.0.1:{self.port}{path}", timeout=timeout)

    def in_network(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the sandbox's image in its network."""
        return run("docker", "exec", self.name, *command, check=False)

    def start(self, container: Manifest) -> Container:
        """Start a container as it is described."""
        name = f"{self.name}-{container['name']}"
        command = container.get("command", [])
        variables = environment(self.manifests, container)
        run(
            *("docker", "run", "--detach", "--pull=never", "--name", name),
            *("--network", f"container:{self.name}"),
            *self._limits(container),
            *(word for pair in variables.items() for word in ("--env", "=".join(pair))),
            *(word for mount in container["volumeMounts"] for word in self._mount(mount)),
            *(("--entrypoint", command[0]) if command else ()),
            self.images(container["image"]),
            *command[1:],
        )
        return Container(name, container, self)

    def _limits(self, container: Manifest) -> list[str]:
        whole, own = self.description.spec["securityContext"], container["securityContext"]
        assert own["capabilities"] == {"drop": ["ALL"]}
        limit = container["resources"]["limits"]["memory"]
        memory = str(int(limit[:-2]) * _UNITS[limit[-2:]])
        return [
            f"--user={whole['runAsUser']}:{whole['runAsGroup']}",
            f"--group-add={whole['fsGroup']}",
            f"--read-only={str(own['readOnlyRootFilesystem']).lower()}",
            "--cap-drop=ALL",
            f"--security-opt=no-new-privileges:{str(not own['allowPrivilegeEscalation']).lower()}",
            f"--memory={memory}",
            f"--memory-swap={memory}",
        ]

    def _mount(self, mount: Manifest) -> list[str]:
        suffix = ":ro" if mount.get("readOnly") else ""
        return ["--volume", f"{self.name}-{mount['name']}:{mount['mountPath']}{suffix}"]

    def create(self) -> None:
        """Make the volumes, and the sandbox that holds them and the network."""
        volumes = self.description.spec["volumes"]
        for volume in volumes:
            self._create_volume(volume)
        ports = {p["name"] for c in self.description.spec["containers"] for p in c.get("ports", ())}
        published = [f"127.0.0.1:{self.port}:{self.port_of('http')}"] if "http" in ports else []
        run(
            *("docker", "run", "--detach", "--pull=never", "--name", self.name),
            *("--network", self.network, "--network-alias", self.description.name),
            *(word for one in published for word in ("--publish", one)),
            *(
                word
                for volume in volumes
                for word in ("--volume", f"{self.name}-{volume['name']}:/volumes/{volume['name']}")
            ),
            # The capability to change the group of the secrets' files.
            *("--user=0", "--entrypoint=sleep", self.sandbox_image, "infinity"),
        )
        for volume in volumes:
            self._fill(volume)

    def remove(self) -> None:
        """Remove everything that was made."""
        found = run(
            "docker", "ps", "--all", "--quiet", "--filter", f"name={self.name}", check=False
        )
        if names := found.stdout.split():
            run("docker", "rm", "--force", *names, check=False)
        for volume in self.description.spec["volumes"]:
            run("docker", "volume", "rm", "--force", f"{self.name}-{volume['name']}", check=False)

    def _create_volume(self, volume: Manifest) -> None:
        options: list[str] = []
        if (empty := volume.get("emptyDir")) is not None:
            size = empty["sizeLimit"]
            limit = int(size[:-2]) * _UNITS[size[-2:]]
            options = ["--opt=type=tmpfs", "--opt=device=tmpfs", f"--opt=o=size={limit},mode=0777"]
        run("docker", "volume", "create", *options, f"{self.name}-{volume['name']}")

    def _fill(self, volume: Manifest) -> None:
        directory, group = f"/volumes/{volume['name']}", "0"
        if secret := volume.get("secret"):
            keys = self.secrets[secret["secretName"]]
            files = {item["path"]: keys[item["key"]] for item in secret["items"]}
            mode, group = secret["defaultMode"], self.description.spec["securityContext"]["fsGroup"]
        elif reference := volume.get("configMap"):
            files = named(self.manifests, "ConfigMap", reference["name"])["data"]
            mode = reference.get("defaultMode", 0o644)
        else:
            return
        for path, text in files.items():
            file = f"{directory}/{path}"
            script = f"cat > {file} && chgrp {group} {file} && chmod {mode:o} {file}"
            run("docker", "exec", "--interactive", self.name, "sh", "-c", script, stdin=text)


@contextmanager
def running_pod(pod: RunningPod) -> Iterator[RunningPod]:
    """A pod's network and volumes, until the block ends; the caller starts its containers."""
    try:
        pod.create()
        yield pod
    finally:
        pod.remove()

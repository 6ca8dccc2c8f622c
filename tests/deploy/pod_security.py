"""The restricted Pod Security Standard, as Kubernetes' admission plugin applies it to a pod.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from collections.abc import Callable, Iterator
from typing import Any

Spec = dict[str, Any]

VOLUME_TYPES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SECCOMP = {"RuntimeDefault", "Localhost"}
APP_ARMOR = {"RuntimeDefault", "Localhost"}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}


def containers(pod: Spec) -> list[Spec]:
    """Every container of a pod spec, the initial and the ephemeral ones too."""
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [container for kind in kinds for container in pod.get(kind, [])]


def violations(pod: Spec) -> list[str]:
    """What the restricted profile forbids in a pod spec; empty if it admits the pod."""
    found = [*_pod_violations(pod)]
    for container in containers(pod):
        found += [
            f"{container['name']}: {text}"
            for rule in _CONTAINER_RULES
            for text in rule(container, pod)
        ]
    return found


def _pod_violations(pod: Spec) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{field} must not be true"
    for volume in pod.get("volumes", []):
        if others := set(volume) - {"name"} - VOLUME_TYPES:
            yield f"volume {volume['name']} is a {others.pop()}"
    context = pod.get("securityContext", {})
    yield from _context_violations(context)
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']} is not safe"


def _context_violations(context: Spec) -> Iterator[str]:
    if context.get("runAsUser") == 0:
        yield "runAsUser must not be 0"
    if context.get("runAsNonRoot") is False:
        yield "runAsNonRoot must not be false"
    if context.get("seccompProfile", {"type": "RuntimeDefault"})["type"] not in SECCOMP:
        yield "seccompProfile must be RuntimeDefault or Localhost"
    if context.get("appArmorProfile", {"type": "RuntimeDefault"})["type"] not in APP_ARMOR:
        yield "appArmorProfile must be RuntimeDefault or Localhost"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess must not be true"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.keys() & {"user", "role"}:
        yield "seLinuxOptions must not name another type, user or role"


def _own_context(container: Spec, _: Spec) -> Iterator[str]:
    context = container.get("securityContext", {})
    yield from _context_violations(context)
    if context.get("privileged"):
        yield "privileged must not be true"
    if context.get("procMount", "Default") != "Default":
        yield "procMount must be Default"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation must be false"


def _inherited_context(container: Spec, pod: Spec) -> Iterator[str]:
    context = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    if context.get("runAsNonRoot") is not True:
        yield "runAsNonRoot must be true"
    if "seccompProfile" not in context:
        yield "seccompProfile must be set"


def _capabilities(container: Spec, _: Spec) -> Iterator[str]:
    capabilities = container.get("securityContext", {}).get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities.drop must hold ALL"
    if added := set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"capabilities.add must not hold {', '.join(sorted(added))}"


def _host(container: Spec, _: Spec) -> Iterator[str]:
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort must not be set"
    probes = (container.get(f"{name}Probe", {}) for name in ("startup", "liveness", "readiness"))
    hooks = (container.get("lifecycle", {}).get(name, {}) for name in ("postStart", "preStop"))
    for handler in (*probes, *hooks):
        if any(handler.get(kind, {}).get("host") for kind in ("httpGet", "tcpSocket")):
            yield "a probe or hook must not name a host"


_CONTAINER_RULES: tuple[Callable[[Spec, Spec], Iterator[str]], ...] = (
    _own_context,
    _inherited_context,
    _capabilities,
    _host,
)

"""The Pod Security Standards as code: what a pod spec violates at the levels "baseline" and "restricted".

Source: kubernetes.io/docs/concepts/security/pod-security-standards (controls as of Kubernetes 1.34).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

BASELINE_CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
RESTRICTED_VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)


def _containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"], *spec.get("ephemeralContainers", [])]


def baseline(spec: dict[str, Any]) -> Iterator[str]:
    """Yield every violation of the baseline profile."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"pod: {field}"
    for volume in spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"volume {volume['name']}: hostPath"
    if spec.get("securityContext", {}).get("sysctls"):
        yield "pod: sysctls"
    for item in _containers(spec):
        context = item.get("securityContext", {})
        extra = set(context.get("capabilities", {}).get("add", [])) - BASELINE_CAPABILITIES
        if context.get("privileged"):
            yield f"{item['name']}: privileged"
        if extra:
            yield f"{item['name']}: capabilities {sorted(extra)}"
        if any(port.get("hostPort") for port in item.get("ports", [])):
            yield f"{item['name']}: hostPort"
        if context.get("procMount", "Default") != "Default":
            yield f"{item['name']}: procMount"
        if context.get("seccompProfile", {}).get("type") == "Unconfined":
            yield f"{item['name']}: seccomp unconfined"


def restricted(spec: dict[str, Any]) -> Iterator[str]:
    """Yield every violation of the restricted profile, which includes the baseline."""
    yield from baseline(spec)
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= RESTRICTED_VOLUMES | {"hostPath"}:
            yield f"volume {volume['name']}: {sorted(kinds)}"
    pod = spec.get("securityContext", {})
    for item in _containers(spec):
        context = item.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{item['name']}: allowPrivilegeEscalation"
        if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
            yield f"{item['name']}: runAsNonRoot"
        if context.get("runAsUser", pod.get("runAsUser")) == 0:
            yield f"{item['name']}: runAsUser 0"
        seccomp = context.get("seccompProfile", pod.get("seccompProfile", {})).get("type")
        if seccomp not in {"RuntimeDefault", "Localhost"}:
            yield f"{item['name']}: seccomp {seccomp}"
        capabilities = context.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []):
            yield f"{item['name']}: capabilities not dropped"
        extra = set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}
        if extra:
            yield f"{item['name']}: capability {sorted(extra)} added"

"""What Prometheus, the metrics APIs and kubectl answer about a fleet whose autoscaling works."""

from __future__ import annotations

from typing import Any

from trtbuild.autoscaling.prometheus import FRONT_METRICS, RELABELINGS

METRIC = "triton:demand:ratio"

# What kubectl 1.32 prints; the third is its answer while the adapter's pod is down.
NOT_SERVED = "Error from server (NotFound): the server could not find the requested resource"
NO_METRIC = "Error from server (NotFound): the server could not find the metric triton:demand:ratio for pods a"
DOWN = "Error from server (ServiceUnavailable): the server is currently unable to handle the request"
NO_VALUES = "Error from server (InternalError): Internal error occurred: unable to fetch metrics"
FORBIDDEN = 'Error from server (Forbidden): pods is forbidden: User "ann" cannot list resource "pods"'
REFUSED = "The connection to the server localhost:8080 was refused - did you specify the right host or port?"
NO_KUBECTL = "kubectl is not on PATH"
NO_HPA = 'Error from server (NotFound): horizontalpodautoscalers.autoscaling "x" not found'
Json = dict[str, Any]


def labels(pod: str, release: str = "llama", sku: str = "h100") -> dict[str, str]:
    return {"namespace": "llm", "pod": pod, "release": release, "sku": sku}


def target(pod: str, health: str = "up", error: str = "", **changes: str | None) -> Json:
    """A target as Prometheus discovers it; a label given as None is missing, as where no relabeling adds it."""
    own = labels(pod, changes.pop("of_release", None) or "llama", changes.pop("of_sku", None) or "h100")
    discovered = {RELABELINGS[label]: value for label, value in own.items()}
    discovered |= {"__meta_kubernetes_pod_container_port_name": "metrics", "job": "podMonitor/llm/llama-trtbuild/0"}
    found = {label: value for label, value in {**own, **changes}.items() if value}
    return {"discoveredLabels": discovered, "labels": found, "health": health, "lastError": error}


def pod(name: str, *, ready: bool = True, release: str = "llama", sku: str = "h100", **metadata: str) -> Json:
    own = {"app.kubernetes.io/instance": release, "trtbuild.dev/sku": sku}
    own["app.kubernetes.io/component"] = metadata.pop("component", "server")
    conditions = [{"type": "Ready", "status": str(ready)}]
    status = {"phase": "Running" if ready else "Pending", "conditions": conditions}
    return {"metadata": {"name": name, "labels": own, **metadata}, "status": status}


def pods(*found: Json) -> Json:
    return {"kind": "List", "items": list(found)}


def active(*found: Json) -> Json:
    return {"status": "success", "data": {"activeTargets": list(found), "droppedTargets": []}}


def rule(name: str = METRIC, release: str = "llama", **more: str) -> Json:
    query = f'sum(x{{namespace="llm",release="{release}"}})'
    return {"name": name, "type": "recording", "health": "ok", "query": query, **more}


def rules(*found: Json) -> Json:
    return {"status": "success", "data": {"groups": [{"rules": list(found)}]}}


def series(*found: dict[str, str]) -> Json:
    return {"status": "success", "data": {"result": [{"metric": item, "value": [0, "0.5"]} for item in found]}}


def values(*names: str) -> Json:
    return {"kind": "MetricValueList", "items": [{"describedObject": {"name": n}, "value": "500m"} for n in names]}


def hpa(metric: Json | None = None, **status: Any) -> Json:
    own = {"app.kubernetes.io/instance": "llama", "trtbuild.dev/sku": "h100"}
    good = {
        "currentReplicas": 1, "desiredReplicas": 1, "conditions": [{"type": "ScalingActive", "status": "True"}],
        "currentMetrics": [{"type": "Pods"}],
    }  # fmt: skip
    return {
        "metadata": {"name": "llama-trtbuild-h100", "labels": own},
        "spec": {"metrics": [metric or follows(METRIC)]},
        "status": good | status,
    }


def follows(name: str) -> Json:
    return {"type": "Pods", "pods": {"metric": {"name": name}}}


def good() -> Json:
    return {
        "namespace": "llm",
        "pods": pods(pod("a")),
        "metrics": "".join(f'{name}{{model="m"}} 0\n' for name in FRONT_METRICS),
        "targets": active(target("a")),
        "rules": rules(rule()),
        "series": series(labels("a")),
        "custom_metrics": values("a"),
        "hpa": hpa(),
    }


def keda(**status: tuple[str, str]) -> Json:
    """Return a working KEDA installation: its own object, the autoscaler it makes, and no prometheus-adapter."""
    selector = {"matchLabels": {"scaledobject.keda.sh/name": "llama-trtbuild-h100"}}
    made = hpa({"type": "External", "external": {"metric": {"name": "s0-prometheus", "selector": selector}}})
    made["metadata"]["ownerReferences"] = [{"kind": "ScaledObject", "name": "llama-trtbuild-h100"}]
    query = 'sum(avg by (pod) (triton:waiting:requests{namespace="llm",release="llama",sku="h100"}))'
    conditions = {"Ready": ("True", "ScaledObjectReady"), "Fallback": ("False", "NoFallbackFound")} | status
    return good() | {
        "hpa": made,
        "scaled_object": {
            "spec": {"minReplicaCount": 0, "triggers": [{"type": "prometheus", "metadata": {"query": query}}]},
            "status": {"conditions": [
                {"type": kind, "status": value, "reason": reason} for kind, (value, reason) in conditions.items()]},
        },
        "rules": rules(rule("triton:waiting:requests")),
        "series": series({}),
        "external_metrics": {"kind": "ExternalMetricValueList", "items": [{"value": "500m"}]},
        "custom_metrics": {"error": NOT_SERVED},
    }  # fmt: skip


CHECK_FAILED = keda(Ready=("False", "ScaledObjectCheckFailed"))

"""What an autoscaler follows, and the APIs of the cluster that can serve it. Pure values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_METRIC = "triton:demand:ratio"

RENAMED = {
    "dcgm_gpu_utilization_percent": 'DCGM_FI_DEV_GPU_UTIL{exported_namespace="@"}',
    "trtllm_kv_cache_used_ratio": 'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",namespace="@"}',
}
"""Metrics that the adapter serves under a name of its own: the series behind them (chart/monitoring); @: namespace."""

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Api:
    """A metrics API of the cluster: its hop's name, where its answer is kept, who serves it, and how to fix that."""

    name: str
    document: str
    group: str
    server: str
    install: str
    look: str


_RESOURCE_API = Api(
    name="resource metrics API", document="resource_metrics", group="metrics.k8s.io", server="metrics-server",
    install="install metrics-server", look="kubectl -n kube-system get pods -l k8s-app=metrics-server",
)  # fmt: skip
APIS = {
    "Pods": Api(
        name="custom metrics API", document="custom_metrics", group="custom.metrics.k8s.io", server="the adapter",
        install="install prometheus-adapter with chart/monitoring's values, or use autoscaling.type=keda",
        look="kubectl -n monitoring logs deployment/adapter-prometheus-adapter; can it reach its prometheus.url?",
    ),
    "External": Api(
        name="external metrics API", document="external_metrics", group="external.metrics.k8s.io", server="KEDA",
        install="install KEDA, or use autoscaling.type=hpa",
        look="kubectl -n keda logs -l app=keda-operator; can it reach autoscaling.keda.serverAddress?",
    ),
    "Resource": _RESOURCE_API,
    "ContainerResource": _RESOURCE_API,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What an autoscaler follows.

    Attributes:
        kind: Type of metric in ``autoscaling/v2``: a key of :data:`APIS`.
        name: As the metrics API calls it.
        query: PromQL that gives it; empty when it does not come from Prometheus.
        selector: Labels with which the external metrics API is asked for it.
    """

    kind: str
    name: str
    query: str = ""
    selector: str = ""

    @property
    def recorded(self) -> tuple[str, ...]:
        """Names in the query that a recording rule must make: those with a colon."""
        return tuple(sorted(set(re.findall(r"[a-zA-Z_]\w*(?::\w+)+", re.sub(r'"[^"]*"', "", self.query)))))

    @property
    def is_from_server(self) -> bool:
        """Whether it rests on what the servers export (and not on processors or DCGM)."""
        return bool(self.query) and "DCGM_" not in self.query

    def path(self, namespace: str, pods: str) -> str:
        """Return where its metrics API has it; ``pods`` is the label selector of the pods."""
        base = f"/apis/{APIS[self.kind].group}/v1beta1/namespaces/{namespace}"
        rest = {"Pods": f"pods/*/{self.name}", "External": self.name}.get(self.kind, "pods")
        selector = self.selector if self.kind == "External" else pods
        return f"{base}/{rest}?labelSelector={selector}" if selector else f"{base}/{rest}"


def is_missing(document: Document | None) -> bool:
    """Return whether the cluster answered that there is no such object, or no such kind of object."""
    problem = error_of(document or {}) or ""
    return bool(re.search(r"not found|could not find the requested resource|doesn't have a resource type", problem))


def error_of(document: Document) -> str | None:
    """Return what a document says went wrong, in kubectl's words: ours, Prometheus's or a Kubernetes Status."""
    if document.get("kind") == "Status":
        return f"Error from server ({document.get('reason') or 'Failure'}): {document.get('message')}"
    if document.get("status") == "error" or "error" in document:
        return ": ".join(str(document[key]) for key in ("errorType", "error") if document.get(key)) or "failure"
    return None


def followed_metric(hpa: Document) -> tuple[str, str, str] | None:
    """Return type, name and selector of the first metric that an autoscaler follows."""
    for metric in hpa.get("spec", {}).get("metrics") or []:
        kind = str(metric.get("type"))
        body = metric.get(kind[:1].lower() + kind[1:], {})
        labels = body.get("metric", {}).get("selector", {}).get("matchLabels", {})
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        return kind, str(body.get("metric", {}).get("name") or body.get("name")), selector
    return None

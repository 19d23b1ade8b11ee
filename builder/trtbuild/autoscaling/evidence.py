"""What each hop of the autoscaling path said of itself, and what follows from it: signal, pods, labels. Pure values.

Source of the documents: Prometheus HTTP API v1 (``/targets``, ``/rules``, ``/query``); Kubernetes custom, external and
resource metrics APIs v1beta1 (``MetricValueList``, ``ExternalMetricValueList``, ``PodMetricsList``);
``autoscaling/v2`` HorizontalPodAutoscaler; ``keda.sh/v1alpha1`` ScaledObject.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trtbuild.autoscaling.signal import DEFAULT_METRIC, RENAMED, Document, Signal, error_of, followed_metric

POD_LABELS = {"release": "app.kubernetes.io/instance", "sku": "trtbuild.dev/sku"}
"""Label of a series: label of the pod that it is taken from."""

DOCUMENTS = (
    "targets", "rules", "series", "custom_metrics", "external_metrics", "resource_metrics", "hpa", "scaled_object",
    "pods",
)  # fmt: skip
"""JSON documents that :class:`Evidence` holds; ``--from`` reads ``NAME.json``."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Pods of servers: labels by name of all that exist, and the names of those that are ready and that start."""

    labels: Mapping[str, Mapping[str, str]]
    ready: frozenset[str]
    starting: frozenset[str]

    def __str__(self) -> str:
        """Count them; those that are leaving or have failed are the rest."""
        rest = len(self.labels) - len(self.ready) - len(self.starting)
        counts = {"starting": len(self.starting), "leaving": rest}
        return ", ".join([f"{len(self.ready)} ready", *(f"{count} {what}" for what, count in counts.items() if count)])


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What each hop said of itself; None means it was not asked, an ``error`` key that it could not be.

    Attributes:
        metric: The series to check; None: the one that the autoscaler names.
        namespace: Namespace of the pods.
        metrics: Text of a server's metrics endpoint.
        targets: Prometheus ``/api/v1/targets``.
        rules: Prometheus ``/api/v1/rules``.
        series: Prometheus ``/api/v1/query`` for the signal's query.
        custom_metrics: The custom metrics API's answer for ``pods/*/metric``.
        external_metrics: The external metrics API's answer.
        resource_metrics: The resource metrics API's answer for the pods.
        hpa: The HorizontalPodAutoscaler.
        scaled_object: KEDA's ScaledObject.
        pods: Kubernetes's list of the pods.
    """

    metric: str | None = None
    namespace: str = "default"
    metrics: str | Document | None = None
    targets: Document | None = None
    rules: Document | None = None
    series: Document | None = None
    custom_metrics: Document | None = None
    external_metrics: Document | None = None
    resource_metrics: Document | None = None
    hpa: Document | None = None
    scaled_object: Document | None = None
    pods: Document | None = None
    signal: Signal = field(init=False)
    fleet: Fleet | None = field(init=False)
    scope: dict[str, str] = field(init=False)
    """Labels that are the fleet's own: namespace, and release and sku where they are known."""

    def __post_init__(self) -> None:
        """Derive what several hops need."""
        object.__setattr__(self, "signal", _find_signal(self))
        own = {"namespace": self.namespace} | own_labels(self.hpa)
        object.__setattr__(self, "fleet", _fleet(self.pods, own))
        for label in POD_LABELS:
            values = {labels.get(label, "") for labels in self.fleet.labels.values()} if self.fleet else set()
            if label not in own and len(values) == 1 and any(values):
                own[label] = values.pop()
        object.__setattr__(self, "scope", own)


def own_labels(document: Document | None) -> dict[str, str]:
    """Return release and sku of an object of the chart, where its labels tell them."""
    labels = (document or {}).get("metadata", {}).get("labels") or {}
    return {label: str(labels[key]) for label, key in POD_LABELS.items() if labels.get(key)}


def scaled_object_of(hpa: Document) -> str | None:
    """Return the name of the ScaledObject whose autoscaler this is."""
    owners = hpa.get("metadata", {}).get("ownerReferences") or []
    return next((str(owner.get("name")) for owner in owners if owner.get("kind") == "ScaledObject"), None)


def belongs_to(labels: Mapping[str, Any], scope: Mapping[str, str]) -> bool:
    """Return whether no label says that this belongs to another namespace, release or SKU."""
    return all(labels.get(label, value) == value for label, value in scope.items())


def _find_signal(seen: Evidence) -> Signal:
    """Return what the autoscaler follows, or ``metric`` where it is given."""
    triggers = (seen.scaled_object or {}).get("spec", {}).get("triggers", [])
    fallback = ("External", "s0-prometheus", "") if triggers else ("Pods", DEFAULT_METRIC, "")
    kind, name, selector = followed_metric(seen.hpa or {}) or fallback
    if kind == "Pods" or seen.metric:
        name = seen.metric or name if kind == "Pods" else name
        asked = seen.metric or name
        query = RENAMED.get(asked, f'{asked}{{namespace="@"}}').replace("@", seen.namespace)
        return Signal(kind=kind, name=name, query=query, selector=selector)
    if kind != "External":
        return Signal(kind=kind, name=name)
    index = int(found[1]) if (found := re.match(r"s(\d+)-", name)) else 0  # KEDA names it by its trigger's place
    query = triggers[index].get("metadata", {}).get("query", "") if index < len(triggers) else ""
    return Signal(kind=kind, name=name, query=str(query), selector=selector)


def _fleet(document: Document | None, own: Mapping[str, str]) -> Fleet | None:
    """Return the servers in a list of pods: not proxies, not pre-warm Jobs, not those of another release or SKU."""
    if document is None or error_of(document):
        return None
    labels: dict[str, Mapping[str, str]] = {}
    ready: set[str] = set()
    starting: set[str] = set()
    for pod in document.get("items", []):
        name, status = str(pod["metadata"]["name"]), pod.get("status", {})
        found = own_labels(pod)
        component = (pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component", "server")
        if component != "server" or not belongs_to(found, own):
            continue
        labels[name] = found
        if pod["metadata"].get("deletionTimestamp") or status.get("phase") in {"Failed", "Succeeded"}:
            continue
        is_ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or [])
        (ready if is_ready else starting).add(name)
    return Fleet(labels=labels, ready=frozenset(ready), starting=frozenset(starting))

"""From a server's metrics to a replica count: which hop of that path is broken first, and how to mend it. Pure.

It decides what a working hop looks like, from the documents that each hop can show of itself. It does not fetch them:
the command line does, from live addresses, ``kubectl`` or saved files.

Source of the documents: Prometheus HTTP API v1 (``/targets``, ``/rules``, ``/query``), Kubernetes custom metrics API
v1beta1 (``MetricValueList``), ``autoscaling/v2`` HorizontalPodAutoscaler.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FRONT_METRICS = ("trtbuild_requests_waiting", "trtbuild_requests_running", "trtbuild_request_slots")
DOCUMENTS = ("metrics", "targets", "rules", "series", "custom_metrics", "hpa", "pods")
"""Names of what :class:`Evidence` holds, and of the files that ``--from`` reads (``metrics.txt``, else ``.json``)."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What each hop said of itself; None means it was not asked, an ``error`` key that it did not answer.

    Attributes:
        metric: The recorded series the autoscaler should follow.
        namespace: Namespace of the pods.
        metrics: Text of a server's metrics endpoint.
        targets: Prometheus ``/api/v1/targets``.
        rules: Prometheus ``/api/v1/rules``.
        series: Prometheus ``/api/v1/query`` for ``metric``.
        custom_metrics: The custom metrics API's answer for ``pods/*/metric``.
        hpa: The HorizontalPodAutoscaler.
        pods: Names of the ready pods.
    """

    metric: str = "triton:demand:ratio"
    namespace: str = "default"
    metrics: str | Mapping[str, Any] | None = None
    targets: Mapping[str, Any] | None = None
    rules: Mapping[str, Any] | None = None
    series: Mapping[str, Any] | None = None
    custom_metrics: Mapping[str, Any] | None = None
    hpa: Mapping[str, Any] | None = None
    pods: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One hop of the path.

    Attributes:
        name: What it is.
        is_ok: It works; None when it was not asked.
        text: What was seen.
        fix: What to do when it does not work.
    """

    name: str
    is_ok: bool | None
    text: str
    fix: str = ""


def walk(evidence: Evidence) -> tuple[Hop, ...]:
    """Return every hop up to and including the first broken one; what comes after it cannot be judged."""
    hops: list[Hop] = []
    for look in (_endpoint, _target, _rule, _series, _custom_metrics, _autoscaler):
        hop = look(evidence)
        hops.append(hop)
        if hop.is_ok is False:
            break
    return tuple(hops)


def _unasked(name: str, how: str) -> Hop:
    return Hop(name=name, is_ok=None, text=f"not asked ({how})")


def _error(document: Mapping[str, Any]) -> str | None:
    """Return what a document says went wrong: ours, Prometheus's or a Kubernetes Status."""
    if document.get("status") in ("error", "Failure") or document.get("kind") == "Status":
        return str(document.get("error") or document.get("message") or "failure")
    return str(document["error"]) if "error" in document else None


def _endpoint(seen: Evidence) -> Hop:
    name = "metrics endpoint"
    if seen.metrics is None:
        return _unasked(name, "--metrics-url")
    if not isinstance(seen.metrics, str):
        return Hop(
            name=name, is_ok=False, text=f"no answer: {_error(seen.metrics)}",
            fix="is the pod running and ready? kubectl port-forward POD 8002, then try again",
        )  # fmt: skip
    missing = [metric for metric in FRONT_METRICS if not re.search(rf"^{metric}(?:\{{| )", seen.metrics, re.MULTILINE)]
    if not missing:
        return Hop(name=name, is_ok=True, text="the front model's series are there")
    if "nv_inference_" in seen.metrics:
        text, fix = (
            f"Triton answers, but {missing[0]} is missing",
            "serve the repository that trtbuild wrote (its front model exports it)",
        )
    else:
        text, fix = "this is not a Triton metrics endpoint", "the metrics port is 8002 by default (metrics_port)"
    return Hop(name=name, is_ok=False, text=text, fix=fix)


def _target(seen: Evidence) -> Hop:
    name = "scrape target"
    if seen.targets is None:
        return _unasked(name, "--prometheus")
    problem = _error(seen.targets)
    if problem:
        return Hop(name=name, is_ok=False, text=f"Prometheus does not answer: {problem}", fix="check --prometheus URL")
    data = seen.targets.get("data", {})
    ours = [t for t in data.get("activeTargets", []) if _is_ours(t.get("labels", {}), seen)]
    if not ours:
        dropped = [t for t in data.get("droppedTargets", []) if seen.namespace in str(t.get("discoveredLabels", {}))]
        if dropped:
            text = f"{len(dropped)} targets of namespace {seen.namespace} were discovered and dropped by relabeling"
            return Hop(name=name, is_ok=False, text=text, fix="compare the PodMonitor's selector with the pods' labels")
        return Hop(
            name=name, is_ok=False, text=f"Prometheus scrapes no pod of namespace {seen.namespace} with a sku label",
            fix="the PodMonitor's labels must match Prometheus's podMonitorSelector (kube-prometheus-stack: "
            "release=NAME; set monitoring labels in the chart, or podMonitorSelectorNilUsesHelmValues=false)",
        )  # fmt: skip
    down = [t for t in ours if t.get("health") != "up"]
    if down:
        text = f"{len(down)} of {len(ours)} targets are {down[0].get('health')}: {down[0].get('lastError')}"
        return Hop(name=name, is_ok=False, text=text, fix="is the metrics port open to Prometheus (NetworkPolicy)?")
    return Hop(name=name, is_ok=True, text=f"{len(ours)} targets are up")


def _is_ours(labels: Mapping[str, Any], seen: Evidence) -> bool:
    return labels.get("namespace") == seen.namespace and bool(labels.get("sku"))


def _rule(seen: Evidence) -> Hop:
    name = "recording rule"
    if seen.rules is None:
        return _unasked(name, "--prometheus")
    groups = seen.rules.get("data", {}).get("groups", [])
    rules = [rule for group in groups for rule in group.get("rules", []) if rule.get("type") == "recording"]
    own = [rule for rule in rules if rule.get("name") == seen.metric]
    if not own:
        names = sorted({str(rule.get("name")) for rule in rules})
        near = difflib.get_close_matches(seen.metric, names, n=1)
        hint = f" (there is {near[0]})" if near else ""
        return Hop(
            name=name, is_ok=False, text=f"no rule records {seen.metric}{hint}",
            fix="the PrometheusRule's labels must match Prometheus's ruleSelector; kubectl get prometheusrule",
        )  # fmt: skip
    failing = [rule for rule in own if rule.get("health") not in {"ok", "unknown"}]
    if failing:
        return Hop(
            name=name,
            is_ok=False,
            text=f"the rule fails: {failing[0].get('lastError')}",
            fix="upgrade the chart's rules",
        )
    return Hop(name=name, is_ok=True, text=f"{seen.metric} is recorded")


def _series(seen: Evidence) -> Hop:
    name = "recorded series"
    if seen.series is None:
        return _unasked(name, "--prometheus")
    results = seen.series.get("data", {}).get("result", [])
    found = {
        str(item["metric"].get("pod")) for item in results if item.get("metric", {}).get("namespace") == seen.namespace
    }
    if not found:
        return Hop(
            name=name, is_ok=False, text=f"{seen.metric} has no sample for namespace {seen.namespace}",
            fix="the rule's selector (release, namespace) must match the targets' labels; query its parts one by one",
        )  # fmt: skip
    return _compare_pods(name, found, seen, "a lost scrape, or a pod that is not scraped: look at its target")


def _compare_pods(name: str, found: set[str], seen: Evidence, fix: str) -> Hop:
    missing, stale = sorted(set(seen.pods) - found), sorted(found - set(seen.pods)) if seen.pods else []
    if missing:
        return Hop(name=name, is_ok=False, text=f"no value for {len(missing)} ready pods, e.g. {missing[0]}", fix=fix)
    if stale:
        text = f"values of {len(stale)} pods that are gone, e.g. {stale[0]}"
        return Hop(name=name, is_ok=False, text=text, fix="wait five minutes (Prometheus's staleness), then look again")
    return Hop(name=name, is_ok=True, text=f"values for {len(found)} pods")


def _custom_metrics(seen: Evidence) -> Hop:
    name = "custom metrics API"
    if seen.hpa is not None and _metric_of(seen.hpa)[0] == "External":
        return Hop(name=name, is_ok=True, text="not needed: the autoscaler reads an external metric (KEDA)")
    if seen.custom_metrics is None:
        return _unasked(name, "kubectl, or --from")
    problem = _error(seen.custom_metrics)
    if problem and re.search(r"could not find the requested resource|no matches|unable to handle", problem):
        return Hop(
            name=name, is_ok=False, text=f"nothing serves custom.metrics.k8s.io: {problem}",
            fix="install prometheus-adapter with chart/monitoring's values, or use autoscaling.type=keda",
        )  # fmt: skip
    if problem:
        return Hop(
            name=name, is_ok=False, text=f"the adapter does not serve {seen.metric}: {problem}",
            fix="its rules must name the recorded series; --metrics-max-age must exceed the scrape interval",
        )  # fmt: skip
    items = seen.custom_metrics.get("items", [])
    if not items:
        return Hop(
            name=name, is_ok=False, text=f"{seen.metric} is served, but for no pod", fix="wait for the adapter's relist"
        )
    found = {str(item.get("describedObject", {}).get("name")) for item in items}
    return _compare_pods(name, found, seen, "the adapter's query loses pods: compare it with chart/monitoring's values")


def _metric_of(hpa: Mapping[str, Any]) -> tuple[str, str]:
    """Return type and name of the first metric that an autoscaler follows."""
    for metric in hpa.get("spec", {}).get("metrics", []):
        kind = str(metric.get("type"))
        body = metric.get(kind[:1].lower() + kind[1:], {})
        return kind, str(body.get("metric", {}).get("name") or body.get("name"))
    return "none", "none"


def _autoscaler(seen: Evidence) -> Hop:
    name = "autoscaler"
    if seen.hpa is None:
        return _unasked(name, "kubectl, or --from")
    problem = _error(seen.hpa)
    if problem:
        return Hop(
            name=name, is_ok=False, text=f"not found: {problem}", fix="autoscaling.enabled=true? kubectl get hpa"
        )
    kind, followed = _metric_of(seen.hpa)
    if kind == "Pods" and followed != seen.metric:
        return Hop(
            name=name, is_ok=False, text=f"it follows {followed}, not {seen.metric}",
            fix="set autoscaling.metric, or pass --metric to check the other one",
        )  # fmt: skip
    status = seen.hpa.get("status", {})
    for condition in status.get("conditions", []):
        if condition.get("type") in {"ScalingActive", "AbleToScale"} and condition.get("status") == "False":
            text = f"{condition.get('type')} is False: {condition.get('reason')}: {condition.get('message')}"
            return Hop(name=name, is_ok=False, text=text, fix="kubectl describe hpa shows the events")
    current = [m for m in status.get("currentMetrics") or [] if m]
    if not current:
        return Hop(
            name=name, is_ok=False, text="its target is <unknown>: it has read no value yet",
            fix="it reads every 15 s; a value that stays unknown means the hop before lost it",
        )  # fmt: skip
    replicas = f"{status.get('currentReplicas')} replicas, {status.get('desiredReplicas')} desired"
    return Hop(name=name, is_ok=True, text=f"{replicas}, following {followed}")

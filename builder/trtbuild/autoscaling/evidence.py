"""From a server's metrics to a replica count: which hop of that path is broken first, and how to mend it. Pure.

It decides what a working hop looks like, from the documents that each hop can show of itself, and which documents to
ask for. It does not fetch them: the command line does, from live addresses, ``kubectl`` or saved files. A hop whose
document could not be had is not known; it is never called broken.

Source of the documents: Prometheus HTTP API v1 (``/targets``, ``/rules``, ``/query``); Kubernetes custom, external and
resource metrics APIs v1beta1 (``MetricValueList``, ``ExternalMetricValueList``, ``PodMetricsList``);
``autoscaling/v2`` HorizontalPodAutoscaler; ``keda.sh/v1alpha1`` ScaledObject.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

FRONT_METRICS = ("trtbuild_requests_waiting", "trtbuild_requests_running", "trtbuild_request_slots")
DEFAULT_METRIC = "triton:demand:ratio"
POD_LABELS = {"release": "app.kubernetes.io/instance", "sku": "trtbuild.dev/sku"}
"""Label of a series: label of the pod that it is taken from."""
RELABELINGS = {
    "namespace": "__meta_kubernetes_namespace",
    "pod": "__meta_kubernetes_pod_name",
    "release": "__meta_kubernetes_pod_label_app_kubernetes_io_instance",
    "sku": "__meta_kubernetes_pod_label_trtbuild_dev_sku",
}
"""Label that a target needs: what Prometheus discovers it as."""
RENAMED = {
    "dcgm_gpu_utilization_percent": 'DCGM_FI_DEV_GPU_UTIL{exported_namespace="@"}',
    "trtllm_kv_cache_used_ratio": 'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",namespace="@"}',
}
"""Metrics that the adapter serves under a name of its own: the series behind them (chart/monitoring); @: namespace."""

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Api:
    """A metrics API of the cluster: its hop's name, where its answer is kept, who serves it, and how to mend that."""

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
DOCUMENTS = (
    "targets", "rules", "series", "custom_metrics", "external_metrics", "resource_metrics", "hpa", "scaled_object",
    "pods",
)  # fmt: skip
"""JSON documents that :class:`Evidence` holds; ``--from`` reads ``NAME.json``."""


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
        object.__setattr__(self, "signal", _signal(self))
        own = {"namespace": self.namespace} | own_labels(self.hpa)
        object.__setattr__(self, "fleet", _fleet(self.pods, own))
        for label in POD_LABELS:
            values = {labels.get(label, "") for labels in self.fleet.labels.values()} if self.fleet else set()
            if label not in own and len(values) == 1 and any(values):
                own[label] = values.pop()
        object.__setattr__(self, "scope", own)


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One hop of the path.

    Attributes:
        name: What it is.
        is_ok: It works; None when that is not known.
        text: What was seen.
        fix: What to do when it does not work, or when it should be known and is not.
    """

    name: str
    is_ok: bool | None
    text: str
    fix: str = ""


def walk(evidence: Evidence) -> tuple[Hop, ...]:
    """Return every hop up to and including the first broken one; what comes after it cannot be judged."""
    hops: list[Hop] = []
    for look in (_pods, _endpoint, _target, _rule, _series, _scaled_object, _metrics_api, _autoscaler):
        hop = look(evidence)
        if hop:
            hops.append(hop)
            if hop.is_ok is False:
                break
    return tuple(hops)


def own_labels(document: Document | None) -> dict[str, str]:
    """Return release and sku of an object of the chart, where its labels tell them."""
    labels = (document or {}).get("metadata", {}).get("labels") or {}
    return {label: str(labels[key]) for label, key in POD_LABELS.items() if labels.get(key)}


def scaled_object_of(hpa: Document) -> str | None:
    """Return the name of the ScaledObject whose autoscaler this is."""
    owners = hpa.get("metadata", {}).get("ownerReferences") or []
    return next((str(owner.get("name")) for owner in owners if owner.get("kind") == "ScaledObject"), None)


def is_missing(document: Document | None) -> bool:
    """Return whether the cluster answered that there is no such object, or no such kind of object."""
    problem = _error(document or {}) or ""
    return bool(re.search(r"not found|could not find the requested resource|doesn't have a resource type", problem))


def _error(document: Document) -> str | None:
    """Return what a document says went wrong, in kubectl's words: ours, Prometheus's or a Kubernetes Status."""
    if document.get("kind") == "Status":
        return f"Error from server ({document.get('reason') or 'Failure'}): {document.get('message')}"
    if document.get("status") == "error" or "error" in document:
        return ": ".join(str(document[key]) for key in ("errorType", "error") if document.get(key)) or "failure"
    return None


def _unasked(name: str, how: str) -> Hop:
    return Hop(name=name, is_ok=None, text=f"not asked ({how})")


def _not_needed(name: str, signal: Signal) -> Hop:
    return Hop(name=name, is_ok=None, text=f"not needed: the autoscaler follows {signal.name}")


def _none_ready(name: str) -> Hop:
    return Hop(name=name, is_ok=None, text="no pod is ready, so there is nothing to judge")


def _unknown_prometheus(name: str, document: Document) -> Hop:
    problem = _error(document)
    if document.get("status") == "error":
        return Hop(
            name=name, is_ok=None, text=f"not known: Prometheus answered with an error: {problem}",
            fix="mend what Prometheus says (its log has more), then look again",
        )  # fmt: skip
    return Hop(
        name=name, is_ok=None, text=f"not known: could not ask Prometheus because {problem}",
        fix="is --prometheus right? kubectl -n monitoring port-forward service/prometheus-operated 9090",
    )  # fmt: skip


def _unknown_kubectl(name: str, problem: str) -> Hop:
    if "not on PATH" in problem:
        fix = "install kubectl, or save its answers where it is and pass --from DIRECTORY"
    elif re.search(r"Forbidden|Unauthorized|forbidden", problem):
        fix = "ask for that permission (kubectl auth can-i), or let someone who has it save the answer for --from"
    else:
        fix = "kubectl cluster-info must work first (context, network), or pass saved answers with --from DIRECTORY"
    return Hop(name=name, is_ok=None, text=f"not known: could not ask kubectl because {problem}", fix=fix)


def _fits(labels: Mapping[str, Any], scope: Mapping[str, str]) -> bool:
    """Return whether no label says that this belongs to another namespace, release or SKU."""
    return all(labels.get(label, value) == value for label, value in scope.items())


def _named(names: Iterable[str]) -> str:
    """Return "3 pods, e.g. a"."""
    found = sorted(names)
    return f"pod {found[0]}" if len(found) == 1 else f"{len(found)} pods, e.g. {found[0]}"


def _metric_of(hpa: Document) -> tuple[str, str, str] | None:
    """Return type, name and selector of the first metric that an autoscaler follows."""
    for metric in hpa.get("spec", {}).get("metrics") or []:
        kind = str(metric.get("type"))
        body = metric.get(kind[:1].lower() + kind[1:], {})
        labels = body.get("metric", {}).get("selector", {}).get("matchLabels", {})
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        return kind, str(body.get("metric", {}).get("name") or body.get("name")), selector
    return None


def _signal(seen: Evidence) -> Signal:
    """Return what the autoscaler follows, or ``metric`` where it is given."""
    triggers = (seen.scaled_object or {}).get("spec", {}).get("triggers", [])
    fallback = ("External", "s0-prometheus", "") if triggers else ("Pods", DEFAULT_METRIC, "")
    kind, name, selector = _metric_of(seen.hpa or {}) or fallback
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
    if document is None or _error(document):
        return None
    labels: dict[str, Mapping[str, str]] = {}
    ready: set[str] = set()
    starting: set[str] = set()
    for pod in document.get("items", []):
        name, status = str(pod["metadata"]["name"]), pod.get("status", {})
        found = own_labels(pod)
        component = (pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component", "server")
        if component != "server" or not _fits(found, own):
            continue
        labels[name] = found
        if pod["metadata"].get("deletionTimestamp") or status.get("phase") in {"Failed", "Succeeded"}:
            continue
        is_ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or [])
        (ready if is_ready else starting).add(name)
    return Fleet(labels=labels, ready=frozenset(ready), starting=frozenset(starting))


def _pods(seen: Evidence) -> Hop:
    name = "pods"
    if seen.pods is None:
        return _unasked(name, "--hpa or --selector")
    if seen.fleet is None:
        return _unknown_kubectl(name, _error(seen.pods) or "")
    if seen.fleet.ready:
        return Hop(name=name, is_ok=True, text=str(seen.fleet))
    if seen.fleet.starting:
        return Hop(
            name=name, is_ok=None, text=f"{seen.fleet}: the signal begins with the first ready pod",
            fix=f"wait for it: kubectl -n {seen.namespace} logs {min(seen.fleet.starting)} -c init -f",
        )  # fmt: skip
    return Hop(
        name=name, is_ok=None, text=f"none in namespace {seen.namespace} that the selector finds",
        fix=f"is --selector right? kubectl -n {seen.namespace} get deployments,pods --show-labels",
    )  # fmt: skip


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
            "serve the repository that trtbuild wrote (its front model exports it); without it the chart needs "
            "monitoring.rules.source upstream-ensemble or cpp-gauges, and this hop tells nothing",
        )
    else:
        text, fix = "this is not a Triton metrics endpoint", "the metrics port is 8002 by default (metrics_port)"
    return Hop(name=name, is_ok=False, text=text, fix=fix)


def _target(seen: Evidence) -> Hop:
    name = "scrape target"
    if not seen.signal.is_from_server:
        return _not_needed(name, seen.signal)
    if seen.targets is None:
        return _unasked(name, "--prometheus")
    if _error(seen.targets):
        return _unknown_prometheus(name, seen.targets)
    if seen.fleet and not seen.fleet.ready:
        return _none_ready(name)
    data = seen.targets.get("data", {})
    targets: dict[str, list[Document]] = {}
    for target in data.get("activeTargets") or []:
        who = _who(target)
        if _is_own(who, target, seen):
            targets.setdefault(who["pod"], []).append(target)
    lost = sorted(seen.fleet.ready - targets.keys()) if seen.fleet else []
    if lost or not targets:
        return _unscraped(name, lost, data.get("droppedTargets") or [], seen)
    for pod in sorted(targets):  # scraped twice, one good target is enough
        hops = [_wrong_label(name, pod, t, seen) or _unhealthy(name, pod, t, seen) for t in targets[pod]]
        if hops[0] and all(hops):
            return hops[0]
    starting = f"; {len(seen.fleet.starting)} pods are starting" if seen.fleet and seen.fleet.starting else ""
    return Hop(name=name, is_ok=True, text=f"{len(targets)} targets are up{starting}")


def _who(target: Document) -> dict[str, str]:
    """Return namespace, pod, release and sku behind a target: as discovered, else as labelled."""
    discovered, labels = target.get("discoveredLabels") or {}, target.get("labels") or {}
    found = {label: discovered.get(meta) or labels.get(label) for label, meta in RELABELINGS.items()}
    return {"pod": "?"} | {label: str(value) for label, value in found.items() if value}


def _is_own(who: Mapping[str, str], target: Document, seen: Evidence) -> bool:
    """Return whether a target is the metrics port of a ready pod, or of the SKU where pods are not known."""
    port = (target.get("discoveredLabels") or {}).get("__meta_kubernetes_pod_container_port_name", "metrics")
    if port != "metrics" or who.get("namespace", seen.namespace) != seen.namespace:
        return False
    if seen.fleet:
        return who["pod"] in seen.fleet.ready
    return _fits(who, seen.scope) and ("sku" in who or ("release" in who and "release" in seen.scope))


def _unscraped(name: str, lost: list[str], dropped: Iterable[Document], seen: Evidence) -> Hop:
    """Say that Prometheus has no target for pods, and which scrape configurations drop them."""
    refused = [target for target in dropped if _who(target).get("namespace") == seen.namespace]
    pools = {str(t.get("scrapePool") or t.get("discoveredLabels", {}).get("job")) for t in refused
             if not lost or _who(t)["pod"] in lost}  # fmt: skip
    whom = _named(lost) if lost else f"any pod of {', '.join(f'{k} {v}' for k, v in seen.scope.items())}"
    text = f"Prometheus scrapes no metrics port of {whom}"
    if pools:
        return Hop(
            name=name, is_ok=False, text=f"{text}: discovered, but dropped by relabeling of {', '.join(sorted(pools))}",
            fix="if the release's PodMonitor is among those, compare its selector with the pods' labels; if not, its "
            "own labels must match Prometheus's podMonitorSelector (monitoring.labels in the chart)",
        )  # fmt: skip
    return Hop(
        name=name, is_ok=False, text=text,
        fix="the PodMonitor's labels must match Prometheus's podMonitorSelector (kube-prometheus-stack: release=NAME; "
        "set monitoring.labels in the chart, or podMonitorSelectorNilUsesHelmValues=false)",
    )  # fmt: skip


def _wrong_label(name: str, pod: str, target: Document, seen: Evidence) -> Hop | None:
    """Say which label of a target is missing or not its pod's; rules, autoscaler and dashboards select by all four."""
    labels, who = target.get("labels") or {}, _who(target)
    wanted = {**seen.scope, "pod": pod, **(seen.fleet.labels.get(pod, {}) if seen.fleet else {})}
    for label, meta in RELABELINGS.items():
        expected = wanted.get(label) or who.get(label)
        value = labels.get(label)
        if value and value == (expected or value):
            continue
        has = f"has {label}={value}" if value else f"lacks the label {label}"
        return Hop(
            name=name, is_ok=False,
            text=f"wrong label: the target of pod {pod} {has}{f', expected {expected}' if expected else ''}",
            fix=f"relabelings of its PodMonitor or scrape job need {{sourceLabels: [{meta}], targetLabel: {label}}}, "
            "as the chart's PodMonitor has",
        )  # fmt: skip
    return None


def _unhealthy(name: str, pod: str, target: Document, seen: Evidence) -> Hop | None:
    health, problem = target.get("health"), str(target.get("lastError") or "no error given")
    if health == "up":
        return None
    if health != "down":
        return Hop(
            name=name, is_ok=None, text=f"not known: the target of pod {pod} has not been scraped yet",
            fix="look again after a scrape interval",
        )  # fmt: skip
    if seen.fleet is None:
        return Hop(
            name=name, is_ok=None, text=f"not known: the target of pod {pod} is down ({problem}), which is right for a "
            "pod that is still starting",
            fix="pass --hpa or --selector, so that the pods are looked at",
        )  # fmt: skip
    fix = "is the metrics port open to Prometheus? networkPolicy.monitoringNamespace must name its namespace"
    if "refused" in problem:
        fix = f"nothing listens on that port: kubectl -n {seen.namespace} logs {pod} -c server"
    return Hop(name=name, is_ok=False, text=f"the target of pod {pod}, which is ready, is down: {problem}", fix=fix)


def _rule(seen: Evidence) -> Hop:
    name = "recording rule"
    if not seen.signal.recorded:
        return _not_needed(name, seen.signal)
    if seen.rules is None:
        return _unasked(name, "--prometheus")
    if _error(seen.rules):
        return _unknown_prometheus(name, seen.rules)
    groups = seen.rules.get("data", {}).get("groups", [])
    rules = [rule for group in groups for rule in group.get("rules", []) if rule.get("type") == "recording"]
    for metric in seen.signal.recorded:
        same = [rule for rule in rules if rule.get("name") == metric]
        own = [rule for rule in same if _is_for(str(rule.get("query", "")), seen.scope)]
        if not own:
            near = difflib.get_close_matches(metric, sorted({str(rule.get("name")) for rule in rules}), n=1)
            hint = " (there is one for another release)" if same else f" (there is {near[0]})" if near else ""
            return Hop(
                name=name, is_ok=False, text=f"no rule records {metric}{hint}",
                fix=f"the PrometheusRule's labels must match Prometheus's ruleSelector; "
                f"kubectl -n {seen.namespace} get prometheusrule --show-labels",
            )  # fmt: skip
        failing = [rule for rule in own if rule.get("health", "ok") not in {"ok", "unknown"}]
        if failing:
            text = f"the rule of {metric} fails: {failing[0].get('lastError')}"
            return Hop(name=name, is_ok=False, text=text, fix="upgrade the chart's rules")
    return Hop(name=name, is_ok=True, text=f"{', '.join(seen.signal.recorded)}: recorded")


def _is_for(query: str, scope: Mapping[str, str]) -> bool:
    """Return whether a rule's selectors do not name another namespace or release."""
    for label in ("namespace", "release"):
        named = re.findall(rf'\b{label}="([^"]*)"', query)
        if named and scope.get(label, named[0]) not in named:
            return False
    return True


def _series(seen: Evidence) -> Hop:
    name, signal = "recorded series", seen.signal
    if signal.kind in {"Resource", "ContainerResource"}:
        return _not_needed(name, signal)
    if seen.series is None:
        return _unasked(name, "--prometheus")
    if _error(seen.series):
        return _unknown_prometheus(name, seen.series)
    if seen.fleet and not seen.fleet.ready:
        return _none_ready(name)
    results = seen.series.get("data", {}).get("result", [])
    if signal.kind == "External":
        if results:
            return Hop(name=name, is_ok=True, text=f"the ScaledObject's query gives {len(results)} value(s)")
        return Hop(
            name=name, is_ok=False, text=f"the ScaledObject's query has no sample: {signal.query}",
            fix="its namespace, release and sku must be those of the series; query its parts one by one",
        )  # fmt: skip
    # DCGM's own pod labels arrive as exported_*; its plain ones are the exporter's.
    prefix = "exported_" if "exported_" in signal.query else ""
    found = [
        {
            label.removeprefix(prefix): value
            for label, value in item.get("metric", {}).items()
            if label.startswith(prefix)
        }
        for item in results
    ]
    own = [labels for labels in found if _fits(labels, seen.scope)]
    if not own:
        return Hop(
            name=name, is_ok=False,
            text=f"{signal.query} has no sample of {', '.join(f'{k} {v}' for k, v in seen.scope.items())}",
            fix="the rule's selector (release, namespace) must match the targets' labels; query its parts one by one",
        )  # fmt: skip
    # A series that does not say whose it is may be a stranger's.
    surely = [labels for labels in own if "release" in seen.scope and seen.scope.items() <= labels.items()]
    stale = {str(labels.get("pod")) for labels in surely} - seen.fleet.labels.keys() if seen.fleet else set()
    hop = _missing(name, {str(labels.get("pod")) for labels in own}, seen)
    if hop.is_ok and stale:
        return Hop(
            name=name, is_ok=False, text=f"values of {_named(stale)}: gone from the cluster",
            fix="a pod that has just gone stays for some minutes: look again; then, who else scrapes or sends it?",
        )  # fmt: skip
    return hop


def _missing(name: str, found: set[str], seen: Evidence) -> Hop:
    """Say whether every ready pod has a value; pods that start need none, pods that leave may have one."""
    lost = seen.fleet.ready - found if seen.fleet else frozenset()
    if lost:
        return Hop(
            name=name, is_ok=False, text=f"no value for {_named(lost)} (ready)",
            fix="ready within the last minute: look again; else what the hop before has of that pod is lost here",
        )  # fmt: skip
    count = len(seen.fleet.ready) if seen.fleet else len(found)
    return Hop(name=name, is_ok=True, text=f"values for {count} pods")


def _scaled_object(seen: Evidence) -> Hop | None:
    """Judge KEDA's own object; no hop where KEDA is not used."""
    name, document = "ScaledObject", seen.scaled_object
    if document is None or (is_missing(document) and is_missing(seen.hpa)):
        return None
    problem = _error(document)
    if problem and not is_missing(document):
        return _unknown_kubectl(name, problem)
    if problem:
        return Hop(name=name, is_ok=False, text=f"gone: {problem}", fix="helm upgrade, with KEDA installed")
    conditions = {c.get("type"): c for c in document.get("status", {}).get("conditions") or []}
    for kind, bad, fix in (
        ("Paused", "True", "remove its annotation autoscaling.keda.sh/paused or paused-replicas"),
        ("Ready", "False", f"kubectl -n {seen.namespace} describe scaledobject; {APIS['External'].look}"),
        ("Fallback", "True", f"KEDA cannot read the metric: {APIS['External'].look}"),
    ):
        condition = conditions.get(kind, {})
        if condition.get("status") == bad:
            text = f"{kind} is {bad}: {condition.get('reason')}: {condition.get('message')}"
            return Hop(name=name, is_ok=False, text=text, fix=fix)
    if conditions.get("Ready", {}).get("status") != "True":
        return Hop(
            name=name, is_ok=False, text="KEDA has not looked at it: it has no condition Ready",
            fix="is KEDA's operator running? kubectl -n keda get pods",
        )  # fmt: skip
    return Hop(name=name, is_ok=True, text="ready")


def _metrics_api(seen: Evidence) -> Hop:
    api = APIS.get(seen.signal.kind)
    if api is None:
        return Hop(name="metrics API", is_ok=None, text=f"metrics of type {seen.signal.kind} are not looked at")
    name, document = api.name, getattr(seen, api.document)
    if seen.hpa is not None and _error(seen.hpa) and not is_missing(seen.hpa):
        return Hop(name=name, is_ok=None, text="not asked: which one the autoscaler reads is not known")
    if document is None:
        return _unasked(name, f"--hpa, or {api.document}.json in --from")
    problem = _error(document)
    if problem:
        return _api_problem(api, problem, seen.signal.name)
    if seen.fleet and not seen.fleet.ready:
        return _none_ready(name)
    items = document.get("items", [])
    if not items:
        return Hop(
            name=name, is_ok=False, text=f"{seen.signal.name} is served, but without a value",
            fix=f"wait for {api.server}'s next look; {api.look}",
        )  # fmt: skip
    if seen.signal.kind == "External":
        return Hop(name=name, is_ok=True, text=f"{seen.signal.name} is {items[0].get('value')}")
    return _missing(name, {str((i.get("describedObject") or i.get("metadata") or {}).get("name")) for i in items}, seen)


def _api_problem(api: Api, problem: str, metric: str) -> Hop:
    """Tell an API that nobody serves, a server that is down, one without the metric, and a cluster not asked at all."""
    if "could not find the requested resource" in problem:
        return Hop(name=api.name, is_ok=False, text=f"nothing serves {api.group}: {problem}", fix=api.install)
    if re.search(r"unable to handle the request|ServiceUnavailable|service unavailable", problem):
        return Hop(
            name=api.name, is_ok=False, text=f"{api.server} is registered for {api.group}, but down: {problem}",
            fix=f"kubectl describe apiservice v1beta1.{api.group}; {api.look}",
        )  # fmt: skip
    refused = re.search(r"\((Forbidden|Unauthorized|\w*Timeout|TooManyRequests)\)", problem)
    if refused or not problem.startswith("Error from server"):
        return _unknown_kubectl(api.name, problem)
    fix = api.look
    if "could not find the metric" in problem:
        fix = "its rules must name that series; --metrics-max-age must exceed the scrape interval (chart/monitoring)"
    return Hop(name=api.name, is_ok=False, text=f"{api.server} does not serve {metric}: {problem}", fix=fix)


def _autoscaler(seen: Evidence) -> Hop:
    name = "autoscaler"
    if seen.hpa is None:
        return _unasked(name, "--hpa, or hpa.json in --from")
    problem = _error(seen.hpa)
    if problem and not is_missing(seen.hpa):
        return _unknown_kubectl(name, problem)
    if problem:
        fix = f"autoscaling.enabled=true? kubectl -n {seen.namespace} get hpa"
        return Hop(name=name, is_ok=False, text=f"not found: {problem}", fix=fix)
    kind, followed, _ = _metric_of(seen.hpa) or ("", "no metric", "")
    if kind == "Pods" and followed != seen.signal.name:
        return Hop(
            name=name, is_ok=False, text=f"it follows {followed}, not {seen.signal.name}",
            fix="set autoscaling.metric, or leave --metric out to check the one it follows",
        )  # fmt: skip
    status = seen.hpa.get("status", {})
    replicas = f"{status.get('currentReplicas')} replicas, {status.get('desiredReplicas')} desired"
    if seen.fleet and not seen.fleet.ready:
        return Hop(name=name, is_ok=None, text=f"{replicas}; no pod is ready, so it has nothing to follow")
    for condition in status.get("conditions") or []:
        if condition.get("type") in {"ScalingActive", "AbleToScale"} and condition.get("status") == "False":
            text = f"{condition.get('type')} is False: {condition.get('reason')}: {condition.get('message')}"
            fix = f"kubectl -n {seen.namespace} describe hpa shows the events"
            return Hop(name=name, is_ok=False, text=text, fix=fix)
    if not [metric for metric in status.get("currentMetrics") or [] if metric]:
        return Hop(
            name=name, is_ok=False, text="its target is <unknown>: it has read no value yet",
            fix="it reads every 15 s; a value that stays unknown means the hop before lost it",
        )  # fmt: skip
    return Hop(name=name, is_ok=True, text=f"{replicas}, following {followed}")

"""The hops up to Prometheus: is the metric exported, scraped, recorded, and there for every ready pod? Pure."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping

from trtbuild.autoscaling.evidence import Evidence, belongs_to
from trtbuild.autoscaling.hops import (
    Hop,
    judge_coverage,
    name_some,
    none_ready,
    not_asked,
    not_needed,
    unknown_prometheus,
)
from trtbuild.autoscaling.signal import Document, error_of

FRONT_METRICS = ("trtbuild_requests_waiting", "trtbuild_requests_running", "trtbuild_request_slots")

RELABELINGS = {
    "namespace": "__meta_kubernetes_namespace",
    "pod": "__meta_kubernetes_pod_name",
    "release": "__meta_kubernetes_pod_label_app_kubernetes_io_instance",
    "sku": "__meta_kubernetes_pod_label_trtbuild_dev_sku",
}
"""Label that a target needs: what Prometheus discovers it as."""


def judge_endpoint(seen: Evidence) -> Hop:
    """Judge a server's metrics endpoint: does it export the front model's series?"""
    name = "metrics endpoint"
    if seen.metrics is None:
        return not_asked(name, "--metrics-url")
    if not isinstance(seen.metrics, str):
        return Hop(
            name=name, is_ok=False, text=f"no answer: {error_of(seen.metrics)}",
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


def judge_target(seen: Evidence) -> Hop:
    """Judge Prometheus's targets: is every ready pod scraped, with the labels that rules select by?"""
    name = "scrape target"
    if not seen.signal.is_from_server:
        return not_needed(name, seen.signal)
    if seen.targets is None:
        return not_asked(name, "--prometheus")
    if error_of(seen.targets):
        return unknown_prometheus(name, seen.targets)
    if seen.fleet and not seen.fleet.ready:
        return none_ready(name)
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
    return belongs_to(who, seen.scope) and ("sku" in who or ("release" in who and "release" in seen.scope))


def _unscraped(name: str, lost: list[str], dropped: Iterable[Document], seen: Evidence) -> Hop:
    """Say that Prometheus has no target for pods, and which scrape configurations drop them."""
    refused = [target for target in dropped if _who(target).get("namespace") == seen.namespace]
    pools = {str(t.get("scrapePool") or t.get("discoveredLabels", {}).get("job")) for t in refused
             if not lost or _who(t)["pod"] in lost}  # fmt: skip
    whom = name_some(lost) if lost else f"any pod of {', '.join(f'{k} {v}' for k, v in seen.scope.items())}"
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


def judge_rule(seen: Evidence) -> Hop:
    """Judge whether a rule records every series that the signal's query reads."""
    name = "recording rule"
    if not seen.signal.recorded:
        return not_needed(name, seen.signal)
    if seen.rules is None:
        return not_asked(name, "--prometheus")
    if error_of(seen.rules):
        return unknown_prometheus(name, seen.rules)
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


def _sample(item: Document) -> str:
    """Return the value of one series of an instant query, as Prometheus writes it: ``[time, "1.5"]``."""
    pair = item.get("value")
    return str(pair[1]) if isinstance(pair, list) and len(pair) == 2 else "no value"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def judge_series(seen: Evidence) -> Hop:
    """Judge whether the signal's query gives a value for every ready pod."""
    name, signal = "recorded series", seen.signal
    if signal.kind in {"Resource", "ContainerResource"}:
        return not_needed(name, signal)
    if seen.series is None:
        return not_asked(name, "--prometheus")
    if error_of(seen.series):
        return unknown_prometheus(name, seen.series)
    if seen.fleet and not seen.fleet.ready:
        return none_ready(name)
    results = seen.series.get("data", {}).get("result", [])
    if unusable := sorted({value for item in results if not math.isfinite(_number(value := _sample(item)))}):
        return Hop(
            name=name, is_ok=False, text=f"{signal.query} gives {', '.join(unusable)}, which no autoscaler can compare",
            fix="a division by zero or a missing operand: query the rule's parts one by one; the chart's rules never "
            "divide by 0",
        )  # fmt: skip
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
    own = [labels for labels in found if belongs_to(labels, seen.scope)]
    if not own:
        return Hop(
            name=name, is_ok=False,
            text=f"{signal.query} has no sample of {', '.join(f'{k} {v}' for k, v in seen.scope.items())}",
            fix="the rule's selector (release, namespace) must match the targets' labels; query its parts one by one",
        )  # fmt: skip
    # A series without these labels may belong to another release.
    surely = [labels for labels in own if "release" in seen.scope and seen.scope.items() <= labels.items()]
    stale = {str(labels.get("pod")) for labels in surely} - seen.fleet.labels.keys() if seen.fleet else set()
    hop = judge_coverage(name, {str(labels.get("pod")) for labels in own}, seen)
    if hop.is_ok and stale:
        return Hop(
            name=name, is_ok=False, text=f"values of {name_some(stale)}: gone from the cluster",
            fix="a pod that has just gone stays for some minutes: look again; then, who else scrapes or sends it?",
        )  # fmt: skip
    return hop

"""The hops of the cluster: pods, KEDA's ScaledObject, the metrics API, the autoscaler itself. Pure."""

from __future__ import annotations

import re

from trtbuild.autoscaling.evidence import Evidence
from trtbuild.autoscaling.hops import Hop, judge_coverage, none_ready, not_asked, unknown_kubectl
from trtbuild.autoscaling.signal import APIS, Api, error_of, followed_metric, is_missing


def judge_pods(seen: Evidence) -> Hop:
    """Judge whether there are servers at all, and whether one is ready."""
    name = "pods"
    if seen.pods is None:
        return not_asked(name, "--hpa or --selector")
    if seen.fleet is None:
        return unknown_kubectl(name, error_of(seen.pods) or "")
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


def judge_scaled_object(seen: Evidence) -> Hop | None:
    """Judge KEDA's own object; no hop where KEDA is not used."""
    name, document = "ScaledObject", seen.scaled_object
    if document is None or (is_missing(document) and is_missing(seen.hpa)):
        return None
    problem = error_of(document)
    if problem and not is_missing(document):
        return unknown_kubectl(name, problem)
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


def judge_metrics_api(seen: Evidence) -> Hop:
    """Judge the metrics API that the autoscaler reads: served, up, and with a value for every ready pod."""
    api = APIS.get(seen.signal.kind)
    if api is None:
        return Hop(name="metrics API", is_ok=None, text=f"metrics of type {seen.signal.kind} are not looked at")
    name, document = api.name, getattr(seen, api.document)
    if seen.hpa is not None and error_of(seen.hpa) and not is_missing(seen.hpa):
        return Hop(name=name, is_ok=None, text="not asked: which one the autoscaler reads is not known")
    if document is None:
        return not_asked(name, f"--hpa, or {api.document}.json in --from")
    problem = error_of(document)
    if problem:
        return _api_problem(api, problem, seen.signal.name)
    if seen.fleet and not seen.fleet.ready:
        return none_ready(name)
    items = document.get("items", [])
    if not items:
        return Hop(
            name=name, is_ok=False, text=f"{seen.signal.name} is served, but without a value",
            fix=f"wait for {api.server}'s next look; {api.look}",
        )  # fmt: skip
    if seen.signal.kind == "External":
        return Hop(name=name, is_ok=True, text=f"{seen.signal.name} is {items[0].get('value')}")
    return judge_coverage(
        name, {str((i.get("describedObject") or i.get("metadata") or {}).get("name")) for i in items}, seen
    )


def _api_problem(api: Api, problem: str, metric: str) -> Hop:
    """Distinguish an API that is not served, a server that is down, one without the metric, and no cluster."""
    if "could not find the requested resource" in problem:
        return Hop(name=api.name, is_ok=False, text=f"nothing serves {api.group}: {problem}", fix=api.install)
    if re.search(r"unable to handle the request|ServiceUnavailable|service unavailable", problem):
        return Hop(
            name=api.name, is_ok=False, text=f"{api.server} is registered for {api.group}, but down: {problem}",
            fix=f"kubectl describe apiservice v1beta1.{api.group}; {api.look}",
        )  # fmt: skip
    refused = re.search(r"\((Forbidden|Unauthorized|\w*Timeout|TooManyRequests)\)", problem)
    if refused or not problem.startswith("Error from server"):
        return unknown_kubectl(api.name, problem)
    fix = api.look
    if "could not find the metric" in problem:
        fix = "its rules must name that series; --metrics-max-age must exceed the scrape interval (chart/monitoring)"
    return Hop(name=api.name, is_ok=False, text=f"{api.server} does not serve {metric}: {problem}", fix=fix)


def judge_autoscaler(seen: Evidence) -> Hop:
    """Judge the HorizontalPodAutoscaler itself: there, following the metric, able to scale."""
    name = "autoscaler"
    if seen.hpa is None:
        return not_asked(name, "--hpa, or hpa.json in --from")
    problem = error_of(seen.hpa)
    if problem and not is_missing(seen.hpa):
        return unknown_kubectl(name, problem)
    if problem:
        fix = f"autoscaling.enabled=true? kubectl -n {seen.namespace} get hpa"
        return Hop(name=name, is_ok=False, text=f"not found: {problem}", fix=fix)
    kind, followed, _ = followed_metric(seen.hpa) or ("", "no metric", "")
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

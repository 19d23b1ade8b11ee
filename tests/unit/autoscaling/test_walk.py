"""The first broken hop is named, for every way in which the path is known to break; what was not seen is not blamed."""

from __future__ import annotations

import copy
import json
import re
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from trtbuild.autoscaling.evidence import APIS, FRONT_METRICS, RELABELINGS, RENAMED, Evidence, Hop, walk
from trtbuild.cli import run

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


def judge(**changes: Any) -> tuple[Hop, ...]:
    return walk(Evidence(**good() | changes))


def named(hops: tuple[Hop, ...], name: str) -> Hop:
    [found] = [hop for hop in hops if hop.name == name]
    return found


def test_a_working_path_has_seven_working_hops() -> None:
    hops = judge()
    assert [hop.is_ok for hop in hops] == [True] * 7
    assert hops[-1].text == f"1 replicas, 1 desired, following {METRIC}"


BREAKS: dict[str, tuple[Json, str, str, str]] = {
    "server-down": ({"metrics": {"error": "refused"}}, "metrics endpoint", "no answer: refused", "port-forward"),
    "no-front-model": ({"metrics": "nv_inference_count 1\n"}, "metrics endpoint", "but trtbuild_requests_waiting",
                       "repository"),
    "wrong-port": ({"metrics": "go_goroutines 1\n"}, "metrics endpoint", "not a Triton metrics endpoint", "8002"),
    "not-scraped": ({"targets": active()}, "scrape target", "scrapes no metrics port of pod a", "podMonitorSelector"),
    "not-scraped-unlisted": (
        {"targets": active(), "pods": None}, "scrape target", "of any pod of namespace llm, release llama, sku h100",
        "podMonitorSelector",
    ),
    "one-not-scraped": (
        {"pods": pods(pod("a"), pod("b"))}, "scrape target", "scrapes no metrics port of pod b", "podMonitorSelector",
    ),
    "dropped": (
        {"targets": {"data": {"activeTargets": [], "droppedTargets": [target("a")]}}}, "scrape target",
        "dropped by relabeling of podMonitor/llm/llama-trtbuild/0", "compare its selector with the pods' labels",
    ),
    "label-missing": (
        {"targets": active(target("a", sku=None))}, "scrape target",
        "wrong label: the target of pod a lacks the label sku, expected h100",
        "{sourceLabels: [__meta_kubernetes_pod_label_trtbuild_dev_sku], targetLabel: sku}",
    ),
    "label-missing-in-a-plain-document": (
        {"targets": active({"labels": {"namespace": "llm", "pod": "a"}, "health": "up"})}, "scrape target",
        "the target of pod a lacks the label release, expected llama", "targetLabel: release",
    ),
    "label-wrong": (
        {"targets": active(target("a", release="kube-prometheus-stack"))}, "scrape target",
        "the target of pod a has release=kube-prometheus-stack, expected llama",
        "{sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_instance], targetLabel: release}",
    ),
    "label-namespace-missing": (
        {"targets": active(target("a", namespace=None))}, "scrape target", "lacks the label namespace, expected llm",
        "[__meta_kubernetes_namespace]",
    ),
    "label-missing-unlisted-pods": (
        {"targets": active(target("a", sku=None)), "pods": None}, "scrape target", "lacks the label sku, expected h100",
        "targetLabel: sku",
    ),
    "target-down": (
        {"targets": active(target("a", "down", "context deadline exceeded"))}, "scrape target",
        "pod a, which is ready, is down: context deadline exceeded", "networkPolicy.monitoringNamespace",
    ),
    "target-refuses": (
        {"targets": active(target("a", "down", "connect: connection refused"))}, "scrape target", "connection refused",
        "nothing listens on that port",
    ),
    "rule-not-loaded": (
        {"rules": rules(rule("triton:demand:ratios"))}, "recording rule",
        "no rule records triton:demand:ratio (there is triton:demand:ratios)", "ruleSelector",
    ),
    "rule-of-another-release": (
        {"rules": rules(rule(release="other"))}, "recording rule", "(there is one for another release)", "ruleSelector",
    ),
    "rule-fails": (
        {"rules": rules(rule(health="err", lastError="many-to-many"))}, "recording rule",
        "the rule of triton:demand:ratio fails: many-to-many", "upgrade the chart's rules",
    ),
    "no-series": ({"series": series()}, "recorded series", "has no sample of namespace llm, release llama", "selector"),
    "series-of-others-only": (
        {"series": series(labels("z", sku="a100"), labels("y", release="other"))}, "recorded series",
        "has no sample of namespace llm, release llama, sku h100", "selector",
    ),
    "pod-without-a-value": (
        {"pods": pods(pod("a"), pod("b")), "targets": active(target("a"), target("b"))}, "recorded series",
        "no value for pod b (ready)", "the hop before",
    ),
    "stale-pods": (
        {"series": series(labels("a"), labels("gone"))}, "recorded series", "values of pod gone: gone from the cluster",
        "look again",
    ),
    "adapter-missing": ({"custom_metrics": {"error": NOT_SERVED}}, "custom metrics API",
                        "nothing serves custom.metrics.k8s.io", "install prometheus-adapter"),
    "adapter-down": ({"custom_metrics": {"error": DOWN}}, "custom metrics API",
                     "the adapter is registered for custom.metrics.k8s.io, but down",
                     "kubectl describe apiservice v1beta1.custom.metrics.k8s.io"),
    "adapter-without-prometheus": (
        {"custom_metrics": {"error": NO_VALUES}},
        "custom metrics API", "the adapter does not serve triton:demand:ratio: Error from server (InternalError)",
        "prometheus.url",
    ),
    "name-mismatch": ({"custom_metrics": {"error": NO_METRIC}}, "custom metrics API",
                      "the adapter does not serve triton:demand:ratio", "its rules must name that series"),
    "name-mismatch-as-a-status": (
        {"custom_metrics": {"kind": "Status", "status": "Failure", "reason": "NotFound",
                            "message": "the server could not find the metric x for pods"}},
        "custom metrics API", "the adapter does not serve triton:demand:ratio", "its rules must name that series",
    ),
    "no-items": ({"custom_metrics": values()}, "custom metrics API", "is served, but without a value", "wait"),
    "adapter-loses-a-pod": (
        {"pods": pods(pod("a"), pod("b")), "targets": active(target("a"), target("b")),
         "series": series(labels("a"), labels("b"))},
        "custom metrics API", "no value for pod b (ready)", "the hop before",
    ),
    "no-hpa": ({"hpa": {"error": NO_HPA}}, "autoscaler", "not found", "autoscaling.enabled"),
    "no-hpa-and-no-keda": (
        {"hpa": {"error": NO_HPA}, "scaled_object": {"error": NOT_SERVED}}, "autoscaler", "not found",
        "autoscaling.enabled",
    ),
    "other-metric": (
        {"hpa": hpa(follows("triton:queue_compute:ratio")), "metric": METRIC}, "autoscaler",
        "it follows triton:queue_compute:ratio, not triton:demand:ratio", "--metric",
    ),
    "target-unknown": ({"hpa": hpa(currentMetrics=None)}, "autoscaler", "<unknown>", "the hop before"),
    "scaling-inactive": (
        {"hpa": hpa(conditions=[{"type": "ScalingActive", "status": "False", "reason": "FailedGetPodsMetric",
                                 "message": "no metrics"}])},
        "autoscaler", "FailedGetPodsMetric: no metrics", "describe hpa",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_the_first_broken_hop_is_named_with_its_fix(name: str) -> None:
    changes, hop_name, text, fix = BREAKS[name]
    hops = judge(**changes)
    assert not [hop for hop in hops[:-1] if hop.is_ok is False]
    assert (hops[-1].name, hops[-1].is_ok) == (hop_name, False)
    assert text in hops[-1].text
    assert fix in hops[-1].fix


OTHER_PORT = target("a", "down")
OTHER_PORT["discoveredLabels"]["__meta_kubernetes_pod_container_port_name"] = "http"
FOREIGN: dict[str, Json] = {
    "second-sku": {
        "targets": active(target("a"), target("z", "down", of_sku="a100")),
        "series": series(labels("a"), labels("z", sku="a100")),
        "custom_metrics": values("a", "z"),
    },
    "second-release": {
        "targets": active(target("a"), target("z", "down", of_release="other")),
        "series": series(labels("a"), labels("z", release="other")),
        "rules": rules(rule(release="other", health="err", lastError="x"), rule()),
        "custom_metrics": values("a", "z"),
    },
    "both-skus-listed": {"pods": pods(pod("a"), pod("z", sku="a100"))},
    "proxies-and-jobs-listed": {"pods": pods(pod("a"), pod("p", component="balancer"), pod("j", component="prewarm"))},
    "draining-pod": {
        "pods": pods(pod("a"), pod("d", deletionTimestamp="2026-01-01T00:00:00Z")),
        "targets": active(target("a"), target("d", "down", "connection refused")),
        "series": series(labels("a"), labels("d")),
        "custom_metrics": values("a", "d"),
    },
    "evicted-pod": {"pods": pods(pod("a"), pod("e", ready=False) | {"status": {"phase": "Failed"}})},
    "series-without-sku": {"series": series(labels("a"), {"namespace": "llm", "release": "llama", "pod": "z"})},
    "other-port-of-the-pod": {"targets": active(target("a"), OTHER_PORT)},
    "scraped-twice": {"targets": active(target("a", sku=None, release=None), target("a"))},
    "stranger-in-the-namespace": {
        "pods": None, "targets": active(target("a"), {"labels": {"namespace": "llm", "pod": "db"}, "health": "down"}),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_this_skus_breaks_nothing(name: str) -> None:
    hops = judge(**FOREIGN[name])
    assert not [hop for hop in hops if hop.is_ok is False]
    assert [hop.is_ok for hop in hops[1:]] == [True] * 6


def test_another_port_of_the_pod_is_not_its_metrics() -> None:
    hops = judge(targets=active(OTHER_PORT))
    assert hops[-1].text == "Prometheus scrapes no metrics port of pod a"


def test_a_selector_of_one_sku_is_enough_without_an_autoscaler() -> None:
    hops = judge(**FOREIGN["second-sku"] | {"hpa": None, "custom_metrics": None})
    assert [hop.is_ok for hop in hops] == [True] * 5 + [None] * 2


def test_a_pod_that_builds_is_starting_and_not_broken() -> None:
    building = {"targets": active(target("a"), target("b", "down", "connect: connection refused"))}
    hops = judge(pods=pods(pod("a"), pod("b", ready=False)), **building)
    assert [hop.is_ok for hop in hops] == [True] * 7
    assert named(hops, "pods").text == "1 ready, 1 starting"
    assert named(hops, "scrape target").text == "1 targets are up; 1 pods are starting"


def test_without_a_ready_pod_there_is_nothing_to_blame() -> None:
    failed = [{"type": "ScalingActive", "status": "False", "reason": "FailedGetPodsMetric", "message": "no metrics"}]
    hops = judge(
        pods=pods(pod("b", ready=False)), targets=active(target("b", "down", "refused")), series=series(),
        custom_metrics=values(), hpa=hpa(conditions=failed, currentMetrics=None),
    )  # fmt: skip
    assert not [hop for hop in hops if hop.is_ok is False]
    assert "logs b -c init" in named(hops, "pods").fix


def test_a_down_target_of_pods_nobody_looked_at_is_not_judged() -> None:
    hop = named(judge(pods=None, targets=active(target("a", "down", "refused"))), "scrape target")
    assert hop.is_ok is None
    assert "--selector" in hop.fix


UNKNOWN: dict[str, tuple[Json, tuple[str, ...], str, str]] = {
    "no-kubectl": (
        {name: {"error": NO_KUBECTL} for name in ("pods", "hpa", "custom_metrics")}, ("pods", "autoscaler"),
        "could not ask kubectl because kubectl is not on PATH", "install kubectl",
    ),
    "api-unreachable": (
        {name: {"error": REFUSED} for name in ("pods", "hpa", "custom_metrics")}, ("pods", "autoscaler"),
        "could not ask kubectl because The connection to the server", "kubectl cluster-info",
    ),
    "forbidden-pods": ({"pods": {"error": FORBIDDEN}}, ("pods",), "Forbidden", "permission"),
    "forbidden-metrics": ({"custom_metrics": {"error": FORBIDDEN}}, ("custom metrics API",), "Forbidden", "permission"),
    "forbidden-as-a-status": (
        {"custom_metrics": {"kind": "Status", "status": "Failure", "reason": "Forbidden", "message": "no"}},
        ("custom metrics API",), "Error from server (Forbidden): no", "permission",
    ),
    "prometheus-unreachable": (
        {name: {"error": "refused"} for name in ("targets", "rules", "series")},
        ("scrape target", "recording rule", "recorded series"), "could not ask Prometheus because refused",
        "--prometheus",
    ),
    "rules-answer-an-error": (
        {"rules": {"status": "error", "errorType": "unavailable", "error": "TSDB not ready"}}, ("recording rule",),
        "Prometheus answered with an error: unavailable: TSDB not ready", "what Prometheus says",
    ),
    "query-answers-an-error": (
        {"series": {"status": "error", "errorType": "timeout", "error": "query timed out"}}, ("recorded series",),
        "Prometheus answered with an error: timeout: query timed out", "what Prometheus says",
    ),
    "not-scraped-yet": (
        {"targets": active(target("a", "unknown"))}, ("scrape target",), "has not been scraped yet", "look again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_could_not_be_asked_is_not_blamed(name: str) -> None:
    changes, hop_names, text, fix = UNKNOWN[name]
    hops = judge(**changes)
    assert not [hop for hop in hops if hop.is_ok is False]
    for hop_name in hop_names:
        hop = named(hops, hop_name)
        assert hop.is_ok is None
        assert hop.text.startswith("not known: ")
        assert text in hop.text
        assert fix in hop.fix


def test_without_the_autoscaler_no_metrics_api_is_judged() -> None:
    """It could be KEDA's; then prometheus-adapter is rightly missing."""
    hop = named(judge(hpa={"error": FORBIDDEN}, custom_metrics={"error": NOT_SERVED}), "custom metrics API")
    assert hop.is_ok is None


@pytest.mark.parametrize(
    ("metric", "needed", "document"),
    [
        ("triton:queue_compute:ratio", 5, {"rules": rules(rule("triton:queue_compute:ratio"))}),
        ("triton:waiting:requests", 5, {"rules": rules(rule("triton:waiting:requests"))}),
        ("trtllm_kv_cache_used_ratio", 4, {"rules": rules(), "series": series({"namespace": "llm", "pod": "a"})}),
        (
            "dcgm_gpu_utilization_percent", 3,
            {"targets": active(), "rules": rules(), "series": series(
                {"namespace": "gpu", "pod": "dcgm", "exported_namespace": "llm", "exported_pod": "a"},
                {"namespace": "gpu", "pod": "dcgm", "exported_namespace": "llm", "exported_pod": "stranger"})},
        ),
    ],
)  # fmt: skip
def test_the_metric_that_the_autoscaler_names_is_followed(metric: str, needed: int, document: Json) -> None:
    hops = judge(hpa=hpa(follows(metric)), **document)
    assert [hop.is_ok for hop in hops if hop.name not in {"pods", "metrics endpoint"}].count(True) == needed
    assert not [hop for hop in hops if hop.is_ok is False]
    assert hops[-1].text.endswith(f"following {metric}")
    broken = judge(hpa=hpa(follows(metric)), **document | {"custom_metrics": {"error": NO_METRIC}})
    assert f"the adapter does not serve {metric}" in broken[-1].text


def test_a_pod_without_gpu_utilisation_is_named() -> None:
    found = series({"namespace": "llm", "pod": "a", "exported_namespace": "gpu", "exported_pod": "dcgm"})
    hops = judge(hpa=hpa(follows("dcgm_gpu_utilization_percent")), series=found)
    assert (hops[-1].name, hops[-1].is_ok) == ("recorded series", False)


def test_cpu_needs_metrics_server_alone() -> None:
    cpu = {"type": "ContainerResource", "containerResource": {"name": "cpu"}}
    answer = {"kind": "PodMetricsList", "items": [{"metadata": {"name": "a"}}]}
    hops = judge(
        hpa=hpa(cpu), resource_metrics=answer, targets=active(), rules=rules(), series=None,
        custom_metrics={"error": NOT_SERVED},
    )  # fmt: skip
    assert not [hop for hop in hops if hop.is_ok is False]
    assert named(hops, "resource metrics API").is_ok
    assert hops[-1].text.endswith("following cpu")
    hops = judge(hpa=hpa(cpu), resource_metrics={"error": NOT_SERVED})
    assert hops[-1].fix == "install metrics-server"


def test_keda_is_walked_through_its_own_hops() -> None:
    hops = walk(Evidence(**keda()))
    assert [hop.is_ok for hop in hops] == [True] * 8
    assert [hop.name for hop in hops[3:]] == [
        "recording rule", "recorded series", "ScaledObject", "external metrics API", "autoscaler",
    ]  # fmt: skip
    assert named(hops, "recording rule").text == "triton:waiting:requests: recorded"


CHECK_FAILED = keda(Ready=("False", "ScaledObjectCheckFailed"))
KEDA_BREAKS: dict[str, tuple[Json, str, str, str]] = {
    "rule": ({"rules": rules(rule())}, "recording rule", "no rule records triton:waiting:requests", "ruleSelector"),
    "query": ({"series": series()}, "recorded series", "the ScaledObject's query has no sample: sum(", "series"),
    "not-ready": (CHECK_FAILED, "ScaledObject", "ScaledObjectCheckFailed", "describe scaledobject"),
    "fallback": (keda(Fallback=("True", "FallbackExists")), "ScaledObject", "Fallback is True", "serverAddress"),
    "paused": (keda(Paused=("True", "ScaledObjectPaused")), "ScaledObject", "Paused is True", "keda.sh/paused"),
    "operator-down": (keda(Ready=("Unknown", "")), "ScaledObject", "KEDA has not looked at it", "-n keda get pods"),
    "not-installed": (
        {"external_metrics": {"error": NOT_SERVED}}, "external metrics API", "nothing serves external.metrics.k8s.io",
        "install KEDA",
    ),
    "down": (
        {"external_metrics": {"error": DOWN}}, "external metrics API",
        "KEDA is registered for external.metrics.k8s.io, but down", "apiservice v1beta1.external.metrics.k8s.io",
    ),
    "scaler-fails": (
        {"external_metrics": {"error": "Error from server: rpc error: code = Unknown desc = error when getting"}},
        "external metrics API", "KEDA does not serve s0-prometheus", "serverAddress",
    ),
    "no-autoscaler": (
        CHECK_FAILED | {"hpa": {"error": NO_HPA}}, "ScaledObject", "Ready is False", "describe scaledobject",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KEDA_BREAKS)
def test_kedas_first_broken_hop_is_named(name: str) -> None:
    changes, hop_name, text, fix = KEDA_BREAKS[name]
    hops = walk(Evidence(**keda() | changes))
    assert (hops[-1].name, hops[-1].is_ok) == (hop_name, False)
    assert text in hops[-1].text
    assert fix in hops[-1].fix


def test_a_selector_that_finds_no_pod_blames_nothing() -> None:
    hops = judge(pods=pods(), targets=active(), series=series())
    assert not [hop for hop in hops if hop.is_ok is False]
    assert "is --selector right?" in named(hops, "pods").fix


def test_names_are_those_of_the_charts_adapter(project_root: Path) -> None:
    adapter = yaml.safe_load((project_root / "chart" / "monitoring" / "prometheus-adapter.yaml").read_text())
    renamed = {
        item["name"]["as"]: item["seriesQuery"].split("{")[0] for item in adapter["rules"]["custom"] if "name" in item
    }
    assert renamed == {name: query.split("{")[0] for name, query in RENAMED.items()}


# The command: what it asks for, and how it ends.

ARGUMENTS = ["doctor", "autoscaling", "-n", "llm"]


def save(directory: Path, documents: Json) -> None:
    for name, document in documents.items():
        if name == "metrics":
            (directory / "metrics.txt").write_text(document)
        elif isinstance(document, dict):
            (directory / f"{name}.json").write_text(json.dumps(document))


def test_saved_answers_are_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, good())
    assert run([*ARGUMENTS, "--from", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("ok  ") == 7
    save(tmp_path, {"series": series()})
    assert run([*ARGUMENTS, "--from", str(tmp_path)]) == 3
    shown = capsys.readouterr()
    assert "BROKEN  recorded series" in shown.out
    assert "hint: the rule's selector" in shown.err


@pytest.mark.parametrize(
    ("saved", "code", "text"),
    [
        (f"{DOWN}\n", 3, "custom metrics API: the adapter is registered"),
        ("service unavailable\n", 3, "custom metrics API: the adapter is registered"),
        (f"{FORBIDDEN}\n", 3, "custom metrics API: not known: could not ask kubectl"),
        ("", 2, "custom_metrics.json holds no JSON object"),
        ("{", 2, "custom_metrics.json holds no JSON object"),
    ],
    ids=["adapter-down", "adapter-down-by-curl", "forbidden", "empty", "cut"],
)
def test_saved_words_of_a_failure_are_understood(
    saved: str, code: int, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, good())
    (tmp_path / "custom_metrics.json").write_text(saved)
    assert run([*ARGUMENTS, "--from", str(tmp_path)]) == code
    assert text in capsys.readouterr().err


def test_asking_nothing_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "autoscaling"]) == 2
    assert "pass --prometheus" in capsys.readouterr().err


def test_without_kubectl_the_hops_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run([*ARGUMENTS, "--hpa", "x"]) == 3
    shown = capsys.readouterr()
    assert "BROKEN" not in shown.out
    assert "could not ask kubectl because kubectl is not on PATH" in shown.err
    assert "hint: install kubectl" in shown.err


@pytest.fixture
def prometheus() -> Iterator[tuple[str, Json]]:
    """A listener that answers each path below /api/v1 with what is put under its name, errors as Prometheus does."""
    answers: Json = {}
    asked: list[str] = answers.setdefault("asked", [])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            document = answers[re.split(r"[/?]", self.path)[3]]
            self.send_response(422 if document["status"] == "error" else 200)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that gives the answer saved under its resource, complains as a real one, and notes its arguments."""
    directory = tmp_path / "kubectl"
    directory.mkdir()
    script = directory / "kubectl"
    script.write_text(f"""#!/bin/sh
cd {directory}
echo "$@" >>asked
echo 'E1121 17:57:09.072589 1 memcache.go:265] "Unhandled Error" err="custom.metrics.k8s.io/v1beta1 is down"' >&2
case "$*" in
*"get hpa"*) file=hpa ;; *"get pods"*) file=pods ;; *scaledobject*.keda.sh*-o*) file=scaled_object ;;
*/custom.*) file=custom_metrics ;; */external.*) file=external_metrics ;; *) file=none ;;
esac
[ -e $file.json ] && exec cat $file.json
echo '{NOT_SERVED}' >&2
exit 1
""")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    return directory


LIVE = [*ARGUMENTS, "--hpa", "llama-trtbuild-h100", "--prometheus"]


def test_the_autoscaler_says_what_to_ask_for(
    kubectl: Path, prometheus: tuple[str, Json], capsys: pytest.CaptureFixture[str]
) -> None:
    documents = good() | {
        "hpa": hpa(follows("triton:waiting:requests")),
        "rules": rules(rule("triton:waiting:requests")),
    }
    save(kubectl, documents)
    url, answers = prometheus
    answers.update(targets=documents["targets"], rules=documents["rules"], query=documents["series"])
    assert run([*LIVE, url]) == 0, capsys.readouterr()
    asked = (kubectl / "asked").read_text()
    selector = "app.kubernetes.io/component=server,app.kubernetes.io/instance=llama,trtbuild.dev/sku=h100"
    assert f"get pods -l {selector}" in asked
    path = "/apis/custom.metrics.k8s.io/v1beta1/namespaces/llm/pods/*/triton:waiting:requests"
    assert f"get --raw {path}?labelSelector=app.kubernetes.io/component%3Dserver%2C" in asked
    assert "scaledobject" not in asked
    assert any("query=triton%3Awaiting%3Arequests%7Bnamespace%3D%22llm%22%7D" in line for line in answers["asked"])


def test_keda_is_asked_for_its_own_objects(
    kubectl: Path, prometheus: tuple[str, Json], capsys: pytest.CaptureFixture[str]
) -> None:
    documents = copy.deepcopy(keda())
    del documents["custom_metrics"]
    save(kubectl, documents)
    url, answers = prometheus
    answers.update(targets=documents["targets"], rules=documents["rules"], query=documents["series"])
    assert run([*LIVE, url]) == 0, capsys.readouterr()
    assert "ScaledObject" in capsys.readouterr().out
    asked = (kubectl / "asked").read_text()
    assert "get scaledobjects.keda.sh llama-trtbuild-h100" in asked
    path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/llm/s0-prometheus"
    assert f"{path}?labelSelector=scaledobject.keda.sh/name=llama-trtbuild-h100" in asked
    assert "custom.metrics" not in asked


def test_keda_that_made_no_autoscaler_is_asked_why(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(kubectl, {"scaled_object": CHECK_FAILED["scaled_object"]})
    assert run([*ARGUMENTS, "--hpa", "llama-trtbuild-h100"]) == 3
    assert "ScaledObject: Ready is False: ScaledObjectCheckFailed" in capsys.readouterr().err


def test_a_metric_that_is_no_name_is_prometheus_to_refuse(prometheus: tuple[str, Json]) -> None:
    url, answers = prometheus
    answers.update(targets=good()["targets"], rules=rules(), query={"status": "error", "error": "parse error"})
    assert run([*ARGUMENTS, "--prometheus", url, "--metric", "bad{"]) == 3


def test_what_prometheus_minds_is_said(
    kubectl: Path, prometheus: tuple[str, Json], capsys: pytest.CaptureFixture[str]
) -> None:
    save(kubectl, good())
    url, answers = prometheus
    failed = {"status": "error", "errorType": "execution", "error": "would load too many samples into memory"}
    answers.update(targets=good()["targets"], rules=good()["rules"], query=failed)
    assert run([*LIVE, url]) == 3
    shown = capsys.readouterr()
    assert "BROKEN" not in shown.out
    assert "execution: would load too many samples into memory" in shown.err


def test_kubectl_without_the_api_names_the_missing_adapter(
    kubectl: Path, prometheus: tuple[str, Json], capsys: pytest.CaptureFixture[str]
) -> None:
    documents = good()
    del documents["custom_metrics"]
    save(kubectl, documents)
    url, answers = prometheus
    answers.update(targets=documents["targets"], rules=documents["rules"], query=documents["series"])
    assert run([*LIVE, url]) == 3
    assert "nothing serves custom.metrics.k8s.io" in capsys.readouterr().err


def test_every_api_has_a_document() -> None:
    assert {api.document for api in APIS.values()} <= set(Evidence.__dataclass_fields__)

"""The first broken hop is named, for every way in which the path is known to break; what was not seen is not blamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.autoscaling import (
    CHECK_FAILED,
    DOWN,
    FORBIDDEN,
    METRIC,
    NO_HPA,
    NO_KUBECTL,
    NO_METRIC,
    NO_VALUES,
    NOT_SERVED,
    REFUSED,
    Json,
    active,
    follows,
    good,
    hpa,
    keda,
    labels,
    pod,
    pods,
    rule,
    rules,
    series,
    target,
    values,
)
from trtbuild.autoscaling.evidence import Evidence
from trtbuild.autoscaling.hops import Hop
from trtbuild.autoscaling.signal import RENAMED
from trtbuild.autoscaling.walk import walk


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


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "", None])
def test_a_value_that_is_no_number_is_a_broken_hop(value: str | None) -> None:
    found = good()["series"]
    for item in found["data"]["result"]:
        item["value"] = [0, value]
    hop = named(judge(series=found), "recorded series")
    assert hop.is_ok is False
    assert f"gives {value}, which no autoscaler can compare" in hop.text


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


def test_a_down_target_of_pods_that_were_not_read_is_not_judged() -> None:
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
        "Prometheus answered with an error: unavailable: TSDB not ready", "what Prometheus reports",
    ),
    "query-answers-an-error": (
        {"series": {"status": "error", "errorType": "timeout", "error": "query timed out"}}, ("recorded series",),
        "Prometheus answered with an error: timeout: query timed out", "what Prometheus reports",
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

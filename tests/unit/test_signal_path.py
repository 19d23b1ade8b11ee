"""The first broken hop is named, for every way in which the path is known to break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trtbuild.cli import run
from trtbuild.signal_path import FRONT_METRICS, Evidence, walk

METRIC = "triton:demand:ratio"
LABELS = {"namespace": "llm", "pod": "a", "sku": "h100"}


def _good() -> dict[str, Any]:
    return {
        "metric": METRIC,
        "namespace": "llm",
        "pods": ("a",),
        "metrics": "".join(f'{name}{{model="m"}} 0\n' for name in FRONT_METRICS),
        "targets": {"status": "success", "data": {"activeTargets": [{"labels": LABELS, "health": "up"}]}},
        "rules": {"data": {"groups": [{"rules": [{"name": METRIC, "type": "recording", "health": "ok"}]}]}},
        "series": {"data": {"result": [{"metric": LABELS, "value": [0, "0.5"]}]}},
        "custom_metrics": {"kind": "MetricValueList", "items": [{"describedObject": {"name": "a"}, "value": "500m"}]},
        "hpa": {
            "spec": {"metrics": [{"type": "Pods", "pods": {"metric": {"name": METRIC}}}]},
            "status": {
                "currentReplicas": 1, "desiredReplicas": 1, "conditions": [{"type": "ScalingActive", "status": "True"}],
                "currentMetrics": [{"type": "Pods"}],
            },
        },
    }  # fmt: skip


def test_a_working_path_has_six_working_hops() -> None:
    hops = walk(Evidence(**_good()))
    assert [hop.is_ok for hop in hops] == [True] * 6
    assert hops[-1].text == f"1 replicas, 1 desired, following {METRIC}"


BREAKS: dict[str, tuple[dict[str, Any], str, str]] = {
    "server-down": ({"metrics": {"error": "refused"}}, "metrics endpoint", "no answer: refused"),
    "no-front-model": ({"metrics": "nv_inference_count 1\n"}, "metrics endpoint", "but trtbuild_requests_waiting"),
    "wrong-port": ({"metrics": "go_goroutines 1\n"}, "metrics endpoint", "not a Triton metrics endpoint"),
    "prometheus-down": ({"targets": {"error": "refused"}}, "scrape target", "Prometheus does not answer"),
    "wrong-label": ({"targets": {"data": {"activeTargets": []}}}, "scrape target", "scrapes no pod of namespace llm"),
    "dropped": (
        {"targets": {"data": {"activeTargets": [], "droppedTargets": [{"discoveredLabels": {"n": "llm"}}]}}},
        "scrape target", "dropped by relabeling",
    ),
    "target-down": (
        {"targets": {"data": {"activeTargets": [{"labels": LABELS, "health": "down", "lastError": "timeout"}]}}},
        "scrape target", "1 of 1 targets are down: timeout",
    ),
    "rule-not-loaded": (
        {"rules": {"data": {"groups": [{"rules": [{"name": "triton:demand:ratios", "type": "recording"}]}]}}},
        "recording rule", "no rule records triton:demand:ratio (there is triton:demand:ratios)",
    ),
    "rule-fails": (
        {"rules": {"data": {"groups": [
            {"rules": [{"name": METRIC, "type": "recording", "health": "err", "lastError": "many-to-many"}]}]}}},
        "recording rule", "the rule fails: many-to-many",
    ),
    "no-series": ({"series": {"data": {"result": []}}}, "recorded series", "has no sample for namespace llm"),
    "unscraped-pod": ({"pods": ("a", "b")}, "recorded series", "no value for 1 ready pods, e.g. b"),
    "stale-pods": (
        {"series": {"data": {"result": [{"metric": LABELS}, {"metric": {**LABELS, "pod": "gone"}}]}}},
        "recorded series", "values of 1 pods that are gone, e.g. gone",
    ),
    "adapter-missing": (
        {"custom_metrics": {"error": "Error from server (NotFound): the server could not find the requested resource"}},
        "custom metrics API", "nothing serves custom.metrics.k8s.io",
    ),
    "name-mismatch": (
        {"custom_metrics": {"kind": "Status", "status": "Failure", "message": "could not find the metric x for pods"}},
        "custom metrics API", "the adapter does not serve triton:demand:ratio",
    ),
    "no-items": ({"custom_metrics": {"items": []}}, "custom metrics API", "served, but for no pod"),
    "no-hpa": ({"hpa": {"error": "not found"}}, "autoscaler", "not found"),
    "other-metric": (
        {"hpa": {"spec": {"metrics": [{"type": "Pods", "pods": {"metric": {"name": "triton:queue_compute:ratio"}}}]}}},
        "autoscaler", "it follows triton:queue_compute:ratio",
    ),
    "target-unknown": (
        {"hpa": {"spec": _good()["hpa"]["spec"], "status": {"currentMetrics": None}}}, "autoscaler", "<unknown>",
    ),
    "scaling-inactive": (
        {"hpa": {"spec": _good()["hpa"]["spec"], "status": {"conditions": [
            {"type": "ScalingActive", "status": "False", "reason": "FailedGetPodsMetric", "message": "no metrics"}]}}},
        "autoscaler", "FailedGetPodsMetric: no metrics",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_the_first_broken_hop_is_named_with_a_fix(name: str) -> None:
    changes, hop_name, text = BREAKS[name]
    hops = walk(Evidence(**{**_good(), **changes}))
    assert all(hop.is_ok for hop in hops[:-1])
    assert (hops[-1].name, hops[-1].is_ok) == (hop_name, False)
    assert text in hops[-1].text
    assert hops[-1].fix


def test_keda_needs_no_custom_metrics_api() -> None:
    hpa = {
        "spec": {"metrics": [{"type": "External", "external": {"metric": {"name": "s0-prometheus"}}}]},
        "status": {"currentMetrics": [{}, {"a": 1}]},
    }
    hops = walk(
        Evidence(
            **{**_good(), "custom_metrics": {"error": "the server could not find the requested resource"}, "hpa": hpa}
        )
    )
    assert [hop.is_ok for hop in hops] == [True] * 6


def test_saved_answers_are_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = _good()
    (tmp_path / "metrics.txt").write_text(good["metrics"])
    for name in ("targets", "rules", "series", "custom_metrics", "hpa"):
        (tmp_path / f"{name}.json").write_text(json.dumps(good[name]))
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    (tmp_path / "pods.json").write_text(json.dumps({"items": [{"metadata": {"name": "a"}, "status": ready}]}))
    assert run(["doctor", "autoscaling", "--from", str(tmp_path), "-n", "llm"]) == 0
    assert capsys.readouterr().out.count("ok  ") == 6
    (tmp_path / "series.json").write_text('{"data": {"result": []}}')
    assert run(["doctor", "autoscaling", "--from", str(tmp_path), "-n", "llm"]) == 3
    shown = capsys.readouterr()
    assert "BROKEN  recorded series" in shown.out
    assert "hint: the rule's selector" in shown.err


def test_asking_nothing_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "autoscaling"]) == 2
    assert "pass --prometheus" in capsys.readouterr().err

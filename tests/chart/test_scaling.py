"""Autoscalers: signal, target and pace of each SKU, as HorizontalPodAutoscaler and as ScaledObject."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, CI, ci_values, merge, render

ONE = ci_values("one-sku")
KEDA = ci_values("keda")


def hpa(values: dict[str, Any]) -> dict[str, Any]:
    spec = render(merge(ONE, values)).one("HorizontalPodAutoscaler")["spec"]
    assert isinstance(spec, dict)
    return spec


@pytest.mark.parametrize(
    ("metric", "target", "series", "value"),
    [
        ("demand", None, "triton:demand:ratio", "800m"),
        ("demand", 0.7, "triton:demand:ratio", "700m"),
        ("demand-by-cost", None, "triton:demand_by_cost:ratio", "800m"),
        ("queue-compute", None, "triton:queue_compute:ratio", "1000m"),
        ("waiting", None, "triton:waiting:requests", "5000m"),
        ("waiting", 2.5, "triton:waiting:requests", "2500m"),
        ("gpu-utilization", 30, "dcgm_gpu_utilization_percent", "30000m"),
        ("kv-cache", 0.9, "trtllm_kv_cache_used_ratio", "900m"),
    ],
)
def test_pods_metric(metric: str, target: float | None, series: str, value: str) -> None:
    autoscaling = {"metric": metric} | ({} if target is None else {"target": target})
    [found] = hpa({"autoscaling": autoscaling})["metrics"]
    assert found == {
        "type": "Pods",
        "pods": {"metric": {"name": series}, "target": {"type": "AverageValue", "averageValue": value}},
    }


def test_cpu_metric_is_of_the_server_alone() -> None:
    [found] = hpa({"autoscaling": {"metric": "cpu", "target": 70}})["metrics"]
    assert found["type"] == "ContainerResource"
    assert found["containerResource"]["container"] == "server"
    assert found["containerResource"]["target"] == {"type": "Utilization", "averageUtilization": 70}


@pytest.mark.parametrize(
    ("values", "window"),
    [
        pytest.param({"budgets": {"build": 1200, "load": 100}}, 1950, id="cold: 1.5 x (build + load)"),
        pytest.param({"budgets": {"build": 3600, "load": 600}}, 3600, id="never above the API's limit"),
        pytest.param({"budgets": {"build": 60, "load": 30}}, 600, id="never below ten minutes"),
        pytest.param({"prewarm": {"enabled": True}, "budgets": {"load": 600}}, 1080, id="pre-warmed: no build"),
        pytest.param({"autoscaling": {"scaleDownWindow": 0}}, 0, id="said"),
    ],
)
def test_scale_down_window_follows_the_budgets(values: dict[str, Any], window: int) -> None:
    behavior = hpa(values)["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == window
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert {"type": "Percent", "value": 100, "periodSeconds": 15} in behavior["scaleUp"]["policies"]
    assert behavior["scaleDown"]["policies"][0] == {"type": "Pods", "value": 1, "periodSeconds": 60}


def test_behavior_can_be_replaced() -> None:
    behavior = {"scaleDown": {"selectPolicy": "Disabled"}}
    assert hpa({"autoscaling": {"behavior": behavior}})["behavior"] == behavior


def test_each_sku_scales_its_own_deployment() -> None:
    rendered = render(ci_values("three-skus"))
    pairs = [
        (item["metadata"]["name"], item["spec"]["scaleTargetRef"]["name"])
        for item in rendered.kind("HorizontalPodAutoscaler")
    ]
    assert pairs == [(name, name) for name in ("llama-trtbuild-a100", "llama-trtbuild-a10g", "llama-trtbuild-h100")]


SERIES = 'triton:demand:ratio{namespace="inference",release="llama",sku="a100"}'
DEMAND = f"avg by (pod) ({SERIES})"
DEMAND_QUERY = (
    f"sum({DEMAND}) * clamp_min(clamp_max("
    f"count(count by (pod) (last_over_time({SERIES}[1m]))), "
    'scalar(max(kube_deployment_status_replicas_ready{namespace="inference",deployment="llama-trtbuild-a100"})))'
    f" / count({DEMAND}), 1) >= 0 or sum({DEMAND})"
)
"""What it answers in each state: rules/test_keda_query.py."""


def test_keda_asks_for_the_whole_sku() -> None:
    rendered = render(KEDA)
    assert rendered.kind("HorizontalPodAutoscaler") == []
    spec = rendered.one("ScaledObject")["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (1, 4)
    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 2}
    [trigger] = spec["triggers"]
    assert trigger["metadata"] == {
        "serverAddress": "https://thanos-query.monitoring.svc:9091",
        "query": DEMAND_QUERY,
        "threshold": "0.8",
        "ignoreNullValues": "false",
    }
    assert trigger["authenticationRef"] == {"name": "prometheus-token"}
    # The alert rules know the autoscaler by this name.
    assert spec["advanced"]["horizontalPodAutoscalerConfig"]["name"] == "llama-trtbuild-a100"


def test_keda_on_processor_use() -> None:
    values = merge(KEDA, {"autoscaling": {"metric": "cpu"}})
    spec = render(values).one("ScaledObject")["spec"]
    assert "fallback" not in spec
    assert spec["triggers"] == [
        {"type": "cpu", "metricType": "Utilization", "metadata": {"containerName": "server", "value": "80"}}
    ]


def test_skus_may_scale_differently() -> None:
    other = {"h100": {"gpu": {"products": ["NVIDIA-H100-80GB-HBM3"]}, "autoscaling": {"enabled": False}, "replicas": 2}}
    rendered = render(merge(KEDA, {"skus": other}))
    assert [item["metadata"]["name"] for item in rendered.kind("ScaledObject")] == ["llama-trtbuild-a100"]
    assert rendered.sku("Deployment", "h100")["spec"]["replicas"] == 2


def adapter_names() -> set[str]:
    """The metrics that chart/monitoring/prometheus-adapter.yaml offers."""
    rules = yaml.safe_load((CHART / "monitoring" / "prometheus-adapter.yaml").read_text())["rules"]
    names = set()
    for rule in rules["custom"]:
        if "name" in rule:
            names.add(rule["name"]["as"])
        else:
            [pattern] = re.findall(r'__name__=~"\^\((.+)\)\$"', rule["seriesQuery"])
            names.update(pattern.split("|"))
    return names


def test_adapter_offers_every_signal_of_the_chart() -> None:
    metrics = ["demand", "demand-by-cost", "queue-compute", "waiting", "gpu-utilization", "kv-cache"]
    asked = {hpa({"autoscaling": {"metric": metric}})["metrics"][0]["pods"]["metric"]["name"] for metric in metrics}
    assert asked == adapter_names()


@pytest.mark.parametrize("source", ["recording", "recording-upstream-ensemble", "recording-cpp-gauges"])
def test_every_rule_file_records_the_signals(source: str) -> None:
    groups = yaml.safe_load((CHART / "files" / "rules" / f"{source}.yaml").read_text())["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"]}
    assert {name for name in adapter_names() if name.startswith("triton:")} <= recorded
    assert "triton:sku_demand:pods" in recorded


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        pytest.param({}, None, id="all on"),
        pytest.param({"monitoring": {"scrape": "none"}}, "monitoring.scrape is none", id="not scraped"),
        pytest.param({"monitoring": {"rules": {"enabled": False}}}, "monitoring.rules.enabled is false", id="no rules"),
        pytest.param(
            {"monitoring": {"scrape": "none"}, "autoscaling": {"metric": "kv-cache"}},
            "monitoring.scrape is none",
            id="raw series not scraped",
        ),
        pytest.param(
            {"monitoring": {"rules": {"enabled": False}}, "autoscaling": {"metric": "kv-cache"}},
            None,
            id="raw series without rules",
        ),
        pytest.param(
            {"monitoring": {"scrape": "none", "rules": {"enabled": False}}, "autoscaling": {"metric": "cpu"}},
            None,
            id="processor use needs neither",
        ),
        pytest.param({"monitoring": {"scrape": "none"}, "autoscaling": {"enabled": False}}, None, id="no autoscaler"),
    ],
)
def test_notes_warn_of_a_signal_that_is_not_recorded(values: dict[str, Any], warning: str | None) -> None:
    notes = render(merge(ONE, values)).notes
    assert ("Warning: autoscaling.metric" in notes) is (warning is not None)
    if warning is not None:
        assert warning in notes


@pytest.mark.parametrize("name", CI)
def test_signal_is_recorded_wherever_it_is_asked_for(name: str) -> None:
    """A scenario that scales on a recorded series also renders the rules that record it."""
    rendered = render(ci_values(name))
    text = str([item["spec"] for item in [*rendered.kind("HorizontalPodAutoscaler"), *rendered.kind("ScaledObject")]])
    if "triton:" in text:
        assert rendered.one("PrometheusRule", None) if len(rendered.kind("PrometheusRule")) == 1 else True
        assert any("recording" in item["metadata"]["name"] for item in rendered.kind("PrometheusRule"))
        assert rendered.kind("PodMonitor") or rendered.kind("ServiceMonitor")

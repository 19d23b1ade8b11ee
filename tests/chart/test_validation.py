"""Contradictions are refused before anything reaches the cluster, with what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.helm import RenderError, ci_values, merge, render

ONE = ci_values("one-sku")
NO_PRODUCTS = {"skus": {"a100": {"gpu": {"products": []}}}}
CLAIMS = {"storage": {"engines": {"type": "persistentVolumeClaim"}, "models": {"type": "persistentVolumeClaim"}}}


@pytest.mark.parametrize(
    ("values", "found", "remedy"),
    [
        pytest.param({"model": {"name": ""}}, "model.name is empty", "--set model.name=", id="no model"),
        pytest.param({"image": {"repository": ""}}, "image.repository is empty", "server.containerfile", id="no image"),
        pytest.param({"image": {"tag": "latest"}}, '"latest"', "image.digest", id="latest"),
        pytest.param(
            {"server": {"openApis": ["trace"], "args": {"grpc-restricted-protocol": "logging, trace:admin=x"}}},
            "server.openApis opens trace, which server.args.grpc-restricted-protocol restricts",
            "leave it out of one of them",
            id="opened and restricted",
        ),
        pytest.param({"skus": {"envoy": {}}}, "name is taken", "envoy-gpu", id="reserved SKU name"),
        pytest.param(
            merge(NO_PRODUCTS, {"skus": {"h100": {}}}),
            "skus.a100.gpu.products is empty",
            "kubectl get nodes -L",
            id="no product",
        ),
        pytest.param(
            {"gpu": {"count": 2}}, "gpu.count is 2, but tensor 1 x pipeline 1 needs 1", "null", id="GPU count"
        ),
        pytest.param(
            {"model": {"parallelism": {"tensor": 4, "pipeline": 2}}, "gpu": {"count": 4}},
            "needs 8 GPUs",
            "model.parallelism",
            id="tp x pp",
        ),
        pytest.param({"model": {"backend": "cpu"}}, "GPUs are asked for", "products: []", id="cpu with products"),
        pytest.param(
            merge(NO_PRODUCTS, {"model": {"backend": "cpu"}, "gpu": {"count": 1}}),
            "GPUs are asked for",
            "gpu.count",
            id="cpu with GPUs",
        ),
        pytest.param(
            merge(NO_PRODUCTS, {"model": {"backend": "cpu", "parallelism": {"tensor": 2}}}),
            "one rank",
            "{tensor: 1",
            id="cpu with ranks",
        ),
        pytest.param({"strategy": {"maxSurge": 0}}, "both 0", "maxUnavailable 1", id="no upgrade possible"),
        pytest.param({"strategy": {"maxSurge": 0, "maxUnavailable": 0}}, "both 0", "maxSurge 1", id="both zero"),
        pytest.param(
            {"autoscaling": {"minReplicas": 5}}, "minReplicas 5 is more than", "maxReplicas 4", id="min above max"
        ),
        pytest.param({"autoscaling": {"minReplicas": 0}}, "minReplicas is 0", "set 1", id="HPA from zero"),
        pytest.param(
            {"autoscaling": {"type": "keda", "minReplicas": 0}}, "nor KEDA would start", "set 1", id="KEDA from zero"
        ),
        pytest.param(
            {"autoscaling": {"type": "keda", "minReplicas": 0, "metric": "cpu"}},
            "minReplicas is 0",
            "replicas 0",
            id="KEDA from zero on processor use",
        ),
        pytest.param(
            {"model": {"backend": "llmapi"}, "autoscaling": {"metric": "kv-cache"}},
            "the gauge stays 0",
            "model.backend tensorrt_llm",
            id="cache use of llmapi",
        ),
        pytest.param(
            {"model": {"backend": "auto"}, "autoscaling": {"metric": "kv-cache"}},
            "model.backend is auto",
            "autoscaling.metric demand",
            id="cache use of perhaps llmapi",
        ),
        pytest.param(
            {"monitoring": {"rules": {"source": "upstream-ensemble"}}},
            "the demand would always be 0",
            "server.layout full",
            id="ensemble rules without an ensemble",
        ),
        pytest.param(
            {**NO_PRODUCTS, "model": {"backend": "cpu"}, "autoscaling": {"metric": "gpu-utilization"}},
            "figure of GPUs",
            "use demand",
            id="no GPU",
        ),
        pytest.param(
            merge(CLAIMS, {"storage": {"engines": {"accessModes": ["ReadWriteOnce"]}}}),
            "several pods",
            "[ReadWriteMany]",
            id="RWO",
        ),
        pytest.param(
            merge(CLAIMS, {"storage": {"engines": {"readOnly": True}}}),
            "filled already",
            "existingClaim",
            id="read-only new claim",
        ),
        pytest.param({"openshift": True}, "user of its own", "persistentVolumeClaim", id="openshift host path"),
        pytest.param(
            {"prewarm": {"enabled": True}, "storage": {"engines": {"type": "emptyDir"}}},
            "an emptyDir",
            "turn prewarm off",
            id="pre-warm nothing",
        ),
        pytest.param({"service": {"create": False}}, "service.group", "kubectl get service", id="join nothing"),
        pytest.param(
            {"service": {"create": False, "group": "llm"}, "ingress": {"enabled": True}},
            "ingress.enabled",
            "owns the Service",
            id="Ingress",
        ),
        pytest.param(
            {"service": {"create": False, "group": "llm"}, "balancing": {"type": "envoy"}},
            "balancing.type envoy",
            "owns",
            id="joined envoy",
        ),
        pytest.param(
            {"service": {"create": False, "group": "llm"}, "monitoring": {"scrape": "ServiceMonitor"}},
            "ServiceMonitor",
            "owns",
            id="no Service",
        ),
        pytest.param(
            {"balancing": {"type": "gateway"}}, "httpRoute.enabled is false", "parentRefs", id="gateway without route"
        ),
        pytest.param({"httpRoute": {"enabled": True}}, "parentRefs is empty", "--set", id="route without gateway"),
    ],
)
def test_contradiction_is_refused(values: dict[str, Any], found: str, remedy: str) -> None:
    with pytest.raises(RenderError) as refused:
        render(merge(ONE, values))
    assert found in str(refused.value)
    assert remedy in str(refused.value)


def test_a_stopped_sku_is_no_contradiction() -> None:
    values = merge(ONE, {"autoscaling": {"enabled": False, "minReplicas": 0}, "replicas": 0})
    assert render(values).one("Deployment")["spec"]["replicas"] == 0


def test_ensemble_rules_fit_the_full_layout_or_are_off() -> None:
    source = {"monitoring": {"rules": {"source": "upstream-ensemble"}}}
    full = render(merge(ONE, source, {"server": {"layout": "full"}}))
    assert any("triton:inflight:requests" in str(item["spec"]) for item in full.kind("PrometheusRule"))
    assert render(merge(ONE, source, {"monitoring": {"rules": {"enabled": False}}})).objects
    # Each SKU has its own layout.
    with pytest.raises(RenderError, match=r"skus\.a100: monitoring\.rules\.source"):
        render(merge(ONE, source, {"server": {"layout": "full"}, "skus": {"a100": {"server": {"layout": "minimal"}}}}))


def test_no_sku_is_refused() -> None:
    with pytest.raises(RenderError, match=r"skus is empty: name at least one, e\.g\. --set"):
        render({**ONE, "skus": {}})


@pytest.mark.parametrize(
    ("values", "api"),
    [
        pytest.param({"autoscaling": {"type": "keda"}}, "keda.sh/v1alpha1", id="keda"),
        pytest.param(
            {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}},
            "gateway.networking.k8s.io/v1",
            id="gateway",
        ),
    ],
)
def test_missing_api_is_refused_unless_assumed(values: dict[str, Any], api: str) -> None:
    with pytest.raises(RenderError) as refused:
        render(merge(ONE, values), apis=())
    assert f"assumeApis={{{api}}}" in str(refused.value)
    assert render(merge(ONE, values, {"assumeApis": [api]}), apis=()).objects
    assert render(merge(ONE, values), apis=(api,)).objects


def test_cpu_metric_needs_a_request() -> None:
    values = merge(ONE, {"autoscaling": {"metric": "cpu"}, "resources": {"requests": {"cpu": None}}})
    with pytest.raises(RenderError, match=r"resources\.requests\.cpu, which is not set"):
        render(values)


def test_cpu_beside_gpus_is_allowed() -> None:
    """A SKU without GPUs in a GPU release turns off what the release says of GPUs."""
    cpu = {"cpu": {"model": {"backend": "cpu", "parallelism": {"tensor": 1}}}}
    rendered = render(merge(ONE, {"model": {"parallelism": {"tensor": 4}}, "skus": cpu}))
    assert len(rendered.kind("Deployment")) == 2

"""Contradictions are refused before anything reaches the cluster, with what to write instead."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.chart.helm import CHART, RenderError, ci_values, merge, render
from trtbuild.backends.cpu.plan import QUANTIZED_WEIGHTS

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
        pytest.param(
            {"skus": {"h100": {"gpu": {"products": ["NVIDIA-H100-80GB-HBM3"]}, "model": {"name": "mistral-7b"}}}},
            "skus.a100 serves llama-3-8b and skus.h100 serves mistral-7b behind one Service",
            "model.servedName",
            id="two models behind one Service",
        ),
        pytest.param(
            {"skus": {"dashboard-fleet": {}}}, "name is taken", "use another, e.g. fleet", id="name of a dashboard"
        ),
        pytest.param(
            {"model": {"limits": {"maxInputLen": 4096, "maxSeqLen": 4096}}},
            "must be more than maxInputLen 4096",
            "leave it null",
            id="no room to generate",
        ),
        pytest.param(
            {**NO_PRODUCTS, "model": {"backend": "cpu", "quantization": "fp8"}},
            "model.quantization is fp8",
            "int8-weight-only",
            id="cpu quantization",
        ),
        pytest.param(
            {**NO_PRODUCTS, "model": {"backend": "cpu", "kvCacheDtype": "fp8"}},
            "model.kvCacheDtype is fp8",
            "auto and int8",
            id="cpu cache type",
        ),
        pytest.param({"strategy": {"maxSurge": "0%", "maxUnavailable": "0%"}}, "both 0", "maxSurge 1", id="0 percent"),
        pytest.param(
            {"pod": {"env": [{"name": "HOME", "value": "/x"}]}}, "pod.env sets HOME", "remove it", id="env of the chart"
        ),
        pytest.param(
            {"hub": {"endpoint": "https://hub.example"}, "pod": {"env": [{"name": "HF_ENDPOINT", "value": "x"}]}},
            "HF_ENDPOINT, which the chart sets too, from hub.endpoint",
            "remove it",
            id="env of a value",
        ),
        pytest.param(
            {"pod": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
            "pod.env sets A twice",
            "keep one",
            id="env twice",
        ),
        pytest.param(
            {"storage": {"engines": {"path": "/data"}, "models": {"path": "/data/"}}},
            "are both /data",
            "a directory of its own",
            id="one directory for both",
        ),
        pytest.param(
            {"hub": {"offline": True}, "storage": {"engines": {"type": "emptyDir"}, "models": {"type": "emptyDir"}}},
            "neither engine nor model",
            "storage.sharedTier",
            id="offline with nothing",
        ),
        pytest.param(
            {"hub": {"offline": True}, "storage": {"sharedTier": {"url": "s3://engines/tier"}}},
            "hub.offline closes HTTPS",
            "networkPolicy.egress",
            id="offline with a bucket",
        ),
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


@pytest.mark.parametrize(
    "path",
    ["/", "//", "/etc", "/etc/", "/home", "/usr", "/var", "/var/lib", "/var/lib/x/..", "/var/lib/kubelet", "/tmp"],
)
@pytest.mark.parametrize("volume", ["engines", "models"])
def test_directories_of_the_system_are_refused(volume: str, path: str) -> None:
    """prepare-host-path gives the directory to uid 10001, which would then own the node's /etc."""
    with pytest.raises(RenderError, match=rf"storage\.{volume}\.path is .*a directory of the node's system") as refused:
        render(merge(ONE, {"storage": {volume: {"path": path}}}))
    assert f"/var/lib/trtbuild/{volume}" in str(refused.value)


@pytest.mark.parametrize("path", ["/data", "/var/lib/trtbuild/store", "/mnt/nvme0", "/home/llm"])
def test_directories_for_data_are_taken(path: str) -> None:
    assert render(merge(ONE, {"storage": {"engines": {"path": path}}})).objects


@pytest.mark.parametrize(
    ("metric", "least", "most", "too_little", "too_much"),
    [
        pytest.param("demand", 0.01, 4.4, 0.0001, 5, id="demand, cut off at 4.5 by the rules"),
        pytest.param("demand-by-cost", 0.01, 4.4, 0.004, 80, id="demand by cost, said in percent"),
        pytest.param("queue-compute", 0.01, 100, 0.0001, 1e18, id="queue over compute"),
        pytest.param("waiting", 0.5, 1000, 0.0001, 1e18, id="waiting"),
        pytest.param("gpu-utilization", 1, 100, 0.8, 101, id="GPU use is in percent"),
        pytest.param("kv-cache", 0.1, 1, 0.0009, 80, id="cache use is a share"),
        pytest.param("cpu", 1, 400, 0.5, 1e18, id="processor use is in percent"),
    ],
)
def test_target_that_scales_nothing_is_refused(
    metric: str, least: float, most: float, too_little: float, too_much: float
) -> None:
    """Beyond its metric's range a target is never met or the API's 0; the schema cannot know which metric is meant."""
    for target in (least, most):
        rendered = render(merge(ONE, {"autoscaling": {"metric": metric, "target": target}}))
        text = str(rendered.one("HorizontalPodAutoscaler")["spec"]["metrics"])
        assert "'0m'" not in text
        assert "-" not in text.partition("target")[2]
    for target in (too_little, too_much):
        with pytest.raises(RenderError, match=r"skus\.a100: autoscaling\.target .*autoscaling\.target null"):
            render(merge(ONE, {"autoscaling": {"metric": metric, "target": target}}))


def test_the_chart_and_the_tool_agree_on_the_cpu_backend() -> None:
    """The chart refuses what the plan would refuse in the pod, minutes later."""
    for quantization in ("none", *QUANTIZED_WEIGHTS):
        assert render(merge(ONE, {**NO_PRODUCTS, "model": {"backend": "cpu", "quantization": quantization}})).objects
    schema = json.loads((CHART / "values.schema.json").read_text())
    others = set(schema["definitions"]["model"]["properties"]["quantization"]["enum"]) - {"none", *QUANTIZED_WEIGHTS}
    assert others
    for quantization in others:
        with pytest.raises(RenderError, match=r"model\.quantization"):
            render(merge(ONE, {**NO_PRODUCTS, "model": {"backend": "cpu", "quantization": quantization}}))


def test_demand_has_a_ceiling_above_every_target_that_is_taken() -> None:
    """validateTarget takes demand up to 4.4 since the rules cut it off at 4.5: both numbers move together."""
    rules = (CHART / "files" / "rules" / "recording.yaml").read_text()
    assert re.search(r"record: triton:demand:ratio\n\s+expr: \|\n\s+clamp_max\([^#]*?\n\s+4\.5\n", rules)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        pytest.param(1e-9, "the weight 0 of a route", id="no traffic"),
        pytest.param(1e9, "100000000000", id="over the API's"),
    ],
)
def test_weights_that_a_route_cannot_say(weight: float, message: str) -> None:
    route = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}, "balancing": {"type": "gateway"}}
    with pytest.raises(RenderError, match=message):
        render(merge(ONE, route, {"capacity": {"weight": weight}}))
    # Without a route the weight is a ratio between SKUs, which may be anything.
    assert render(merge(ONE, {"capacity": {"weight": weight}})).objects


def test_a_name_of_its_own_lets_two_models_be_one() -> None:
    """Another repository for another SKU, such as a quantized one, may serve under the same name."""
    other = {"gpu": {"products": ["NVIDIA-H100-80GB-HBM3"]}, "model": {"name": "org/Llama-3-8B-FP8"}}
    values = merge(ONE, {"model": {"servedName": "llama"}, "skus": {"h100": other}})
    assert len(render(values).kind("Deployment")) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"resources": {"limit": {"memory": "1Gi"}}}, "limit", id="limit for limits"),
        pytest.param({"resources": {"limits": "1Gi"}}, "limits", id="limits as text"),
        pytest.param({"autoscaling": {"behavior": {"scaleDwn": {}}}}, "scaleDwn", id="scaleDwn"),
        pytest.param({"pod": {"affinity": {"nodeAffinity": "x"}}}, "nodeAffinity", id="affinity as text"),
        pytest.param(
            {"pod": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}}},
            "requiredDuring",
            id="affinity as a list",
        ),
        pytest.param({"pod": {"env": [{"value": "x"}]}}, "name", id="environment without a name"),
        pytest.param({"fullnameOverride": "3llm"}, "fullnameOverride", id="Service name from a digit"),
        pytest.param({"fullnameOverride": "a: b"}, "fullnameOverride", id="YAML as a name"),
        pytest.param({"serviceAccount": {"name": "a\nb"}}, "serviceAccount", id="account of two lines"),
        pytest.param({"storage": {"engines": {"existingClaim": "a: b"}}}, "existingClaim", id="YAML as a claim"),
        pytest.param({"balancing": {"clusterDomain": "x\nadmin: y"}}, "clusterDomain", id="lines in Envoy's file"),
        pytest.param({"storage": {"engines": {"accessModes": []}}}, "accessModes", id="claim without a mode"),
    ],
)
def test_schema_refuses_what_only_the_api_server_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RenderError, match=message) as refused:
        render(merge(ONE, values))
    assert "error calling" not in str(refused.value)

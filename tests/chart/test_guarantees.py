"""Facts of the manifests that a promise rests on. Each test says what would break without the fact.

Golden files show these facts as well, but whoever runs ``--update-golden`` accepts what they show; these tests say no.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.chart.helm import CI, ci_values, container, merge, render

ONE = ci_values("one-sku")
THREE = ci_values("three-skus")


def server_pod(values: dict[str, Any], sku: str = "a100") -> dict[str, Any]:
    spec = render(values).sku("Deployment", sku)["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def test_pods_run_on_the_products_of_their_sku() -> None:
    """An engine is built for one GPU product: with NotIn, or Exists, the pod lands where it cannot load."""
    for sku in ("a100", "h100"):
        products = THREE["skus"][sku]["gpu"]["products"]
        spec = server_pod(THREE, sku)
        required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert required == {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "In", "values": products}]}
            ]
        }


@pytest.mark.parametrize("name", CI)
def test_every_container_of_the_chart_has_a_read_only_root(name: str) -> None:
    """A request that escapes into a container can replace no program there, and no file grows outside a volume."""
    seen = 0
    for where, spec in render(ci_values(name)).pod_specs():
        for item in [*spec.get("initContainers", []), *spec["containers"]]:
            if item["name"] in {"sidecar", "first"}:  # the user's own
                continue
            seen += 1
            context = item["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, (where, item["name"])
            assert context["allowPrivilegeEscalation"] is False, (where, item["name"])
            assert context["capabilities"]["drop"] == ["ALL"], (where, item["name"])
    assert seen >= 2


def test_the_token_is_a_file_that_only_init_can_read() -> None:
    """The server reads untrusted requests: there the token is not even mounted, and it is no environment variable.

    Mode 0440: the files belong to root and the pod's group, which uid 10001 is in; other users cannot read them.
    """
    spec = server_pod(merge(ONE, {"model": {"tokenSecret": {"name": "hf", "key": "k"}}}))
    [volume] = [volume for volume in spec["volumes"] if "secret" in volume]
    assert volume == {
        "name": "hf-token",
        "secret": {"secretName": "hf", "defaultMode": 0o440, "items": [{"key": "k", "path": "token"}]},
    }
    assert spec["securityContext"]["fsGroup"] == 10001
    mounts = {
        item["name"]: [mount for mount in item.get("volumeMounts", []) if mount["name"] == "hf-token"]
        for item in [*spec["initContainers"], *spec["containers"]]
    }
    wanted = {"name": "hf-token", "mountPath": "/var/run/secrets/huggingface", "readOnly": True}
    assert mounts == {"prepare-host-path": [], "init": [wanted], "server": []}
    names = {item["name"]: {env["name"] for env in item.get("env", [])} for item in spec["containers"]}
    assert not any("TOKEN" in name for name in names["server"])


@pytest.mark.parametrize("name", CI)
def test_no_pod_holds_a_token_of_the_api_server(name: str) -> None:
    """Nothing here asks the API server, so a token could only be stolen: neither pods nor their account mount one."""
    rendered = render(ci_values(name))
    specs = dict(rendered.pod_specs())
    assert specs
    assert {where: spec["automountServiceAccountToken"] for where, spec in specs.items()} == dict.fromkeys(specs, False)
    for account in rendered.kind("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def ports(rule: dict[str, Any]) -> list[tuple[int, str]]:
    return [(port["port"], port.get("protocol", "TCP")) for port in rule["ports"]]


def test_network_policy_opens_exactly_what_is_served() -> None:
    """Requests from the namespace; metrics from Prometheus only, of servers (8002) and proxies (9902).

    Without the metrics ports every pod counts as unseen, and no autoscaler has a signal.
    """
    spec = render(THREE).one("NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    requests, metrics = spec["ingress"]
    assert ports(requests) == [(8080, "TCP"), (8000, "TCP"), (8001, "TCP")]
    assert requests["from"] == [{"podSelector": {}}]
    assert ports(metrics) == [(8002, "TCP"), (9902, "TCP")]
    assert metrics["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    names, hub, pods = spec["egress"]
    assert (ports(names), ports(hub)) == ([(53, "UDP"), (53, "TCP")], [(443, "TCP")])
    assert ports(pods) == [(8080, "TCP"), (8000, "TCP"), (8001, "TCP")]
    assert "to" not in names


def test_what_prometheus_reads_is_what_the_policy_opens() -> None:
    """The scraped port is named; the name leads to a container port that the policy lets Prometheus reach."""
    rendered = render(THREE)
    [endpoint] = rendered.one("PodMonitor")["spec"]["podMetricsEndpoints"]
    server = container(server_pod(THREE), "server")
    [port] = [port["containerPort"] for port in server["ports"] if port["name"] == endpoint["port"]]
    opened = rendered.one("NetworkPolicy")["spec"]["ingress"][1]
    assert port in {number for number, _ in ports(opened)}


@pytest.mark.parametrize("values", [ONE, THREE], ids=["pods", "proxies"])
def test_grpc_port_says_that_it_speaks_http2_in_clear(values: dict[str, Any]) -> None:
    """Gateways and meshes talk HTTP/1.1 to a port that says "http", which gRPC cannot answer.

    Source: kubernetes.io/docs/concepts/services-networking/service, "Application protocol".
    """
    for service in render(values).kind("Service"):
        protocols = {port["name"]: port["appProtocol"] for port in service["spec"]["ports"]}
        assert protocols["grpc"] == "kubernetes.io/h2c"
        assert {protocol for name, protocol in protocols.items() if name != "grpc"} == {"http"}


def test_a_loaded_engine_is_not_thrown_away_by_a_busy_node() -> None:
    """Two minutes of silence end a server, not one missed probe: loading again costs minutes of GPU time."""
    liveness = container(server_pod(ONE), "server")["livenessProbe"]
    assert liveness["failureThreshold"] == 6
    assert liveness["failureThreshold"] * liveness["periodSeconds"] >= 120
    readiness = container(server_pod(ONE), "server")["readinessProbe"]
    assert readiness["failureThreshold"] == 3
    proxy = render(THREE).one("Deployment", "llama-trtbuild-envoy")["spec"]["template"]["spec"]
    assert container(proxy, "envoy")["livenessProbe"]["failureThreshold"] == 6


@pytest.mark.parametrize("autoscaler", ["HorizontalPodAutoscaler", "ScaledObject"])
def test_fleets_grow_at_once_and_shrink_slowly(autoscaler: str) -> None:
    """Up: doubling, or four pods where that is more, every 15 s, since a queue does not wait.

    Down: a pod a minute, or a tenth where that is more; 100 % would throw a fleet away at the first lull.
    """
    spec = render(ONE if autoscaler.startswith("H") else ci_values("keda")).one(autoscaler)["spec"]
    if autoscaler == "ScaledObject":
        spec = spec["advanced"]["horizontalPodAutoscalerConfig"]
    assert spec["behavior"]["scaleUp"] == {
        "stabilizationWindowSeconds": 0,
        "selectPolicy": "Max",
        "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 15},
            {"type": "Percent", "value": 100, "periodSeconds": 15},
        ],
    }
    down = spec["behavior"]["scaleDown"]
    assert down["selectPolicy"] == "Max"
    assert down["policies"] == [
        {"type": "Pods", "value": 1, "periodSeconds": 60},
        {"type": "Percent", "value": 10, "periodSeconds": 60},
    ]
    assert down["stabilizationWindowSeconds"] >= 600


@pytest.mark.parametrize("where", ["commonLabels", "pod.labels", "both"])
def test_no_label_of_the_users_puts_a_pod_behind_the_service(where: str) -> None:
    """Only servers of the release stand behind the Service: a pre-warm pod would answer no request."""
    labels = {"trtbuild.dev/service": "llama-trtbuild", "trtbuild.dev/sku": "other"}
    values = merge(THREE, {"prewarm": {"enabled": True}})
    if where != "pod.labels":
        values = merge(values, {"commonLabels": labels})
    if where != "commonLabels":
        values = merge(values, {"pod": {"labels": labels}})
    rendered = render(values)
    behind = {
        f"{item['kind']}/{item['metadata']['labels']['app.kubernetes.io/component']}"
        for item in [*rendered.kind("Deployment"), *rendered.kind("Job")]
        if item["spec"]["template"]["metadata"]["labels"].get("trtbuild.dev/service") == "llama-trtbuild"
    }
    assert len(rendered.kind("Job")) == 3
    assert behind == {"Deployment/server"}
    selector = rendered.one("Service", "llama-trtbuild-pods")["spec"]["selector"]
    assert selector == {"trtbuild.dev/service": "llama-trtbuild"}


def test_names_that_are_cut_keep_six_digits_of_a_hash() -> None:
    """Names that differ at the end only: one digit makes every 16th pair the same, six digits one in 16 million."""
    bases = [f"{'n' * 60}{number:02d}" for number in range(24)]
    names = [render(merge(ONE, {"fullnameOverride": base})).one("Deployment")["metadata"]["name"] for base in bases]
    assert len(set(names)) == len(bases)
    for name in names:
        assert len(name) <= 63
        assert re.fullmatch(r"n+-[0-9a-f]{6}-a100", name), name

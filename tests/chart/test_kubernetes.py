"""What comes out is accepted by Kubernetes: strict schemas, custom resources by their types, Pod Security."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.chart import pss
from tests.chart.helm import ALL_APIS, CHART, CI, GATEWAY, KEDA, MONITORING, ci_values, container, merge, render

VERSIONS = ("1.27", "1.31", "1.34", "1.37")
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)
IMPORTS = {
    ("PodMonitor", MONITORING): "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
    ("ServiceMonitor", MONITORING): "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
    ("PrometheusRule", MONITORING): "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
    ("ScaledObject", KEDA): "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
    ("HTTPRoute", GATEWAY): "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute",
}


def is_custom(item: dict[str, Any]) -> bool:
    return item["apiVersion"] in ALL_APIS


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CI)
def test_objects_are_valid_strictly(name: str, version: str) -> None:
    rendered = render(ci_values(name), kube_version=f"v{version}.0")
    checked = 0
    for item in rendered.objects:
        if not is_custom(item):
            assert kubernetes_validate.validate(item, version, strict=True) == version
            checked += 1
    assert checked >= 4


def test_strict_validation_finds_an_unknown_field() -> None:
    item = render(ci_values("cpu")).one("ServiceAccount")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**item, "spec": {}}, "1.31", strict=True)


def custom_resources() -> list[dict[str, Any]]:
    items = [item for name in CI for item in render(ci_values(name)).objects if is_custom(item)]
    other = merge(ci_values("one-sku"), {"monitoring": {"scrape": "ServiceMonitor"}})
    return items + [item for item in render(other).objects if is_custom(item)]


@pytest.fixture(scope="module")
def type_errors(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What TypeScript says against custom resources as literals: wrong types, missing and unknown keys.

    ``wrong.ts`` holds a monitor with a misspelt key: without an error for it the check would be worth nothing.
    """
    folder = tmp_path_factory.mktemp("types")
    monitor = render(ci_values("one-sku")).one("PodMonitor")
    endpoint = monitor["spec"]["podMetricsEndpoints"][0]
    wrong = {**monitor, "spec": {**monitor["spec"], "podMetricsEndpoints": [{**endpoint, "intervall": "5s"}]}}
    header = [f'import type {{ I{kind} as {kind} }} from "{path}";' for (kind, _), path in IMPORTS.items()]
    for name, items in (("objects", custom_resources()), ("wrong", [wrong])):
        lines = [f"export const object{i}: {item['kind']} = {json.dumps(item)};" for i, item in enumerate(items)]
        (folder / f"{name}.ts").write_text("\n".join([*header, *lines]) + "\n")
    (folder / "node_modules").symlink_to(node_modules)
    command = ["node", str(node_modules / "typescript" / "bin" / "tsc"), "--strict", "--noEmit", "--skipLibCheck"]
    command += [
        "--target",
        "es2022",
        "--module",
        "nodenext",
        "--moduleResolution",
        "nodenext",
        "objects.ts",
        "wrong.ts",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=280)
    return done.stdout + done.stderr


CHECK = """
import { readFileSync } from "node:fs";
for (const { path, item } of JSON.parse(readFileSync(0, "utf8"))) {
  const module = await import(path);
  new module[item.kind](item).validate();
}
"""


def test_custom_resources_match_their_types(type_errors: str) -> None:
    assert {(item["kind"], item["apiVersion"]) for item in custom_resources()} == set(IMPORTS)
    assert "objects.ts" not in type_errors
    assert "wrong.ts" in type_errors
    assert "intervall" in type_errors


def test_custom_resources_match_their_schemas(node_modules: Path, tmp_path: Path) -> None:
    (tmp_path / "check.mjs").write_text(CHECK)
    (tmp_path / "node_modules").symlink_to(node_modules)
    asked = [{"path": IMPORTS[item["kind"], item["apiVersion"]], "item": item} for item in custom_resources()]

    def check(items: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
        command, text = ["node", "check.mjs"], json.dumps(items)
        return subprocess.run(
            command, cwd=tmp_path, input=text, capture_output=True, text=True, timeout=120, check=False
        )

    done = check(asked)
    assert done.returncode == 0, done.stderr
    assert check([{**asked[0], "item": {**asked[0]["item"], "spec": {}}}]).returncode != 0


@pytest.mark.parametrize("name", ["cpu", "pvc", "offline", "openshift", "everything"])
def test_pods_pass_the_restricted_profile(name: str) -> None:
    specs = list(render(ci_values(name)).pod_specs())
    assert specs
    assert {where: found for where, spec in specs if (found := list(pss.restricted(spec)))} == {}


@pytest.mark.parametrize("name", ["one-sku", "three-skus", "tp4", "keda"])
def test_host_paths_break_only_what_they_must(name: str) -> None:
    allowed = {
        "volume engines: hostPath",
        "volume models: hostPath",
        "prepare-host-path: runAsNonRoot",
        "prepare-host-path: runAsUser 0",
        "prepare-host-path: capability ['CHOWN'] added",
    }
    specs = {
        where: spec for where, spec in render(ci_values(name)).pod_specs() if not where.endswith(("envoy", "test"))
    }
    found = [set(pss.restricted(spec)) for spec in specs.values()]
    assert found
    assert all(violations == allowed for violations in found)


def test_prepared_nodes_need_no_root() -> None:
    values = merge(ci_values("one-sku"), {"storage": {"prepareHostPath": False}})
    spec = render(values).one("Deployment")["spec"]["template"]["spec"]
    assert set(pss.restricted(spec)) == {"volume engines: hostPath", "volume models: hostPath"}


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        pytest.param({"hostNetwork": True}, "pod: hostNetwork", id="host network"),
        pytest.param({"securityContext": {}}, "server: runAsNonRoot", id="root"),
        pytest.param({"volumes": [{"name": "v", "nfs": {}}]}, "volume v: ['nfs']", id="nfs"),
    ],
)
def test_profile_check_finds_violations(change: dict[str, Any], violation: str) -> None:
    spec = render(ci_values("cpu")).one("Deployment")["spec"]["template"]["spec"]
    assert violation in list(pss.restricted({**spec, **change}))


@pytest.mark.parametrize("name", CI)
def test_all_writing_goes_to_mounts(name: str) -> None:
    """Read-only root everywhere, every mount has a volume, every emptyDir of the chart has a size."""
    for where, spec in render(ci_values(name)).pod_specs():
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for item in [*spec.get("initContainers", []), *spec["containers"]]:
            if item["name"] in {"init", "server", "envoy", "prepare-host-path", "generate"}:
                assert item["securityContext"]["readOnlyRootFilesystem"] is True, where
            mounts = [mount["name"] for mount in item.get("volumeMounts", [])]
            assert set(mounts) <= set(volumes)
            assert len(mounts) == len(set(mounts))
        assert all("sizeLimit" in volume["emptyDir"] for volume in volumes.values() if "emptyDir" in volume)
        assert spec["automountServiceAccountToken"] is False


def test_older_kubernetes_is_refused(helm3: str) -> None:
    command = [helm3, "template", "llama", str(CHART), "-f", str(CI["cpu"]), "--kube-version", "1.26.9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "requires kubeVersion: >=1.27.0-0" in done.stderr


def test_token_is_a_file_of_the_init_container_only() -> None:
    rendered = render(ci_values("one-sku"))
    spec = rendered.one("Deployment")["spec"]["template"]["spec"]
    init, server = container(spec, "init"), container(spec, "server")
    assert {"name": "HF_TOKEN_PATH", "value": "/var/run/secrets/huggingface/token"} in init["env"]
    assert "hf-token" in {mount["name"] for mount in init["volumeMounts"]}
    assert "hf-token" not in {mount["name"] for mount in server["volumeMounts"]}
    [secret] = [volume["secret"] for volume in spec["volumes"] if volume["name"] == "hf-token"]
    assert secret == {"secretName": "hf-token", "defaultMode": 0o440, "items": [{"key": "token", "path": "token"}]}
    assert "secretKeyRef" not in json.dumps(rendered.objects)

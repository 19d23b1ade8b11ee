"""Renders the chart with Helm 4 (library) and Helm 3 (binary), and answers questions about what came out."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

helm_python = pytest.importorskip("helm_python")
_native = helm_python._native

CHART = Path(__file__).resolve().parents[2] / "chart"
CI = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
MONITORING, KEDA, GATEWAY = "monitoring.coreos.com/v1", "keda.sh/v1alpha1", "gateway.networking.k8s.io/v1"
ALL_APIS = (MONITORING, KEDA, GATEWAY)
KUBE_VERSION = "v1.31.0"
NAMESPACE = "inference"

Object = dict[str, Any]


class RenderError(Exception):
    """The chart refused the values."""


@dataclass(frozen=True)
class Rendered:
    """The objects of one render, in the order of the files."""

    objects: tuple[Object, ...]
    notes: str = ""
    files: frozenset[str] = frozenset()
    """Templates that gave at least one object, relative to templates/ (Helm 4 only)."""

    def kind(self, kind: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Object:
        """Return the only object of a kind (and name)."""
        found = [item for item in self.kind(kind) if name is None or item["metadata"]["name"] == name]
        names = [item["metadata"]["name"] for item in self.kind(kind)]
        assert len(found) == 1, f"expected one {kind} {name or ''}, got {names}"
        return found[0]

    def sku(self, kind: str, sku: str) -> Object:
        """Return the only object of a kind with a SKU's label."""
        found = [item for item in self.kind(kind) if item["metadata"]["labels"].get("trtbuild.dev/sku") == sku]
        assert len(found) == 1, f"expected one {kind} of SKU {sku}, got {len(found)}"
        return found[0]

    def pod_specs(self) -> Iterator[tuple[str, Object]]:
        """Yield (kind/name, pod spec) of everything that makes pods."""
        for item in self.objects:
            if item["kind"] in {"Deployment", "Job", "DaemonSet", "StatefulSet"}:
                yield f"{item['kind']}/{item['metadata']['name']}", item["spec"]["template"]["spec"]
            elif item["kind"] == "Pod":
                yield f"Pod/{item['metadata']['name']}", item["spec"]


class _StrictLoader(yaml.CSafeLoader):
    """Refuses a key given twice, which YAML allows and Kubernetes' strict decoding does not."""


def _mapping(loader: yaml.CSafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    assert not twice, f"keys given twice: {twice} at {node.start_mark}"
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


# Go's YAML, which Helm and the API server use, takes 1e3 for a number; PyYAML wants a point in it.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)
_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_objects(text: str) -> list[Object]:
    """Return the objects of a manifest stream."""
    return [item for item in yaml.load_all(text, Loader=_StrictLoader) if item]


@cache
def _chart() -> Any:
    return helm_python.Chart.load(str(CHART))


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values the way -f does: maps merged, the rest replaced."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(result.get(key), dict):
                result[key] = merge(result[key], value)
            else:
                result[key] = copy.deepcopy(value)
    return result


def ci_values(name: str) -> dict[str, Any]:
    values = yaml.safe_load(CI[name].read_text())
    assert isinstance(values, dict)
    return values


def render(
    values: Mapping[str, Any],
    *,
    release: str = "llama",
    kube_version: str = KUBE_VERSION,
    apis: tuple[str, ...] = ALL_APIS,
) -> Rendered:
    """Render with Helm 4's library, schema first, as ``helm install`` does.

    Raises:
        RenderError: The schema or a template refused the values.
    """
    options = {"name": release, "namespace": NAMESPACE, "kube_version": kube_version, "api_versions": list(apis)}
    try:
        _chart().validate_schema(dict(values))
        text = _native.call_string("helm_render", _chart()._raw(), json.dumps(values), json.dumps(options))
    except helm_python.HelmError as error:
        raise RenderError(str(error)) from None
    files: dict[str, str] = json.loads(text)
    objects: list[Object] = []
    used = set()
    for path, content in sorted(files.items()):
        if path.endswith(".yaml"):
            found = load_objects(content)
            objects.extend(found)
            if found:
                used.add(path.split("/templates/")[1])
    return Rendered(tuple(objects), files["trtbuild/templates/NOTES.txt"], frozenset(used))


def render_helm3(helm: str, values: Path, *, chart: Path = CHART) -> Rendered:
    """Render a values file with the Helm 3 binary."""
    command = [helm, "template", "llama", str(chart), "-f", str(values), "--namespace", NAMESPACE]
    command += ["--kube-version", KUBE_VERSION, *(part for api in ALL_APIS for part in ("--api-versions", api))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RenderError(done.stderr)
    return Rendered(tuple(load_objects(done.stdout)))


def engine_config(rendered: Rendered, sku: str) -> dict[str, Any]:
    """Return the parsed engine.yaml of a SKU."""
    found = [item for item in rendered.kind("ConfigMap") if "engine.yaml" in item["data"]]
    [config] = [item for item in found if item["metadata"]["labels"]["trtbuild.dev/sku"] == sku]
    parsed = yaml.safe_load(config["data"]["engine.yaml"])
    assert isinstance(parsed, dict)
    return parsed


def container(spec: Object, name: str) -> Object:
    """Return a container or init container of a pod spec."""
    found = [item for item in [*spec.get("initContainers", []), *spec["containers"]] if item["name"] == name]
    assert len(found) == 1, f"expected one container {name}, got {len(found)}"
    result = found[0]
    assert isinstance(result, dict)
    return result

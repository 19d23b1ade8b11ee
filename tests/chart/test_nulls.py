"""Null in values: Helm drops the key, default and all. Each key means nothing by it, or says what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import Rendered, RenderError, ci_values, container, merge, render, render_helm3
from tests.chart.test_values import with_value
from tools import chart_keys

KEYS = chart_keys.load_keys()
NEEDED = chart_keys.needed_keys(KEYS)
# Every feature on, so that each value is read by some template.
BASE = merge(
    ci_values("one-sku"),
    {
        "balancing": {"type": "envoy"},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]},
        "hub": {"caBundle": {"configMap": "ca"}},
        "ingress": {"enabled": True},
        "model": {"tokenSecret": {"name": "hf"}},
        "prewarm": {"enabled": True},
        "storage": {"engines": {"type": "persistentVolumeClaim"}},
    },
)
NAMED_OTHERWISE = {
    "image.repository": "image.repository is empty",
    "model.name": "model.name is empty",
    "skus": "skus is empty",
    "httpRoute.parentRefs": "httpRoute.parentRefs is empty",
}
"""Keys that must be given: what is said of them does not depend on how they came to be empty."""
STACK_TRACE = re.compile(r"nil pointer|error calling|wrong type for value|runtime error|reflect:|executing \"")


def walk(keys: tuple[chart_keys.Key, ...]) -> Iterator[chart_keys.Key]:
    for key in keys:
        yield key
        yield from walk(key.children)


PATHS = [key.path for key in walk(KEYS)]
PER_SKU = [f"skus.a100.{key.path}" for top in KEYS if top.is_per_sku for key in walk((top,))]


def nulls_in(node: Any, path: str = "") -> Iterator[str]:
    """Yield where an object holds null, or text that a template makes of it."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from nulls_in(value, f"{path}.{key}")
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from nulls_in(value, f"{path}[{number}]")
    elif node is None or (isinstance(node, str) and re.search(r"<nil>|<no value>|%!|: null$", node, re.M)):
        yield f"{path} = {node!r}"


def assert_whole(rendered: Rendered) -> None:
    objects = [item for item in rendered.objects if "dashboard" not in item["metadata"]["name"]]
    assert objects
    assert list(nulls_in(objects)) == []


@pytest.mark.parametrize("path", [*PATHS, *PER_SKU])
def test_null_is_nothing_or_is_explained(path: str) -> None:
    try:
        rendered = render(with_value(BASE, path, None))
    except RenderError as error:
        text = str(error)
        assert not STACK_TRACE.search(text), text
        if path in NEEDED:
            assert f"{path} is null" in text
            assert NEEDED[path] in text.partition("leave it out to keep ")[2]
        elif path.startswith("skus.a100."):
            # No default stands behind a SKU's own key, so the null is still there for the schema to see.
            assert f"/{path.replace('.', '/')}': got null" in text
        else:
            assert NAMED_OTHERWISE[path] in text
    else:
        assert path not in NEEDED
        assert_whole(rendered)


def test_only_what_has_a_default_is_needed() -> None:
    assert {path for path in PATHS if path.count(".") == 0} - set(NEEDED) <= {
        *("nameOverride", "fullnameOverride", "commonLabels", "commonAnnotations", "assumeApis"),
        *("resources", "initResources", "skus"),
    }
    assert NEEDED["model"] == ""
    assert NEEDED["model.parallelism.tensor"] == "1"
    assert NEEDED["storage.engines.accessModes"] == '["ReadWriteMany"]'
    assert "model.limits.maxBatchSize" not in NEEDED
    assert "gpu.tolerations" not in NEEDED


@pytest.mark.parametrize(
    "path",
    ["model", "model.dtype", "autoscaling.metric", "monitoring.rules", "gpu.tolerations", "resources", "server.args"],
)
def test_helm3_says_the_same(path: str, helm3: str, tmp_path: Path) -> None:
    """The order of templates and the dropping of nulls are Helm's: both versions of it run validate.yaml first."""
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(with_value(BASE, path, None)))
    if path not in NEEDED:
        assert_whole(render_helm3(helm3, values))
        return
    with pytest.raises(RenderError, match=rf"templates/validate\.yaml.*{re.escape(path)} is null"):
        render_helm3(helm3, values)


def pod_spec(values: dict[str, Any]) -> dict[str, Any]:
    rendered = render(merge(ci_values("one-sku"), values))
    assert_whole(rendered)
    spec = rendered.sku("Deployment", "a100")["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def test_null_takes_the_default_list_and_map_away() -> None:
    """As values files do everywhere: null for what {} and [] cannot say, since maps are merged."""
    assert "tolerations" not in pod_spec({"gpu": {"tolerations": None}})
    assert container(pod_spec({"resources": None}), "server")["resources"] == {"limits": {"nvidia.com/gpu": 1}}


@pytest.mark.parametrize("prefix", ["", "skus.a100."], ids=["release", "SKU"])
@pytest.mark.parametrize(
    ("path", "gone"),
    [
        ("resources.limits.memory", ("limits", "memory")),
        ("resources.requests.cpu", ("requests", "cpu")),
        ("resources.requests", ("requests",)),
    ],
)
def test_null_inside_a_free_map_is_no_quantity_zero(prefix: str, path: str, gone: tuple[str, ...]) -> None:
    """Kubernetes reads ``memory: null`` as the quantity 0, which is a limit that kills the container."""
    rendered = render(with_value(ci_values("one-sku"), prefix + path, None))
    assert_whole(rendered)
    spec = rendered.sku("Deployment", "a100")["spec"]["template"]["spec"]
    resources = container(spec, "server")["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == 1
    for part in gone[:-1]:
        resources = resources[part]
    assert gone[-1] not in resources


@pytest.mark.parametrize("prefix", ["", "skus.a100."], ids=["release", "SKU"])
@pytest.mark.parametrize(
    "path",
    [
        "pod.affinity.nodeAffinity",
        "pod.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
        "autoscaling.behavior.scaleDown",
    ],
)
def test_null_inside_what_kubernetes_defines(prefix: str, path: str) -> None:
    assert_whole(render(with_value(ci_values("one-sku"), prefix + path, None)))


@pytest.mark.parametrize("path", ["pod.nodeSelector.pool", "pod.labels.tier", "model.buildOptions.x", "server.args.y"])
def test_null_inside_a_map_of_texts(path: str) -> None:
    """There is no default to take away: refused where the null arrives, and nothing where Helm drops it."""
    for prefix in ("", "skus.a100."):
        try:
            assert_whole(render(with_value(ci_values("one-sku"), prefix + path, None)))
        except RenderError as error:
            assert not STACK_TRACE.search(str(error)), error
            assert "got null" in str(error)


def test_a_sku_takes_a_default_away() -> None:
    values = merge(ci_values("one-sku"), {"model": {"limits": {"maxBatchSize": 8}}})
    assert "max_batch_size: 8" in str(render(values).kind("ConfigMap"))
    values["skus"]["a100"]["model"] = {"limits": {"maxBatchSize": None}}
    assert "max_batch_size" not in str(render(values).kind("ConfigMap"))

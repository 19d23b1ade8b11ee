"""values.yaml is documented, checked and used: every key, and nothing besides."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, Rendered, RenderError, ci_values, merge, render
from tools import chart_keys

KEYS = chart_keys.load_keys()
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
EVERYTHING = ci_values("everything")


def leaves(keys: tuple[chart_keys.Key, ...]) -> Iterator[chart_keys.Key]:
    for key in keys:
        if key.children:
            yield from leaves(key.children)
        else:
            yield key


LEAVES = {key.path: key for key in leaves(KEYS)}


def dig(values: dict[str, Any], path: str) -> Any:
    for part in path.split("."):
        values = values[part]
    return values


def with_value(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return values with one leaf replaced."""
    result = copy.deepcopy(values)
    node = result
    *parents, last = path.split(".")
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = copy.deepcopy(value)
    return result


def test_schema_and_readme_are_up_to_date() -> None:
    command = [sys.executable, "-m", "tools.chart_docs", "--check"]
    done = subprocess.run(command, cwd=CHART.parent, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_key_has_a_comment_and_a_schema() -> None:
    assert len(LEAVES) > 120
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    readme = (CHART / "README.md").read_text()
    for path, key in LEAVES.items():
        assert len(key.text) > 3, f"{path} has no comment"
        assert f"| `{path}` |" in readme


def test_generator_refuses_a_key_without_comment() -> None:
    text = "# Section.\na:\n  b: 1\n"
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    with pytest.raises(ValueError, match=r"line 3: a\.b has no comment"):
        chart_keys.read_keys(node, yaml.safe_load(text), text.splitlines())


def test_everything_sets_everything() -> None:
    """The scenario "everything" differs from the defaults in each value, but for those that must not."""
    kept = {
        "gpu.products",  # set per SKU
        "gpu.count",  # anything but tensor x pipeline is refused
        "storage.engines.existingClaim",
        "storage.engines.readOnly",
        "storage.models.existingClaim",
        "storage.models.readOnly",
        "autoscaling.enabled",
        "autoscaling.type",
        "disruptionBudget.enabled",
        "serviceAccount.create",
        "service.create",
        "networkPolicy.enabled",
        "monitoring.rules.enabled",
        "monitoring.rules.alerts",
        "monitoring.dashboards.enabled",
    }
    same = {path for path in LEAVES if dig(merge(DEFAULTS, EVERYTHING), path) == dig(DEFAULTS, path)}
    assert same == kept


ONE = ci_values("one-sku")
CLAIM = {"type": "persistentVolumeClaim"}
BASES: dict[str, dict[str, Any]] = {
    "one": ONE,
    "switched on": merge(
        ONE,
        {
            "autoscaling": {"enabled": False},
            "balancing": {"type": "envoy"},
            "httpRoute": {"enabled": True, "parentRefs": [{"name": "private"}]},
            "hub": {"caBundle": {"configMap": "ca"}},
            "ingress": {"enabled": True, "host": "llm.example"},
            "prewarm": {"enabled": True},
            "service": {"group": "llm"},
            "storage": {"engines": CLAIM, "models": CLAIM},
        },
    ),
    "grouped": merge(ONE, {"service": {"group": "llm"}}),
    "keda": ci_values("keda"),
    "no product": {**ONE, "skus": {"a100": {}}},
    "everything": EVERYTHING,
}
OTHER: dict[str, Any] = {
    "image.repository": "registry.example/other",
    "skus": {"b200": {"gpu": {"products": ["NVIDIA-B200"]}}},
    "gpu.products": ["Tesla-T4"],
    "gpu.count": 1,
    "storage.engines.existingClaim": "other",
    "storage.models.existingClaim": "other",
    "autoscaling.type": "keda",
    "autoscaling.behavior": {"scaleDown": {"stabilizationWindowSeconds": 901}},
    "strategy.maxSurge": 2,
}


def outcome(values: dict[str, Any]) -> Rendered | str:
    """Return what the chart makes of values: objects, or the refusal."""
    try:
        return render(values)
    except RenderError as error:
        return str(error)


BASE_OUTCOMES: dict[str, Rendered | str] = {}


@pytest.mark.parametrize("path", LEAVES)
def test_value_changes_what_is_rendered(path: str) -> None:
    """No value is decoration: with some scenario around it, another value gives another manifest."""
    default = dig(DEFAULTS, path)
    wanted = OTHER.get(path, dig(merge(DEFAULTS, EVERYTHING), path))
    if wanted == default and isinstance(default, bool):
        wanted = not default
    if path == "gpu.count":
        with pytest.raises(RenderError, match=r"gpu\.count is 3"):
            render(with_value(ONE, path, 3))
        return
    for name, base in BASES.items():
        if name not in BASE_OUTCOMES:
            BASE_OUTCOMES[name] = outcome(base)
            assert isinstance(BASE_OUTCOMES[name], Rendered), BASE_OUTCOMES[name]
        current = dig(merge(DEFAULTS, base), path)
        value = default if current == wanted else wanted
        changed = outcome(with_value(base, path, value))
        if isinstance(changed, Rendered) and changed != BASE_OUTCOMES[name]:
            return
        if path == "assumeApis" and render(ONE, apis=()) != render(with_value(ONE, path, wanted), apis=()):
            return
    pytest.fail(f"{path}: {wanted!r} changes nothing in any scenario")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"modle": {}}, "modle", id="unknown section"),
        pytest.param({"model": {"token": "hf_secret"}}, "token", id="a token in the values"),
        pytest.param({"skus": {"a100": {"gpus": 4}}}, "gpus", id="unknown key of a SKU"),
        pytest.param({"skus": {"a100": {"service": {"type": "NodePort"}}}}, "service", id="release-wide key in a SKU"),
        pytest.param({"skus": {"A100": {}}}, "A100", id="upper-case SKU"),
        pytest.param({"skus": {"a" * 21: {}}}, "a" * 21, id="long SKU"),
        pytest.param({"skus": [{"name": "a100"}]}, "skus", id="list of SKUs"),
        pytest.param({"model": {"dtype": "bfloat"}}, "dtype", id="dtype"),
        pytest.param({"model": {"parallelism": {"tensor": 0}}}, "tensor", id="no ranks"),
        pytest.param({"image": {"digest": "sha256:abc"}}, "digest", id="short digest"),
        pytest.param({"storage": {"engines": {"path": "data"}}}, "path", id="relative host path"),
        pytest.param({"storage": {"engines": {"size": "200"}}}, "size", id="size without unit"),
        pytest.param({"monitoring": {"interval": 30}}, "interval", id="interval above the rules' windows"),
        pytest.param({"autoscaling": {"metric": "gpu"}}, "metric", id="metric"),
        pytest.param({"pod": {"labels": ["a"]}}, "labels", id="labels as a list"),
        pytest.param({"pod": {"labels": {"a": 1}}}, "labels", id="label that is no text"),
        pytest.param({"replicas": -1}, "replicas", id="negative replicas"),
    ],
)
def test_schema_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RenderError, match=message):
        render(merge(ONE, values) if not isinstance(values.get("skus"), list) else {**ONE, **values})


def test_every_section_of_a_sku_is_one_of_the_chart() -> None:
    """A SKU may repeat exactly the sections marked (per SKU), and the templates merge exactly those."""
    marked = {key.name for key in KEYS if key.is_per_sku}
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    [line] = [line for line in helpers.splitlines() if line.startswith('{{- range list "image"')]
    assert set(line.split('"')[1::2]) == marked
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]["skus"]["additionalProperties"]["properties"]) == marked

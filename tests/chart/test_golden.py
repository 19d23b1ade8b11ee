"""Every scenario of chart/ci renders the same with Helm 3 and Helm 4, and the same as last time."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.chart.helm import CI, Rendered, ci_values, render, render_helm3

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "chart"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that a changed line is a changed line."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def golden_text(rendered: Rendered) -> str:
    """Return the objects as text, sorted; of dashboards and rule files only the names, they have tests of their own."""
    shown = []
    for item in sorted(rendered.objects, key=lambda item: (item["kind"], item["metadata"]["name"])):
        if item["kind"] == "ConfigMap" and all(name.endswith(".json") for name in item["data"]):
            item = {**item, "data": sorted(item["data"])}
        if item["kind"] == "PrometheusRule":
            constants = [group for group in item["spec"]["groups"] if group["name"].startswith("trtbuild-constants-")]
            others = [group["name"] for group in item["spec"]["groups"] if group not in constants]
            item = {**item, "spec": {"constants": constants, "groups": others}}
        shown.append(item)
    return yaml.dump_all(shown, Dumper=_Dumper, width=120)


@pytest.mark.parametrize("name", CI)
def test_render_is_golden(name: str, update_golden: bool) -> None:
    text = golden_text(render(ci_values(name)))
    path = GOLDEN / f"{name}.yaml"
    if update_golden:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"no golden file for {name}: pytest {__file__} --update-golden"
    assert text == path.read_text(), f"{name} changed; if that is wanted: pytest {__file__} --update-golden"


def test_golden_has_no_leftovers() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {f"{name}.yaml" for name in CI}


@pytest.mark.parametrize("name", CI)
def test_helm3_renders_the_same(name: str, helm3: str) -> None:
    def ordered(rendered: Rendered) -> list[object]:
        return sorted(rendered.objects, key=lambda item: (item["kind"], item["metadata"]["name"]))

    assert ordered(render_helm3(helm3, CI[name])) == ordered(render(ci_values(name)))

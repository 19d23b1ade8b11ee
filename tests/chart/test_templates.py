"""Each template has values that turn it on and values that turn it off."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.chart.helm import CHART, CI, KUBE_VERSION, RenderError, ci_values, helm_python, merge, render, render_helm3

ONE = ci_values("one-sku")
ROUTE = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}
JOINED = {"service": {"create": False, "group": "llm"}}
CLAIM = {"storage": {"engines": {"type": "persistentVolumeClaim"}}}
ALWAYS: dict[str, Any] = {}
SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "configmap.yaml": (ALWAYS, None),
    "deployment.yaml": (ALWAYS, None),
    "balancer-configmap.yaml": ({"balancing": {"type": "envoy"}}, ALWAYS),
    "balancer-deployment.yaml": ({"balancing": {"type": "envoy"}}, ALWAYS),
    "balancer-poddisruptionbudget.yaml": (
        {"balancing": {"type": "envoy"}},
        {"balancing": {"type": "envoy", "envoy": {"replicas": 1}}},
    ),
    "dashboards.yaml": (ALWAYS, {"monitoring": {"dashboards": {"enabled": False}}}),
    "horizontalpodautoscaler.yaml": (ALWAYS, {"autoscaling": {"enabled": False}}),
    "httproute.yaml": (ROUTE, ALWAYS),
    "ingress.yaml": ({"ingress": {"enabled": True}}, ALWAYS),
    "networkpolicy.yaml": (ALWAYS, {"networkPolicy": {"enabled": False}}),
    "persistentvolumeclaim.yaml": (CLAIM, ALWAYS),
    "poddisruptionbudget.yaml": (ALWAYS, {"disruptionBudget": {"enabled": False}}),
    "podmonitor.yaml": (ALWAYS, {"monitoring": {"scrape": "none"}}),
    "prewarm-job.yaml": ({"prewarm": {"enabled": True}}, ALWAYS),
    "prometheusrule-alerts.yaml": (ALWAYS, {"monitoring": {"rules": {"alerts": False}}}),
    "prometheusrule-recording.yaml": (ALWAYS, {"monitoring": {"rules": {"enabled": False}}}),
    "scaledobject.yaml": ({"autoscaling": {"type": "keda"}}, ALWAYS),
    "service.yaml": (ALWAYS, JOINED),
    "service-pods.yaml": ({"balancing": {"type": "envoy"}}, ALWAYS),
    "service-sku.yaml": (merge(ROUTE, {"balancing": {"type": "gateway"}}), ROUTE),
    "serviceaccount.yaml": (ALWAYS, {"serviceAccount": {"create": False}}),
    "servicemonitor.yaml": ({"monitoring": {"scrape": "ServiceMonitor"}}, ALWAYS),
    "test-pod.yaml": (ALWAYS, JOINED),
}
RENDERS_NOTHING = {"validate.yaml"}


def test_every_template_is_listed() -> None:
    folder = CHART / "templates"
    assert set(SWITCHES) | RENDERS_NOTHING == {str(path.relative_to(folder)) for path in folder.rglob("*.yaml")}


def test_values_are_checked_before_they_are_used() -> None:
    """Helm runs the deepest and last name first; validate.yaml refuses what would break another template."""
    folder = CHART / "templates"
    templates = [str(path.relative_to(folder)) for path in folder.rglob("*.yaml")]
    assert max(templates, key=lambda path: (path.count("/"), path)) == "validate.yaml"
    assert not RENDERS_NOTHING & render(ONE).files
    with pytest.raises(RenderError, match=r"at \(trtbuild/templates/validate\.yaml"):
        render({**ONE, "skus": {}})


@pytest.mark.parametrize("template", SWITCHES)
def test_template_turns_on_and_off(template: str) -> None:
    on, off = SWITCHES[template]
    assert template in render(merge(ONE, on)).files
    if off is not None:
        assert template not in render(merge(ONE, off)).files


def test_a_sku_may_say_nothing() -> None:
    assert render({**ONE, "skus": {"a100": {}}}) == render({**ONE, "skus": {"a100": None}})


@pytest.mark.parametrize("version", ["v1.27.0", "v1.37.2", "v1.31.4-gke.1000", "v1.30.2+k3s1"])
def test_vendors_versions_are_understood(version: str) -> None:
    values = merge(ONE, {"service": {"trafficDistribution": "PreferClose"}})
    service = render(values, kube_version=version).one("Service")
    assert ("trafficDistribution" in service["spec"]) is (version.split(".")[1] >= "31")


def test_helm_test_asks_the_service() -> None:
    for values in (ONE, merge(ONE, {"balancing": {"type": "envoy"}})):
        rendered = render(values)
        pod = rendered.one("Pod")
        [container] = pod["spec"]["containers"]
        assert container["command"][container["command"].index("--host") + 1] == "llama-trtbuild"
        assert "llama-trtbuild" in {item["metadata"]["name"] for item in rendered.kind("Service")}
        selector = rendered.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
        assert not selector.items() <= pod["metadata"]["labels"].items()


def test_refusal_is_short_enough_to_read() -> None:
    with pytest.raises(RenderError) as refused:
        render(merge(ONE, {"model": {"name": ""}}), kube_version=KUBE_VERSION)
    last = str(refused.value).splitlines()[-1].strip()
    assert last.endswith("--set model.name=llama-3-8b")


@pytest.mark.parametrize("name", ["one-sku", "everything"])
def test_chart_passes_lint(name: str, helm3: str) -> None:
    command = [helm3, "lint", "--strict", str(CHART), "-f", str(CI[name])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    linted = helm_python.lint(str(CHART), ci_values(name), kube_version=KUBE_VERSION, strict=True)
    assert linted["errors"] == []
    assert [item["error"] for item in linted["messages"]] == ["icon is recommended"]


def test_packaged_chart_renders_the_same(helm3: str, tmp_path: Path) -> None:
    """What .helmignore leaves out of the package is not needed to render."""
    done = subprocess.run(
        [helm3, "package", str(CHART), "-d", str(tmp_path)], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    [package] = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        names = archive.getnames()
    assert "trtbuild/files/rules/recording.yaml" in names
    assert not [name for name in names if name.startswith(("trtbuild/ci/", "trtbuild/monitoring/"))]
    packaged = render_helm3(helm3, CI["three-skus"], chart=package)
    assert packaged.objects == render_helm3(helm3, CI["three-skus"]).objects

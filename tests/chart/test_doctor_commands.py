"""`trtbuild doctor autoscaling` as NOTES and the documents print it: complete, and about objects of the chart."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.chart.helm import CHART, CI, Rendered, ci_values, render
from trtbuild.autoscaling.evidence import POD_LABELS, own_labels
from trtbuild.autoscaling.prometheus import RELABELINGS
from trtbuild.cli.doctor import autoscaling

PAGES = ("README.md", "docs/kubernetes.md")
LINE = re.compile(r"^(?:\$ |  )?trtbuild doctor autoscaling (.*)$", re.MULTILINE)


def commands(text: str) -> list[dict[str, str]]:
    """Return the options of each command that a text prints, as the program understands them."""
    lines = LINE.findall(text.replace("\\\n", " "))
    return [autoscaling.make_context("autoscaling", shlex.split(line, comments=True)).params for line in lines]


def check(command: dict[str, str], rendered: Rendered) -> str:
    """Check one command against a render; return the SKU that it is about."""
    deployment = rendered.one("Deployment", command["hpa_name"])
    assert command["namespace"] == deployment["metadata"]["namespace"]
    selector = dict(part.split("=") for part in command["selector"].split(","))
    assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    scaled = {
        item["metadata"]["name"] for kind in ("HorizontalPodAutoscaler", "ScaledObject") for item in rendered.kind(kind)
    }
    assert command["hpa_name"] in scaled
    return selector["trtbuild.dev/sku"]


@pytest.mark.parametrize("name", CI)
def test_notes_print_one_for_every_sku_that_scales(name: str) -> None:
    rendered = render(ci_values(name))
    found = commands(rendered.notes)
    assert {command["prometheus"] for command in found} <= {"PROMETHEUS_URL"}
    scaled = [item for kind in ("HorizontalPodAutoscaler", "ScaledObject") for item in rendered.kind(kind)]
    assert [check(command, rendered) for command in found] == sorted(
        item["metadata"]["labels"]["trtbuild.dev/sku"] for item in scaled
    )


@pytest.mark.parametrize("page", PAGES)
def test_documents_print_complete_ones(page: str) -> None:
    found = commands((CHART.parent / page).read_text())
    assert found
    for command in found:
        assert check(command, render(ci_values("three-skus"))) == "h100"
        assert command["prometheus"].startswith("http://")


@pytest.mark.parametrize("kind", ["HorizontalPodAutoscaler", "ScaledObject"])
def test_the_doctor_knows_the_charts_labels(kind: str) -> None:
    """KEDA copies a ScaledObject's labels to the autoscaler that it makes."""
    [found, *_] = render(ci_values("keda" if kind == "ScaledObject" else "three-skus")).kind(kind)
    assert own_labels(found) == {"release": "llama", "sku": found["metadata"]["labels"]["trtbuild.dev/sku"]}
    assert set(own_labels(found)) == set(POD_LABELS)


def test_the_doctor_advises_the_charts_relabelings() -> None:
    [endpoint] = render(ci_values("one-sku")).one("PodMonitor")["spec"]["podMetricsEndpoints"]
    chart = {item["targetLabel"]: item["sourceLabels"] for item in endpoint["relabelings"]}
    assert chart == {label: [RELABELINGS[label]] for label in POD_LABELS}

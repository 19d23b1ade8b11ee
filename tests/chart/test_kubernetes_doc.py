"""docs/kubernetes.md: its commands on this chart render, and what it points at exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.chart.helm import ALL_APIS, CHART, KUBE_VERSION, container, engine_config, load_objects, merge, render

ROOT = CHART.parent
TEXT = (ROOT / "docs" / "kubernetes.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    line.strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]
ON_CHART = [line for line in COMMANDS if line.startswith("helm ") and "./chart" in line]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plan.yaml, written by the very command that the document gives."""
    [line] = [line for line in COMMANDS if line.startswith("trtbuild plan ")]
    arguments, name = line.removeprefix("trtbuild ").split(" > ")
    command = [sys.executable, "-m", "trtbuild", *shlex.split(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    path = tmp_path_factory.mktemp("plan") / name
    path.write_text(done.stdout)
    return path


def test_plan_fills_in_budgets_of_the_chart(plan: Path) -> None:
    """trtbuild plan --values speaks the chart's language: its file renders, and sets what it promises."""
    values = yaml.safe_load(plan.read_text())
    rendered = render(merge(values, {"image": {"repository": "registry.example/trtbuild-server"}}))
    [sku] = values["skus"]
    spec = rendered.sku("Deployment", sku)["spec"]["template"]["spec"]
    assert container(spec, "init")["resources"]["requests"]["memory"] == values["initResources"]["requests"]["memory"]
    assert engine_config(rendered, sku)["max_batch_size"] == values["model"]["limits"]["maxBatchSize"]


@pytest.mark.parametrize("line", ON_CHART)
def test_command_on_the_chart_renders(line: str, helm3: str, plan: Path, tmp_path: Path) -> None:
    """Each install, upgrade and template runs as "helm template" with its own arguments."""
    [values] = [block for language, block in BLOCKS if language == "yaml" and block.startswith("image:")]
    (tmp_path / "values.yaml").write_text(values)
    (tmp_path / "plan.yaml").symlink_to(plan)
    (tmp_path / "chart").symlink_to(CHART)
    arguments = shlex.split(line.split(">", maxsplit=1)[0])
    assert arguments[1] in {"install", "upgrade", "template"}
    versions = [] if "--kube-version" in arguments else ["--kube-version", KUBE_VERSION]
    apis = [part for api in ALL_APIS for part in ("--api-versions", api)]
    command = [helm3, "template", *arguments[2:], *versions, *apis]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {"Deployment", "ConfigMap"} <= {item["kind"] for item in load_objects(done.stdout)}


def test_there_are_commands() -> None:
    assert len(ON_CHART) >= 10


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:chart|docs|containerfiles)/[\w./-]+\.\w+", TEXT))))
def test_named_file_exists(path: str) -> None:
    assert (ROOT / path).exists(), path


def test_examples_of_values_are_accepted() -> None:
    examples = [yaml.safe_load(block) for language, block in BLOCKS if language == "yaml"]
    [base] = [example for example in examples if "skus" in example]
    for example in examples:
        assert render({**base, **example}).objects


@pytest.mark.parametrize("line", [line for line in COMMANDS if "kubectl" in line and " -l " in line])
def test_selectors_are_labels_the_chart_sets(line: str) -> None:
    known = set(
        re.findall(
            r"(?:app\.kubernetes\.io|trtbuild\.dev)/[a-z]+",
            "".join(p.read_text() for p in (CHART / "templates").iterdir()),
        )
    )
    used = set(re.findall(r"(?:app\.kubernetes\.io|trtbuild\.dev)/[a-z]+", line)) - {"app.kubernetes.io/name"}
    assert used <= known

"""docs/kubernetes.md: its commands on this chart render, and what it points at exists."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart.helm import ALL_APIS, CHART, KUBE_VERSION, load_objects, render

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


@pytest.mark.parametrize("line", ON_CHART)
def test_command_on_the_chart_renders(line: str, helm3: str, tmp_path: Path) -> None:
    """Each install, upgrade and template runs as "helm template" with its own arguments."""
    [values] = [block for language, block in BLOCKS if language == "yaml" and block.startswith("image:")]
    (tmp_path / "values.yaml").write_text(values)
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

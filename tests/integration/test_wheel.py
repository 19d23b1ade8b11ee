"""The wheel is complete: installed elsewhere, from an empty directory, it does the README's first command."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the package as the wheel has it, and nothing of the source tree."""
    root = Path(__file__).resolve().parents[2]
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(root)]
    subprocess.run(build, check=True, timeout=300)
    (wheel,) = out.glob("trtbuild-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests/", "chart/"))]
    target = out / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, timeout=300)
    return target


def _run(installed: Path, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("TRTBUILD_", "HF_"))}
    env |= {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(directory / "cache"), "HF_HOME": str(directory / "hf")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_the_package_under_test_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    done = _run(installed, tmp_path, "-c", "import trtbuild; print(trtbuild.__file__)")
    assert done.stdout.startswith(str(installed)), done.stderr


def test_the_demo_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    done = _run(installed, tmp_path, "-m", "trtbuild", "demo", "--max-tokens", "4", "--prompt", "The")
    assert done.returncode == 0, done.stderr
    assert "0 requests in flight" in done.stderr
    assert done.stdout.strip().startswith("The")


def test_the_catalog_and_the_types_are_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    assert (installed / "trtbuild" / "py.typed").exists()
    done = _run(installed, tmp_path, "-m", "trtbuild", "plan", "llama-3-8b", "--gpu", "all")
    assert "NVIDIA-H100-80GB-HBM3" in done.stdout, done.stderr

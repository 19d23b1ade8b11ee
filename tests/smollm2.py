"""SmolLM2-135M-Instruct for tests: a model that answers, converted once per machine and kept between runs.

The download (89 MB) and the conversion take about 4 s and are kept below ``TRTBUILD_TEST_CACHE`` (by default
``~/.cache/trtbuild-tests``): what is kept is checked by hash. Engines are built anew in every session (about 6 s),
since the code under test builds them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from trtbuild import catalog, fetch, packaged
from trtbuild.errors import TrtBuildError

NAME = "smollm2"
_USER_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")  # before a test hides it
CACHE = Path(os.environ.get("TRTBUILD_TEST_CACHE") or _USER_CACHE / "trtbuild-tests")


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine of the model in a store of its own.

    Attributes:
        store: Root of the store.
        path: The engine's directory in it.
        directory: The Hugging Face directory it was built from.
    """

    store: Path
    path: Path
    directory: Path


def provide() -> Path:
    """Return the model's Hugging Face directory; where it cannot be had, the test fails and says why."""
    model = catalog.find_model(NAME)
    assert model is not None
    try:
        return packaged.provide(model, CACHE / "models", tree_of=fetch.hash_directory)
    except TrtBuildError as error:
        lines = (error.message, f"hint: {error.hint}", *error.log_tail)
        pytest.fail("\n".join(lines), pytrace=False)


def build(directory: Path, workspace: Path, *options: str) -> BuiltEngine:
    """Build the model for the cpu backend into ``workspace/store``, where ``run_serve(workspace, ...)`` looks."""
    store = workspace / "store"
    command = [
        sys.executable, "-m", "trtbuild", "init", str(directory), "--backend", "cpu", "--name", NAME, "--store",
        str(store), *options,
    ]  # fmt: skip
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRTBUILD_")}
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    [manifest] = (store / "engines").glob("*/*/*/manifest.json")
    assert json.loads(manifest.read_text())
    return BuiltEngine(store=store, path=manifest.parent, directory=directory)

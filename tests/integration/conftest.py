"""What tests of several areas share: a real model that answers.

``smollm2_directory`` is its Hugging Face directory, ``smollm2_engine`` an engine of the cpu backend in a store,
``smollm2_server`` a real server with it. They live as long as the session, so a test leaves them as they were.
``smollm2_serve(*options)`` starts a server with other options, which ends with the test; the engine is the same.
Every server's model is named ``smollm2``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import smollm2

if TYPE_CHECKING:
    from tests.integration.server.conftest import Serve, Served


@pytest.fixture(scope="session")
def smollm2_directory() -> Path:
    """The model as a Hugging Face directory, kept between runs; nothing may write to it."""
    return smollm2.provide()


@pytest.fixture(scope="session")
def smollm2_engine(smollm2_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[smollm2.BuiltEngine]:
    """The model's engine. It goes with the session: pytest would keep those of the last three, half a gigabyte each."""
    pytest.importorskip("openvino_genai", reason="the cpu engine (openvino-genai) is not installed")
    workspace = tmp_path_factory.mktemp("smollm2")
    yield smollm2.build(smollm2_directory, workspace)
    shutil.rmtree(workspace, ignore_errors=True)


@pytest.fixture(scope="session")
def smollm2_server(smollm2_engine: smollm2.BuiltEngine) -> Iterator[Served]:
    """A server with the model."""
    from tests.integration.server.conftest import run_serve, stop

    served = run_serve(smollm2_engine.store.parent, model=smollm2_engine.directory, name=smollm2.NAME)
    yield served
    stop(served)


@pytest.fixture
def smollm2_serve(smollm2_engine: smollm2.BuiltEngine, tmp_path: Path) -> Iterator[Serve]:
    """Start servers with options of the test's own; each has its own model repository and ends with the test."""
    from tests.integration.server.conftest import run_serve, stop

    started: list[Served] = []

    def start(*options: str, env: dict[str, str] | None = None) -> Served:
        repository = ("--repository", str(tmp_path / f"repository-{len(started)}"))
        workspace, directory = smollm2_engine.store.parent, smollm2_engine.directory
        started.append(run_serve(workspace, *repository, *options, env=env, model=directory, name=smollm2.NAME))
        return started[-1]

    yield start
    for served in started:
        stop(served)

"""The endpoint's package lies in the templates, not in an installed package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[3] / "model_repo_templates" / "_shared"
if str(SHARED) not in sys.path:
    sys.path.insert(0, str(SHARED))

from trtbuild_http import optional, server  # noqa: E402

from tests.unit.http.kit import Running  # noqa: E402

LOOPS = ["asyncio", "uvloop"] if optional.uvloop is not None else ["asyncio"]


@pytest.fixture(params=LOOPS)
def any_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every event loop that is installed."""
    if request.param == "asyncio":
        monkeypatch.setattr(server, "uvloop", None)


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    """Start an endpoint with the given settings, limits and model; all are stopped in the end."""
    started: list[Running] = []

    def begin(**options: Any) -> Running:
        options.setdefault("directory", tmp_path_factory.mktemp("run"))
        running = Running(**options)
        started.append(running)
        return running

    yield begin
    for running in started:
        running.endpoint.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One endpoint for tests that leave it as it was."""
    running = Running(directory=tmp_path_factory.mktemp("run"))
    yield running
    running.endpoint.stop()

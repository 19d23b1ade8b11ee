"""Model and engine processes that die on a real server: health says so before a request had to fail."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cpu.conftest import DEADLINE_S, until, workers
from tests.integration.front.conftest import RunningServer, serve_cpu
from trtbuild import health
from trtbuild.errors import LaunchError

pytestmark = pytest.mark.integration


def _server_pid(server: RunningServer) -> int:
    argument = f"--http-port={server.url.rpartition(':')[2]}".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if argument in path.read_bytes().split(b"\0"):
                return int(path.parent.name)
    raise AssertionError("the server is not running")


def _stub(server: RunningServer, model: str) -> int:
    """Return the process of a model."""
    children = Path(f"/proc/{_server_pid(server)}/task").glob("*/children")
    for pid in (int(pid) for path in children for pid in path.read_text().split()):
        if f"/{model}/1/model.py".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError(f"no process of {model}")


def _live(server: RunningServer) -> str:
    """Return why the liveness probe refuses the server, or an empty text."""
    try:
        health.refuse_dead(server.url, server.metrics_url)
    except LaunchError as error:
        return error.message
    return ""


def _ready(server: RunningServer) -> str:
    try:
        health.self_test(server.url, server.metrics_url, None)
    except LaunchError as error:
        return error.message
    return ""


def _failed(server: RunningServer) -> float:
    return server.metric("trtbuild_requests_total", outcome="failed")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[RunningServer]:
    with serve_cpu(tmp_path) as running:
        assert _ready(running) == ""
        until(lambda: running.metric("trtbuild_requests_total", outcome="ok"), "the probe's request is counted")
        yield running


def test_an_engine_process_that_ends_makes_an_idle_server_unready_and_at_last_dead(
    served: RunningServer, tmp_path: Path
) -> None:
    (graph,) = (tmp_path / "store" / "engines").glob("**/openvino_model.xml")
    (before,) = workers(graph.parent)
    away = graph.rename(graph.with_suffix(".away"))  # it cannot come back for now
    os.kill(before, signal.SIGKILL)
    said = until(lambda: _ready(served), "readiness is refused")
    assert "engine process of 'tensorrt_llm' has ended and is being started again" in said
    assert served.metric("nv_trt_llm_request_metrics", model="tensorrt_llm", request_type="scheduled") == 0
    said = until(lambda: _live(served), "liveness is refused")
    assert "'tensorrt_llm' could not be started again, 3 times in a row" in said
    assert health.is_up(served.url), "the server itself sees nothing of it"
    away.rename(graph)
    until(lambda: not _ready(served), "the engine is back")
    assert _live(served) == ""
    (after,) = workers(graph.parent)
    assert after != before
    assert _failed(served) == 0, "no request had to fail"


def test_a_model_process_that_dies_makes_an_idle_server_dead(served: RunningServer) -> None:
    assert _live(served) == ""
    victim = _stub(served, "tensorrt_llm")
    os.kill(victim, signal.SIGKILL)
    said = until(lambda: _live(served), "liveness is refused")
    assert f"a model process is dead: process {victim} " in said
    assert _ready(served) == said
    assert health.is_up(served.url), "the server itself sees nothing of it"
    assert _failed(served) == 0, "no request had to fail"


def test_what_a_dead_front_has_in_flight_does_not_hold_up_a_pod(served: RunningServer) -> None:
    body = {"text_input": "def", "max_tokens": 400, "min_tokens": 400, "stream": True}
    request = urllib.request.Request(f"{served.url}/v2/models/chat/generate_stream", data=json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        assert answer.readline().startswith(b"data: ")
        until(lambda: health.count_in_flight(health.read_metrics(served.metrics_url)) == 1, "it is counted")
        os.kill(_stub(served, "chat"), signal.SIGKILL)
        began = time.monotonic()
        assert health.drain(served.metrics_url, timeout_s=DEADLINE_S, settle_s=1.0) == 1
        assert time.monotonic() - began < DEADLINE_S / 2, "it waited for a request that nobody answers"
        # Triton would wait its whole exit timeout for this connection.
        os.kill(_server_pid(served), signal.SIGKILL)

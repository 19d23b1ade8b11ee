"""Model and engine processes that die on a real server: health says so before a request had to fail."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cpu.conftest import DEADLINE_S, ask, start_server, until, workers, write_model
from tests.integration.front.conftest import RunningServer, serve_cpu
from tests.integration.tensorrt_llm.test_llmapi_engine import FAKE, MODEL, make_plan
from trtbuild import backends
from trtbuild.errors import LaunchError
from trtbuild.serve import health, probes
from trtbuild.serve.processes import dead_model_processes

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
        until(lambda: not _ready(running), "it is ready, its metrics too: their port is opened last")
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
    assert probes.is_up(served.url), "the server itself sees nothing of it"
    away.rename(graph)
    until(lambda: not _ready(served), "the engine is back")
    assert _live(served) == ""
    (after,) = workers(graph.parent)
    assert after != before
    assert _failed(served) == 0, "no request had to fail"


def test_an_engine_process_of_the_llmapi_backend_is_seen_as_well(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    backends.get("llmapi").build(make_plan(max_batch_size=2), MODEL, engine, tmp_path)
    write_model(tmp_path / "repository", "tensorrt_llm", engine, backend_name="llmapi")
    shutil.copy(FAKE, tmp_path / "repository" / "tensorrt_llm" / "1")
    server = start_server(tmp_path / "repository", tmp_path, {"TRTBUILD_TEST_LLM_RECORD": str(tmp_path / "llm.json")})
    try:
        server.wait_ready()
        assert ask(server, input_ids=[5, 6, 7], request_output_len=4).tokens == [8, 9, 10, 11]
        series = 'trtbuild_engine_up{model="tensorrt_llm",version="1"}'
        assert f"{series} 1" in server.metrics()
        away = (engine / "config.json").rename(tmp_path / "away")
        os.kill(workers(engine)[0], signal.SIGKILL)
        until(lambda: f"{series} 0" in server.metrics(), "its end shows")
        away.rename(engine / "config.json")
        until(lambda: f"{series} 1" in server.metrics(), "its return shows")
        assert ask(server, input_ids=[5, 6, 7], request_output_len=4).tokens == [8, 9, 10, 11]
    finally:
        server.stop()


def test_a_model_process_that_dies_makes_an_idle_server_dead(served: RunningServer) -> None:
    assert _live(served) == ""
    victim = _stub(served, "tensorrt_llm")
    os.kill(victim, signal.SIGKILL)
    said = until(lambda: _live(served), "liveness is refused")
    assert f"a model process is dead: process {victim} " in said
    assert _ready(served) == said
    assert probes.is_up(served.url), "the server itself sees nothing of it"
    assert _failed(served) == 0, "no request had to fail"


def test_what_a_dead_front_has_in_flight_does_not_hold_up_a_pod(served: RunningServer) -> None:
    body = {"text_input": "def", "max_tokens": 400, "min_tokens": 400, "stream": True}
    request = urllib.request.Request(f"{served.url}/v2/models/chat/generate_stream", data=json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        assert answer.readline().startswith(b"data: ")
        until(lambda: probes.count_in_flight(probes.read_metrics(served.metrics_url)) == 1, "it is counted")
        os.kill(_stub(served, "chat"), signal.SIGKILL)
        until(lambda: bool(dead_model_processes(served.metrics_url)), "its death is seen")
        slept: list[float] = []  # a clock that only its sleeps move: looks are counted, not the machine's seconds
        left = health.drain(
            served.metrics_url, timeout_s=3600.0, settle_s=1.0, clock=lambda: sum(slept), sleep=slept.append
        )
        assert left == 1
        assert sum(slept) == 1.0, "it waits settle_s, no longer, for a request without an answer"
        # Triton would wait its whole exit timeout for this connection.
        os.kill(_server_pid(served), signal.SIGKILL)

"""Starting and ending servers with engines of the cpu backend: nothing is left behind, and failures are said."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.cpu.conftest import DEADLINE_S, ask, start_server, until, workers, write_model

pytestmark = pytest.mark.integration


def _stubs(server_pid: int) -> list[int]:
    children = Path(f"/proc/{server_pid}/task").glob("*/children")
    return [int(pid) for path in children for pid in path.read_text().split()]


def test_sigterm_ends_everything_and_a_new_server_serves(engine: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "repository", "tensorrt_llm", engine)
    answers = []
    for _ in range(2):
        server = start_server(tmp_path / "repository", tmp_path)
        try:
            server.wait_ready()
            assert len(workers(engine)) == 1
            answers.append(ask(server, input_ids=[5, 6], request_output_len=8).tokens)
        finally:
            assert server.stop() == 0
        assert workers(engine) == []
    assert answers[0] == answers[1] != []


@pytest.mark.parametrize("victim", ["stub", "server"])
def test_no_engine_outlives_whoever_started_it(engine: Path, tmp_path: Path, victim: str) -> None:
    write_model(tmp_path / "repository", "tensorrt_llm", engine)
    server = start_server(tmp_path / "repository", tmp_path)
    try:
        server.wait_ready()
        (stub,) = _stubs(server.child.pid)
        assert len(workers(engine)) == 1
        os.kill(stub if victim == "stub" else server.child.pid, signal.SIGKILL)
        if victim == "server":
            server.child.wait()  # the stub looks whether its parent's process id exists, and that of a zombie does
        until(lambda: not workers(engine), "the engine process ends")
    finally:
        server.stop()


def test_a_shorter_exit_timeout_bounds_what_an_idle_connection_and_a_lost_request_hold_up(
    engine: Path, tmp_path: Path
) -> None:
    """Triton waits for connections, idle ones too, and for requests to a dead process: without a bound, 30 seconds."""
    write_model(tmp_path / "repository", "tensorrt_llm", engine)
    server = start_server(tmp_path / "repository", tmp_path, server_arg={"exit-timeout-secs": "3"})
    idle = http.client.HTTPConnection("127.0.0.1", server.ports.http, timeout=DEADLINE_S)
    try:
        server.wait_ready()
        (stub,) = _stubs(server.child.pid)
        os.kill(stub, signal.SIGKILL)
        assert "is not healthy" in ask(server, input_ids=[5], request_output_len=1).error
        idle.request("GET", "/v2/health/live")
        assert idle.getresponse().status == 200
        server.child.send_signal(signal.SIGTERM)
        server.child.wait(timeout=DEADLINE_S)
        said = server.log.read_text()
        assert "Timeout 3: Found 1 HTTP service connections" in said
        assert "Timeout 4" not in said
        assert "Exit timeout expired" in said
    finally:
        idle.close()
        server.stop()


def test_a_rank_above_zero_starts_no_engine(engine: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "repository", "tensorrt_llm", engine)
    server = start_server(tmp_path / "repository", tmp_path, env={"OMPI_COMM_WORLD_RANK": "1"})
    try:
        server.wait_ready()
        assert workers(engine) == []
        assert "send requests to rank 0" in ask(server, input_ids=[5], request_output_len=1).error
    finally:
        assert server.stop() == 0


def test_an_engine_that_cannot_be_loaded_is_said_at_start(engine: Path, tmp_path: Path) -> None:
    broken = tmp_path / "engine"
    broken.mkdir()
    for path in engine.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    write_model(tmp_path / "repository", "tensorrt_llm", broken)
    (broken / "openvino_model.xml").write_text("<net>")
    server = start_server(tmp_path / "repository", tmp_path)
    try:
        assert server.child.wait(timeout=DEADLINE_S) != 0
        assert f"{broken} cannot be loaded" in server.log.read_text()
        assert workers(broken) == []
    finally:
        server.stop()


def test_children_of_the_test_run_are_gone(engine: Path) -> None:
    """The walk over processes sees what it should: a program of that name and argument is found."""
    script = engine.parent / "engine_worker.py"
    script.write_text("input()\n")
    child = subprocess.Popen(["python3", str(script), str(engine)], stdin=subprocess.PIPE)
    try:
        until(lambda: workers(engine) == [child.pid], "the process is found")
    finally:
        child.kill()
        child.communicate()

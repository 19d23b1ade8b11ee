"""However a server dies, its processes and its shared memory are gone some seconds later."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.front.conftest import CHECKPOINT, RunningServer, serve
from trtbuild import process

pytestmark = pytest.mark.integration
GONE_WITHIN_S = 30.0
"""Generous; it takes two or three seconds on an idle machine."""
STUB = "triton_python_backend_stub"


def argvs() -> dict[int, list[str]]:
    """Return the command line of every process; zombies have none."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if argv != [""]:
            found[int(path.parent.name)] = argv
    return found


def of_repository(repository: Path) -> dict[int, str]:
    """Return the processes that run something of a repository: stubs, engine processes, guards, renderers."""
    real = {str(repository), str(repository.resolve())}
    me = os.getpid()
    return {
        pid: " ".join(argv)
        for pid, argv in argvs().items()
        if pid != me and any(root in word for word in argv for root in real) and not argv[0].endswith("tritonserver")
    }


def server_pid(port: str) -> int:
    [pid] = [pid for pid, argv in argvs().items() if f"--http-port={port}" in argv and argv[0].endswith("tritonserver")]
    return pid


def regions(port: str) -> list[str]:
    return sorted(path.name for path in Path("/dev/shm").glob(f"*trtbuild{port}r*"))


def assert_gone(repository: Path, port: str) -> None:
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := of_repository(repository)) or regions(port):
        assert time.monotonic() < deadline, (left, regions(port))
        time.sleep(0.1)


def build(workspace: Path, *options: str) -> Path:
    repository = workspace / "repository"
    argv = (sys.executable, "-m", "trtbuild", str(CHECKPOINT), "--backend", "cpu", "--name", "chat")
    more = ("--max-batch-size", "4", "--store", str(workspace / "store"), "--repository", str(repository), *options)
    done = process.run(process.Command(argv=(*argv, *more)))
    assert done.exit_code == 0, "\n".join(done.tail)
    return repository


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(layout: str) -> Path:
        if layout not in made:
            made[layout] = build(tmp_path_factory.mktemp(layout), "--layout", layout)
        return made[layout]

    return make


def load(running: RunningServer) -> list[threading.Thread]:
    """Keep the server busy from eight threads until it is gone."""

    def ask() -> None:
        try:
            while True:
                running.post("chat/generate", {"text_input": "The", "max_tokens": 200})
        except (OSError, http.client.HTTPException):
            return

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("state", ["idle", "busy", "stuck"])
@pytest.mark.parametrize("layout", ["minimal", "full"])
def test_kill_9_of_the_server_leaves_nothing(
    repositories: Callable[[str], Path], tmp_path: Path, layout: str, state: str
) -> None:
    repository = repositories(layout)
    with serve(repository, tmp_path, tmp_path / "none") as running:
        port = running.url.rpartition(":")[2]
        running.generate(text_input="The", max_tokens=2)
        before = of_repository(repository)
        models = 5 if layout == "full" else 2
        assert sum(STUB in line for line in before.values()) >= models - (layout == "full")
        assert regions(port)
        threads = load(running) if state == "busy" else []
        if threads:
            running.eventually(lambda: running.metric("trtbuild_requests_running") > 0, "requests run")
        if state == "stuck":  # a thread of theirs can do nothing: the processes are stopped
            for pid in before:
                if STUB in before[pid]:
                    os.kill(pid, signal.SIGSTOP)
        os.kill(server_pid(port), signal.SIGKILL)
        assert_gone(repository, port)
        for thread in threads:
            thread.join(60)


@pytest.mark.parametrize("delay_s", [0.3, 0.8, 1.5, 2.5])
def test_kill_9_while_the_models_are_being_loaded_leaves_nothing(
    repositories: Callable[[str], Path], tmp_path: Path, delay_s: float
) -> None:
    repository = repositories("minimal")
    argv = (sys.executable, "-m", "trtbuild", "serve", str(CHECKPOINT), "--backend", "cpu", "--name", "chat")
    more = ("--max-batch-size", "4", "--store", str(repository.parent / "store"), "--repository", str(repository))
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    child = subprocess.Popen([*argv, *more, *ports], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (found := [word for word in argvs().get(child.pid, []) if word.startswith("--http-port=")]):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.01)
    time.sleep(delay_s)
    child.kill()
    child.wait()
    assert_gone(repository, found[0].partition("=")[2])


def test_sigterm_that_runs_into_the_exit_timeout_leaves_nothing(
    repositories: Callable[[str], Path], tmp_path: Path
) -> None:
    """A client that holds its connection holds up the server until the timeout is over."""
    repository = repositories("minimal")
    with serve(repository, tmp_path, tmp_path / "none", "--exit-timeout-secs=3") as running:
        port = running.url.rpartition(":")[2]
        with running.open_streams(6, text_input="The", max_tokens=400) as connections:
            # One that the server had not accepted by SIGTERM would be closed without an answer.
            running.eventually(lambda: running.arrived() == 6, "all are there")
            os.kill(server_pid(port), signal.SIGTERM)
            assert_gone(repository, port)
            for connection in connections:
                events = [line for line in connection.getresponse().read().decode().splitlines() if line]
                last = json.loads(events[-1].removeprefix("data: "))
                assert last.get("finish_reason") or last["error"].startswith("UNAVAILABLE: "), last

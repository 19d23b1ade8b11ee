"""What `trtbuild health` says of every state that a served model can be in, on a real server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.front.conftest import RunningServer, serve
from tests.integration.front.test_front_orphans import argvs, build, load, of_repository
from trtbuild.errors import LaunchError
from trtbuild.serve import health, probes

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("health"))


@pytest.fixture
def running(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    monkeypatch.setattr(health, "HEARTBEAT_LIMIT_S", 4.0)
    monkeypatch.setattr(health, "STALLED_UNREADY_S", 3.0)
    monkeypatch.setattr(health, "STALLED_DEAD_S", 9.0)
    arguments = ("--model-control-mode=explicit", "--load-model=chat", "--load-model=tensorrt_llm")
    with serve(repository, tmp_path, tmp_path / "none", *arguments) as running:
        running.generate(text_input="The", max_tokens=2)
        running.eventually(lambda: running.metric("trtbuild_requests_total", outcome="ok") > 0, "it is counted")
        yield running


def verdict(check: Callable[..., None], *arguments: object) -> str:
    """Return why a probe refuses, or an empty text."""
    try:
        check(*arguments, timeout_s=5)
    except LaunchError as error:
        return error.message
    return ""


def live(running: RunningServer) -> str:
    return verdict(health.refuse_dead, running.url, running.metrics_url)


def ready(running: RunningServer) -> str:
    if not probes.is_up(running.url, timeout_s=5):
        return "the server is not ready"
    return verdict(health.self_test, running.url, running.metrics_url, None)


def process_of(repository: Path, what: str) -> int:
    """Return the process of a model of this server (``chat``, ``tensorrt_llm``) or the engine's (``engine``)."""
    of_model = {"engine": "engine_worker.py"}.get(what, f"/{what}/1/model.py")
    kind = "--socket" if what == "engine" else "triton_python_backend_stub"
    [pid] = [pid for pid, line in of_repository(repository).items() if of_model in line and kind in line]
    return pid


def unload(running: RunningServer, model: str) -> None:
    """Unload a model; the API is for operators, so the server's own secret comes from its command line."""
    words = [
        word for argv in argvs().values() if f"--http-port={running.url.rpartition(':')[2]}" in argv for word in argv
    ]
    [rule] = [word for word in words if word.startswith("--http-restricted-api=") and "model-repository" in word]
    name, _, secret = rule.partition(":")[2].partition("=")
    request = urllib.request.Request(
        f"{running.url}/v2/repository/models/{model}/unload", data=b"{}", headers={name: secret}, method="POST"
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()


@dataclass(frozen=True)
class Case:
    """A fault, and what the probes must come to say; an empty text is "ok"."""

    fault: Callable[[RunningServer, Path], None]
    live: str
    ready: str


def send(what: str, number: signal.Signals) -> Callable[[RunningServer, Path], None]:
    return lambda _, repository: os.kill(process_of(repository, what), number)


def wedge(running: RunningServer, repository: Path) -> None:
    """Stop the engine while a request runs."""
    load(running)
    running.eventually(lambda: running.metric("trtbuild_requests_running") > 0, "requests run")
    os.kill(process_of(repository, "engine"), signal.SIGSTOP)


CASES = {
    "nothing": Case(lambda *_: None, "", ""),
    "front-killed": Case(send("chat", signal.SIGKILL), "a model process is dead", "a model process is dead"),
    "engine-model-killed": Case(send("tensorrt_llm", signal.SIGKILL), "a model process is dead", "process"),
    "front-stopped": Case(send("chat", signal.SIGSTOP), "has done nothing for", "has done nothing for"),
    "engine-wedged-while-requests-run": Case(wedge, "has answered nothing for", "has answered nothing for"),
    "front-unloaded": Case(lambda running, _: unload(running, "chat"), "", "shows no front model"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_probes_report_the_server_s_state(running: RunningServer, repository: Path, name: str) -> None:
    case = CASES[name]
    assert (live(running), ready(running)) == ("", "")
    front, engine = process_of(repository, "chat"), process_of(repository, "engine")
    case.fault(running, repository)
    try:
        for check, expected in ((ready, case.ready), (live, case.live)):
            deadline = time.monotonic() + 60
            said = check(running)
            while expected not in said or bool(said) is not bool(expected):
                assert time.monotonic() < deadline, (check, said)
                time.sleep(0.3)
                said = check(running)
    finally:
        for pid in (front, engine):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_an_engine_that_is_asked_again_after_its_death_says_unavailable(
    running: RunningServer, repository: Path
) -> None:
    errors: list[str] = []
    stopping = threading.Event()

    def ask() -> None:
        while not stopping.is_set():
            status, text = running.post("chat/generate", {"text_input": "The", "max_tokens": 200})
            if status != 200:
                errors.append(json.loads(text)["error"])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        running.eventually(lambda: running.metric("trtbuild_requests_running") > 0, "requests run")
        os.kill(process_of(repository, "engine"), signal.SIGKILL)
        running.eventually(lambda: bool(errors), "a request was lost")
    finally:
        stopping.set()
        for thread in threads:
            thread.join(60)
    assert all("UNAVAILABLE: the engine process" in error for error in errors), errors
    assert "please repeat the request" in errors[0]
    running.eventually(lambda: not ready(running), "it is back")
    assert running.generate(text_input="The", max_tokens=2)["finish_reason"]
    running.eventually(
        lambda: running.metrics("trtbuild_requests_waiting", "trtbuild_requests_running") == [0, 0], "nothing is left"
    )


NONSENSE_ENGINE = """
import argparse, socket, sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parent))
from trtbuild_engine.wire import Reader, encode

parser = argparse.ArgumentParser()
parser.add_argument("engine_dir")
for name in ("--socket", "--parent"):
    parser.add_argument(name, type=int)
parser.add_argument("--options")
connection = socket.socket(fileno=parser.parse_args().socket)
stats = {"active": 0, "scheduled": 0, "waiting": 0, "max": 4}
connection.sendall(encode({"ready": {"slots": 4, "vocab_size": 9999, "stats": stats}}))
reader = Reader(connection)
while (messages := reader.read()) is not None:
    if messages:
        connection.sendall(encode({"step": [{"nonsense": True}]}))
"""


def test_an_engine_model_whose_thread_fails_answers_and_ends(repository: Path, tmp_path: Path) -> None:
    """Its engine process sends an invalid message: the thread that reads it cannot go on."""
    copy = tmp_path / "repository"
    shutil.copytree(repository.resolve(), copy, symlinks=False)
    (copy / "tensorrt_llm" / "1" / "engine_worker.py").write_text(NONSENSE_ENGINE)
    with serve(copy, tmp_path, tmp_path / "none") as running:
        status, text = running.post("chat/generate", {"text_input": "The", "max_tokens": 5})
        assert status != 200
        assert "UNAVAILABLE: the engine model failed: KeyError('key')" in json.loads(text)["error"]
        running.eventually(lambda: "a model process is dead" in live(running), "the probe sees it")
        assert "Traceback" in running.log_path.read_text()
        running.eventually(
            lambda: (
                not of_repository(copy).keys()
                & {pid for pid, argv in argvs().items() if "engine_worker.py" in " ".join(argv[1:2])}
            ),
            "its engine process ends",
        )

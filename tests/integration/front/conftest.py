"""A real tritonserver with a written repository, for tests of what is in it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("numpy")
pytest.importorskip("tokenizers")
pytest.importorskip("pytriton", reason="the CPU server (nvidia-pytriton) is not installed")

SHARED = Path(__file__).resolve().parents[3] / "model_repo_templates" / "_shared"
if str(SHARED) not in sys.path:
    sys.path.insert(0, str(SHARED))

from tests.unit.front import kinds  # noqa: E402
from trtbuild import process  # noqa: E402
from trtbuild.errors import HostError  # noqa: E402
from trtbuild.plan import EngineInfo, EngineTemplate  # noqa: E402
from trtbuild.repository import ServedModel, write_repository  # noqa: E402
from trtbuild.serve.access import make_secrets  # noqa: E402
from trtbuild.serve.launch import server_command  # noqa: E402
from trtbuild.serve.ports import choose_ports  # noqa: E402
from trtbuild.serve.server import find_server, prepare_server  # noqa: E402
from trtbuild.spec import ServerSpec  # noqa: E402

CHECKPOINT = Path(__file__).resolve().parents[3] / "examples" / "pydoc-llama"
STANDIN = Path(__file__).resolve().parent / "standin_engine"
START_TIMEOUT_S = 120.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class RunningServer:
    """A server and how to talk to it."""

    url: str
    grpc: str
    metrics_url: str
    openai: str
    record: Path
    log_path: Path

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        """Return status and body of a POST to a model, e.g. ``post("chat/generate", {...})``."""
        request = urllib.request.Request(
            f"{self.url}/v2/models/{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        try:
            with _OPENER.open(request, timeout=60) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def generate(self, model: str = "chat", **body: Any) -> dict[str, Any]:
        """Return the answer to a request that must succeed."""
        status, text = self.post(f"{model}/generate", body)
        assert status == 200, text
        answer: dict[str, Any] = json.loads(text)
        return answer

    def stream(self, model: str = "chat", **body: Any) -> list[dict[str, Any]]:
        """Return the events of a streamed request."""
        status, text = self.post(f"{model}/generate_stream", {**body, "stream": True})
        assert status == 200, text
        return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]

    @contextlib.contextmanager
    def open_streams(self, count: int, model: str = "chat", **body: Any) -> Iterator[list[http.client.HTTPConnection]]:
        """Send streaming requests and hang up at the end of the block, whether they are done or not."""
        connections = [http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60) for _ in range(count)]
        try:
            for connection in connections:
                connection.request("POST", f"/v2/models/{model}/generate_stream", json.dumps({**body, "stream": True}))
            yield connections
        finally:
            for connection in connections:
                connection.sock.close()
                connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """Return one series of the metrics endpoint; it must be there exactly once."""
        return self.metrics(name, **labels)[0]

    def metrics(self, *names: str, **labels: str) -> list[float]:
        """Return several series of one scrape; each must be there exactly once."""
        with _OPENER.open(f"{self.metrics_url}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return [self._value(lines, name, {"model": "chat", **labels}) for name in names]

    @staticmethod
    def _value(lines: list[str], name: str, wanted: dict[str, str]) -> float:
        found = [
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith(f"{name}{{") and all(f'{key}="{value}"' in line for key, value in wanted.items())
        ]
        assert len(found) == 1, f"{name}{wanted}: {found}"
        return found[0]

    def settle_metrics(self, model: str = "chat") -> None:
        """Wait until the metrics of a model hold all that was answered before this call.

        The front model counts a request before it answers, and exports in turns that end with its heartbeat. A turn may
        have begun before the last answer; the one after it has not.
        """
        for _ in range(2):
            before = self.metric("trtbuild_front_heartbeat_timestamp_seconds", model=model)
            self.eventually(
                lambda before=before: self.metric("trtbuild_front_heartbeat_timestamp_seconds", model=model) != before,  # type: ignore[misc]
                "the metrics are exported",
            )

    def arrived(self, model: str = "chat") -> float:
        """Return how many requests a model has taken so far, those that it has answered too."""
        outcomes = ("ok", "cancelled", "failed", "invalid", "rejected")
        waiting, running = self.metrics("trtbuild_requests_waiting", "trtbuild_requests_running", model=model)
        over = (self.metric("trtbuild_requests_total", model=model, outcome=outcome) for outcome in outcomes)
        return waiting + running + sum(over)

    def records(self) -> list[dict[str, Any]]:
        """Return what the stand-in engine wrote about the requests it ended."""
        return [json.loads(line) for line in self.record.read_text().splitlines()]

    def eventually(self, is_so: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
        """Wait until ``is_so()``."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
            time.sleep(0.05)


def engine_info(slots: int) -> EngineInfo:
    return EngineInfo(
        backend="cpu", tp_size=1, pp_size=1, max_batch_size=slots, max_input_len=256, max_seq_len=512,
        max_num_tokens=512, dtype="float32", vocab_size=420,
    )  # fmt: skip


def standin(slots: int, step_s: float, record: Path, max_batch_size: int = 0) -> EngineTemplate:
    variables: dict[str, Any] = {"slots": slots, "step_s": step_s, "record": str(record)}
    return EngineTemplate(directory=str(STANDIN), variables={**variables, "max_batch_size": max_batch_size})


@contextlib.contextmanager
def serve(repository: Path, workspace: Path, record: Path, *arguments: str) -> Iterator[RunningServer]:
    """Run the real server on a repository until the end of the block."""
    try:
        server = prepare_server(
            find_server(os.environ["PATH"]), cache_dir=workspace / "server", search_path=os.environ["PATH"]
        )
    except HostError as error:
        pytest.skip(error.message)
    ports = choose_ports(ServerSpec(http_port=0, grpc_port=0, metrics_port=0))
    log_path = workspace / "server.log"
    spec = ServerSpec(http_port=ports.http, grpc_port=ports.grpc, metrics_port=ports.metrics)
    command = server_command(server, repository, spec, ports, secrets=make_secrets({}))
    openai_port = _free_port()
    runtime_dir = tempfile.mkdtemp(prefix="openai-")  # on a short path: the sockets in it have a longest name
    env = {**command.env, "TRTBUILD_OPENAI": json.dumps(
        {"host": "127.0.0.1", "port": openai_port, "runtime_dir": runtime_dir}
    )}  # fmt: skip
    child = process.start(replace(command, argv=(*command.argv, *arguments), env=env), log_path=log_path)
    running = RunningServer(
        url=f"http://127.0.0.1:{ports.http}",
        grpc=f"127.0.0.1:{ports.grpc}",
        metrics_url=f"http://127.0.0.1:{ports.metrics}",
        openai=f"http://127.0.0.1:{openai_port}",
        record=record,
        log_path=log_path,
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            assert child.poll() is None, log_path.read_text()[-3000:]
            assert time.monotonic() < deadline, log_path.read_text()[-3000:]
            with contextlib.suppress(OSError):
                for address in (f"{running.url}/v2/health/ready", f"{running.metrics_url}/metrics"):
                    _OPENER.open(address, timeout=5).close()  # metrics last: the server opens that port last
                break
            time.sleep(0.1)
        yield running
    finally:
        process.stop(child, grace_s=40)
        shutil.rmtree(runtime_dir, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def serve_cpu(workspace: Path, *options: str) -> Iterator[RunningServer]:
    """Build the example checkpoint for the cpu engine, with 4 slots, and serve it as ``chat``."""
    repository = workspace / "repository"
    command = process.Command(
        argv=(
            sys.executable, "-m", "trtbuild", str(CHECKPOINT), "--backend", "cpu", "--name", "chat", "--max-batch-size",
            "4", "--store", str(workspace / "store"), "--repository", str(repository), *options,
        )
    )  # fmt: skip
    done = process.run(command)
    assert done.exit_code == 0, "\n".join(done.tail)
    with serve(repository, workspace, workspace / "none") as running:
        yield running


@pytest.fixture(scope="session")
def front_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kinds.write_directory(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, front_tokenizer: Path) -> Iterator[RunningServer]:
    """One model on the stand-in engine: 4 slots, 10 ms per token, at most 64 waiting."""
    workspace = tmp_path_factory.mktemp("serve")
    record = workspace / "engine.jsonl"
    model = ServedModel(
        served_name="chat",
        engine_template=standin(4, 0.01, record),
        engine_info=engine_info(4),
        tokenizer_dir=front_tokenizer,
        max_queue_size=64,
    )
    with serve(write_repository(workspace / "repository", [model]), workspace, record) as running:
        yield running

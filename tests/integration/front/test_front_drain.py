"""SIGTERM under load on a real server: every client gets an end or is told UNAVAILABLE, and the server ends."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.grpc as grpc_client

from tests.integration.front.conftest import RunningServer, engine_info, serve, standin
from tests.integration.front.test_front_orphans import server_pid
from trtbuild.repository import ServedModel, write_repository
from trtbuild.serve import health

pytestmark = pytest.mark.integration
SLOTS = 4
TOLD = "UNAVAILABLE: the server is shutting down; send the request again"


@dataclass
class Client:
    """A client with a connection of its own, and how its request ended."""

    url: str
    body: dict[str, Any]
    keeps_connection: bool = False
    text: str = ""
    end: str = ""
    first_token: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=90)
        try:
            connection.request("POST", "/v2/models/chat/generate_stream", json.dumps({**self.body, "stream": True}))
            response = connection.getresponse()
            lines = 0
            for raw in response:
                line = raw.decode().strip().removeprefix("data: ")
                if not line:
                    continue
                lines += 1
                piece = json.loads(line)
                self.text += piece.get("text_output", "")
                self.end = piece.get("error") or piece.get("finish_reason") or ""
                self.first_token.set()
            if not lines:
                self.end = f"nothing, HTTP {response.status}"
        except (OSError, http.client.HTTPException) as error:
            self.end = f"cut: {error!r} after {len(self.text)} characters"
        finally:
            connection.close()


@pytest.fixture
def repository(tmp_path: Path, front_tokenizer: Path) -> Path:
    """Four slots, 20 ms per token."""
    model = ServedModel(
        served_name="chat",
        engine_template=standin(SLOTS, 0.02, tmp_path / "engine.jsonl"),
        engine_info=engine_info(SLOTS),
        tokenizer_dir=front_tokenizer,
    )
    return write_repository(tmp_path / "repository", [model])


def start(running: RunningServer, count: int, tokens: int) -> tuple[list[Client], list[threading.Thread]]:
    clients = [Client(running.url, {"text_input": "a b c", "max_tokens": tokens}) for _ in range(count)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    running.eventually(lambda: running.metrics("trtbuild_requests_waiting", "trtbuild_requests_running")
                       == [count - SLOTS, SLOTS], "all are there")  # fmt: skip
    return clients, threads


def is_gone(pid: int) -> bool:
    try:
        return (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) == "Z"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("count", "tokens", "timeout_s", "finished"),
    [
        pytest.param(20, 150, 30, SLOTS, id="20-streams-that-can-finish"),
        pytest.param(100, 150, 30, SLOTS, id="100-streams-that-can-finish"),
        pytest.param(20, 450, 4, 0, id="20-streams-that-cannot-finish"),
        pytest.param(100, 450, 4, 0, id="100-streams-that-cannot-finish"),
    ],
)
def test_every_client_gets_an_end_or_an_error(
    repository: Path, tmp_path: Path, count: int, tokens: int, timeout_s: int, finished: int
) -> None:
    with serve(repository, tmp_path, tmp_path / "engine.jsonl", f"--exit-timeout-secs={timeout_s}") as running:
        pid = server_pid(running.url.rpartition(":")[2])
        clients, threads = start(running, count, tokens)
        os.kill(pid, signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        ends = Counter(client.end for client in clients)
        late = f"{TOLD}; it ran into the drain timeout"
        assert set(ends) <= {"length", TOLD, late}, ends
        assert ends["length"] == finished and ends[TOLD] == count - SLOTS, ends
        assert all(client.text for client in clients if client.end in {"length", late})
        running.eventually(lambda: is_gone(pid), "the server ends")
        assert "live models" in running.log_path.read_text(), "it unloaded its models, it was not cut"


def test_a_new_request_on_an_open_connection_is_refused(repository: Path, tmp_path: Path) -> None:
    with serve(repository, tmp_path, tmp_path / "engine.jsonl", "--exit-timeout-secs=8") as running:
        pid = server_pid(running.url.rpartition(":")[2])
        connection = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=60)
        connection.request("GET", "/v2/health/ready")
        assert connection.getresponse().read() == b""
        os.kill(pid, signal.SIGTERM)
        said = ""
        deadline = time.monotonic() + 6
        while "shutting down" not in said and time.monotonic() < deadline:
            connection.request("POST", "/v2/models/chat/generate", json.dumps({"text_input": "a", "max_tokens": 1}))
            said = connection.getresponse().read().decode()
        assert TOLD in said
        connection.close()
        running.eventually(lambda: is_gone(pid), "the server ends")


def ask_by_grpc(running: RunningServer, answers: queue.Queue[Any], count: int, tokens: int) -> Iterator[Any]:
    for _ in range(count):
        client = grpc_client.InferenceServerClient(running.grpc)
        client.start_stream(lambda result, error: answers.put(error or result))
        inputs = []
        for name, kind, value in (
            ("text_input", "BYTES", np.array(["a b c"], np.object_)),
            ("max_tokens", "INT32", np.array([tokens], np.int32)),
        ):
            tensor = grpc_client.InferInput(name, [1], kind)
            tensor.set_data_from_numpy(value)
            inputs.append(tensor)
        client.async_stream_infer("chat", inputs)
        yield client


def test_clients_of_grpc_hear_it_too(repository: Path, tmp_path: Path) -> None:
    """Without HTTP connections the server goes on at once to its models, which then refuse what is new themselves."""
    with serve(repository, tmp_path, tmp_path / "engine.jsonl", "--exit-timeout-secs=20") as running:
        pid = server_pid(running.url.rpartition(":")[2])
        answers: queue.Queue[Any] = queue.Queue()
        clients = list(ask_by_grpc(running, answers, 20, 150))
        running.eventually(lambda: running.metric("trtbuild_requests_waiting") == 20 - SLOTS, "all are there")
        os.kill(pid, signal.SIGTERM)
        got = [answers.get(timeout=60) for _ in range(20)]
        errors = [str(answer) for answer in got if isinstance(answer, Exception)]
        assert len(errors) == 20 - SLOTS
        assert all("UNAVAILABLE: " in error for error in errors), Counter(errors)
        for client in clients:
            client.stop_stream(cancel_requests=True)
            client.close()
        running.eventually(lambda: is_gone(pid), "the server ends", 40)


def test_the_drain_command_waits_for_what_runs(repository: Path, tmp_path: Path) -> None:
    with serve(repository, tmp_path, tmp_path / "engine.jsonl") as running:
        clients, threads = start(running, 8, 100)
        assert health.drain(running.metrics_url, timeout_s=60, settle_s=0.5) == 0
        for thread in threads:
            thread.join(60)
        assert {client.end for client in clients} == {"length"}
